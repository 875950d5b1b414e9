package fhir

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// This file reads and writes JSON. The standard decoder replaces text that is
// not Unicode, keeps the last of two members with one name, and turns decimals
// into floats; a prescription must not be read that way.

// kind says what a JSON value is.
type kind uint8

const (
	kindNull kind = iota
	kindBool
	kindNumber
	kindText
	kindArray
	kindObject
)

// name is the kind as errors spell it.
func (k kind) name() string {
	return [...]string{"null", "a boolean", "a number", "a string", "an array", "an object"}[k]
}

// node is a JSON value. Numbers and booleans keep the spelling that they came
// in, so that 2.50 stays 2.50.
type node struct {
	kind    kind
	text    string
	items   []*node
	members []member
}

// member is one member of an object, in the order in which it came.
type member struct {
	name  string
	value *node
}

// get returns a member's value, nil where there is none.
func (n *node) get(name string) *node {
	if n == nil {
		return nil
	}
	for i := range n.members {
		if n.members[i].name == name {
			return n.members[i].value
		}
	}
	return nil
}

// at follows names of members, and returns nil where there is nothing.
func (n *node) at(names ...string) *node {
	for _, name := range names {
		n = n.get(name)
	}
	return n
}

// string returns a value's text, empty where there is none.
func (n *node) string() string {
	if n == nil {
		return ""
	}
	return n.text
}

// list returns an array's items.
func (n *node) list() []*node {
	if n == nil {
		return nil
	}
	return n.items
}

// set replaces a member, or adds it at the end.
func (n *node) set(name string, value *node) {
	for i := range n.members {
		if n.members[i].name == name {
			n.members[i].value = value
			return
		}
	}
	n.members = append(n.members, member{name, value})
}

// remove drops a member.
func (n *node) remove(name string) {
	for i := range n.members {
		if n.members[i].name == name {
			n.members = append(n.members[:i], n.members[i+1:]...)
			return
		}
	}
}

// MarshalJSON writes the value without spaces.
func (n *node) MarshalJSON() ([]byte, error) { return n.append(nil), nil }

func (n *node) append(out []byte) []byte {
	switch n.kind {
	case kindNull:
		return append(out, "null"...)
	case kindBool, kindNumber:
		return append(out, n.text...)
	case kindText:
		return appendText(out, n.text)
	case kindArray:
		out = append(out, '[')
		for i, item := range n.items {
			if i > 0 {
				out = append(out, ',')
			}
			out = item.append(out)
		}
		return append(out, ']')
	}
	out = append(out, '{')
	for i, m := range n.members {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(appendText(out, m.name), ':')
		out = m.value.append(out)
	}
	return append(out, '}')
}

func appendText(out []byte, text string) []byte {
	const digits = "0123456789abcdef"
	out = append(out, '"')
	for i := range len(text) {
		switch c := text[i]; {
		case c == '"' || c == '\\':
			out = append(out, '\\', c)
		case c == '\n':
			out = append(out, '\\', 'n')
		case c == '\r':
			out = append(out, '\\', 'r')
		case c == '\t':
			out = append(out, '\\', 't')
		case c < ' ':
			out = append(out, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		default:
			out = append(out, c)
		}
	}
	return append(out, '"')
}

// maxDepth is far deeper than any resource that is accepted here.
const maxDepth = 40

// syntaxError is broken JSON. Where it is inside of an object, path says which
// element.
type syntaxError struct {
	line, column int
	path         string
	problem      string
}

// Error says what is broken, and where.
func (e *syntaxError) Error() string {
	return fmt.Sprintf("line %d, column %d: %s", e.line, e.column, e.problem)
}

// parser reads one JSON text.
type parser struct {
	in   string
	pos  int
	path []string
}

// parseJSON reads a JSON text. Errors are *syntaxError.
func parseJSON(in []byte) (n *node, err error) {
	p := &parser{in: strings.TrimPrefix(string(in), "\ufeff")}
	if !utf8.ValidString(p.in) {
		for p.pos < len(p.in) {
			r, size := utf8.DecodeRuneInString(p.in[p.pos:])
			if r == utf8.RuneError && size == 1 {
				break
			}
			p.pos += size
		}
		return nil, p.fail("the text is not UTF-8")
	}
	n, err = p.value(0)
	if err != nil {
		return nil, err
	}
	if p.space(); p.pos < len(p.in) {
		return nil, p.fail("there is more after the end of the value")
	}
	return n, nil
}

func (p *parser) fail(format string, args ...any) error {
	before := p.in[:min(p.pos, len(p.in))]
	line := strings.Count(before, "\n")
	column := utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:])
	return &syntaxError{line + 1, column + 1, elementPath(p.path), fmt.Sprintf(format, args...)}
}

