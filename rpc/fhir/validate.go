package fhir

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// maxIssues bounds how many mistakes one answer names.
const maxIssues = 20

// validator judges a resource against the schema and collects what is wrong, in
// the order of the text.
type validator struct {
	issues []issue
	path   []string
	local  map[string]bool // the ids of what the resource contains
}

// parseResource reads a resource of a type. What it returns is nil where there
// are issues.
func parseResource(body []byte, resourceType string) (*node, []issue) {
	root, err := parseJSON(body)
	if err != nil {
		path := ""
		var e *syntaxError
		if errors.As(err, &e) && e.path != "" && e.path[0] != '[' {
			path = elementPath([]string{resourceType, e.path})
		}
		return nil, []issue{malformed(codeStructure, path, "The JSON is broken at %s.", err)}
	}
	if root.kind != kindObject {
		return nil, []issue{malformed(codeStructure, "", "A resource is a JSON object; this is %s.", root.kind.name())}
	}
	v := &validator{path: []string{resourceType}, local: make(map[string]bool)}
	for _, contained := range root.get("contained").list() {
		v.local[contained.get("id").string()] = true
	}
	if stated := root.get("resourceType"); stated == nil || stated.kind != kindText || stated.text != resourceType {
		v.path = []string{resourceType, "resourceType"}
		return nil, []issue{malformed(codeInvalid, v.at(), "The resourceType must be %s here.", resourceType)}
	}
	v.object(root, schema[resourceType])
	v.contained(root)
	if len(v.issues) > 0 {
		return nil, v.issues
	}
	return root, nil
}

func (v *validator) at() string { return elementPath(v.path) }

// in judges something below the present place.
func (v *validator) in(step string, judge func()) {
	v.path = append(v.path, step)
	judge()
	v.path = v.path[:len(v.path)-1]
}

func (v *validator) add(i issue) {
	if len(v.issues) < maxIssues {
		v.issues = append(v.issues, i)
	}
}

func (v *validator) malformed(code issueCode, format string, args ...any) {
	v.add(malformed(code, v.at(), format, args...))
}

func (v *validator) unsupported(format string, args ...any) {
	v.add(unsupported(v.at(), format, args...))
}

func (v *validator) object(n *node, t *typeDef) {
	if n.kind != kindObject {
		v.malformed(codeStructure, "%s is an object; this is %s.", t.name, n.kind.name())
		return
	}
	if len(n.members) == 0 {
		v.malformed(codeStructure, "An object must not be empty: leave the element out.")
		return
	}
	chosen := make(map[string]string)
	for _, m := range n.members {
		v.in(stepOf(m.name), func() { v.member(n, t, m, chosen) })
	}
	for _, e := range t.required {
		if chosen[e.name] == "" {
			v.in(e.display(), func() { v.malformed(codeRequired, "The element is missing; a %s needs it.", t.name) })
		}
	}
	if judge := invariants[t.name]; judge != nil {
		judge(v, n)
	}
}

// member judges one member of an object. chosen notes which spelling of an
// element is there.
func (v *validator) member(parent *node, t *typeDef, m member, chosen map[string]string) {
	e, ok := t.elements[m.name]
	if !ok {
		v.companion(parent, t, m)
		return
	}
	if e.max == 0 {
		v.malformed(codeStructure, "The element does not exist in a %s.", t.name)
		return
	}
	if e.refused != "" {
		v.unsupported("The element is not supported by this server: %s.", e.refused)
		return
	}
	if other := chosen[e.name]; other != "" {
		v.malformed(codeStructure, "%s is there already, as %s; only one of them may be.", e.display(), other)
		return
	}
	chosen[e.name] = m.name
	if e.max == 1 {
		if m.value.kind == kindArray {
			v.malformed(codeStructure, "The element must not be an array: there is at most one.")
			return
		}
		v.value(m.value, e)
		return
	}
	if m.value.kind != kindArray {
		v.malformed(codeStructure, "The element must be an array; this is %s.", m.value.kind.name())
		return
	}
	if len(m.value.items) == 0 {
		v.malformed(codeStructure, "An array must not be empty: leave the element out.")
	}
	companions := parent.get("_" + m.name).list()
	for i, item := range m.value.items {
		// A null keeps the place of a value that has nothing but extensions.
		if item.kind == kindNull && i < len(companions) && companions[i].kind == kindObject {
			continue
		}
		v.in(fmt.Sprintf("[%d]", i), func() { v.value(item, e) })
	}
}

