package ledger

import "testing"

// Quantities in packs and scans become base units exactly, or not at all.
func TestUnitsOfPacksAndScans(t *testing.T) {
	w := newBusyWorld(t)
	w.must(t, &RegisterLot{LotID: "case-lot", MedicineID: "morphine", GTIN: gtinCase, LotNumber: "C1", Expiry: today + 30})
	for name, c := range map[string]struct {
		lot      LotID
		quantity int64
		pack     string
		want     int64 // zero: rejected
		reason   Reason
	}{
		"base units":                  {"morphine-1", 7, "", 7, ""},
		"boxes":                       {"morphine-1", 7, "box", 70, ""},
		"boxes, whatever the case":    {"morphine-1", 7, "BOX", 70, ""},
		"cases":                       {"morphine-1", 2, "case", 200, ""},
		"no such pack":                {"morphine-1", 2, "barrel", 0, ReasonPackNotFound},
		"a medicine without packs":    {"zinc-2", 2, "box", 0, ReasonPackNotFound},
		"as many as there can be":     {"morphine-1", MaxQuantity / maxPackFactor, "pallet", MaxQuantity / maxPackFactor * maxPackFactor, ""},
		"one more":                    {"morphine-1", MaxQuantity/maxPackFactor + 1, "pallet", 0, ReasonQuantityOutOfRange},
		"a box is scanned":            {"gs1|(01)" + gtinBox + "(10)M1", 3, "", 30, ""},
		"with its expiry":             {LotID("gs1|(01)" + gtinBox + "(10)M1(17)" + yymmdd(today+30)), 3, "", 30, ""},
		"in the raw form":             {"gs1|01" + gtinBox + "10M1", 3, "", 30, ""},
		"with separators":             {"gs1|\x1d01" + gtinBox + "10M1\x1d21X", 3, "", 30, ""},
		"with another expiry":         {"gs1|(01)" + gtinBox + "(10)M1(17)270301", 3, "", 0, ReasonScanContradictsLot},
		"a case of the lot":           {"gs1|(01)" + gtinCase + "(10)M1", 3, "", 300, ""},
		"a box of the case's lot":     {"gs1|(01)" + gtinBox + "(10)C1", 3, "", 30, ""},
		"a pallet label":              {"gs1|(02)" + gtinBox + "(37)5(10)M1", 2, "", 100, ""},
		"too much on a pallet":        {"gs1|(02)" + gtinPallet + "(37)99999999(10)M1", 1, "", 0, ReasonQuantityOutOfRange},
		"scanned too often":           {"gs1|(01)" + gtinPallet + "(10)M1", MaxQuantity, "", 0, ReasonQuantityOutOfRange},
		"scanned, and a pack":         {"gs1|(01)" + gtinBox + "(10)M1", 3, "box", 0, ReasonInvalidField},
		"a GTIN of no pack":           {"gs1|(01)" + gtinVial + "(10)M1", 3, "", 0, ReasonLotNotFound},
		"without a lot":               {"gs1|(01)" + gtinBox, 3, "", 0, ReasonScanIncomplete},
		"unreadable":                  {"gs1|(01)123", 3, "", 0, ReasonScanUnreadable},
		"by the name somewhere else":  {"erp|Z2", 3, "", 3, ""},
		"by a name that nobody knows": {"erp|?", 3, "", 0, ReasonLotNotFound},
	} {
		w.dry(func() {
			event, r := w.try(t, &ReceiveStock{LocationID: "store", LotID: c.lot, Quantity: c.quantity, Pack: c.pack})
			switch {
			case r != nil && r.Reason != c.reason:
				t.Errorf("%s: %v, want %q", name, r, c.reason)
			case r == nil && c.want == 0:
				t.Errorf("%s: it was accepted: %+v", name, event.Body)
			case r == nil && event.Body.(*StockReceived).Lines[0].Quantity != c.want:
				t.Errorf("%s: %d units, want %d", name, event.Body.(*StockReceived).Lines[0].Quantity, c.want)
			}
		})
	}
}

