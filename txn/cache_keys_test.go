package txn

import (
	"errors"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/stockledger/stockledger/ledger"
)

// Keys and lifetimes are part of the contract with whoever looks into Redis, and
// nodes of two releases share it.
func TestCacheKeysAndLifetimes(t *testing.T) {
	t.Parallel()
	clinic := ledger.ClinicID("c1")
	want := map[ledger.Topic]struct {
		key            string
		memory, shared time.Duration
	}{
		ledger.ShelfTopic(zincInStore):               {"clinic:c1:inventory:stock:c1:store:zinc", 5 * time.Minute, time.Minute},
		{Kind: ledger.TopicPrescription, ID: "RX-7"}: {"clinic:c1:pharmacy:prescription:RX-7", 5 * time.Minute, 30 * time.Minute},
		{Kind: ledger.TopicPatient, ID: "tok"}:       {"clinic:c1:pharmacy:patient:tok:medications", 5 * time.Minute, 30 * time.Minute},
		{Kind: ledger.TopicTemplates}:                {"clinic:c1:pharmacy:templates:c1", time.Hour, time.Hour},
		{Kind: ledger.TopicMedicine, ID: "zinc"}:     {"clinic:c1:catalog:medicine:c1:zinc", time.Hour, time.Hour},
		{Kind: ledger.TopicLocations}:                {"clinic:c1:catalog:locations:c1", 4 * time.Hour, time.Hour},
	}
	for topic, test := range want {
		f := families[topic.Kind]
		if key := sharedKey(cacheKey{clinic, topic}); key != test.key || f.memory != test.memory || f.shared != test.shared {
			t.Errorf("%s is kept for %s, and in Redis for %s; want %s, %s and %s", key, f.memory, f.shared, test.key, test.memory, test.shared)
		}
	}
	named := 0
	for _, f := range families {
		if f.key != nil {
			named++
		}
	}
	if named != len(want) {
		t.Errorf("there are %d families with keys, and %d are known here", named, len(want))
	}
}

// cachedWorld is a pharmacy whose node keeps everything that it is asked.
type cachedWorld struct {
	*pharmacy
	cache   *Cache
	seen    map[ledger.Kind]bool // of the events so far
	looked  ledger.Sequence
	compare int
}

func newCachedWorld(t *testing.T) *cachedWorld {
	t.Helper()
	clock := &testClock{now: noon}
	db := testDB(t)
	cache, err := NewCache(NewDirectory(db), CacheConfig{Clock: clock.read})
	if err != nil {
		t.Fatal(err)
	}
	w := &cachedWorld{cache: cache, seen: make(map[ledger.Kind]bool)}
	w.pharmacy = &pharmacy{testClinic: newTestClinic(t, testExecutor(t, ExecutorConfig{Clock: clock.read, Cache: cache})), clock: clock}
	w.q = &Queries{directory: NewDirectory(db), Clock: clock.read}
	w.q.UseCache(cache)
	w.before = w.check
	return w
}

// same compares what is kept with what is so, where it claims to be.
func (w *cachedWorld) same(what string, read func(ReadOptions) (any, AsOf, error)) {
	w.tb.Helper()
	kept, asOf, err := read(fromCache)
	now, head, nowErr := read(ReadOptions{})
	var refused *ledger.Rejection
	if errors.As(err, &refused) && errors.As(nowErr, &refused) {
		return
	}
	if err != nil || nowErr != nil {
		w.tb.Fatalf("%s: %v, %v", what, err, nowErr)
	}
	if asOf.place() != head.place() {
		w.tb.Errorf("%s: it is kept as of %+v, and the node knows all up to %+v", what, asOf, head)
	}
	if w.compare++; !reflect.DeepEqual(kept, now) {
		w.tb.Fatalf("after sequence %d, %s is kept as %+v, and is %+v", head.Sequence, what, kept, now)
	}
}

