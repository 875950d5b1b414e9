package ledger

import (
	"reflect"
	"slices"
	"testing"
)

// TestEveryTextIsChecked puts a control character into every text of every
// command, one at a time.
func TestEveryTextIsChecked(t *testing.T) {
	s := newStage(t)
	fields := apiFields(t)
	for kind := range s.samples() {
		for i := 0; ; i++ {
			c := s.fill(s.samples()[kind])
			fillOptional(reflect.ValueOf(c.Body))
			place, ok := spoil(reflect.ValueOf(c.Body).Elem(), i)
			if !ok {
				break
			}
			r := Check(c)
			if r == nil || r.Reason != ReasonInvalidField {
				t.Errorf("%s with a control character in %s: %v", kind, place, r)
			} else if err := fields.check(kind, r); err != nil {
				t.Error(err)
			}
		}
	}
}

// fillOptional gives every optional text of a command a value.
func fillOptional(v reflect.Value) {
	for i := range v.Elem().NumField() {
		if f := v.Elem().Field(i); f.Kind() == reflect.Pointer && f.Type().Elem().Kind() == reflect.String && f.IsNil() {
			f.Set(reflect.ValueOf(ptr("x")))
		}
	}
}

// spoil puts a control character into the n-th text of a value.
func spoil(v reflect.Value, n int) (place string, ok bool) {
	left := n
	var walk func(v reflect.Value, at string) bool
	walk = func(v reflect.Value, at string) bool {
		switch v.Kind() {
		case reflect.String:
			if left--; left < 0 {
				v.SetString("a\x00b")
				place = at
				return true
			}
		case reflect.Pointer:
			// What the executor attaches is no part of a command.
			return !v.IsNil() && v.Type() != reflect.TypeFor[*StockReceived]() && walk(v.Elem(), at)
		case reflect.Struct:
			for i := range v.NumField() {
				if walk(v.Field(i), at+"."+v.Type().Field(i).Name) {
					return true
				}
			}
		case reflect.Slice:
			for i := range v.Len() {
				if walk(v.Index(i), at+"[]") {
					return true
				}
			}
		}
		return false
	}
	return place, walk(v, "")
}

// TestReasonedCommands holds the list of commands with a reason code against
// the commands.
func TestReasonedCommands(t *testing.T) {
	for _, kind := range Kinds() {
		_, has := reflect.TypeOf(kinds[kind].command()).Elem().FieldByName("ReasonCode")
		if has != slices.Contains(reasoned, kind) {
			t.Errorf("%s has a reason code: %v; whether it is listed so: %v", kind, has, !has)
		}
	}
}

// TestEveryReasonIsDeclared finds reasons that no command gives.
func TestEveryReasonIsDeclared(t *testing.T) {
	known := []Reason{ // to those who execute commands
		ReasonCountBeyondTolerance, // recorded as an exception after a downtime
		ReasonIdempotencyKeyReused, ReasonLinkedCommandRejected, ReasonLocationForbidden, ReasonCommandForbidden,
	}
	for _, kind := range Kinds() {
		known = append(known, declared(kind)...)
	}
	for _, info := range Reasons() {
		if !slices.Contains(known, info.Reason) {
			t.Errorf("no command is declared to be rejected for %s", info.Reason)
		}
	}
}
