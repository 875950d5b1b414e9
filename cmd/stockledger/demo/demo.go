// Package demo holds the clinics, medicines and stock that a first run shows.
// The medicines are those of the WHO Model List of Essential Medicines; clinics,
// manufacturers and lots are invented. It is data alone: it knows neither the
// API nor the database.
package demo

import (
	_ "embed"
	"encoding/csv"
	"fmt"
	"hash/fnv"
	"strings"
	"time"
	"unicode"
)

//go:embed medicines.csv
var medicinesCSV string

// Medicine is a row of the demo's formulary.
type Medicine struct {
	ID       string
	Name     string
	Strength string
	Form     string
	BaseUnit string
	ATCCode  string // of the WHO's Anatomical Therapeutic Chemical classification
	Category string
}

// LocationKind says what a location is for.
type LocationKind string

// The kinds of locations.
const (
	Store      LocationKind = "STORE"
	Dispensary LocationKind = "DISPENSARY"
	Ward       LocationKind = "WARD"
)

// Location is a place of a demo clinic.
type Location struct {
	ID   string
	Name string
	Kind LocationKind
	// share is how much of the formulary it stocks, in percent.
	share uint32
}

// Clinic is a demo clinic.
type Clinic struct {
	ID        string
	Name      string
	TimeZone  string
	Locations []Location
}

// Lot is a lot with what its clinic's locations hold of it at the start.
type Lot struct {
	ID           string
	MedicineID   string
	Manufacturer string
	LotNumber    string
	Expiry       time.Time // the last usable day
	Stock        []Stock
}

// Stock is an opening quantity, in base units.
type Stock struct {
	LocationID string
	Quantity   int64
}

// What examples show: a medicine that every clinic's dispensary stocks.
const (
	ShownMedicine = "amoxicillin-500mg-capsule"
	ShownLocation = "dispensary"
)

// everywhere says which medicines every clinic's dispensary stocks two lots of.
func everywhere(medicine string) bool {
	return medicine == ShownMedicine || medicine == "paracetamol-500mg-tablet"
}

// Clinics returns the demo's clinics.
func Clinics() []Clinic {
	return []Clinic{
		{ID: "hillside", Name: "Hillside Health Centre", TimeZone: "Africa/Nairobi", Locations: []Location{
			{ID: "main-store", Name: "Main store", Kind: Store, share: 60},
			{ID: ShownLocation, Name: "Dispensary", Kind: Dispensary, share: 45},
			{ID: "maternity", Name: "Maternity ward", Kind: Ward, share: 12},
		}},
		{ID: "riverside", Name: "Riverside Clinic and Pharmacy", TimeZone: "Asia/Kolkata", Locations: []Location{
			{ID: "main-store", Name: "Back room", Kind: Store, share: 75},
			{ID: ShownLocation, Name: "Pharmacy counter", Kind: Dispensary, share: 70},
		}},
		{ID: "st-anne", Name: "St Anne District Hospital", TimeZone: "America/Lima", Locations: []Location{
			{ID: "main-store", Name: "Central store", Kind: Store, share: 95},
			{ID: ShownLocation, Name: "Outpatient dispensary", Kind: Dispensary, share: 75},
			{ID: "emergency", Name: "Emergency department", Kind: Ward, share: 35},
			{ID: "surgery", Name: "Operating theatre", Kind: Ward, share: 25},
			{ID: "paediatrics", Name: "Paediatric ward", Kind: Ward, share: 20},
		}},
	}
}

// Medicines returns the demo's formulary.
func Medicines() ([]Medicine, error) {
	rows, err := csv.NewReader(strings.NewReader(medicinesCSV)).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("the demo's medicines: %w", err)
	}
	medicines := make([]Medicine, 0, len(rows)-1)
	for _, row := range rows[1:] {
		m := Medicine{Name: row[0], Strength: row[1], Form: row[2], BaseUnit: row[3], ATCCode: row[4], Category: row[5]}
		m.ID = slug(m.Name, m.Strength, m.Form)
		medicines = append(medicines, m)
	}
	return medicines, nil
}

