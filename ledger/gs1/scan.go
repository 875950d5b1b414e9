package gs1

import (
	"fmt"
	"strings"
)

// Scan is what a symbol says. Fields that it does not mention are zero. The
// sections are those of the GS1 General Specifications.
type Scan struct {
	// SSCC names a logistic unit such as a pallet: 18 digits with a valid check
	// digit. (AI 00, section 3.3.1)
	SSCC string
	// GTIN names the trade item that carries the symbol: 14 digits with a valid
	// check digit, zeros in front. (AI 01, section 3.3.2)
	GTIN string
	// ContainedGTIN names the trade items inside a logistic unit, in the form of
	// GTIN. It is given if and only if ContainedCount is, and never together with
	// GTIN. (AI 02, section 3.3.3)
	ContainedGTIN string
	// ContainedCount is how many items of ContainedGTIN there are, 1 to
	// 99 999 999. (AI 37, section 3.6.5)
	ContainedCount int64
	// Lot is 1 to 20 of the 82 characters of section 7.11; upper and lower case
	// differ. (AI 10, section 3.4.1)
	Lot string
	// Serial tells this pack from all others of its GTIN; its form is that of
	// Lot. (AI 21, section 3.5.2)
	Serial string
	// Produced is the day of production or assembly. (AI 11, section 3.4.2)
	Produced Date
	// Expiry is the last day of use. Where the symbol gives only a month, it is
	// the month's last day. (AI 17, section 3.4.7)
	Expiry Date
	// Count is the number of pieces in a trade item whose content varies, 1 to
	// 99 999 999. (AI 30, section 3.6.1)
	Count int64
}

// Item returns the GTIN of the trade item that the scan is about, 14 digits:
// the contents of a logistic unit, or else the pack itself. It is empty where
// the symbol names neither, as one that holds only lot and expiry, or only an
// SSCC.
func (s Scan) Item() string {
	if s.ContainedGTIN != "" {
		return s.ContainedGTIN
	}
	return s.GTIN
}

// Units returns how many of Item there are: the count of the contents, else the
// variable count, else 1. It is 0 where there is no item to count, so that a
// pallet label that names only the pallet is never booked as one pack.
func (s Scan) Units() int64 {
	switch {
	case s.Item() == "":
		return 0
	case s.ContainedGTIN != "":
		return s.ContainedCount
	case s.Count > 0:
		return s.Count
	}
	return 1
}

// Format writes the bracketed form, keys first, as it is printed below a
// symbol. [Parse] reads it back to the same Scan if the Scan came from Parse
// with the same year: two digits are left of a year.
func Format(s Scan) string {
	var b strings.Builder
	for _, e := range s.values() {
		if e.value != "" {
			fmt.Fprintf(&b, "(%s)%s", e.ai, strings.ReplaceAll(e.value, "(", escapedBracket))
		}
	}
	return b.String()
}

// values lists the fields in the order in which they are printed, those that
// were not given with an empty value.
func (s Scan) values() []element {
	return []element{
		{ai: "00", value: s.SSCC},
		{ai: "01", value: s.GTIN},
		{ai: "02", value: s.ContainedGTIN},
		{ai: "37", value: countText(s.ContainedCount)},
		{ai: "11", value: dateText(s.Produced)},
		{ai: "17", value: dateText(s.Expiry)},
		{ai: "10", value: s.Lot},
		{ai: "21", value: s.Serial},
		{ai: "30", value: countText(s.Count)},
	}
}

func countText(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func dateText(d Date) string {
	if d.IsZero() {
		return ""
	}
	return d.yymmdd()
}
