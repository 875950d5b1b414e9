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
	*p = n == 1
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

// lines codes the lots that a movement touches.
func (c *codec) lines(p *[]Line) {
	n := len(*p)
	number(c, &n)
	if c.reading {
		// A line takes at least seven bytes, which bounds what a broken
		// length can allocate.
		if n > len(c.buf)/7 {
			c.fail(errTruncated)
			return
		}
		*p = make([]Line, n)
	}
	for i := range *p {
		line := &(*p)[i]
		text(c, &line.Lot)
		number(c, &line.Quantity)
		number(c, &line.After.Available)
		number(c, &line.After.Reserved)
		number(c, &line.After.Pending)
		number(c, &line.After.Quarantined)
		number(c, &line.After.InTransit)
	}
}
