package fhir

import (
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// primitive is a type of FHIR whose values are single ones.
type primitive struct {
	kind    kind
	example string
	valid   func(string) bool
}

// maxText is the longest string of FHIR that is accepted, in bytes. FHIR itself
// allows 1 MiB.
const maxText = 64 << 10

var primitives = map[string]primitive{
	"boolean":      {kindBool, "true or false", func(string) bool { return true }},
	"integer":      {kindNumber, "a whole number from -2147483648 to 2147483647", validInteger},
	"unsignedInt":  {kindNumber, "a whole number from 0 to 2147483647", whole(0)},
	"positiveInt":  {kindNumber, "a whole number from 1 to 2147483647", whole(1)},
	"decimal":      {kindNumber, "a decimal number", func(string) bool { return true }},
	"string":       {kindText, "text", validText},
	"markdown":     {kindText, "text", validText},
	"code":         {kindText, "a code: no spaces at its ends, and single ones within", matches(`[^\s]+( [^\s]+)*`)},
	"id":           {kindText, "1 to 64 letters, digits, dashes and dots", matches(`[A-Za-z0-9.-]{1,64}`)},
	"uri":          {kindText, "a URI without spaces", validURI},
	"url":          {kindText, "a URL without spaces", validURI},
	"canonical":    {kindText, "a canonical URL without spaces", validURI},
	"oid":          {kindText, "an OID, for example urn:oid:1.2.3", matches(`urn:oid:[0-2](\.(0|[1-9][0-9]*))+`)},
	"uuid":         {kindText, "a UUID, for example urn:uuid:c757873d-ec9a-4326-a141-556f43239520", matches(`urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)},
	"base64Binary": {kindText, "base64", validBase64},
	"date":         {kindText, "a date that exists, as YYYY, YYYY-MM or YYYY-MM-DD", func(s string) bool { return oneLayout(s, "2006", "2006-01", time.DateOnly) }},
	"dateTime":     {kindText, "a date that exists, as YYYY, YYYY-MM, YYYY-MM-DD or YYYY-MM-DDThh:mm:ss with a time zone", validDateTime},
	"instant":      {kindText, "a moment as YYYY-MM-DDThh:mm:ss with a time zone", validInstant},
	"time":         {kindText, "a time of day as hh:mm:ss", func(s string) bool { return timeShape.MatchString(s) && oneLayout(s, time.TimeOnly) }},
	"xhtml":        {kindText, "a <div> of XHTML without anything active in it", func(s string) bool { return checkNarrative(s) == nil }},
}

func matches(pattern string) func(string) bool {
	expression := regexp.MustCompile(`^(?:` + pattern + `)$`)
	return expression.MatchString
}

func validInteger(s string) bool {
	_, err := strconv.ParseInt(s, 10, 32)
	return err == nil && s != "-0"
}

func whole(least int64) func(string) bool {
	return func(s string) bool {
		n, err := strconv.ParseInt(s, 10, 32)
		return err == nil && n >= least && s[0] != '-'
	}
}

func validText(s string) bool {
	return strings.TrimSpace(s) != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r < ' ' && r != '\n' && r != '\r' && r != '\t' || r == 0x7f
	})
}

func validURI(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || r == 0xa0 || strings.ContainsRune(`<>"{}\^`+"`", r) })
}

func validBase64(s string) bool {
	_, err := base64.StdEncoding.DecodeString(s)
	return err == nil && s != ""
}

var (
	timeShape   = regexp.MustCompile(`^\d\d:\d\d:\d\d(\.\d{1,9})?$`)
	momentShape = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-](0\d|1[0-3]):[0-5]\d|[+-]14:00)$`)
)

func oneLayout(s string, layouts ...string) bool {
	return slices.ContainsFunc(layouts, func(layout string) bool {
		t, err := time.Parse(layout, s)
		return err == nil && (t.Year() > 0 || layout == time.TimeOnly)
	})
}

func validInstant(s string) bool { return momentShape.MatchString(s) && oneLayout(s, time.RFC3339) }

func validDateTime(s string) bool {
	return oneLayout(s, "2006", "2006-01", time.DateOnly) || validInstant(s)
}

// dateTimeRange returns the first and the last moment that a dateTime may mean.
func dateTimeRange(s string) (first, last time.Time) {
	for _, precision := range []struct {
		layout              string
		years, months, days int
	}{{"2006", 1, 0, 0}, {"2006-01", 0, 1, 0}, {time.DateOnly, 0, 0, 1}} {
		if t, err := time.Parse(precision.layout, s); err == nil {
			return t, t.AddDate(precision.years, precision.months, precision.days).Add(-1)
		}
	}
	t, _ := time.Parse(time.RFC3339, s)
	return t, t
}

// narrativeTags are the elements of XHTML that may stand in a narrative.
var narrativeTags = strings.Fields("a abbr acronym b big blockquote br caption cite code col colgroup dd dfn div dl dt em h1 h2 h3 h4 h5 h6 hr i img li ol p pre q samp small span strong sub sup table tbody td tfoot th thead tr tt ul var")

const xhtmlSpace = "http://www.w3.org/1999/xhtml"

// checkNarrative judges a narrative: it is shown to people as it is.
func checkNarrative(s string) error {
	decoder := xml.NewDecoder(strings.NewReader(s))
	depth, roots, words := 0, 0, false
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.New("it is not well-formed")
		}
		switch t := token.(type) {
		case xml.StartElement:
			if depth == 0 {
				roots++
			}
			if depth++; depth == 1 && t.Name.Local != "div" {
				return errors.New("it is no <div>")
			}
			if err := checkTag(t); err != nil {
				return err
			}
			words = words || t.Name.Local == "img"
		case xml.EndElement:
			depth--
		case xml.CharData:
			if depth == 0 && strings.TrimSpace(string(t)) != "" {
				return errors.New("there is text outside of the <div>")
			}
			words = words || strings.TrimSpace(string(t)) != ""
		case xml.Comment:
		default:
			return errors.New("only elements and text belong in it")
		}
	}
	if roots != 1 || !words {
		return errors.New("it must be one <div> with something in it")
	}
	return nil
}

func checkTag(t xml.StartElement) error {
	if t.Name.Space != xhtmlSpace || !slices.Contains(narrativeTags, t.Name.Local) {
		return fmt.Errorf("<%s> does not belong in it", t.Name.Local)
	}
	for _, attribute := range t.Attr {
		name, value := strings.ToLower(attribute.Name.Local), strings.ToLower(strings.TrimSpace(attribute.Value))
		link := name == "href" || name == "src"
		if strings.HasPrefix(name, "on") || link && !harmlessLink(value) {
			return fmt.Errorf("its attribute %s is active", attribute.Name.Local)
		}
	}
	return nil
}

func harmlessLink(value string) bool {
	for _, prefix := range []string{"#", "http://", "https://", "data:image/", "mailto:"} {
		if strings.HasPrefix(value, prefix) {
			return true
		}
	}
	return !strings.Contains(value, ":")
}
