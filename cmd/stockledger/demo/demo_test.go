package demo

import (
	"reflect"
	"regexp"
	"slices"
	"testing"
	"time"
)

var (
	// A few mixtures, oral rehydration salts among them, have a code of the
	// fourth level only.
	atcPattern = regexp.MustCompile(`^[A-Z]\d\d[A-Z]{2}(\d\d)?$`)
	idPattern  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]{0,63}$`)
)

func TestMedicinesAreWhole(t *testing.T) {
	medicines, err := Medicines()
	if err != nil {
		t.Fatal(err)
	}
	if len(medicines) < 150 {
		t.Errorf("there are %d medicines, want at least 150", len(medicines))
	}
	ids, names := make(map[string]bool), make(map[string]bool)
	for _, m := range medicines {
		name := m.Name + "|" + m.Strength + "|" + m.Form
		if ids[m.ID] || names[name] {
			t.Errorf("%s (%s) is there twice", m.ID, name)
		}
		ids[m.ID], names[name] = true, true
		if !idPattern.MatchString(m.ID) {
			t.Errorf("%q is not an id", m.ID)
		}
		if !atcPattern.MatchString(m.ATCCode) {
			t.Errorf("%s: %q is not an ATC code", m.ID, m.ATCCode)
		}
		if m.Name == "" || m.Strength == "" || m.Form == "" || m.BaseUnit == "" || m.Category == "" {
			t.Errorf("%+v has a blank", m)
		}
	}
	if !ids[ShownMedicine] {
		t.Errorf("%s, which examples show, is missing", ShownMedicine)
	}
}

func TestClinicsHaveWhatExamplesName(t *testing.T) {
	kinds := map[string]LocationKind{"main-store": Store, ShownLocation: Dispensary}
	for _, c := range Clinics() {
		if _, err := time.LoadLocation(c.TimeZone); err != nil {
			t.Errorf("%s: %v", c.ID, err)
		}
		for id, kind := range kinds {
			if !slices.ContainsFunc(c.Locations, func(l Location) bool { return l.ID == id && l.Kind == kind }) {
				t.Errorf("%s has no %s of the kind %s", c.ID, id, kind)
			}
		}
	}
}

func TestSomeLotsEndSoonAndMostDoNot(t *testing.T) {
	medicines, err := Medicines()
	if err != nil {
		t.Fatal(err)
	}
	today := time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range Clinics() {
		var days, weeks, all int
		for _, l := range Lots(c, medicines, today) {
			all++
			if l.Expiry.Before(today.AddDate(0, 0, 7)) {
				days++
			}
			if l.Expiry.Before(today.AddDate(0, 3, 0)) {
				weeks++
			}
			if l.MedicineID == ShownMedicine && l.Expiry.Before(today.AddDate(0, 6, 0)) {
				t.Errorf("%s: lot %s, which examples reserve, ends on %s", c.ID, l.ID, l.Expiry)
			}
		}
		if days == 0 || weeks <= days || weeks > all/5 {
			t.Errorf("%s: of %d lots %d end within days and %d within weeks", c.ID, all, days, weeks)
		}
	}
}

func TestLotsAreTheSameEveryTime(t *testing.T) {
	medicines, err := Medicines()
	if err != nil {
		t.Fatal(err)
	}
	today := time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range Clinics() {
		lots := Lots(c, medicines, today)
		if !reflect.DeepEqual(lots, Lots(c, medicines, today)) {
			t.Errorf("%s: lots differ from call to call", c.ID)
		}
		if len(lots) < 80 {
			t.Errorf("%s has %d lots", c.ID, len(lots))
		}
		ids := make(map[string]bool)
		type held struct{ lots, units int64 }
		dispensed := make(map[string]held)
		for _, l := range lots {
			if ids[l.ID] || !idPattern.MatchString(l.ID) {
				t.Errorf("%s: lot id %q is bad or there twice", c.ID, l.ID)
			}
			ids[l.ID] = true
			if !l.Expiry.After(today) {
				t.Errorf("%s: lot %s has expired", c.ID, l.ID)
			}
			for _, s := range l.Stock {
				if s.Quantity <= 0 {
					t.Errorf("%s: lot %s has %d units", c.ID, l.ID, s.Quantity)
				}
				if s.LocationID == ShownLocation {
					h := dispensed[l.MedicineID]
					dispensed[l.MedicineID] = held{h.lots + 1, h.units + s.Quantity}
				}
			}
		}
		for _, id := range []string{ShownMedicine, "paracetamol-500mg-tablet"} {
			if h := dispensed[id]; h.lots < 2 || h.units < 500 {
				t.Errorf("%s dispenses %s from %d lots with %d units, want at least 2 and 500", c.ID, id, h.lots, h.units)
			}
		}
	}
}
