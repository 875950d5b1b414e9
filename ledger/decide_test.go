package ledger

import (
	"slices"
	"testing"
)

// Outcomes that random commands reach seldom, or whose reason matters.
func TestVerdicts(t *testing.T) {
	past, later := epoch-testDay, epoch+testDay
	reserve := func(edit func(*ReserveStock)) *ReserveStock {
		b := &ReserveStock{LocationID: "store", MedicineID: "zinc", Quantity: 1, ReasonCode: "ward", Deadline: later}
		edit(b)
		return b
	}
	receive := func(lot LotID, quantity int64) *ReceiveStock {
		return &ReceiveStock{LocationID: "store", LotID: lot, Quantity: quantity}
	}
	stocked := []CommandBody{receive("zinc-1", 10), receive("zinc-2", 10)}
	for name, c := range map[string]struct {
		given []CommandBody
		body  CommandBody
		want  Reason // empty: accepted
	}{
		"deadline in the past":         {stocked, reserve(func(b *ReserveStock) { b.Deadline = past }), ReasonDeadlinePassed},
		"deadline missing":             {stocked, reserve(func(b *ReserveStock) { b.Deadline = 0 }), ReasonInvalidField},
		"quantity zero":                {stocked, reserve(func(b *ReserveStock) { b.Quantity = 0 }), ReasonQuantityOutOfRange},
		"quantity negative":            {stocked, reserve(func(b *ReserveStock) { b.Quantity = -1 }), ReasonQuantityOutOfRange},
		"quantity over 2^53":           {stocked, reserve(func(b *ReserveStock) { b.Quantity = MaxQuantity + 1 }), ReasonQuantityOutOfRange},
		"unknown location":             {stocked, reserve(func(b *ReserveStock) { b.LocationID = "attic" }), ReasonLocationNotFound},
		"unknown medicine":             {stocked, reserve(func(b *ReserveStock) { b.MedicineID = "gold" }), ReasonMedicineNotFound},
		"unknown lot":                  {stocked, reserve(func(b *ReserveStock) { b.LotID = "none" }), ReasonLotNotFound},
		"lot of another medicine":      {stocked, reserve(func(b *ReserveStock) { b.LotID = "amoxicillin-1" }), ReasonLotOfOtherMedicine},
		"lots that outlast the cure":   {stocked, reserve(func(b *ReserveStock) { b.LastsUntil = DateOf(epoch.Time()) + 4; b.Quantity = 10 }), ""},
		"too few outlast the cure":     {stocked, reserve(func(b *ReserveStock) { b.LastsUntil = DateOf(epoch.Time()) + 4; b.Quantity = 11 }), ReasonInsufficientStock},
		"none outlasts the cure":       {stocked, reserve(func(b *ReserveStock) { b.LastsUntil = DateOf(epoch.Time()) + 5 }), ReasonInsufficientStock},
		"all of two lots":              {stocked, reserve(func(b *ReserveStock) { b.Quantity = 20 }), ""},
		"balance overflows":            {[]CommandBody{receive("zinc-2", MaxQuantity)}, receive("zinc-2", 1), ReasonBalanceOverflow},
		"another clinic's hold":        {stocked, &IssueStock{HoldID: HoldID(deriveID(holdPrefix, clinicTag("riverside"), 20, 0))}, ReasonHoldNotFound},
		"hold and location together":   {stocked, &IssueStock{HoldID: "hold_x", LocationID: "store"}, ReasonInvalidField},
		"location that holds stock":    {stocked, &DeactivateLocation{LocationID: "store", ReasonCode: "closed"}, ReasonLocationHoldsStock},
		"location without stock":       {stocked, &DeactivateLocation{LocationID: "ward", ReasonCode: "closed"}, ""},
		"medicine in stock":            {stocked, &DeactivateMedicine{MedicineID: "zinc", ReasonCode: "closed"}, ReasonMedicineHoldsStock},
		"lot in stock":                 {stocked, &DeactivateLot{LotID: "zinc-1", ReasonCode: "closed"}, ReasonLotHoldsStock},
		"clinic in stock":              {stocked, &DeactivateClinic{ReasonCode: "closed"}, ReasonClinicHoldsStock},
		"stale etag":                   {stocked, &UpdateLocation{LocationID: "ward", Etag: "1"}, ReasonEtagMismatch},
		"base unit with lots":          {nil, &UpdateMedicine{MedicineID: "zinc", BaseUnit: ptr("ml")}, ReasonMedicineInUse},
		"same name in other case":      {nil, &AddMedicine{Name: "ZINC", BaseUnit: "ml"}, ReasonMedicineExists},
		"same lot again":               {nil, &RegisterLot{MedicineID: "zinc", Manufacturer: "ACME", LotNumber: "zinc-1", Expiry: 30000}, ReasonLotExists},
		"wrong check digit":            {nil, &RegisterLot{MedicineID: "zinc", GTIN: "4006381333932", LotNumber: "9", Expiry: 30000}, ReasonInvalidField},
		"lot without a maker":          {nil, &RegisterLot{MedicineID: "zinc", LotNumber: "9", Expiry: 30000}, ReasonInvalidField},
		"unknown time zone":            {nil, &UpdateClinic{TimeZone: ptr("Mars/Olympus")}, ReasonInvalidField},
		"second clinic":                {nil, &CreateClinic{Name: "Again", TimeZone: "UTC"}, ReasonClinicExists},
		"name with a NUL":              {nil, &CreateLocation{Name: "a\x00b", LocationKind: Ward}, ReasonInvalidField},
		"name of invalid UTF-8":        {nil, &CreateLocation{Name: "a\xff", LocationKind: Ward}, ReasonInvalidField},
		"reason with a space":          {stocked, &ReleaseStock{HoldID: "hold_x", ReasonCode: "John Smith"}, ReasonInvalidField},
		"write off more than there is": {stocked, &WriteOffStock{LocationID: "store", LotID: "zinc-1", Quantity: 11, ReasonCode: "broken"}, ReasonInsufficientStock},
		"return without a reason":      {stocked, &ReturnToSupplier{LocationID: "store", LotID: "zinc-1", Quantity: 1}, ReasonInvalidField},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			for _, body := range c.given {
				w.must(t, body)
			}
			_, rejection := w.try(t, c.body)
			switch {
			case c.want == "" && rejection != nil:
				t.Errorf("it was rejected: %v", rejection)
			case c.want != "" && rejection == nil:
				t.Errorf("it was accepted")
			case rejection != nil && rejection.Reason != c.want:
				t.Errorf("the reason is %s (%v), want %s", rejection.Reason, rejection, c.want)
			case rejection != nil && (rejection.Message == "" || rejection.Reason.Info().Remedy == ""):
				t.Errorf("%s does not say what to do", rejection.Reason)
			}
		})
	}
}

