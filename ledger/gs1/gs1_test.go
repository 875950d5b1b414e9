package gs1

import (
	"errors"
	"strings"
	"testing"
)

const (
	gtin  = "09506000134352"
	other = "04006381333931"
	sscc  = "106141412345678908"
	now   = 2026
)

func TestParse(t *testing.T) {
	pack := Scan{GTIN: gtin, Expiry: Date{2026, 2, 28}, Lot: "ABC123", Serial: "X1"}
	const raw = "01" + gtin + "17260228" + "10ABC123"
	tests := map[string]struct {
		in   string
		want Scan
	}{
		"brackets":                 {"(01)09506000134352(17)260228(10)ABC123(21)X1", pack},
		"white space":              {" \t(01) 09506000134352\r\n(17)260228 (10)ABC123\n(21)X1\n", pack},
		"brackets and separators":  {"(01)" + gtin + "{GS}(17)260228(10)ABC123<GS>(21)X1\x1d", pack},
		"raw":                      {raw + "\x1d21X1", pack},
		"leading FNC1":             {"\x1d" + raw + "\x1d21X1", pack},
		"trailing FNC1":            {raw + "\x1d21X1\x1d", pack},
		"DataMatrix":               {"]d2" + raw + "\x1d21X1", pack},
		"GS1-128":                  {"]C1" + raw + "\x1d21X1\r\n", pack},
		"DataBar":                  {"]e0" + raw + "\x1d21X1", pack},
		"QR":                       {"]Q3" + raw + "\x1d21X1", pack},
		"DotCode":                  {"]J1" + raw + "\x1d21X1", pack},
		"identifier and FNC1":      {"]d2\x1d" + raw + "\x1d21X1", pack},
		"identifier and brackets":  {"]d2(01)" + gtin + "(17)260228(10)ABC123(21)X1", pack},
		"FNC1 as {GS}":             {"{GS}" + raw + "{GS}21X1", pack},
		"FNC1 as <GS>":             {raw + "<GS>21X1", pack},
		"FNC1 as ^]":               {raw + "^]21X1", pack},
		"FNC1 as a picture":        {raw + "␝21X1", pack},
		"FNC1 as \\x1d":            {raw + `\x1d21X1`, pack},
		"FNC1 as \\u001D":          {raw + `\u001D21X1`, pack},
		"separators after fixed":   {"01" + gtin + "\x1d17260228\x1d10ABC123\x1d21X1", pack},
		"variable first":           {"10ABC123\x1d21X1\x1d01" + gtin + "17260228", pack},
		"day 00":                   {"(01)" + gtin + "(17)260200(10)ABC123(21)X1", pack},
		"same value again":         {raw + "\x1d21X1\x1d01" + gtin, pack},
		"same day again":           {raw + "\x1d21X1\x1d17260200", pack},
		"national number":          {raw + "\x1d71103400930000120\x1d21X1", pack},
		"reimbursement 719":        {raw + "\x1d719A1\x1d21X1", pack},
		"what the ledger ignores":  {"01" + gtin + "202515280131310300012517260228" + "9112Ab\x1d240REF-7\x1d10ABC123\x1d7003" + "2602281200\x1d22CPV\x1d21X1", pack},
		"crypto tail":              {"01" + gtin + "21X1\x1d17260228" + "10ABC123\x1d91EE11\x1d92" + strings.Repeat("x/+=", 11), pack},
		"unknown, in brackets":     {"(01)" + gtin + "(8030)Ab_-9(17)260228(10)ABC123(21)X1", pack},
		"certificate":              {"7239EMA1\x1d" + raw + "\x1d21X1", pack},
		"locations and GSIN":       {"4141234567890128" + "40212345678901234567\x1d" + raw + "\x1d21X1", pack},
		"GTIN alone":               {"01" + gtin, Scan{GTIN: gtin}},
		"second symbol":            {"17260228" + "10ABC123", Scan{Expiry: Date{2026, 2, 28}, Lot: "ABC123"}},
		"SSCC":                     {"]C100" + sscc, Scan{SSCC: sscc}},
		"contents":                 {"02" + gtin + "3748\x1d10L", Scan{ContainedGTIN: gtin, ContainedCount: 48, Lot: "L"}},
		"contents of a pallet":     {"00" + sscc + "02" + gtin + "3700000048", Scan{SSCC: sscc, ContainedGTIN: gtin, ContainedCount: 48}},
		"variable count":           {"01" + gtin + "3099999999", Scan{GTIN: gtin, Count: 99_999_999}},
		"same count again":         {"01" + gtin + "3012\x1d30012", Scan{GTIN: gtin, Count: 12}},
		"production":               {"01" + gtin + "11250600", Scan{GTIN: gtin, Produced: Date{2025, 6, 30}}},
		"all 82 characters":        {`10!"%&'()*+,-./` + "\x1d" + `21:;<=>?_`, Scan{Lot: `!"%&'()*+,-./`, Serial: ":;<=>?_"}},
		"brackets in raw lot":      {"10A(21)B", Scan{Lot: "A(21)B"}},
		"escaped bracket":          {`(10)A\(21)B`, Scan{Lot: "A(21)B"}},
		"closing bracket":          {"(10)A)B", Scan{Lot: "A)B"}},
		"longest lot":              {"10" + strings.Repeat("9", 20), Scan{Lot: strings.Repeat("9", 20)}},
		"lot like an identifier":   {"1017260228", Scan{Lot: "17260228"}},
		"lot with a piece of <GS>": {"10A<GS", Scan{Lot: "A<GS"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(tt.in, now)
			if err != nil {
				t.Fatalf("Parse(%q): %v", tt.in, err)
			}
			if got != tt.want {
				t.Errorf("Parse(%q)\n got %+v\nwant %+v", tt.in, got, tt.want)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	const pack = "01" + gtin // 16 bytes
	tests := map[string]struct {
		in       string
		position int
		ai       string
		message  string // a part of it
	}{
		"nothing":                    {"", 0, "", "nothing to read"},
		"white space":                {" \n", 0, "", "nothing to read"},
		"FNC1 alone":                 {"]d2\x1d", 4, "", "nothing to read"},
		"too long":                   {strings.Repeat(" ", 501), 500, "", "may have 500"},
		"plain GTIN":                 {"4006381333931", 0, "", "plain GTIN"},
		"retail barcode":             {"]E04006381333931", 0, "", "retail barcode"},
		"plain DataMatrix":           {"]d1" + pack, 0, "", "]d1 is not one of a GS1 symbol"},
		"identifier cut off":         {"]d", 0, "", "]d is not one"},
		"check digit of the GTIN":    {"0109506000134353", 2, "01", "09506000134353 is wrong (2 would fit)"},
		"check digit of the SSCC":    {"00106141412345678909", 2, "00", "SSCC"},
		"check digit of contents":    {"02095060001343533748", 2, "02", "contents"},
		"short GTIN":                 {"0195060001343", 2, "01", "must have 14 digits and has 11"},
		"GTIN cut by FNC1":           {"01095060001343\x1d10A", 2, "01", "has 12"},
		"long GTIN in brackets":      {"(01)" + gtin + "1", 4, "01", "has 15"},
		"letters in a GTIN":          {"(01)O9506000134352", 4, "01", "digits only, not O9506000134352"},
		"30 February":                {pack + "17260230", 18, "17", "260230 is not a day"},
		"29 February":                {pack + "11270229", 18, "11", "production date"},
		"month 13":                   {pack + "17261301", 18, "17", "261301"},
		"month 00":                   {pack + "17260001", 18, "17", "260001"},
		"empty lot":                  {pack + "10\x1d21X", 18, "10", "empty"},
		"empty lot in brackets":      {"(10)(21)X", 4, "10", "empty"},
		"long lot":                   {pack + "10" + strings.Repeat("A", 21), 18, "10", "FNC1"},
		"long count":                 {pack + "30123456789", 18, "30", "may have 8"},
		"count of letters":           {pack + "301A", 18, "30", "digits only"},
		"count of zero":              {pack + "300", 18, "30", "at least 1"},
		"contents of zero":           {"02" + gtin + "3700", 18, "37", "at least 1"},
		"fixed without separator":    {pack + "4221234", 19, "422", "must have 3 digits"},
		"unknown identifier":         {pack + "8030AB", 16, "8030", "8030 is not known"},
		"unknown three digits":       {pack + "255AB", 16, "255", "255 is not known"},
		"unassigned identifier":      {pack + "5512", 16, "55", "55 is not known"},
		"no identifier":              {pack + "ABC", 16, "", "should stand here"},
		"half an identifier":         {pack + "1", 16, "", "should stand here"},
		"identifier cut":             {pack + "31", 16, "", "should stand here"},
		"two separators":             {pack + "10A\x1d\x1d21B", 20, "", "should stand here"},
		"Digital Link":               {"https://id.gs1.org/01/" + gtin, 0, "", "should stand here"},
		"space in a lot":             {pack + "10A B", 19, "10", "holds a space"},
		"space in a bracketed lot":   {"(10)A B", 5, "10", "no bracket follows"},
		"control character":          {pack + "10A\x1eB", 19, "10", "the code 30"},
		"delete":                     {pack + "10A\x7f", 19, "10", "the code 127"},
		"other letters":              {pack + "10Aß", 19, "10", "keyboard language"},
		"character outside 82":       {pack + "10A#B", 19, "10", "the character #"},
		"printing notation of FNC1":  {pack + "10A~121B", 19, "10", "the character ~"},
		"backslash in brackets":      {`(10)A\B`, 5, "10", `the character \`},
		"bracket never closed":       {"(01" + gtin, 0, "", "application identifier"},
		"bracket alone":              {"(", 0, "", "application identifier"},
		"empty brackets":             {"()A", 0, "", "application identifier"},
		"letters in brackets":        {"(10)ABC(2l)X", 7, "", "application identifier"},
		"too few digits in brackets": {"(71)A", 0, "", "application identifier"},
		"too many in brackets":       {"(010)A", 0, "", "application identifier"},
		"text after a separator":     {"(10)A{GS}B", 5, "10", "no bracket follows"},
		"other GTIN":                 {pack + "01" + other, 16, "01", "different values"},
		"other expiry":               {pack + "1726022817260227", 24, "17", "different values"},
		"other lot":                  {"(10)A(10)a", 5, "10", "different values"},
		"other count":                {"(01)" + gtin + "(30)1(30)2", 23, "30", "different values"},
		"other ignored value":        {pack + "240A\x1d240B", 21, "240", "different values"},
		"37 without 02":              {pack + "3748", 16, "37", "does not name them (02)"},
		"02 without 37":              {"10A\x1d02" + gtin, 4, "02", "how many there are (37)"},
		"01 with 02":                 {pack + "02" + gtin + "3748", 16, "02", "both"},
		"nothing of use":             {"  240REF", 2, "240", "names no item"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			scan, err := Parse(tt.in, now)
			var refused *Error
			if !errors.As(err, &refused) {
				t.Fatalf("Parse(%q) = %+v, %v; want an *Error", tt.in, scan, err)
			}
			if refused.Position != tt.position || refused.AI != tt.ai || !strings.Contains(refused.Message, tt.message) {
				t.Errorf("Parse(%q)\n got %d %q %s\nwant %d %q …%s…", tt.in, refused.Position, refused.AI, refused.Message, tt.position, tt.ai, tt.message)
			}
			if scan != (Scan{}) {
				t.Errorf("a refused input gave %+v", scan)
			}
			checkMessage(t, refused)
		})
	}
}

// checkMessage is what every message promises. No sentence of its own is longer
// than 240 bytes.
func checkMessage(t *testing.T, e *Error) {
	t.Helper()
	if len(e.Message) > 240+40 {
		t.Errorf("a message of %d bytes: %s", len(e.Message), e.Message)
	}
	for _, r := range strings.ReplaceAll(e.Message, "…", "") {
		if r < ' ' || r > '~' {
			t.Errorf("%q has the character %q", e.Message, r)
		}
	}
	if !strings.HasSuffix(e.Message, ".") {
		t.Errorf("%q is no sentence", e.Message)
	}
}

func TestMessagesQuoteLittle(t *testing.T) {
	for _, in := range []string{
		"(01)" + strings.Repeat("X", 400),
		"(30)" + strings.Repeat("9", 400),
		"]" + strings.Repeat("\x1b", 400),
		"(7003)" + strings.Repeat("X", 400),
		strings.Repeat("X", 400),
	} {
		_, err := Parse(in, now)
		var refused *Error
		if !errors.As(err, &refused) {
			t.Fatalf("Parse(%q) gave %v", in, err)
		}
		checkMessage(t, refused)
		if longest := longestRun(refused.Message, in[len(in)-1]); longest > 40 {
			t.Errorf("%d bytes of the input are in %q", longest, refused.Message)
		}
	}
}

func longestRun(s string, of byte) int {
	longest, run := 0, 0
	for i := range len(s) {
		run++
		if s[i] != of {
			run = 0
		}
		longest = max(longest, run)
	}
	return longest
}

func TestCentury(t *testing.T) {
	for _, tt := range []struct{ current, yy, want int }{
		{2026, 26, 2026}, {2026, 0, 2000}, {2026, 76, 2076}, {2026, 77, 1977}, {2026, 99, 1999},
		{2049, 99, 2099}, {2049, 0, 2000},
		{2050, 0, 2100}, {2050, 1, 2001}, {2050, 99, 2099},
		{2051, 0, 2100}, {2051, 1, 2101}, {2051, 2, 2002},
		{1999, 0, 2000}, {1999, 49, 2049}, {1999, 50, 1950}, {2000, 50, 2050}, {2000, 51, 1951}, {2099, 0, 2100},
	} {
		if got := fullYear(tt.yy, tt.current); got != tt.want {
			t.Errorf("year %02d in %d is %d, want %d", tt.yy, tt.current, got, tt.want)
		}
	}
	for current := 2000; current < 2100; current++ {
		for yy := range 100 {
			if got := fullYear(yy, current); got%100 != yy || got < current-49 || got > current+50 {
				t.Errorf("year %02d in %d is %d", yy, current, got)
			}
		}
	}
}

func TestDays(t *testing.T) {
	for in, want := range map[string]string{
		"280200": "2028-02-29", "260200": "2026-02-28", "000200": "2000-02-29",
		"260400": "2026-04-30", "261200": "2026-12-31", "280229": "2028-02-29", "261231": "2026-12-31",
		"260431": "", "260132": "", "260229": "",
	} {
		d, ok := dateOf(in, now)
		if ok != (want != "") || ok && d.String() != want {
			t.Errorf("%s is %s, %v; want %q", in, d, ok, want)
		}
	}
	if got := daysIn(2100, 2); got != 28 {
		t.Errorf("February 2100 has %d days", got)
	}
	if got := (Date{}).String(); got != "" {
		t.Errorf("no day is written as %q", got)
	}
}

func TestParseWantsAFullYear(t *testing.T) {
	for _, year := range []int{-1, 0, 26, 1048, 9950} {
		if _, err := Parse("01"+gtin, year); err == nil {
			t.Errorf("the year %d was taken", year)
		}
	}
	for year, want := range map[int]int{1049: 1000, 9949: 9999} {
		scan, err := Parse("17"+Date{Year: want, Month: 1, Day: 1}.yymmdd(), year)
		if err != nil || scan.Expiry.Year != want {
			t.Errorf("in %d: %+v, %v; want the year %d", year, scan, err, want)
		}
	}
}

func TestItemAndUnits(t *testing.T) {
	for name, tt := range map[string]struct {
		scan  Scan
		item  string
		units int64
	}{
		"pack":     {Scan{GTIN: gtin}, gtin, 1},
		"variable": {Scan{GTIN: gtin, Count: 7}, gtin, 7},
		"contents": {Scan{SSCC: sscc, ContainedGTIN: gtin, ContainedCount: 48, Count: 7}, gtin, 48},
		"pallet":   {Scan{SSCC: sscc}, "", 0},
		"lot":      {Scan{Lot: "A", Count: 7}, "", 0},
	} {
		if item, units := tt.scan.Item(), tt.scan.Units(); item != tt.item || units != tt.units {
			t.Errorf("%s: %d of %q, want %d of %q", name, units, item, tt.units, tt.item)
		}
	}
}

func TestNormalizeGTIN(t *testing.T) {
	for in, want := range map[string]string{
		"96385074": "00000096385074", "614141000036": "00614141000036",
		"4006381333931": other, gtin: gtin,
	} {
		if got, err := NormalizeGTIN(in); err != nil || got != want {
			t.Errorf("NormalizeGTIN(%s) = %s, %v; want %s", in, got, err, want)
		}
	}
	for in, position := range map[string]int{
		"": 0, "123": 3, "4006381333932": 12, "400638133393X": 12, "+4006381333931": 0,
		"123456789012345": 14, "96385074\x00": 8, strings.Repeat("9", 1000): 14, "４006381333931": 0,
	} {
		got, err := NormalizeGTIN(in)
		var refused *Error
		if !errors.As(err, &refused) || refused.Position != position || got != "" {
			t.Errorf("NormalizeGTIN(%q) = %q, %v; want an error at %d", in, got, err, position)
			continue
		}
		checkMessage(t, refused)
	}
}

func TestCheckDigit(t *testing.T) {
	for in, want := range map[string]byte{
		"629104150021": '3', "0950600013435": '2', "10614141234567890": '8', "9638507": '4', "0": '0',
	} {
		if got, err := CheckDigit(in); err != nil || got != want {
			t.Errorf("CheckDigit(%s) = %c, %v; want %c", in, got, err, want)
		}
	}
	for _, in := range []string{"", "12a4", "-1"} {
		if _, err := CheckDigit(in); err == nil {
			t.Errorf("CheckDigit(%q) was computed", in)
		}
	}
}