// A scan names a medicine by its GTIN, and its lot where one may be named.
func TestScannedMedicines(t *testing.T) {
	w := newBusyWorld(t)
	issue := func(medicine MedicineID, lot LotID, quantity int64) CommandBody {
		return &IssueStock{LocationID: "store", MedicineID: medicine, LotID: lot, Quantity: quantity}
	}
	event := w.must(t, issue("gs1|(01)"+gtinBox, "", 1))
	same(t, "first expired first", event.Body.(*StockIssued).Lines[0], Line{Lot: "morphine-1", Quantity: 10, After: Balances{Available: 50}})
	event = w.must(t, issue("gs1|(01)"+gtinBox+"(10)M2", "", 1))
	same(t, "the lot that was scanned", event.Body.(*StockIssued).Lines[0], Line{Lot: "morphine-2", Quantity: 10, After: Balances{Available: 50}})
	event = w.must(t, issue(MedicineID("gtin|"+gtinBox[1:]), "morphine-2", 5))
	same(t, "the lot by its id", event.Body.(*StockIssued).Lines[0], Line{Lot: "morphine-2", Quantity: 5, After: Balances{Available: 45}})
	event = w.must(t, issue("gs1|(01)"+gtinBox, "morphine-2", 1))
	same(t, "the scan multiplies", event.Body.(*StockIssued).Lines[0].Quantity, 10)
	w.refused(t, "amina", issue("gs1|(01)"+gtinBox+"(10)M2", "morphine-1", 1), ReasonLotOfOtherMedicine)
	w.refused(t, "amina", issue("gs1|(10)M2", "", 1), ReasonScanIncomplete)
	// Where a lot is registered, the pack's own number is a new one.
	registered := w.must(t, &RegisterLot{MedicineID: "gs1|(01)" + gtinBox + "(10)NEW", GTIN: gtinBox, LotNumber: "NEW", Expiry: today + 9})
	same(t, "medicine", registered.Body.(*LotRegistered).MedicineID, "morphine")
}

// References are resolved when a command is given: its event has the ids.
func TestReferencesBecomeIDs(t *testing.T) {
	w := newBusyWorld(t)
	w.must(t, &AddIdentifier{Subject: SubjectLot, SubjectID: "erp|Z2", System: "old", Value: "2"})
	same(t, "an identifier of an identifier", document[Identifier](w.state, DocumentIdentifier, identifierID(SubjectLot, "old", "2")).SubjectID, "zinc-2")
	event := w.must(t, &UpdateLocation{LocationID: "erp|S", Name: ptr("Main store")})
	same(t, "location", event.Body.(*LocationUpdated).LocationID, "store")
	event = w.must(t, &UpdateMedicine{MedicineID: "erp|Z", Category: ptr("Gut")})
	same(t, "medicine", event.Body.(*MedicineUpdated).MedicineID, "zinc")
	event = w.must(t, &UpdateLot{LotID: "old|2", Expiry: ptr(today + 99)})
	same(t, "lot", event.Body.(*LotUpdated).LotID, "zinc-2")
	event = w.must(t, &ReceiveStock{LocationID: "erp|S", LotID: "old|2", Quantity: 1, Supplier: "erp|A"})
	same(t, "supplier", event.Body.(*StockReceived).Supplier, "Acme")
	same(t, "shelf", event.Body.(*StockReceived).Shelf, Shelf{"store", "zinc"})
	w.must(t, &RemoveIdentifier{Subject: SubjectLot, System: "old", Value: "2", ReasonCode: "WRONG"})
	w.refused(t, "amina", &ReceiveStock{LocationID: "store", LotID: "old|2", Quantity: 1}, ReasonLotNotFound)
	w.must(t, &AddIdentifier{Subject: SubjectLot, SubjectID: "zinc-1", System: "old", Value: "2"})
	checkReplay(t, w)
}

// A GTIN names one medicine, as a pack or as an identifier.
func TestGTINsNameOneMedicine(t *testing.T) {
	w := newBusyWorld(t)
	w.must(t, &AddIdentifier{Subject: SubjectMedicine, SubjectID: "zinc", System: "gtin", Value: gtinVial[1:]})
	w.refused(t, "amina", &AddIdentifier{Subject: SubjectMedicine, SubjectID: "morphine", System: "gtin", Value: gtinVial}, ReasonIdentifierExists)
	w.refused(t, "amina", &SetPacks{MedicineID: "morphine", Packs: []Pack{{"vial", 1, gtinVial}}}, ReasonIdentifierExists)
	w.must(t, &SetPacks{MedicineID: "zinc", Packs: []Pack{{"vial", 5, gtinVial[1:]}}})
	w.must(t, &SetPacks{MedicineID: "morphine", Packs: []Pack{{"case", 100, gtinCase}}})
	// A GTIN that a medicine has given up is free.
	w.must(t, &SetPacks{MedicineID: "zinc", Packs: []Pack{{"vial", 5, gtinVial}, {"box", 10, gtinBox}}})
	checkReplay(t, w)
}