func TestExpiredLotsAreWrittenOffButNeverIssued(t *testing.T) {
	w := newWorld(t)
	w.must(t, &ReceiveStock{LocationID: "store", LotID: "zinc-0", Quantity: 10})
	hold := w.must(t, &ReserveStock{LocationID: "store", MedicineID: "zinc", Quantity: 4, ReasonCode: "ward", Deadline: epoch + 9*testDay})
	w.now += testDay // zinc-0 ended yesterday
	wantReason := func(body CommandBody, want Reason) {
		t.Helper()
		if _, r := w.try(t, body); r == nil || r.Reason != want {
			t.Errorf("%s: %v, want %s", body.Kind(), r, want)
		}
	}
	wantReason(&IssueStock{HoldID: hold.Body.(*StockReserved).HoldID}, ReasonLotExpired)
	wantReason(&IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: 1}, ReasonInsufficientStock)
	wantReason(&IssueStock{LocationID: "store", MedicineID: "zinc", LotID: "zinc-0", Quantity: 1}, ReasonLotExpired)
	wantReason(&ReceiveStock{LocationID: "store", LotID: "zinc-0", Quantity: 1}, ReasonLotExpired)
	w.must(t, &WriteOffStock{LocationID: "store", LotID: "zinc-0", Quantity: 5, ReasonCode: "expired"})
	w.must(t, &ReturnToSupplier{LocationID: "store", LotID: "zinc-0", Quantity: 1, ReasonCode: "expired"})
	if got := w.state.Snapshot().Stock[0].Balances; got != (Balances{Reserved: 4}) {
		t.Errorf("balances are %+v", got)
	}
}

func TestLotsAreTakenFirstExpiredFirst(t *testing.T) {
	w := newWorld(t)
	w.must(t, &ReceiveStock{LocationID: "store", LotID: "zinc-2", Quantity: 5})
	w.must(t, &ReceiveStock{LocationID: "store", LotID: "zinc-0", Quantity: 5})
	// Two lots that expire together: the one received first goes first.
	w.must(t, &RegisterLot{LotID: "a", MedicineID: "zinc", Manufacturer: "Acme", LotNumber: "a", Expiry: DateOf(epoch.Time()) + 1})
	w.must(t, &ReceiveStock{LocationID: "store", LotID: "zinc-1", Quantity: 5})
	w.must(t, &ReceiveStock{LocationID: "store", LotID: "a", Quantity: 5})
	event := w.must(t, &IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: 18})
	var order []LotID
	for _, line := range event.Body.(*StockIssued).Lines {
		order = append(order, line.Lot)
	}
	want := []LotID{"zinc-0", "zinc-1", "a", "zinc-2"}
	if !slices.Equal(order, want) {
		t.Errorf("lots are taken in the order %v, want %v", order, want)
	}
	// An expiry that is corrected changes the order.
	w.must(t, &ReceiveStock{LocationID: "store", LotID: "a", Quantity: 5})
	w.must(t, &UpdateLot{LotID: "zinc-2", Expiry: ptr(today)})
	event = w.must(t, &IssueStock{LocationID: "store", MedicineID: "zinc", Quantity: 1})
	same(t, "the lot that expires first now", event.Body.(*StockIssued).Lines[0].Lot, "zinc-2")
}

func TestTimeNeverRunsBack(t *testing.T) {
	w := newWorld(t)
	w.now += testDay
	before := w.must(t, &ReceiveStock{LocationID: "store", LotID: "zinc-2", Quantity: 5})
	w.now -= 2 * testDay
	after := w.must(t, &ReceiveStock{LocationID: "store", LotID: "zinc-2", Quantity: 5})
	if after.At < before.At {
		t.Errorf("the journal's time runs from %s to %s", before.At, after.At)
	}
	backdated := w.command(&ReceiveStock{LocationID: "store", LotID: "zinc-2", Quantity: 5})
	for at, want := range map[Instant]Reason{
		after.At + 1:             ReasonOccurredInFuture,
		after.At - testDay:       "",
		after.At - 3*testDay:     ReasonOccurredTooEarly,
		after.At - 2*testDay:     "",
		after.At - 2*testDay - 1: ReasonOccurredTooEarly,
	} {
		backdated.OccurredAt = at
		_, r := Decide(w.state, backdated, w.now)
		if (r == nil) != (want == "") || r != nil && r.Reason != want {
			t.Errorf("occurred at %s: %v, want %q", at, r, want)
		}
	}
}
