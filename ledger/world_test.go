package ledger

import (
	"bytes"
	"fmt"
	"math/rand"
	"slices"
	"time"

	"pgregory.net/rapid"
)

// world drives one small clinic. It gives commands as the executor does: with
// what they need of the past, and with the expiries that make room for them.
type world struct {
	state   *State
	now     Instant
	records []Record
	entries []Entry
	book    *book
	keys    int

	// Everything that was ever made, open or not, in the order of its making.
	holds     []HoldID
	lots      []LotID
	receipts  []Sequence
	documents map[DocumentKind][]string
}

func utcOnly(name string) (*time.Location, error) {
	if name == "UTC" {
		return time.UTC, nil
	}
	return nil, fmt.Errorf("time zone %s is unknown", name)
}

const testDay Instant = 24 * 60 * 60 * 1_000_000

var epoch = InstantOf(time.Date(2027, 3, 1, 8, 0, 0, 0, time.UTC))

// today is the day on which worlds begin.
var today = DateOf(epoch.Time())

func emptyWorld(clinic ClinicID) *world {
	return &world{state: NewState(clinic, utcOnly), now: epoch, book: newBook(), documents: make(map[DocumentKind][]string)}
}

func newWorld(t fataler) *world {
	w := emptyWorld("hillside")
	w.must(t, &CreateClinic{Name: "Hillside", TimeZone: "UTC", BackdatingDays: 2})
	for _, id := range []LocationID{"store", "ward"} {
		w.must(t, &CreateLocation{LocationID: id, Name: string(id), LocationKind: Store})
	}
	for _, id := range []MedicineID{"amoxicillin", "zinc"} {
		w.must(t, &AddMedicine{MedicineID: id, Name: string(id), BaseUnit: "tablet"})
		for i := range 3 {
			lot := LotID(fmt.Sprintf("%s-%d", id, i))
			w.must(t, &RegisterLot{LotID: lot, MedicineID: id, Manufacturer: "Acme", LotNumber: string(lot), Expiry: today + Date(i*i)})
		}
	}
	return w
}

// GTINs with valid check digits.
const (
	gtinBox    = "04006381333931"
	gtinCase   = "14006381333938"
	gtinVial   = "09506000134352"
	gtinPallet = "24006381333935"
	gtinStrip  = "09506000134369"
)