// check compares all families.
func (w *cachedWorld) check() {
	w.tb.Helper()
	ctx := w.tb.Context()
	head := w.head().Sequence
	for ; w.looked < head; w.looked++ {
		event := w.recordAt(w.looked + 1).Event
		w.seen[event.Kind()] = true
		if change, ok := event.Body.(*ledger.Change); ok && change.Approved != nil {
			w.seen[change.ApprovedKind()] = true
		}
	}
	if head == 0 {
		return
	}
	medicines := []ledger.MedicineID{"zinc", "amox"}
	for _, location := range []ledger.LocationID{"store", "ward"} {
		for _, medicine := range medicines {
			shelf := ledger.Shelf{Location: location, Medicine: medicine}
			w.same(shelfName(shelf), func(o ReadOptions) (any, AsOf, error) { return answered(w.q.Stock(ctx, w.id, shelf, o)) })
		}
	}
	for _, medicine := range medicines {
		w.same("medicine "+string(medicine), func(o ReadOptions) (any, AsOf, error) { return answered(w.q.Medicine(ctx, w.id, medicine, o)) })
		w.same("available "+string(medicine), func(o ReadOptions) (any, AsOf, error) {
			return answered(w.q.Availability(ctx, w.id, []ledger.MedicineID{medicine}, nil, 0, o))
		})
	}
	w.same("templates", func(o ReadOptions) (any, AsOf, error) {
		found, _, asOf, err := w.q.Documents(ctx, w.id, DocumentFilter{Kind: ledger.DocumentPrescriptionTemplate, OpenOnly: true}, nil, 50, o)
		return documentsAsText(found), asOf, err
	})
	patients := []ledger.PatientID{ada}
	prescriptions, _, _, err := w.q.Documents(ctx, w.id, DocumentFilter{Kind: ledger.DocumentPrescription}, nil, 100, ReadOptions{})
	if err != nil {
		w.tb.Fatal(err)
	}
	for _, d := range prescriptions {
		about := d.Body.About()
		if about.Patient != "" && !slices.Contains(patients, about.Patient) {
			patients = append(patients, about.Patient)
		}
		w.same("prescription "+about.ID, func(o ReadOptions) (any, AsOf, error) {
			found, asOf, err := w.q.Document(ctx, w.id, about.DocumentKey, o)
			if found == nil {
				return nil, asOf, err
			}
			return documentsAsText([]ledger.Document{*found}), asOf, err
		})
	}
	for _, patient := range patients {
		w.same("medications of "+string(patient), func(o ReadOptions) (any, AsOf, error) {
			found, _, asOf, err := w.q.Prescriptions(ctx, w.id, PrescriptionFilter{Patient: patient, NewestFirst: true}, nil, 50, o)
			return documentsAsText(found), asOf, err
		})
	}
}

func answered[T any](value T, asOf AsOf, err error) (any, AsOf, error) { return value, asOf, err }

// documentsAsText are documents as they are stored.
func documentsAsText(documents []ledger.Document) (all []string) {
	for _, d := range documents {
		all = append(all, string(ledger.AppendDocument([]byte(decimalText(int64(d.OpenedSequence))+" "+decimalText(int64(d.LastSequence))+" "), d.Body)))
	}
	return all
}

// Whatever is commanded, what is kept is what is so wherever it says that it is:
// no event leaves out a topic that it changes.
func TestNoEventLeavesOutWhatItChanges(t *testing.T) {
	t.Parallel()
	w := newCachedWorld(t)
	w.furnish()
	w.everyDispensing()
	w.everyDocument()
	w.remainingKinds()
	walker := &modelWalker{c: w.testClinic, random: rand.New(rand.NewPCG(5, 5))}
	for range 60 {
		walker.step()
	}
	w.check()
	// Only a clinic without stock can be closed.
	empty := newCachedWorld(t)
	empty.check()
	empty.must(&ledger.DeactivateClinic{ReasonCode: "closed"})
	empty.check()
	maps.Copy(w.seen, empty.seen)
	var missing []string
	for _, kind := range ledger.Kinds() {
		if !w.seen[kind] {
			missing = append(missing, kind.String())
		}
	}
	if len(missing) > 0 {
		t.Errorf("the walk gave no %v", missing)
	}
	t.Logf("%d answers were compared over %d commands", w.compare, w.looked)
}

// remainingKinds gives the commands that the other walks do not.
func (w *cachedWorld) remainingKinds() {
	w.mustAll(
		&ledger.AddMedicine{MedicineID: "syrup", Name: "Syrup", BaseUnit: "ml"},
		&ledger.UpdateLocation{LocationID: "ward", Name: new("Ward B")},
		&ledger.UpdateMedicine{MedicineID: "amox", Name: new("Amoxicillin B")},
		&ledger.UpdateLot{LotID: "A3", LotNumber: new("N-77")},
		&ledger.RegisterLot{LotID: "L9", MedicineID: "zinc", Manufacturer: "Acme", LotNumber: "9", Expiry: ledger.MaxDate},
		&ledger.ReceiveStock{LocationID: "store", LotID: "L9", Quantity: 200},
		&ledger.ReceiveStock{LocationID: "ward", LotID: "L9", Quantity: 60},
		&ledger.ReturnToSupplier{LocationID: "store", LotID: "L9", Quantity: 2, ReasonCode: "surplus", Supplier: "Acme"},
		&ledger.OpenContainer{LocationID: "store", LotID: "L9", Quantity: 2, InUseUntil: ledger.DateOf(w.clock.read()) + 20, ReasonCode: "opened"},
		&ledger.ConvertStock{
			LocationID: "store", Inputs: []ledger.LotLine{{LotID: "L9", Quantity: 3}}, MedicineID: "syrup", Quantity: 30, Manufacturer: "Clinic", LotNumber: "S-1", Expiry: ledger.DateOf(w.clock.read()) + 20, ReasonCode: "compound",
		},
		&ledger.QuarantineLot{LotID: "L9", ReasonCode: "damp"},
		&ledger.ReleaseLot{LotID: "L9", ReasonCode: "dry"},
		&ledger.BorrowStock{LoanMove: ledger.LoanMove{Partner: "riverside", LocationID: "store", LotID: "L9", Quantity: 4, Reference: "LN-2"}},
		&ledger.RepayLoan{LoanMove: ledger.LoanMove{Partner: "riverside", LocationID: "store", LotID: "L9", Quantity: 4, Reference: "LN-2"}},
		&ledger.RecordCount{LocationID: "ward", Lines: []ledger.CountedLine{{LotID: "L9", Counted: 58, Sequence: w.head().Sequence}}, ReasonCode: "monthly"},
	)
	w.must(&ledger.RejectTransfer{TransferID: w.request(1), ReasonCode: "none-left"})
	w.must(&ledger.CancelTransfer{TransferID: w.request(1), ReasonCode: "changed"})
	w.countAgain()
	w.decideAll()
	w.recallAndLift()
	w.endPharmacy()
}