// elementPath spells steps as a path: names, and indexes in brackets.
func elementPath(steps []string) string {
	var b strings.Builder
	for i, step := range steps {
		if i > 0 && step[0] != '[' {
			b.WriteByte('.')
		}
		b.WriteString(step)
	}
	return b.String()
}

func (p *parser) space() {
	for p.pos < len(p.in) && strings.IndexByte(" \t\r\n", p.in[p.pos]) >= 0 {
		p.pos++
	}
}

// peek skips space and returns the next byte, 0 at the end.
func (p *parser) peek() byte {
	p.space()
	if p.pos == len(p.in) {
		return 0
	}
	return p.in[p.pos]
}

func (p *parser) value(depth int) (*node, error) {
	c := p.peek()
	switch {
	case depth > maxDepth:
		return nil, p.fail("values are nested more than %d deep", maxDepth)
	case c == 0:
		return nil, p.fail("the text ends early")
	case c == '{':
		return p.object(depth)
	case c == '[':
		return p.array(depth)
	case c == '"':
		text, err := p.string()
		return &node{kind: kindText, text: text}, err
	case c == '-' || c >= '0' && c <= '9':
		return p.number()
	}
	for literal, kind := range map[string]kind{"true": kindBool, "false": kindBool, "null": kindNull} {
		if strings.HasPrefix(p.in[p.pos:], literal) {
			p.pos += len(literal)
			return &node{kind: kind, text: literal}, nil
		}
	}
	return nil, p.fail("a value was expected")
}

func (p *parser) object(depth int) (*node, error) {
	n := &node{kind: kindObject}
	seen := make(map[string]bool)
	p.pos++
	if p.peek() == '}' {
		p.pos++
		return n, nil
	}
	for {
		if p.peek() != '"' {
			return nil, p.fail("the name of a member was expected")
		}
		begin := p.pos
		name, err := p.string()
		if err != nil {
			return nil, err
		}
		p.path = append(p.path, stepOf(name))
		if seen[name] {
			p.pos = begin
			return nil, p.fail("%s is there twice", strconv.QuoteToASCII(clip(name)))
		}
		seen[name] = true
		if p.peek() != ':' {
			return nil, p.fail("a colon was expected")
		}
		p.pos++
		value, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		p.path = p.path[:len(p.path)-1]
		n.members = append(n.members, member{name, value})
		switch p.peek() {
		case ',':
			p.pos++
		case '}':
			p.pos++
			return n, nil
		default:
			return nil, p.fail("a comma or a closing brace was expected")
		}
	}
}

func (p *parser) array(depth int) (*node, error) {
	n := &node{kind: kindArray}
	p.pos++
	if p.peek() == ']' {
		p.pos++
		return n, nil
	}
	for {
		p.path = append(p.path, fmt.Sprintf("[%d]", len(n.items)))
		item, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		p.path = p.path[:len(p.path)-1]
		n.items = append(n.items, item)
		switch p.peek() {
		case ',':
			p.pos++
		case ']':
			p.pos++
			return n, nil
		default:
			return nil, p.fail("a comma or a closing bracket was expected")
		}
	}
}

