package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// codec writes or reads the stored form of commands and events. Each body lists
// its fields once, and that list serves both directions, so what is written is
// what is read. Numbers are varints in their shortest form and strings carry
// their length: one value has one encoding.
type codec struct {
	buf     []byte
	reading bool
	err     error
	nested  int // how many events the present one stands in
}

var errTruncated = errors.New("the bytes end too early")

func (c *codec) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	c.buf = nil
}

func (c *codec) uvarint(v uint64) uint64 {
	if !c.reading {
		c.buf = binary.AppendUvarint(c.buf, v)
		return v
	}
	if c.err != nil {
		return 0
	}
	got, n := binary.Uvarint(c.buf)
	switch {
	case n == 0:
		c.fail(errTruncated)
		return 0
	case n < 0:
		c.fail(errors.New("a number exceeds 64 bits"))
		return 0
	case n > 1 && c.buf[n-1] == 0:
		c.fail(errors.New("a number is not in its shortest form"))
		return 0
	}
	c.buf = c.buf[n:]
	return got
}

// number codes a number that is never negative.
func number[T ~int | ~int16 | ~int32 | ~int64](c *codec, p *T) {
	got := c.uvarint(uint64(*p))
	if !c.reading {
		return
	}
	*p = T(got)
	if got > math.MaxInt64 || uint64(*p) != got || *p < 0 {
		c.fail(fmt.Errorf("the number %d is out of range", got))
		*p = 0
	}
}

// signed codes a number that may be negative: by its sign and its size.
func signed(c *codec, p *int64) {
	negative, size := *p < 0, max(*p, -*p)
	c.flag(&negative)
	number(c, &size)
	if !c.reading {
		return
	}
	*p = size
	if negative {
		*p = -size
		if size == 0 {
			c.fail(errors.New("a number is minus zero"))
		}
	}
}

func text[T ~string](c *codec, p *T) {
	n := c.uvarint(uint64(len(*p)))
	if !c.reading {
		c.buf = append(c.buf, *p...)
		return
	}
	if n > uint64(len(c.buf)) {
		c.fail(errTruncated)
		return
	}
	*p = T(c.buf[:n])
	c.buf = c.buf[n:]
}

func (c *codec) flag(p *bool) {
	var n int
	if *p {
		n = 1
	}
	number(c, &n)
	if n > 1 {
		c.fail(errors.New("a flag is neither 0 nor 1"))
	}
	if c.reading {
		*p = n == 1
	}
}

func (c *codec) bytes(p []byte) {
	if !c.reading {
		c.buf = append(c.buf, p...)
		return
	}
	if len(c.buf) < len(p) {
		c.fail(errTruncated)
		return
	}
	copy(p, c.buf)
	c.buf = c.buf[len(p):]
}

// optional codes a value that may be absent.
func optional[T any](c *codec, p **T, code func(*codec, *T)) {
	given := *p != nil
	c.flag(&given)
	if !given {
		return
	}
	if c.reading {
		*p = new(T)
	}
	code(c, *p)
}

func flagField(c *codec, p *bool) { c.flag(p) }

// list codes a list whose elements take at least minBytes each, which bounds
// what a broken length can allocate.
func list[T any](c *codec, p *[]T, minBytes int, code func(*codec, *T)) {
	n := len(*p)
	number(c, &n)
	if c.reading {
		if n > len(c.buf)/minBytes {
			c.fail(errTruncated)
			return
		}
		*p = nil
		if n > 0 {
			*p = make([]T, n)
		}
	}
	for i := range *p {
		code(c, &(*p)[i])
	}
}

// lines codes the lots that a movement touches.
func (c *codec) lines(p *[]Line) {
	list(c, p, 7, func(c *codec, line *Line) {
		text(c, &line.Lot)
		number(c, &line.Quantity)
		number(c, &line.After.Available)
		number(c, &line.After.Reserved)
		number(c, &line.After.Pending)
		number(c, &line.After.Quarantined)
		number(c, &line.After.InTransit)
	})
}

// blob codes bytes that have an encoding of their own.
func (c *codec) blob(p *[]byte) {
	s := string(*p)
	text(c, &s)
	if c.reading && s != "" {
		*p = []byte(s)
	}
}

// Extras are fields that later releases added to the end of what earlier ones
// wrote. An extra is its tag and its value, in the order of tags; where its
// value is zero, nothing is written. So what has no extras has the bytes, and
// the hash, that it had before there were any.

// extra codes a number that may have been added later.
func extra[T ~int | ~int16 | ~int32 | ~int64](c *codec, tag int, p *T) {
	if c.extraFollows(tag, *p != 0) {
		number(c, p)
		c.refuseZero(*p == 0)
	}
}

// extraText codes a text that may have been added later.
func extraText[T ~string](c *codec, tag int, p *T) {
	if c.extraFollows(tag, *p != "") {
		text(c, p)
		c.refuseZero(*p == "")
	}
}

// extraOptional codes a text that may have been added later and may be absent.
func extraOptional(c *codec, tag int, p **string) {
	if c.extraFollows(tag, *p != nil) {
		if c.reading {
			*p = new(string)
		}
		text(c, *p)
	}
}

// extraFlag codes a flag that may have been added later.
func extraFlag(c *codec, tag int, p *bool) {
	if c.extraFollows(tag, *p) {
		c.flag(p)
		c.refuseZero(!*p)
	}
}

// extraFollows writes or reads an extra's tag and reports whether its value is
// next.
func (c *codec) extraFollows(tag int, given bool) bool {
	if !c.reading {
		if given {
			number(c, &tag)
		}
		return given
	}
	if len(c.buf) == 0 {
		return false
	}
	got, n := binary.Uvarint(c.buf)
	if n <= 0 || got != uint64(tag) {
		return false
	}
	c.uvarint(0)
	return c.err == nil
}

func (c *codec) refuseZero(zero bool) {
	if c.reading && zero && c.err == nil {
		c.fail(errors.New("an extra field is given and zero"))
	}
}
