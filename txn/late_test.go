package txn

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// The numbers are stored.
func TestLateness(t *testing.T) {
	t.Parallel()
	for late, want := range map[time.Duration]lateness{
		time.Microsecond: 0, time.Second: 0, time.Second + 1: 1, time.Minute: 1, time.Hour: 2, 24 * time.Hour: 3, 25 * time.Hour: 4,
		7 * 24 * time.Hour: 4, 35 * 24 * time.Hour: 5, 366 * 24 * time.Hour: 6, 367 * 24 * time.Hour: 7, 100 * 366 * 24 * time.Hour: 7,
	} {
		if got := latenessOf(late); got != want {
			t.Errorf("%s is lateness %d, want %d", late, got, want)
		}
	}
}

// journal reads all records of a clinic.
func (c *testClinic) journal() (records []ledger.Record) {
	c.tb.Helper()
	for sequence := range c.head().Sequence {
		records = append(records, c.recordAt(sequence+1))
	}
	return records
}

// accountBy adds up an account of the past from the journal alone.
func accountBy(records []ledger.Record, shelf ledger.Shelf, lot ledger.LotID, bucket ledger.Bucket, counts func(*ledger.Event) bool) (sum int64) {
	for i := range records {
		e := &records[i].Event
		for _, entry := range ledger.EntriesOf(*e) {
			if counts(e) && entry.Location == shelf.Location && entry.Medicine == shelf.Medicine && entry.Lot == lot {
				sum += flowInto(&entry, bucket)
			}
		}
	}
	return sum
}

// lateCommands makes commands of which most are recorded long after they
// happened, and returns moments among them.
func lateCommands(c *testClinic, clock *testClock) (moments []ledger.Instant) {
	random := rand.New(rand.NewPCG(7, 7))
	c.must(&ledger.UpdateClinic{BackdatingDays: ptr(int64(1000))})
	for _, lot := range []ledger.LotID{"Z1", "Z2"} {
		c.must(&ledger.RegisterLot{LotID: lot, MedicineID: "zinc", Manufacturer: "Acme", LotNumber: string(lot), Expiry: ledger.MaxDate})
		c.must(&ledger.ReceiveStock{LocationID: "store", LotID: lot, Quantity: 100})
	}
	began := clock.read()
	for range 80 {
		clock.set(clock.read().Add(time.Duration(1+random.Int64N(int64(3*24*time.Hour/time.Microsecond))) * time.Microsecond))
		lot := []ledger.LotID{"Z1", "Z2"}[random.IntN(2)]
		var body ledger.CommandBody = &ledger.ReceiveStock{LocationID: "store", LotID: lot, Quantity: 1 + random.Int64N(9)}
		switch random.IntN(4) {
		case 0:
			body = &ledger.AdjustStock{LocationID: "store", LotID: lot, Direction: ledger.Decrease, Quantity: 1, ReasonCode: "lost"}
		case 1:
			body = &ledger.WriteOffStock{LocationID: "store", LotID: lot, Quantity: 1, ReasonCode: "broken"}
		}
		command := c.command(body)
		if random.IntN(4) > 0 {
			late := []time.Duration{time.Microsecond, time.Second, 40 * time.Second, 50 * time.Minute, 20 * time.Hour, 6 * 24 * time.Hour, 30 * 24 * time.Hour, 300 * 24 * time.Hour, 500 * 24 * time.Hour}
			at := clock.read().Add(-late[random.IntN(len(late))])
			command.OccurredAt = ledger.InstantOf(at)
			moments = append(moments, command.OccurredAt)
		}
		if v := c.submit(Submission{Commands: []ledger.Command{command}, MayBackdate: true})[0]; v.Err != nil {
			c.tb.Fatalf("%+v: %v", body, v.Err)
		}
		moments = append(moments, ledger.InstantOf(clock.read()))
	}
	return append(moments, ledger.InstantOf(began), ledger.InstantOf(clock.read().Add(time.Hour)))
}

