package gs1

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func drawKey(t *rapid.T, length int, label string) string {
	body := rapid.StringOfN(rapid.RuneFrom([]rune("0123456789")), length-1, length-1, -1).Draw(t, label)
	return body + string(rune(checkDigit(body)))
}

func drawText(t *rapid.T, label string) string {
	var all []rune
	for c := range byte(128) {
		if inSet82(c) {
			all = append(all, rune(c))
		}
	}
	if len(all) != 82 {
		t.Fatalf("the character set has %d characters", len(all))
	}
	return rapid.StringOfN(rapid.RuneFrom(all), 1, 20, -1).
		Filter(func(s string) bool { return !strings.Contains(s, "<GS>") }).Draw(t, label)
}

func drawDate(t *rapid.T, year int, label string) Date {
	d := Date{
		Year:  rapid.IntRange(year-49, year+50).Draw(t, label+" year"),
		Month: rapid.IntRange(1, 12).Draw(t, label+" month"),
	}
	d.Day = rapid.IntRange(1, daysIn(d.Year, d.Month)).Draw(t, label+" day")
	return d
}

// drawScan returns a scan that names at least one thing.
func drawScan(t *rapid.T, year int) Scan {
	given := func(label string) bool { return rapid.Bool().Draw(t, label) }
	var s Scan
	switch rapid.IntRange(0, 2).Draw(t, "item") {
	case 0:
		s.GTIN = drawKey(t, 14, "GTIN")
	case 1:
		s.ContainedGTIN = drawKey(t, 14, "contained GTIN")
		s.ContainedCount = rapid.Int64Range(1, 99_999_999).Draw(t, "contained count")
	default:
		s.Lot = drawText(t, "only lot")
	}
	if given("SSCC?") {
		s.SSCC = drawKey(t, 18, "SSCC")
	}
	if given("lot?") {
		s.Lot = drawText(t, "lot")
	}
	if given("serial?") {
		s.Serial = drawText(t, "serial")
	}
	if given("produced?") {
		s.Produced = drawDate(t, year, "produced")
	}
	if given("expiry?") {
		s.Expiry = drawDate(t, year, "expiry")
	}
	if given("count?") {
		s.Count = rapid.Int64Range(1, 99_999_999).Draw(t, "count")
	}
	return s
}

// drawForms writes the elements of a scan in any order, in both forms, with
// things between them that the ledger ignores.
func drawForms(t *rapid.T, s Scan) (bracketed, raw string) {
	var elements []element
	for _, e := range append(s.values(), element{ai: "240", value: "REF"}, element{ai: "20", value: "07"}, element{ai: "91", value: "x"}) {
		if e.value != "" {
			elements = append(elements, e)
		}
	}
	separator := rapid.SampledFrom(separators).Draw(t, "separator")
	raw = rapid.SampledFrom(append([]string{"", separator}, symbologies...)).Draw(t, "prefix")
	elements = rapid.Permutation(elements).Draw(t, "order")
	for i, e := range elements {
		bracketed += "(" + e.ai + ")" + strings.ReplaceAll(e.value, "(", escapedBracket)
		raw += e.ai + e.value
		f, _ := formatOf(e.ai)
		last := i == len(elements)-1
		if !f.predefined && !last || rapid.Bool().Draw(t, "needless separator") {
			raw += separator
		}
	}
	return bracketed, raw
}

func TestEveryScanReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		year := rapid.IntRange(2000, 2199).Draw(t, "year")
		want := drawScan(t, year)
		bracketed, raw := drawForms(t, want)
		for _, in := range []string{Format(want), bracketed, raw} {
			got, err := Parse(in, year)
			if err != nil || got != want {
				t.Fatalf("Parse(%q, %d)\n got %+v, %v\nwant %+v", in, year, got, err, want)
			}
		}
	})
}

func TestCheckDigitFindsOneWrongDigit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := []byte(drawKey(t, rapid.SampledFrom([]int{8, 12, 13, 14}).Draw(t, "length"), "key"))
		if _, err := NormalizeGTIN(string(key)); err != nil {
			t.Fatal(err)
		}
		at := rapid.IntRange(0, len(key)-1).Draw(t, "at")
		key[at] = '0' + (key[at]-'0'+byte(rapid.IntRange(1, 9).Draw(t, "by")))%10
		if got, err := NormalizeGTIN(string(key)); err == nil {
			t.Fatalf("%s was taken as %s", key, got)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"(01)09506000134352(17)260228(10)ABC123(21)X1",
		"]d201095060001343521726022810ABC123\x1d21X1",
		"]C100" + sscc + "02" + gtin + "3748{GS}10L^]1125060091x␝30012",
		`(10)A\(21)B (240)REF<GS>` + "\n(8030)x(7003)2602281200",
		"4006381333931", "]E0", "(", "10\\x1d", "31", "\xff",
	} {
		f.Add(seed, now)
	}
	f.Fuzz(func(t *testing.T, in string, year int) {
		scan, err := Parse(in, year)
		if err != nil {
			var refused *Error
			if !errors.As(err, &refused) {
				t.Fatalf("%v is no *Error", err)
			}
			if refused.Position < 0 || refused.Position > len(in) {
				t.Errorf("position %d in an input of %d bytes", refused.Position, len(in))
			}
			checkMessage(t, refused)
			return
		}
		formatted := Format(scan)
		again, err := Parse(formatted, year)
		if err != nil || again != scan {
			t.Fatalf("Parse(%q) = %+v, formatted %q, again %+v, %v", in, scan, formatted, again, err)
		}
		if scan.Item() != "" && scan.Units() < 1 {
			t.Errorf("%+v has %d units", scan, scan.Units())
		}
	})
}
