package gs1

import "strings"

// element is one application identifier with its value.
type element struct {
	ai      string
	value   string
	at      int // where the identifier begins in the input
	valueAt int // where the value begins
}

// escapedBracket is an opening bracket that belongs to a value. The backslash
// is outside the 82 characters, so nothing else can be meant.
const escapedBracket = `\(`

// separators are FNC1 and its spellings; the package comment justifies each.
var separators = []string{"\x1d", "{GS}", "<GS>", "^]", "␝", `\x1d`, `\x1D`, `\u001d`, `\u001D`}

// symbologies are the symbols that hold element strings: GS1 DataMatrix,
// GS1-128, GS1 DataBar, GS1 QR Code and GS1 DotCode (ISO/IEC 15424).
var symbologies = []string{"]d2", "]C1", "]e0", "]Q3", "]J1"}

// reader walks over the input. Nothing is rewritten on the way, so positions
// are the caller's own.
type reader struct {
	s  string // ends where the white space at the end begins
	at int
}

func newReader(s string) *reader {
	trimmed := strings.TrimSpace(s)
	start := strings.Index(s, trimmed)
	return &reader{s: s[:start+len(trimmed)], at: start}
}

// elements splits the input and checks every value against its format.
func (r *reader) elements() ([]element, *Error) {
	if err := r.prefix(); err != nil {
		return nil, err
	}
	if r.done() {
		return nil, refuse(r.at, "", "There is nothing to read: scan the pack again.")
	}
	next := r.rawElement
	if r.s[r.at] == '(' {
		next = r.bracketedElement
	}
	var found []element
	for !r.done() {
		e, err := next()
		if err == nil {
			err = e.check()
		}
		if err != nil {
			return nil, err
		}
		found = append(found, e)
	}
	return found, nil
}

// prefix steps over the symbology identifier and FNC1 in the first position,
// which tells that element strings follow.
func (r *reader) prefix() *Error {
	if rest := r.s[r.at:]; strings.HasPrefix(rest, "]") {
		known := false
		for _, id := range symbologies {
			known = known || strings.HasPrefix(rest, id)
		}
		switch {
		case known:
			r.at += len("]d2")
		case strings.HasPrefix(rest, "]E"):
			return refuse(r.at, "", "This is a retail barcode (EAN or UPC), which holds only a GTIN: enter its digits as the GTIN, or scan the pack's DataMatrix.")
		default:
			return refuse(r.at, "", "The symbology identifier %s is not one of a GS1 symbol (]d2, ]C1, ]e0, ]Q3, ]J1): scan the pack's GS1 symbol instead.", quote(rest[:min(3, len(rest))]))
		}
	}
	r.separator()
	return nil
}

func (r *reader) done() bool { return r.at >= len(r.s) }

// rawElement reads one identifier and its value as a scanner transmits them.
func (r *reader) rawElement() (element, *Error) {
	e := element{at: r.at}
	ai, ok := r.identifier()
	if !ok {
		return e, refuse(e.at, "", "An application identifier such as 01 or 17 should stand here: scan the pack again, with FNC1 transmitted as ASCII 29.")
	}
	f, known := formatOf(ai)
	if !known {
		return e, refuse(e.at, ai, "The application identifier %s is not known here, so the end of its value cannot be found: enter the data in brackets, such as (01), instead.", ai)
	}
	limit := len(r.s)
	if f.predefined {
		limit = f.max
	}
	e.ai, e.valueAt = ai, r.at
	for !r.done() && r.at-e.valueAt < limit && r.separatorLength() == 0 {
		if !inSet82(r.s[r.at]) {
			return e, r.badCharacter(ai)
		}
		r.at++
	}
	e.value = r.s[e.valueAt:r.at]
	r.separator()
	return e, nil
}

// identifier steps over an application identifier without brackets.
func (r *reader) identifier() (string, bool) {
	rest := r.s[r.at:]
	if len(rest) < 2 {
		return "", false
	}
	length := lengthOfAI(rest[:2])
	if len(rest) < length || nonDigit(rest[:length]) >= 0 {
		return "", false
	}
	r.at += length
	return rest[:length], true
}

// bracketedElement reads one identifier and its value as they are printed below
// the symbol. Labels break lines between elements, so white space around a
// value is stepped over.
func (r *reader) bracketedElement() (element, *Error) {
	e := element{at: r.at}
	r.at++
	ai, ok := r.identifier()
	if !ok || r.done() || r.s[r.at] != ')' {
		return e, refuse(e.at, "", "The bracket here should hold an application identifier such as (17): correct it, or write \\( where the bracket is part of a value.")
	}
	r.at++
	r.space()
	e.ai, e.valueAt = ai, r.at
	var value strings.Builder
	for !r.done() && r.s[r.at] != '(' && !isSpace(r.s[r.at]) && r.separatorLength() == 0 {
		switch {
		case strings.HasPrefix(r.s[r.at:], escapedBracket):
			r.at++
		case !inSet82(r.s[r.at]):
			return e, r.badCharacter(ai)
		}
		value.WriteByte(r.s[r.at])
		r.at++
	}
	e.value = value.String()
	end := r.at
	r.space()
	r.separator()
	r.space()
	if !r.done() && r.s[r.at] != '(' {
		return e, refuse(end, ai, "The value of (%s) ends here, but no bracket follows: remove the space or separator, or add the next application identifier in brackets.", ai)
	}
	return e, nil
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

func (r *reader) space() {
	for !r.done() && isSpace(r.s[r.at]) {
		r.at++
	}
}

// separator steps over one FNC1, if it is there.
func (r *reader) separator() { r.at += r.separatorLength() }

func (r *reader) separatorLength() int {
	for _, spelling := range separators {
		if strings.HasPrefix(r.s[r.at:], spelling) {
			return len(spelling)
		}
	}
	return 0
}

func (r *reader) badCharacter(ai string) *Error {
	c := r.s[r.at]
	switch {
	case isSpace(c):
		return refuse(r.at, ai, "The value of (%s) holds a space, which GS1 does not allow: remove it.", ai)
	case c < ' ' || c == 0x7f:
		return refuse(r.at, ai, "The value of (%s) holds the control character with the code %d: set the scanner to transmit FNC1 as ASCII 29.", ai, c)
	case c > 0x7f:
		return refuse(r.at, ai, "The value of (%s) holds a character that GS1 does not allow: check the scanner's keyboard language and character set.", ai)
	}
	return refuse(r.at, ai, "The value of (%s) holds the character %c, which GS1 does not allow: compare it with the pack and check the scanner's keyboard language.", ai, c)
}

// check judges the length and the kind of characters of a value.
func (e element) check() *Error {
	f, _ := formatOf(e.ai)
	switch n := len(e.value); {
	case n == 0:
		return refuse(e.valueAt, e.ai, "The %s (%s) is empty: scan the pack again.", f.name, e.ai)
	case f.digits && nonDigit(e.value) >= 0:
		return refuse(e.valueAt, e.ai, "The %s (%s) must hold digits only, not %s: compare it with the pack.", f.name, e.ai, quote(e.value))
	case n < f.min, n > f.max && f.min == f.max:
		return refuse(e.valueAt, e.ai, "The %s (%s) must have %d digits and has %d: scan the pack again.", f.name, e.ai, f.max, n)
	case n > f.max:
		return refuse(e.valueAt, e.ai, "The %s (%s) may have %d characters and has %d: compare it with the pack; if it runs into other data, set the scanner to transmit FNC1 as ASCII 29.", f.name, e.ai, f.max, n)
	}
	return nil
}