// countAgain completes one count and cancels another.
func (w *cachedWorld) countAgain() {
	w.tb.Helper()
	counts, _, _, err := w.q.Documents(w.tb.Context(), w.id, DocumentFilter{Kind: ledger.DocumentCount, OpenOnly: true}, nil, 10, ReadOptions{})
	if err != nil || len(counts) == 0 {
		w.tb.Fatalf("open counts: %v, %v", counts, err)
	}
	w.must(&ledger.CompleteCount{CountID: ledger.CountID(counts[0].Body.About().ID), ReasonCode: "monthly"})
	again := documentOf(w.tb, w.must(&ledger.StartCount{LocationID: "ward"}))
	w.must(&ledger.CancelCount{CountID: ledger.CountID(again), ReasonCode: "storm"})
}

// decideAll has one command approved, one rejected and lets one lapse.
func (w *cachedWorld) decideAll() {
	w.tb.Helper()
	ask := func() ledger.ApprovalID {
		return ledger.ApprovalID(documentOf(w.tb, w.must(&ledger.WriteOffStock{LocationID: "store", LotID: "L9", Quantity: 1, ReasonCode: "broken"})))
	}
	second := func(body ledger.CommandBody) {
		command := w.command(body)
		command.Actor = "matron"
		if v := w.give(command); v.Err != nil {
			w.tb.Fatalf("%s: %v", body.Kind(), v.Err)
		}
	}
	second(&ledger.ApproveCommand{ApprovalID: ask()})
	second(&ledger.RejectCommand{ApprovalID: ask(), ReasonCode: "intact"})
	id := ask()
	w.clock.set(w.clock.read().Add(2 * time.Hour))
	w.must(&ledger.LapseCommand{ApprovalID: id})
}

func (w *cachedWorld) recallAndLift() {
	w.tb.Helper()
	id := ledger.RecallID(documentOf(w.tb, w.must(&ledger.RecallLot{LotID: "L9", ReasonCode: "maker"})))
	if v := w.give(w.command(&ledger.ContinueRecall{RecallID: id, Step: 0})); v.Err != nil {
		w.tb.Fatal(v.Err)
	}
	w.must(&ledger.LiftRecall{RecallID: id, ReasonCode: "harmless"})
}

// endPharmacy ends what can be ended of a patient, of lots and of medicines.
func (w *cachedWorld) endPharmacy() {
	w.tb.Helper()
	w.must(&ledger.CancelPrescription{PrescriptionID: w.prescribe("his|rx-2"), ReasonCode: "changed"})
	w.mustAll(
		&ledger.RemovePrescriptionTemplate{TemplateID: "diarrhoea"},
		&ledger.UpdatePatient{PatientID: ada, TextDigest: textDigest(2)},
		&ledger.PlaceLegalHold{PatientID: ada, ReasonCode: "court"},
		&ledger.LiftLegalHold{PatientID: ada, ReasonCode: "court"},
		&ledger.ErasePatient{PatientID: ada, ReasonCode: "asked"},
		&ledger.AddMedicine{MedicineID: "old", Name: "Old", BaseUnit: "tablet"},
		&ledger.RegisterLot{LotID: "O1", MedicineID: "old", Manufacturer: "Acme", LotNumber: "1", Expiry: ledger.MaxDate},
		&ledger.DeactivateLot{LotID: "O1", ReasonCode: "unused"},
		&ledger.DeactivateMedicine{MedicineID: "old", ReasonCode: "unused"},
		&ledger.SetPolicy{Policy: ledger.Policy{ApprovalHours: 1}},
		&ledger.ReceiveStock{LocationID: "store", LotID: "L9", Quantity: 20},
		&ledger.WriteOffStock{LocationID: "store", LotID: "L9", Quantity: 1, ReasonCode: "broken"},
	)
}
