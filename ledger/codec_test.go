package ledger

import (
	"bytes"
	"math"
	"testing"
)

// One value has one encoding: any other spelling of it is refused.
func TestCodecRefusesOtherSpellings(t *testing.T) {
	read := func(stored []byte, code func(*codec)) error {
		c := codec{buf: stored, reading: true}
		code(&c)
		return c.err
	}
	var n int64
	var small Kind
	var flag bool
	var s string
	var list2 []string
	var p *string
	for name, c := range map[string]struct {
		stored []byte
		code   func(*codec)
	}{
		"a number with an idle byte":   {[]byte{0x81, 0x00}, func(c *codec) { number(c, &n) }},
		"a number beyond 64 bits":      {bytes.Repeat([]byte{0xff}, 11), func(c *codec) { number(c, &n) }},
		"a number that is negative":    {[]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, func(c *codec) { number(c, &n) }},
		"a number beyond its type":     {[]byte{0xff, 0xff, 0x03}, func(c *codec) { number(c, &small) }},
		"no number":                    {nil, func(c *codec) { number(c, &n) }},
		"minus zero":                   {[]byte{1, 0}, func(c *codec) { signed(c, &n) }},
		"a flag of two":                {[]byte{2}, func(c *codec) { c.flag(&flag) }},
		"a text that ends too early":   {[]byte{5, 'a'}, func(c *codec) { text(c, &s) }},
		"a list that ends too early":   {[]byte{200, 1}, func(c *codec) { list(c, &list2, 1, text[string]) }},
		"an extra that is zero":        {[]byte{7, 0}, func(c *codec) { extra(c, 7, &n) }},
		"an extra text that is empty":  {[]byte{7, 0}, func(c *codec) { extraText(c, 7, &s) }},
		"an extra flag that is down":   {[]byte{7, 0}, func(c *codec) { extraFlag(c, 7, &flag) }},
		"an extra that ends too early": {[]byte{7, 5}, func(c *codec) { extraOptional(c, 7, &p) }},
	} {
		if read(c.stored, c.code) == nil {
			t.Errorf("%s was read", name)
		}
	}
	for _, want := range []int64{0, 1, -1, MaxQuantity, -MaxQuantity, math.MaxInt64} {
		var c codec
		signed(&c, &want)
		var got int64
		if err := read(c.buf, func(c *codec) { signed(c, &got) }); err != nil || got != want {
			t.Errorf("%d is read as %d: %v", want, got, err)
		}
	}
}

// An extra that is not there leaves what follows it alone.
func TestExtrasAreReadInTheOrderOfTheirTags(t *testing.T) {
	one, two := int64(0), "x"
	var c codec
	extra(&c, 7, &one)
	extraText(&c, 9, &two)
	r := codec{buf: c.buf, reading: true}
	one, two = 5, ""
	extra(&r, 7, &one)
	extraText(&r, 9, &two)
	if r.err != nil || one != 5 || two != "x" || len(r.buf) > 0 {
		t.Errorf("read %d and %q, %d bytes left: %v", one, two, len(r.buf), r.err)
	}
}
