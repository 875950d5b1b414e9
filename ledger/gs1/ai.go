package gs1

// format says what a value of an application identifier looks like.
type format struct {
	name     string // as people call the value
	min, max int    // length in characters
	digits   bool   // else the 82 characters of section 7.11
	// predefined tells that the length is known without a separator (GS1 General
	// Specifications, figure 7.8.5-2). An identifier of fixed length that is not
	// in that figure needs FNC1 all the same.
	predefined bool
}

const ignoredName = "value of"

func predefined(digits int) format {
	return format{name: ignoredName, min: digits, max: digits, digits: true, predefined: true}
}

func fixed(digits int) format {
	return format{name: ignoredName, min: digits, max: digits, digits: true}
}

func number(maxDigits int) format {
	return format{name: ignoredName, min: 1, max: maxDigits, digits: true}
}

func text(maxLength int) format {
	return format{name: ignoredName, min: 1, max: maxLength}
}

func (f format) called(name string) format {
	f.name = name
	return f
}

// unlisted is all that is known about an identifier outside the table: no GS1
// value is longer than 90 characters.
var unlisted = text(90)

// formats holds what the ledger reads, and below it what packs and cases of
// medicines also carry, which is stepped over (GS1 General Specifications,
// section 3.2). Ranges are in [formatOf].
var formats = map[string]format{
	"00": predefined(18).called("SSCC"),
	"01": predefined(14).called("GTIN"),
	"02": predefined(14).called("GTIN of the contents"),
	"10": text(20).called("lot number"),
	"11": predefined(6).called("production date"),
	"17": predefined(6).called("expiry date"),
	"21": text(20).called("serial number"),
	"30": number(8).called("count"),
	"37": number(8).called("count of the contents"),

	"12":   predefined(6), // due date
	"13":   predefined(6), // packaging date
	"15":   predefined(6), // best before
	"16":   predefined(6), // sell by
	"20":   predefined(2), // internal variant
	"22":   text(20),      // consumer product variant
	"235":  text(28),      // third-party serial extension
	"240":  text(30),      // additional identification by the manufacturer
	"241":  text(30),      // customer part number
	"242":  number(6),     // made-to-order variation
	"243":  text(20),      // packaging component
	"250":  text(30),      // secondary serial number
	"251":  text(30),      // source entity
	"400":  text(30),      // order number
	"401":  text(30),      // consignment (GINC)
	"402":  fixed(17),     // shipment (GSIN)
	"403":  text(30),      // routing code
	"420":  text(20),      // postal code
	"421":  text(12),      // country and postal code
	"422":  fixed(3),      // country of origin
	"7001": fixed(13),     // NATO stock number
	"7003": fixed(10),     // expiry to the minute, of medicines with a short life
	"7004": number(4),     // active potency
	"7240": text(20),      // clinical trial protocol
	"8008": number(12),    // production date and time
	"8012": text(20),      // software version
	"8013": text(25),      // global model number of a medical device
	"8200": text(70),      // product page
	"90":   text(30),      // agreed between partners
}

// formatOf returns the format of an identifier, and whether it is known.
func formatOf(ai string) (format, bool) {
	if f, ok := formats[ai]; ok {
		return f, true
	}
	switch {
	case len(ai) == 4 && ai >= "3100" && ai <= "3699": // weights and measures
		return predefined(6), true
	case len(ai) == 3 && ai >= "410" && ai <= "417": // locations (GLN)
		return predefined(13), true
	case len(ai) == 3 && ai >= "710" && ai <= "719": // national reimbursement numbers
		return text(20), true
	case len(ai) == 4 && ai >= "7230" && ai <= "7239": // certificates
		return text(30), true
	case len(ai) == 2 && ai >= "91" && ai <= "99": // company internal
		return text(90), true
	}
	return unlisted, false
}

// lengthOfAI returns how many digits an identifier has that begins with these
// two (GS1 General Specifications, figure 7.8.2-1), so that even one outside
// the table is named in full.
func lengthOfAI(firstTwo string) int {
	switch firstTwo {
	case "23", "24", "25", "40", "41", "42", "71":
		return 3
	case "31", "32", "33", "34", "35", "36", "39", "43", "70", "72", "80", "81", "82":
		return 4
	}
	return 2
}

// inSet82 reports whether a value may hold the character (GS1 General
// Specifications, section 7.11).
func inSet82(c byte) bool {
	switch {
	case c >= '0' && c <= '9', c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z':
		return true
	case c >= '%' && c <= '/', c >= ':' && c <= '?':
		return true
	}
	return c == '!' || c == '"' || c == '_'
}
