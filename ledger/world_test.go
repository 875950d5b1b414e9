package ledger

import (
	"fmt"
	"time"

	"pgregory.net/rapid"
)

// world drives one small clinic with random commands.
type world struct {
	state   *State
	now     Instant
	records []Record
	entries []Entry
	keys    int
	holds   []HoldID
}

func utcOnly(name string) (*time.Location, error) {
	if name == "UTC" {
		return time.UTC, nil
	}
	return nil, fmt.Errorf("time zone %s is unknown", name)
}

const testDay Instant = 24 * 60 * 60 * 1_000_000

var epoch = InstantOf(time.Date(2027, 3, 1, 8, 0, 0, 0, time.UTC))

func newWorld(t fataler) *world {
	w := &world{state: NewState("hillside", utcOnly), now: epoch}
	w.must(t, &CreateClinic{Name: "Hillside", TimeZone: "UTC", BackdatingDays: 2})
	for _, id := range []LocationID{"store", "ward"} {
		w.must(t, &CreateLocation{LocationID: id, Name: string(id), LocationKind: Store})
	}
	for _, id := range []MedicineID{"amoxicillin", "zinc"} {
		w.must(t, &AddMedicine{MedicineID: id, Name: string(id), BaseUnit: "tablet"})
		for i := range 3 {
			lot := LotID(fmt.Sprintf("%s-%d", id, i))
			expiry := DateOf(epoch.Time()) + Date(i*i)
			w.must(t, &RegisterLot{LotID: lot, MedicineID: id, Manufacturer: "Acme", LotNumber: string(lot), Expiry: expiry})
		}
	}
	return w
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func (w *world) command(body CommandBody) Command {
	w.keys++
	return Command{Clinic: "hillside", IdempotencyKey: fmt.Sprintf("key-%d", w.keys), Actor: "tester", Body: body}
}

// try decides and, where accepted, evolves; it returns the event or rejection.
func (w *world) try(t fataler, body CommandBody) (Event, *Rejection) {
	t.Helper()
	return w.give(t, w.command(body))
}

func (w *world) give(t fataler, c Command) (Event, *Rejection) {
	t.Helper()
	event, rejection := Decide(w.state, c, w.now)
	if rejection != nil {
		return event, rejection
	}
	record := Seal(w.state, event)
	effects, err := Evolve(w.state, record)
	if err != nil {
		t.Fatalf("an event that Decide made does not evolve: %v", err)
	}
	w.records = append(w.records, record)
	w.entries = append(w.entries, effects.Entries...)
	for _, hold := range effects.Holds {
		w.holds = append(w.holds, hold.ID)
	}
	return event, nil
}

func (w *world) must(t fataler, body CommandBody) Event {
	t.Helper()
	event, rejection := w.try(t, body)
	if rejection != nil {
		t.Fatalf("%s was rejected: %v", body.Kind(), rejection)
	}
	return event
}

func drawHold(t *rapid.T, w *world) HoldID {
	if len(w.holds) == 0 {
		return "hold_0000000000000000"
	}
	return rapid.SampledFrom(w.holds).Draw(t, "hold")
}

var (
	drawLocation = rapid.SampledFrom([]LocationID{"store", "ward", "attic"})
	drawMedicine = rapid.SampledFrom([]MedicineID{"amoxicillin", "zinc", "gold"})
	drawLot      = rapid.SampledFrom([]LotID{"amoxicillin-0", "amoxicillin-1", "amoxicillin-2", "zinc-0", "zinc-1", "zinc-2", "gold-0"})
	drawQuantity = rapid.OneOf(rapid.Int64Range(1, 40), rapid.SampledFrom([]int64{-1, 0, MaxQuantity, MaxQuantity + 1}))
)

func drawBody(t *rapid.T, w *world) CommandBody {
	quantity := drawQuantity.Draw(t, "quantity")
	location := drawLocation.Draw(t, "location")
	medicine := drawMedicine.Draw(t, "medicine")
	lot := drawLot.Draw(t, "lot")
	anyLot := rapid.SampledFrom([]LotID{"", "", lot}).Draw(t, "any lot")
	switch rapid.IntRange(0, 13).Draw(t, "kind") {
	case 0, 1, 2:
		return &ReceiveStock{LocationID: location, LotID: lot, Quantity: quantity, Supplier: "Acme"}
	case 3, 4, 5:
		deadline := w.now + Instant(rapid.IntRange(-1, 5).Draw(t, "deadline"))*testDay/4
		lasts := rapid.SampledFrom([]Date{0, 0, DateOf(epoch.Time()) + 2}).Draw(t, "lasts until")
		return &ReserveStock{LocationID: location, MedicineID: medicine, LotID: anyLot, Quantity: quantity, ReasonCode: "ward", Deadline: deadline, LastsUntil: lasts}
	case 6:
		return &ReleaseStock{HoldID: drawHold(t, w), Quantity: rapid.SampledFrom([]int64{0, quantity}).Draw(t, "part")}
	case 7:
		return &ExpireReservation{HoldID: drawHold(t, w)}
	case 8:
		return &IssueStock{HoldID: drawHold(t, w), Quantity: rapid.SampledFrom([]int64{0, quantity}).Draw(t, "part")}
	case 9:
		return &IssueStock{LocationID: location, MedicineID: medicine, LotID: anyLot, Quantity: quantity}
	case 10:
		direction := rapid.SampledFrom([]Direction{Increase, Decrease, 0}).Draw(t, "direction")
		return &AdjustStock{LocationID: location, LotID: lot, Direction: direction, Quantity: quantity, ReasonCode: "count"}
	case 11:
		return &WriteOffStock{LocationID: location, LotID: lot, Quantity: quantity, ReasonCode: "expired"}
	case 12:
		return &ReturnToSupplier{LocationID: location, LotID: lot, Quantity: quantity, ReasonCode: "recall", Supplier: "Acme"}
	default:
		return drawCatalogBody(t, location, medicine, lot)
	}
}

func drawCatalogBody(t *rapid.T, location LocationID, medicine MedicineID, lot LotID) CommandBody {
	active := rapid.Bool().Draw(t, "active")
	word := rapid.SampledFrom([]string{"a", "b", "B", "store", "zinc"}).Draw(t, "word")
	switch rapid.IntRange(0, 10).Draw(t, "catalog") {
	case 0:
		return &UpdateLocation{LocationID: location, Active: &active, Name: &word}
	case 1:
		return &DeactivateLocation{LocationID: location, ReasonCode: "closed"}
	case 2:
		return &UpdateMedicine{MedicineID: medicine, Active: &active, Name: &word}
	case 3:
		return &DeactivateMedicine{MedicineID: medicine, ReasonCode: "closed"}
	case 4:
		expiry := DateOf(epoch.Time()) + Date(rapid.IntRange(-2, 9).Draw(t, "expiry"))
		return &UpdateLot{LotID: lot, Active: &active, Expiry: &expiry, Etag: rapid.SampledFrom([]string{"", "1"}).Draw(t, "etag")}
	case 5:
		return &DeactivateLot{LotID: lot, ReasonCode: "closed"}
	case 6:
		return &RegisterLot{MedicineID: medicine, GTIN: "4006381333931", LotNumber: word, Expiry: 30000}
	case 7:
		return &CreateLocation{Name: word, LocationKind: Ward}
	case 8:
		return &AddMedicine{Name: word, BaseUnit: "ml"}
	case 9:
		return &UpdateClinic{Name: &word, Active: &active}
	default:
		return &DeactivateClinic{ReasonCode: "closed"}
	}
}