// Every account of every moment is what the journal says, however far the read
// models are.
func TestAccountsOfThePast(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	moments := lateCommands(p.testClinic, p.clock)
	models, records := NewReadModels(p.e.db, ReadModelsConfig{}), p.journal()
	shelf := ledger.Shelf{Location: "store", Medicine: "zinc"}
	buckets := []ledger.Bucket{ledger.Supplier, ledger.Dispensed, ledger.Issued, ledger.Adjustment, ledger.Wasted, ledger.Variance, ledger.Converted}
	check := func(what string) {
		t.Helper()
		for _, moment := range moments {
			for _, byOccurrence := range []bool{false, true} {
				counts := func(e *ledger.Event) bool {
					return !byOccurrence && e.At <= moment || byOccurrence && e.OccurredAt <= moment
				}
				balances, _, err := p.q.BalanceAtTime(t.Context(), p.id, shelf, "Z1", moment, byOccurrence, ReadOptions{})
				if err != nil {
					t.Fatal(err)
				}
				for _, bucket := range heldBuckets {
					if want := accountBy(records, shelf, "Z1", bucket, counts); balances.Of(bucket) != want {
						t.Errorf("%s: at %s, by occurrence %t, %s is %d, want %d", what, moment, byOccurrence, bucket, balances.Of(bucket), want)
					}
				}
				for _, bucket := range buckets {
					flow, _, err := p.q.FlowAt(t.Context(), p.id, shelf, "Z1", bucket, 0, moment, byOccurrence, ReadOptions{})
					if want := accountBy(records, shelf, "Z1", bucket, counts); err != nil || flow != want {
						t.Errorf("%s: at %s, by occurrence %t, %s is %d, %v, want %d", what, moment, byOccurrence, bucket, flow, err, want)
					}
				}
			}
		}
	}
	check("without read models")
	models.moveUp(t, p.id)
	check("with read models")
	p.verify()
	p.receive(1)
	late := p.command(&ledger.ReceiveStock{LocationID: "store", LotID: "Z1", Quantity: 4})
	late.OccurredAt = ledger.InstantOf(p.clock.read().Add(-time.Hour))
	if v := p.submit(Submission{Commands: []ledger.Command{late}, MayBackdate: true})[0]; v.Err != nil {
		t.Fatal(v.Err)
	}
	records = p.journal()
	check("with read models that are behind")
	for _, sequence := range []ledger.Sequence{1, 20, 40, p.head().Sequence} {
		flow, _, err := p.q.FlowAt(t.Context(), p.id, shelf, "Z1", ledger.Supplier, sequence, 0, false, ReadOptions{})
		if want := accountBy(records, shelf, "Z1", ledger.Supplier, func(e *ledger.Event) bool { return e.Sequence <= sequence }); err != nil || flow != want {
			t.Errorf("at sequence %d the supplier's is %d, %v, want %d", sequence, flow, err, want)
		}
	}
	var notReached *SequenceNotReachedError
	if _, _, err := p.q.FlowAt(t.Context(), p.id, shelf, "Z1", ledger.Supplier, 10_000, 0, false, ReadOptions{}); !errors.As(err, &notReached) {
		t.Errorf("a sequence that there is not: %v", err)
	}
	// Models of an older release lack what is late, and are folded anew.
	p.sql(`UPDATE read_model_cursors SET version = 1 WHERE clinic_id = $1`, p.id)
	p.sql(`DELETE FROM late_entries WHERE clinic_id = $1`, p.id)
	check("with read models of an older release")
	p.verify()
	models.moveUp(t, p.id)
	check("with read models that were folded anew")
	p.verify()
}

// What is said of late entries is compared with the journal, column by column.
func TestVerifyLateEntries(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	lateCommands(p.testClinic, p.clock)
	NewReadModels(p.e.db, ReadModelsConfig{}).moveUp(t, p.id)
	p.verify()
	t.Cleanup(func() { wipe(t, p.e.db, p.id) })
	for _, change := range []string{
		"location_id = 'attic'", "medicine_id = 'other'", "lot_id = 'other'", "lateness = lateness + 1", "occurred_at = occurred_at + INTERVAL '1 second'",
		"sequence = sequence + 1", "line = line + 1", "debit = debit + 1", "credit = credit + 1", "quantity = quantity + 1",
	} {
		undone := errors.New("undone")
		err := p.e.db.InTx(t.Context(), func(tx pgx.Tx) error {
			const last = ` WHERE clinic_id = $1 AND sequence = (SELECT max(sequence) FROM late_entries WHERE clinic_id = $1)`
			if _, err := tx.Exec(t.Context(), `UPDATE late_entries SET `+change+last, p.id); err != nil {
				return err
			}
			v := newVerifier(p.id, tx)
			v.server = p.e.db.server.Kind
			if err := v.run(t.Context()); err != nil {
				return err
			}
			if !slices.ContainsFunc(v.sorted(), func(v Violation) bool { return v.Invariant == ruleModels && v.Account == "late entries" }) {
				t.Errorf("%s is not found", change)
			}
			return undone
		})
		if !errors.Is(err, undone) {
			t.Fatal(err)
		}
	}
}

// However long the history, what is read of it for a moment is what was late
// then.
func TestWhatABalanceByOccurrenceReads(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	moments := lateCommands(p.testClinic, p.clock)
	NewReadModels(p.e.db, ReadModelsConfig{}).moveUp(t, p.id)
	records := p.journal()
	for _, moment := range moments {
		read, straddling := 0, 0
		for i := range records {
			if e := &records[i].Event; e.OccurredAt <= moment && e.At > moment {
				straddling += len(entriesOnShelf(e))
			}
		}
		err := p.e.db.readTx(t.Context(), func(tx pgx.Tx) error {
			v, err := p.q.open(t.Context(), tx, p.e.db.server.Kind, p.id, func(*view) []question { return nil })
			if err != nil {
				return err
			}
			after, err := v.firstRecordedAfter(t.Context(), moment+1)
			if err != nil {
				return err
			}
			place := ledger.BalanceAt{Shelf: ledger.Shelf{Location: "store", Medicine: "zinc"}, Lot: "Z1", Sequence: after - 1}
			return v.lateBy(t.Context(), place, moment, func(*ledger.Entry) { read++ })
		})
		if err != nil || read != straddling {
			t.Errorf("of the moment %s, %d entries are visited, %v, want %d", moment, read, err, straddling)
		}
	}
}

// entriesOnShelf are the entries of an event of Z1 at the store.
func entriesOnShelf(e *ledger.Event) (found []ledger.Entry) {
	for _, entry := range ledger.EntriesOf(*e) {
		if entry.Location == "store" && entry.Lot == "Z1" {
			found = append(found, entry)
		}
	}
	return found
}