// companion judges what is no element of the type: the extensions of a
// primitive stand beside it, under its name with an underscore.
func (v *validator) companion(parent *node, t *typeDef, m member) {
	name, underscore := strings.CutPrefix(m.name, "_")
	e := t.elements[name]
	if !underscore || e == nil || primitives[e.typeName].example == "" || name == "resourceType" {
		v.unknown(t, m.name)
		return
	}
	items := []*node{m.value}
	if e.max != 1 {
		items = m.value.list()
		if m.value.kind != kindArray || len(items) == 0 || len(items) != len(parent.get(name).list()) {
			v.malformed(codeStructure, "The element must be an array as long as %s.", name)
			return
		}
	}
	for _, item := range items {
		if item.kind == kindNull && e.max != 1 {
			continue
		}
		v.object(item, extensible)
	}
}

// extensible is what a primitive may have beside its value.
var extensible = newType("type", "Element")

func (v *validator) unknown(t *typeDef, name string) {
	for _, e := range t.elements {
		if e.choice && (name == e.name || strings.HasPrefix(name, e.name) && name[len(e.name)] >= 'A' && name[len(e.name)] <= 'Z') {
			v.unsupported("A %s has %s here as one of: %s. Other types are not supported by this server.", t.name, e.display(), choices(t, e.name))
			return
		}
	}
	v.malformed(codeStructure, "The element does not exist in a %s of FHIR R4. Nothing is dropped in silence: mend its name or leave it out.", t.name)
}