// newBusyWorld is a clinic with a controlled medicine, packs, identifiers and
// stock.
func newBusyWorld(t fataler) *world {
	w := newWorld(t)
	w.must(t, &AddMedicine{MedicineID: "morphine", Name: "Morphine", BaseUnit: "ampoule", ControlClass: "schedule-2"})
	w.must(t, &SetPacks{MedicineID: "morphine", Packs: []Pack{{"box", 10, gtinBox}, {"case", 100, gtinCase}, {"pallet", maxPackFactor, gtinPallet}}})
	for i, expiry := range []Date{today + 2, today + 30, today + 300} {
		number := fmt.Sprintf("M%d", i)
		w.must(t, &RegisterLot{LotID: LotID("morphine-" + number[1:]), MedicineID: "morphine", GTIN: gtinBox, LotNumber: number, Expiry: expiry})
	}
	w.must(t, &AddIdentifier{Subject: SubjectLocation, SubjectID: "store", System: "erp", Value: "S"})
	w.must(t, &AddIdentifier{Subject: SubjectMedicine, SubjectID: "zinc", System: "erp", Value: "Z"})
	w.must(t, &AddIdentifier{Subject: SubjectLot, SubjectID: "zinc-2", System: "erp", Value: "Z2"})
	w.must(t, &AddIdentifier{Subject: SubjectSupplier, SubjectID: "Acme", System: "erp", Value: "A"})
	for i, lot := range []LotID{"zinc-1", "zinc-2", "amoxicillin-2"} {
		w.must(t, &UpdateLot{LotID: lot, Expiry: ptr(today + []Date{20, 100, 50}[i])})
	}
	for _, lot := range []LotID{"zinc-1", "zinc-2", "morphine-1", "morphine-2", "amoxicillin-2"} {
		w.must(t, &ReceiveStock{LocationID: "store", LotID: lot, Quantity: 60, Supplier: "Acme"})
		w.must(t, &ReceiveStock{LocationID: "ward", LotID: lot, Quantity: 15, Supplier: "Acme"})
	}
	return w
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func (w *world) command(body CommandBody) Command {
	w.keys++
	return Command{Clinic: w.state.id, IdempotencyKey: fmt.Sprintf("key-%d", w.keys), Actor: "amina", Body: body}
}

// by gives a command for somebody.
func (w *world) by(t fataler, actor Actor, body CommandBody) (Event, *Rejection) {
	t.Helper()
	c := w.command(body)
	c.Actor = actor
	return w.give(t, c)
}

func (w *world) mustBy(t fataler, actor Actor, body CommandBody) Event {
	t.Helper()
	event, rejection := w.by(t, actor, body)
	if rejection != nil {
		t.Fatalf("%s by %s was rejected: %v", body.Kind(), actor, rejection)
	}
	return event
}

// try decides and, where accepted, evolves; it returns the event or rejection.
func (w *world) try(t fataler, body CommandBody) (Event, *Rejection) {
	t.Helper()
	return w.give(t, w.command(body))
}

func (w *world) must(t fataler, body CommandBody) Event {
	t.Helper()
	return w.mustBy(t, "amina", body)
}

// refused gives a command that must be rejected for a reason.
func (w *world) refused(t fataler, actor Actor, body CommandBody, want Reason) Rejection {
	t.Helper()
	event, r := w.by(t, actor, body)
	if r == nil {
		t.Fatalf("%s by %s was accepted, want %s: %+v", body.Kind(), actor, want, event.Body)
		return Rejection{}
	}
	if r.Reason != want {
		t.Fatalf("%s by %s: the reason is %s (%v), want %s", body.Kind(), actor, r.Reason, r, want)
	}
	return *r
}

func (w *world) give(t fataler, c Command) (Event, *Rejection) {
	t.Helper()
	event, rejection := Decide(w.state, w.attach(c), w.now)
	if rejection == nil {
		w.accept(t, event)
	}
	return event, rejection
}

func (w *world) accept(t fataler, event Event) {
	t.Helper()
	record := Seal(w.state, event)
	effects, err := Evolve(w.state, record)
	if err != nil {
		t.Fatalf("an event that Decide made does not evolve: %v", err)
	}
	w.records = append(w.records, record)
	w.entries = append(w.entries, effects.Entries...)
	w.book.post(t, effects.Entries)
	for _, hold := range effects.Holds {
		w.holds = appendNew(w.holds, hold.ID)
	}
	for _, lot := range effects.Lots {
		w.lots = appendNew(w.lots, lot.ID)
	}
	for _, document := range effects.Documents {
		about := document.Body.About()
		w.documents[about.Kind] = appendNew(w.documents[about.Kind], about.ID)
		survives(t, about.Kind, document.Body)
	}
	if receiptOf(event.Body) != nil {
		w.receipts = append(w.receipts, event.Sequence)
	}
}

func appendNew[T comparable](list []T, value T) []T {
	if slices.Contains(list, value) {
		return list
	}
	return append(list, value)
}

// survives checks that a document is stored and read back byte for byte.
func survives(t fataler, kind DocumentKind, body DocumentBody) {
	t.Helper()
	stored := AppendDocument(nil, body)
	read, err := DecodeDocument(kind, stored)
	if err != nil {
		t.Fatalf("a stored %s does not decode: %v", kind, err)
	}
	if again := AppendDocument(nil, read); !bytes.Equal(again, stored) {
		t.Fatalf("a %s is stored as %x and then as %x", kind, stored, again)
	}
}

func receiptOf(body EventBody) *StockReceived {
	if change, ok := body.(*Change); ok {
		body = change.Approved
	}
	received, _ := body.(*StockReceived)
	return received
}

// attach gives a command the facts of the past that the executor reads for it.
func (w *world) attach(c Command) Command {
	if !NeedsPast(c) {
		return c
	}
	if _, downtime := c.Body.(*RecordDowntime); downtime {
		return w.withBooked(c)
	}
	if sequence, ok := ReceiptWanted(c); ok {
		for _, r := range w.records {
			if r.Event.Sequence == sequence {
				return WithReceipt(c, r)
			}
		}
		return WithReceipt(c, Record{})
	}
	wanted := BalancesWanted(w.state, c, w.now)
	balances := make([]Balances, len(wanted))
	for i, want := range wanted {
		balances[i] = w.balanceAt(want)
	}
	return WithBalances(c, balances)
}

// balanceAt reads a balance of the past off the journal.
func (w *world) balanceAt(want BalanceAt) Balances {
	var at Balances
	for _, r := range w.records {
		if r.Event.Sequence > want.Sequence {
			break
		}
		for _, e := range EntriesOf(r.Event) {
			if (Shelf{e.Location, e.Medicine}) == want.Shelf && e.Lot == want.Lot {
				at = e.After
			}
		}
	}
	return at
}

// balances is what a location holds of a lot.
func (w *world) balances(location LocationID, lot LotID) Balances {
	return w.state.balance(Shelf{location, w.state.lots[lot].Medicine}, lot)
}

// latest is the id of the document of a kind that was made last.
func (w *world) latest(kind DocumentKind) string {
	ids := w.documents[kind]
	return ids[len(ids)-1]
}

func (w *world) lastTransfer() TransferID { return TransferID(w.latest(DocumentTransfer)) }
func (w *world) lastCount() CountID       { return CountID(w.latest(DocumentCount)) }
func (w *world) lastRecall() RecallID     { return RecallID(w.latest(DocumentRecall)) }
func (w *world) lastApproval() ApprovalID { return ApprovalID(w.latest(DocumentApproval)) }

// documentOf finds the last document of a type in an event.
func documentOf[T DocumentBody](e Event) (found T) {
	if change, ok := e.Body.(*Change); ok {
		for _, body := range change.Documents {
			if d, ok := body.(T); ok {
				found = d
			}
		}
	}
	return found
}

func ptr[T any](v T) *T { return &v }

// chooser makes the choices of a random walk: rapid, which shrinks them, or a
// seeded generator, which makes the same ones for ever.
type chooser interface {
	// int returns a number from lo to hi.
	int(label string, lo, hi int) int
}

type rapidChooser struct{ t *rapid.T }

func (c rapidChooser) int(label string, lo, hi int) int {
	return rapid.IntRange(lo, hi).Draw(c.t, label)
}

type seededChooser struct{ r *rand.Rand }

func (c seededChooser) int(_ string, lo, hi int) int { return lo + c.r.Intn(hi-lo+1) }

func pick[T any](c chooser, label string, from []T) T { return from[c.int(label, 0, len(from)-1)] }

// oneOf picks among values that were ever made, and now and then something
// else.
func oneOf[T ~string](c chooser, label string, made []T) T {
	if len(made) == 0 || c.int(label+" is wrong", 0, 15) == 0 {
		return "unheard-of"
	}
	// Those made last are the likeliest to be open.
	if len(made) > 4 && c.int(label+" is recent", 0, 3) > 0 {
		made = made[len(made)-4:]
	}
	return pick(c, label, made)
}

func seeded(seed int64) chooser { return seededChooser{rand.New(rand.NewSource(seed))} }

// same checks a value of a test.
func same[T comparable](t fataler, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: got %+v, want %+v", what, got, want)
	}
}
