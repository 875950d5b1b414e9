package ledger

import (
	"fmt"
	"time"
)

// Instant is a moment in microseconds since 1970-01-01 UTC, the resolution
// that both databases keep. Zero means "not given".
type Instant int64

// MaxInstant is the last microsecond of the year 9999, the end of what the
// wire and both databases can write.
const MaxInstant Instant = 253402300799_999999

// InstantOf truncates t to microseconds.
func InstantOf(t time.Time) Instant { return Instant(t.UnixMicro()) }

// Time returns the instant in UTC.
func (i Instant) Time() time.Time { return time.UnixMicro(int64(i)).UTC() }

// String writes the instant as RFC 3339 in UTC.
func (i Instant) String() string { return i.Time().Format(time.RFC3339Nano) }

// Date is a calendar day, counted from 1970-01-01. Zero means "not given".
type Date int32

// MaxDate is 9999-12-31.
const MaxDate Date = 2932896

const dayLayout = "2006-01-02"

// NewDate returns the day, or an error where the calendar has no such day or
// it lies before 1970-01-02 or after 9999-12-31.
func NewDate(year, month, day int) (Date, error) {
	t := time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC)
	if y, m, d := t.Date(); y != year || int(m) != month || d != day {
		return 0, fmt.Errorf("%04d-%02d-%02d is not a day of the calendar", year, month, day)
	}
	date := DateOf(t)
	if date <= 0 || date > MaxDate {
		return 0, fmt.Errorf("%04d-%02d-%02d is out of range: use a day from 1970-01-02 to 9999-12-31", year, month, day)
	}
	return date, nil
}

// ParseDate reads a day written as 2027-03-31.
func ParseDate(s string) (Date, error) {
	t, err := time.Parse(dayLayout, s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a day: write it as 2027-03-31", s)
	}
	return NewDate(t.Year(), int(t.Month()), t.Day())
}

// DateOf returns the calendar day of t in t's own time zone.
func DateOf(t time.Time) Date {
	y, m, d := t.Date()
	seconds := time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix()
	const day = 24 * 60 * 60
	if seconds < 0 {
		seconds -= day - 1
	}
	return Date(seconds / day)
}

// Time returns midnight UTC of the day.
func (d Date) Time() time.Time { return time.Unix(int64(d)*24*60*60, 0).UTC() }

// String writes the day as 2027-03-31.
func (d Date) String() string { return d.Time().Format(dayLayout) }

// Zones resolves an IANA time zone name, as [time.LoadLocation] does. The core
// takes it as an argument because looking one up reads files.
type Zones func(name string) (*time.Location, error)