// choices lists the spellings of a choice.
func choices(t *typeDef, name string) string {
	var names []string
	for spelling, e := range t.elements {
		if e.choice && e.name == name {
			names = append(names, spelling)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func (v *validator) value(n *node, e *element) {
	if e.typeName == "Contained" {
		v.containedResource(n)
		return
	}
	p, ok := primitives[e.typeName]
	if !ok {
		v.object(n, schema[e.typeName])
		return
	}
	switch {
	case n.kind != p.kind:
		v.malformed(codeStructure, "The value must be %s; this is %s.", p.kind.name(), n.kind.name())
	case len(n.text) > maxText:
		v.malformed(codeTooLong, "The value has %d bytes; at most %d are accepted.", len(n.text), maxText)
	case !p.valid(n.text):
		v.malformed(codeValue, "The value must be %s.", p.example)
	case len(e.codes) > 0 && !slices.Contains(e.codes, n.text):
		v.malformed(codeCodeInvalid, "The code must be one of: %s.", strings.Join(e.codes, ", "))
	}
}

func (v *validator) containedResource(n *node) {
	stated := n.get("resourceType")
	switch {
	case n.kind != kindObject || stated == nil || stated.kind != kindText:
		v.malformed(codeStructure, "A contained resource is an object with a resourceType.")
	case stated.text != "Medication":
		v.in("resourceType", func() {
			v.unsupported("The contained resource is not supported by this server: only a Medication is kept.")
		})
	default:
		v.object(n, schema["Medication"])
	}
}

// contained judges what holds between a resource and what it contains.
func (v *validator) contained(root *node) {
	seen := make(map[string]bool)
	used := make(map[string]bool)
	localReferences(root, func(id string) { used[id] = true })
	for i, n := range root.get("contained").list() {
		v.in("contained", func() {
			v.in(fmt.Sprintf("[%d]", i), func() {
				id := n.get("id").string()
				switch {
				case n.kind != kindObject:
				case id == "":
					v.in("id", func() { v.malformed(codeRequired, "A contained resource needs an id.") })
				case seen[id]:
					v.in("id", func() { v.malformed(codeDuplicate, "Two contained resources have this id.") })
				case !used[id]:
					v.malformed(codeInvariant, "Nothing refers to this contained resource.")
				case n.get("contained") != nil:
					v.in("contained", func() { v.malformed(codeInvariant, "A contained resource must not contain another.") })
				}
				seen[id] = true
			})
		})
	}
}

// localReferences visits every reference to a contained resource.
func localReferences(n *node, visit func(id string)) {
	for _, item := range n.items {
		localReferences(item, visit)
	}
	for _, m := range n.members {
		if id, ok := strings.CutPrefix(m.value.text, "#"); ok && m.name == "reference" && m.value.kind == kindText {
			visit(id)
		}
		localReferences(m.value, visit)
	}
}

// invariants are rules of FHIR between the elements of a type.
var invariants map[string]func(*validator, *node)

// The map is filled here, since its functions lead back to it.
func init() {
	invariants = map[string]func(*validator, *node){
		"Extension": (*validator).extension, "Period": (*validator).period, "Quantity": (*validator).quantity,
		"SimpleQuantity": (*validator).quantity, "Duration": (*validator).quantity, "Range": (*validator).rangeOf,
		"Ratio": (*validator).ratio, "Reference": (*validator).reference, "TimingRepeat": (*validator).timingRepeat,
	}
}

func (v *validator) extension(n *node) {
	value := false
	for _, m := range n.members {
		value = value || strings.HasPrefix(m.name, "value") || strings.HasPrefix(m.name, "_value")
	}
	if value == (n.get("extension") != nil) {
		v.malformed(codeInvariant, "An extension has either a value or extensions of its own.")
	}
}

func (v *validator) period(n *node) {
	start, end := n.get("start").string(), n.get("end").string()
	if !validDateTime(start) || !validDateTime(end) {
		return
	}
	first, _ := dateTimeRange(start)
	if _, last := dateTimeRange(end); last.Before(first) {
		v.malformed(codeInvariant, "The period ends before it starts.")
	}
}

func (v *validator) quantity(n *node) {
	if n.get("code") != nil && n.get("system") == nil {
		v.in("system", func() { v.malformed(codeInvariant, "A code needs its system.") })
	}
}

func (v *validator) rangeOf(n *node) {
	low, okLow := decimalOf(n.at("low", "value"))
	high, okHigh := decimalOf(n.at("high", "value"))
	if okLow && okHigh && n.at("low", "code").string() == n.at("high", "code").string() && low.Cmp(high) > 0 {
		v.malformed(codeInvariant, "The low end of the range lies above the high one.")
	}
}

func (v *validator) reference(n *node) {
	if id, ok := strings.CutPrefix(n.get("reference").string(), "#"); ok && !v.local[id] {
		v.in("reference", func() { v.malformed(codeInvariant, "No contained resource has this id.") })
	}
}

func (v *validator) ratio(n *node) {
	if (n.get("numerator") == nil) != (n.get("denominator") == nil) {
		v.malformed(codeInvariant, "A ratio has both a numerator and a denominator.")
	}
}

// timingRepeat judges which elements of a schedule need which others.
func (v *validator) timingRepeat(n *node) {
	for _, rule := range [][2]string{
		{"duration", "durationUnit"}, {"period", "periodUnit"}, {"periodMax", "period"}, {"durationMax", "duration"},
		{"countMax", "count"}, {"frequencyMax", "frequency"}, {"offset", "when"},
	} {
		if n.get(rule[0]) != nil && n.get(rule[1]) == nil {
			v.in(rule[1], func() { v.malformed(codeInvariant, "%s needs %s.", rule[0], rule[1]) })
		}
	}
	if n.get("timeOfDay") != nil && n.get("when") != nil {
		v.in("when", func() { v.malformed(codeInvariant, "A schedule has either timeOfDay or when.") })
	}
	for _, name := range []string{"duration", "period"} {
		if d, ok := decimalOf(n.get(name)); ok && d.Sign() < 0 {
			v.in(name, func() { v.malformed(codeValue, "The %s must not be negative.", name) })
		}
	}
}
