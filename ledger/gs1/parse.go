package gs1

import (
	"strconv"
	"strings"
)

// MaxLength is the longest input in bytes. The largest GS1-128 symbol holds 48
// characters, and the DataMatrix of a medicine pack rarely 200.
const MaxLength = 500

// The years that Parse may be given: around them, all years that a date can
// have are written with four digits.
const (
	minYear = 1000 + 49
	maxYear = 9999 - 50
)

// Parse reads an element string in one of the forms that the package comment
// describes. The current year, all four digits of it, decides the century of
// the dates (GS1 General Specifications, section 7.12): they lie between 49
// years before it and 50 after it.
//
// An error is an [*Error]. Identifiers that the ledger has no use for are
// stepped over; one that Parse does not know is refused in the raw form, where
// it hides the end of its value, and stepped over in the bracketed form. An
// identifier may be repeated with the same value.
func Parse(s string, year int) (Scan, error) {
	if year < minYear || year > maxYear {
		return Scan{}, refuse(0, "", "The current year is given as %d: give all four digits of it.", year)
	}
	if len(s) > MaxLength {
		return Scan{}, refuse(MaxLength, "", "The input has %d bytes and may have %d: scan one symbol at a time.", len(s), MaxLength)
	}
	scan, err := parse(s, year)
	if err == nil {
		return scan, nil
	}
	if _, bad := NormalizeGTIN(strings.TrimSpace(s)); bad == nil {
		return Scan{}, refuse(err.Position, "", "This is a plain GTIN and not a GS1 element string: enter it as the GTIN, or scan the pack's DataMatrix.")
	}
	return Scan{}, err
}

func parse(s string, year int) (Scan, *Error) {
	elements, err := newReader(s).elements()
	if err != nil {
		return Scan{}, err
	}
	var scan Scan
	for i, e := range elements {
		if err := scan.take(e, year); err != nil {
			return Scan{}, err
		}
		for _, earlier := range elements[:i] {
			// What is stepped over still tells that two packs were mixed.
			if f, _ := formatOf(e.ai); f.name == ignoredName && earlier.ai == e.ai && earlier.value != e.value {
				return Scan{}, contradiction(e)
			}
		}
	}
	if err := scan.together(elements); err != nil {
		return Scan{}, err
	}
	return scan, nil
}

// take stores the value of an identifier that the ledger uses.
func (s *Scan) take(e element, year int) *Error {
	switch e.ai {
	case "00":
		return takeKey(&s.SSCC, e)
	case "01":
		return takeKey(&s.GTIN, e)
	case "02":
		return takeKey(&s.ContainedGTIN, e)
	case "10":
		return once(&s.Lot, e.value, e)
	case "11":
		return takeDate(&s.Produced, e, year)
	case "17":
		return takeDate(&s.Expiry, e, year)
	case "21":
		return once(&s.Serial, e.value, e)
	case "30":
		return takeCount(&s.Count, e)
	case "37":
		return takeCount(&s.ContainedCount, e)
	}
	return nil
}

// takeKey expects the digits that the format asks for.
func takeKey(field *string, e element) *Error {
	last := len(e.value) - 1
	if want := checkDigit(e.value[:last]); e.value[last] != want {
		return refuse(e.valueAt, e.ai, "The check digit of the %s %s is wrong (%c would fit): scan again or compare it with the pack.", formats[e.ai].name, e.value, want)
	}
	return once(field, e.value, e)
}

func takeDate(field *Date, e element, year int) *Error {
	d, ok := dateOf(e.value, year)
	if !ok {
		return refuse(e.valueAt, e.ai, "The %s (%s) %s is not a day of the calendar: it is written as year, month and day, two digits each; compare it with the pack.", formats[e.ai].name, e.ai, e.value)
	}
	return once(field, d, e)
}

func takeCount(field *int64, e element) *Error {
	n, err := strconv.ParseInt(e.value, 10, 64)
	if err != nil || n == 0 {
		return refuse(e.valueAt, e.ai, "The %s (%s) must be at least 1: count the units and enter them by hand.", formats[e.ai].name, e.ai)
	}
	return once(field, n, e)
}

// once stores a value unless another one is there.
func once[T comparable](field *T, value T, e element) *Error {
	var none T
	if *field != none && *field != value {
		return contradiction(e)
	}
	*field = value
	return nil
}

func contradiction(e element) *Error {
	return refuse(e.at, e.ai, "The application identifier %s occurs twice with different values: scan one pack at a time.", e.ai)
}

// together judges what may not stand beside what (GS1 General Specifications,
// sections 4.14.1 and 4.14.2).
func (s *Scan) together(elements []element) *Error {
	at := func(ai string) int {
		for _, e := range elements {
			if e.ai == ai {
				return e.at
			}
		}
		return 0
	}
	switch {
	case s.GTIN != "" && s.ContainedGTIN != "":
		return refuse(at("02"), "02", "The symbol names both a pack (01) and the contents of a larger unit (02), and it is not clear which is meant: scan one label at a time.")
	case s.ContainedGTIN != "" && s.ContainedCount == 0:
		return refuse(at("02"), "02", "The symbol names the contents of a unit (02) but not how many there are (37): scan a pack instead, or count the units and enter them by hand.")
	case s.ContainedGTIN == "" && s.ContainedCount != 0:
		return refuse(at("37"), "37", "The symbol counts the contents of a unit (37) but does not name them (02): scan a pack instead, or enter the item by hand.")
	case *s == Scan{}:
		return refuse(elements[0].at, elements[0].ai, "The symbol names no item, lot, date or count: scan the pack's other symbol.")
	}
	return nil
}
