package fhir

import (
	_ "embed"
	"fmt"
	"math"
	"strconv"
	"strings"
)

//go:embed schema.txt
var schemaText string

// typeDef is a type of FHIR: its elements by the name that they have in JSON.
type typeDef struct {
	name     string
	resource bool
	elements map[string]*element
	required []*element
}

// element is one element of a type.
type element struct {
	name     string // without [x]
	choice   bool
	typeName string // of this spelling of a choice
	min, max int
	codes    []string
	refused  string // why the element cannot be kept; empty: it is kept
}

const unbounded = math.MaxInt

// schema holds every type by name.
var schema = readSchema(schemaText)

// readSchema reads the lines of schema.txt. Mistakes in them are defects of the
// program.
func readSchema(text string) map[string]*typeDef {
	types := make(map[string]*typeDef)
	var current *typeDef
	for number, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		words := strings.Fields(line)
		if len(words) == 2 {
			current = newType(words[0], words[1])
			types[current.name] = current
			continue
		}
		if current == nil || len(words) < 3 {
			panic(fmt.Sprintf("fhir: schema line %d is no element", number+1))
		}
		current.add(line)
	}
	return types
}

func newType(kind, name string) *typeDef {
	t := &typeDef{name: name, resource: kind == "resource", elements: make(map[string]*element)}
	t.add("id 0..1 id")
	t.add("extension 0..* Extension")
	if kind != "type" {
		t.add("modifierExtension 0..* Extension ! it may change the meaning of everything beside it, in a way that is not known here")
	}
	if t.resource {
		t.add("resourceType 1..1 code")
		t.add("meta 0..1 Meta")
		t.add("implicitRules 0..1 uri ! rules that are not known here would change the meaning of the resource")
		t.add("language 0..1 code")
		t.add("text 0..1 Narrative")
		t.add("contained 0..* Contained")
	}
	return t
}

// add adds the element of a line: name, cardinality, types, and what is
// optional.
func (t *typeDef) add(line string) {
	line, refused, _ := strings.Cut(line, " ! ")
	line, codes, _ := strings.Cut(line, " = ")
	words := strings.Fields(line)
	low, high, _ := strings.Cut(words[1], "..")
	e := element{refused: refused, codes: strings.Fields(codes), max: unbounded}
	e.min, _ = strconv.Atoi(low)
	if high != "*" {
		e.max, _ = strconv.Atoi(high)
	}
	e.name, e.choice = strings.CutSuffix(words[0], "[x]")
	for i, name := range words[2:] {
		spelling := e
		spelling.typeName = name
		t.elements[spelling.jsonName()] = &spelling
		if i == 0 && e.min > 0 {
			t.required = append(t.required, &spelling)
		}
	}
}

// jsonName is how JSON spells the element: a choice has its type in the name.
func (e *element) jsonName() string {
	if !e.choice {
		return e.name
	}
	name := e.typeName
	if name == "SimpleQuantity" {
		name = "Quantity"
	}
	return e.name + strings.ToUpper(name[:1]) + name[1:]
}

// display is the element's name in messages.
func (e *element) display() string {
	if e.choice {
		return e.name + "[x]"
	}
	return e.name
}
