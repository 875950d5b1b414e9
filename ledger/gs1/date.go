package gs1

import "fmt"

// Date is a day of the calendar. The zero value means "not given".
type Date struct {
	Year  int // four digits
	Month int // 1 to 12
	Day   int // 1 to 31, and a day that the month has
}

// IsZero reports whether no day was given.
func (d Date) IsZero() bool { return d == Date{} }

// String writes the day as 2026-02-28, or nothing for the zero value.
func (d Date) String() string {
	if d.IsZero() {
		return ""
	}
	return fmt.Sprintf("%04d-%02d-%02d", d.Year, d.Month, d.Day)
}

// yymmdd is the form of the application identifiers 11 to 17.
func (d Date) yymmdd() string {
	return fmt.Sprintf("%02d%02d%02d", d.Year%100, d.Month, d.Day)
}

// dateOf expects six digits. The second result is false where the calendar has
// no such day. Day 00 is the last one of the month (GS1 General Specifications,
// section 3.4.7).
func dateOf(yymmdd string, year int) (Date, bool) {
	d := Date{
		Year:  fullYear(pair(yymmdd), year),
		Month: pair(yymmdd[2:]),
		Day:   pair(yymmdd[4:]),
	}
	if d.Month < 1 || d.Month > 12 {
		return Date{}, false
	}
	last := daysIn(d.Year, d.Month)
	if d.Day == 0 {
		d.Day = last
	}
	return d, d.Day <= last
}

// fullYear finds the century by the GS1 General Specifications, section 7.12:
// the result lies between 49 years before the current year and 50 after it.
func fullYear(yy, current int) int {
	year := current - current%100 + yy
	switch difference := yy - current%100; {
	case difference >= 51:
		return year - 100
	case difference <= -50:
		return year + 100
	}
	return year
}

func daysIn(year, month int) int {
	switch month {
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}

// pair reads the two digits that s begins with.
func pair(s string) int { return int(s[0]-'0')*10 + int(s[1]-'0') }