const maxID = 64

// slug makes an id that a person can read and type.
func slug(name, strength, form string) string {
	var b strings.Builder
	// The unit stays with its number: 500mg, not 500-mg.
	for _, r := range strings.ToLower(name + " " + strings.ReplaceAll(strength, " ", "") + " " + form) {
		switch {
		case r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r) || r == '.'):
			b.WriteRune(r)
		case r == '%':
			b.WriteString("pct")
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	return cut(strings.Trim(b.String(), "-."), maxID)
}

// cut shortens an id to whole words.
func cut(id string, length int) string {
	if len(id) <= length {
		return id
	}
	return id[:strings.LastIndexByte(id[:length+1], '-')]
}

var manufacturers = []string{"Baobab Pharma", "Northlight Laboratories", "Meridian Generics", "Lotus Life Sciences", "Andes Farma", "Harbour Remedies"}

// Lots returns a clinic's lots with their opening stock. The same clinic and
// day give the same lots.
func Lots(c Clinic, medicines []Medicine, today time.Time) []Lot {
	var lots []Lot
	for _, m := range medicines {
		count := 1 + pick(2, c.ID, m.ID, "lots")
		if everywhere(m.ID) {
			count = 2
		}
		for n := range count {
			if lot := makeLot(c, m, n, today); len(lot.Stock) > 0 {
				lots = append(lots, lot)
			}
		}
	}
	return lots
}

func makeLot(c Clinic, m Medicine, n uint32, today time.Time) Lot {
	number := fmt.Sprintf("%c%05d", 'A'+rune(pick(26, c.ID, m.ID, "letter")), pick(100_000, c.ID, m.ID, "number", fmt.Sprint(n)))
	lot := Lot{
		ID: cut(m.ID, maxID-len(number)-1) + "-" + strings.ToLower(number), MedicineID: m.ID,
		Manufacturer: manufacturers[pick(uint32(len(manufacturers)), m.ID, fmt.Sprint(n))], LotNumber: number,
		Expiry: expiry(today, pick(100, c.ID, m.ID, "expiry", fmt.Sprint(n))),
	}
	for _, l := range c.Locations {
		certain := everywhere(m.ID) && l.ID == ShownLocation
		if !certain && pick(100, c.ID, l.ID, m.ID) >= l.share {
			continue
		}
		quantity := int64(20+10*pick(60, c.ID, l.ID, m.ID, "quantity", fmt.Sprint(n))) * scale(m.BaseUnit)
		if certain {
			quantity = 1000
		}
		lot.Stock = append(lot.Stock, Stock{LocationID: l.ID, Quantity: quantity})
	}
	return lot
}

// expiry spreads lots over the next three years; a few end within weeks, and the
// very first within days. None has ended today, since an expired lot cannot be
// received: a demo that is kept for some days comes to hold some.
func expiry(today time.Time, percent uint32) time.Time {
	switch {
	case percent == 0:
		return today.AddDate(0, 0, 2)
	case percent < 5:
		return today.AddDate(0, 0, 14+int(percent)*7)
	}
	return today.AddDate(0, 6+int(percent)*30/100, int(percent)%28)
}

// scale is how many base units are handled at once.
func scale(unit string) int64 {
	switch unit {
	case "ml", "IU":
		return 100
	case "tablet", "capsule":
		return 10
	}
	return 1
}

// pick chooses a number below n by what the words say.
func pick(n uint32, words ...string) uint32 {
	h := fnv.New32a()
	for _, word := range words {
		_, _ = h.Write([]byte(word + "\x00"))
	}
	// The low bits of FNV mix better than they are spread.
	sum := h.Sum32()
	return (sum ^ sum>>15) % n
}