// number follows the grammar of JSON, and refuses what no decimal needs.
func (p *parser) number() (*node, error) {
	const longest = 40
	begin := p.pos
	digits := func() int {
		from := p.pos
		for p.pos < len(p.in) && p.in[p.pos] >= '0' && p.in[p.pos] <= '9' {
			p.pos++
		}
		return p.pos - from
	}
	accept := func(some string) bool {
		if p.pos < len(p.in) && strings.IndexByte(some, p.in[p.pos]) >= 0 {
			p.pos++
			return true
		}
		return false
	}
	accept("-")
	leading := p.pos
	whole := digits()
	bad := whole == 0 || whole > 1 && p.in[leading] == '0'
	if accept(".") {
		bad = digits() == 0 || bad
	}
	if accept("eE") {
		accept("+-")
		bad = digits() == 0 || bad
	}
	if bad {
		return nil, p.fail("this is no number")
	}
	if p.pos-begin > longest {
		return nil, p.fail("a number has more than %d characters", longest)
	}
	return &node{kind: kindNumber, text: p.in[begin:p.pos]}, nil
}

func (p *parser) string() (string, error) {
	p.pos++
	begin := p.pos
	for p.pos < len(p.in) {
		switch c := p.in[p.pos]; {
		case c == '"':
			p.pos++
			return p.in[begin : p.pos-1], nil
		case c == '\\':
			return p.escaped(begin)
		case c < ' ':
			return "", p.fail("a string holds a control character")
		}
		p.pos++
	}
	return "", p.fail("a string does not end")
}

var escapes = map[byte]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// escaped reads the rest of a string that has escapes in it.
func (p *parser) escaped(begin int) (string, error) {
	var b strings.Builder
	b.WriteString(p.in[begin:p.pos])
	for p.pos < len(p.in) {
		c := p.in[p.pos]
		switch {
		case c == '"':
			p.pos++
			return b.String(), nil
		case c < ' ':
			return "", p.fail("a string holds a control character")
		case c != '\\':
			b.WriteByte(c)
			p.pos++
		case strings.HasPrefix(p.in[p.pos:], `\u`):
			r, err := p.unicode()
			if err != nil {
				return "", err
			}
			b.WriteRune(r)
		default:
			if p.pos+1 >= len(p.in) || escapes[p.in[p.pos+1]] == 0 {
				return "", p.fail("an escape is unknown")
			}
			b.WriteByte(escapes[p.in[p.pos+1]])
			p.pos += 2
		}
	}
	return "", p.fail("a string does not end")
}

// unicode reads \uXXXX, and the second half of a pair.
func (p *parser) unicode() (rune, error) {
	half := func() (rune, bool) {
		if !strings.HasPrefix(p.in[p.pos:], `\u`) || len(p.in) < p.pos+6 {
			return 0, false
		}
		n, err := strconv.ParseUint(p.in[p.pos+2:p.pos+6], 16, 16)
		if err != nil {
			return 0, false
		}
		p.pos += 6
		return rune(n), true
	}
	r, ok := half()
	if ok && utf16.IsSurrogate(r) {
		var low rune
		if low, ok = half(); ok {
			r = utf16.DecodeRune(r, low)
			ok = r != utf8.RuneError
		}
	}
	if !ok {
		return 0, p.fail("an escape is no character")
	}
	return r, nil
}

// stepOf is a name as a path shows it. Names are the caller's, so they are cut
// and made harmless.
func stepOf(name string) string {
	if name == "" {
		return `""`
	}
	quoted := strconv.QuoteToASCII(clip(name))
	return quoted[1 : len(quoted)-1]
}

// clip shortens a caller's text for a message.
func clip(text string) string {
	const longest = 60
	if len(text) <= longest {
		return text
	}
	return strings.ToValidUTF8(text[:longest], "") + "…"
}

// fields returns an object's members.
func (n *node) fields() []member {
	if n == nil {
		return nil
	}
	return n.members
}

func textNode(text string) *node { return &node{kind: kindText, text: text} }

// toNode makes a tree of one of this package's own values.
func toNode(value any) *node {
	text, err := json.Marshal(value)
	if err != nil {
		panic("fhir: a value that cannot be written: " + err.Error())
	}
	n, err := parseJSON(text)
	if err != nil {
		panic("fhir: a value that cannot be read: " + err.Error())
	}
	return n
}
