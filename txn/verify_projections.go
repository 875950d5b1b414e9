package txn

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

func shelfName(s ledger.Shelf) string {
	return fmt.Sprintf("location %s, medicine %s", s.Location, s.Medicine)
}

func lotName(s ledger.Shelf, lot ledger.LotID) string {
	return fmt.Sprintf("%s, lot %s", shelfName(s), lot)
}

func bucketName(key lotKey, bucket ledger.Bucket) string {
	return fmt.Sprintf("%s, bucket %s", lotName(key.shelf, key.lot), bucket)
}

// checkHead compares the head with the end of the journal. The journal does not
// know the epoch.
func (v *verifier) checkHead(ctx context.Context) error {
	var epoch int64
	var sequence ledger.Sequence
	var hash []byte
	var at time.Time
	want := v.state.Head()
	err := v.tx.QueryRow(ctx, `SELECT epoch, sequence, hash, recorded_at FROM heads WHERE clinic_id = $1`, v.clinic).Scan(&epoch, &sequence, &hash, &at)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return v.checkHeadless(ctx)
	case v.unreadable("head", want.Sequence, err):
		return nil
	case err != nil:
		return fmt.Errorf("read the head: %w", err)
	case !v.whole:
		return nil
	}
	if epoch == restoringEpoch && !v.arriving {
		v.found(ruleHead, "head", sequence, "the clinic's restore, or its move to this shard, has not ended; start the import or the move again")
	}
	last := want.Sequence
	if sequence > last {
		last++ // the first command that is missing
	}
	if sequence != want.Sequence || !slices.Equal(hash, want.Hash[:]) || ledger.InstantOf(at) != want.At {
		v.found(ruleHead, "head", last, "it says sequence %d, hash %x, time %s; the journal ends at sequence %d, hash %s, time %s",
			sequence, hash, ledger.InstantOf(at), want.Sequence, want.Hash, want.At)
	}
	return nil
}

// checkHeadless looks for rows of a clinic without a head. A clinic that is in
// the directory alone is one whose creation was not accepted.
func (v *verifier) checkHeadless(ctx context.Context) error {
	var in []string
	for _, t := range []table{
		journalTable, entriesTable, stockTable, holdsTable, clinicsTable, locationsTable, medicinesTable, lotsTable, documentsTable,
	} {
		var exists bool
		err := v.tx.QueryRow(ctx, "SELECT EXISTS (SELECT 1 FROM "+t.name+" WHERE clinic_id = $1)", v.clinic).Scan(&exists)
		if err != nil {
			return fmt.Errorf("look for rows without a head: %w", err)
		}
		if exists {
			in = append(in, t.name)
		}
	}
	if len(in) > 0 {
		v.found(ruleHead, "head", v.state.Head().Sequence, "the clinic has rows in %s, and no head", strings.Join(in, ", "))
	}
	return nil
}

// documents reads the stored documents, without the head. It reports whether
// all could be read.
func (v *verifier) documents(ctx context.Context) (*ledger.Snapshot, bool, error) {
	got := &ledger.Snapshot{}
	l := loader{snapshots: map[ledger.ClinicID]*ledger.Snapshot{v.clinic: got}}
	all := true
	for _, step := range l.steps() {
		if step.sql == loadHeads {
			continue
		}
		s := selectFrom(step.sql)
		s.args = []any{[]string{string(v.clinic)}}
		_, err := collect(ctx, v.tx, s, func(rows pgx.Rows, _ *struct{}) error { return step.row(rows) })
		if v.unreadable("documents", 0, err) {
			all = false
			continue
		}
		if err != nil {
			return got, false, err
		}
	}
	return got, all, nil
}

// checkProjections compares the stored documents with the replayed ones, with
// the entries, and with each other.
func (v *verifier) checkProjections(ctx context.Context) error {
	got, all, err := v.documents(ctx)
	if err != nil || !all {
		return err
	}
	v.checkConsistency(got)
	v.checkBalances(got.Stock)
	v.checkConservation(got.Stock)
	if !v.whole {
		return nil
	}
	want := v.state.Snapshot()
	v.table("clinics", rowsOfClinic(want.Clinic), rowsOfClinic(got.Clinic))
	defer v.ended()
	if !reflect.DeepEqual(got.Clinic, want.Clinic) {
		var sequence ledger.Sequence
		if want.Clinic != nil {
			sequence = want.Clinic.LastSequence
		}
		v.found(ruleProjection, "clinic", sequence, "stored is %s, replayed is %s", clinicText(got.Clinic), clinicText(want.Clinic))
	}
	v.compareAll(got, &want)
	return nil
}

// checkConsistency looks for what stored documents contradict in each other.
func (v *verifier) checkConsistency(got *ledger.Snapshot) {
	last := make(map[string]ledger.Sequence, len(got.Stock))
	for i := range got.Stock {
		last[lotName(got.Stock[i].Shelf, got.Stock[i].Lot)] = got.Stock[i].LastSequence
	}
	for _, broken := range got.CheckInvariants() {
		account, message, _ := strings.Cut(broken.Error(), ": ")
		v.found(ruleConsistent, account, last[account], "%s", message)
	}
}

func rowsOfClinic(c *ledger.Clinic) int64 {
	if c == nil {
		return 0
	}
	return 1
}

func clinicText(c *ledger.Clinic) string {
	if c == nil {
		return "nothing"
	}
	return fmt.Sprintf("%+v", *c)
}

// checkBalances compares each balance with the one that the last entry left.
func (v *verifier) checkBalances(stock []ledger.Stock) {
	seen := make(map[lotKey]bool, len(stock))
	for _, row := range stock {
		key := lotKey{row.Shelf, row.Lot}
		seen[key] = true
		end, moved := v.ends[key]
		if !moved {
			end.sequence = row.LastSequence
		}
		v.compareBalances(ruleLastEntry, key, end.sequence, row.Balances, end.balances, "the last entry left")
	}
	for key, end := range v.ends {
		if !seen[key] {
			v.found(ruleLastEntry, lotName(key.shelf, key.lot), end.sequence, "it has entries and no stock; the last entry left %+v", end.balances)
		}
	}
}

func (v *verifier) compareBalances(invariant string, key lotKey, sequence ledger.Sequence, got, want ledger.Balances, source string) {
	for _, bucket := range heldBuckets {
		if got.Of(bucket) != want.Of(bucket) {
			v.found(invariant, bucketName(key, bucket), sequence, "the balance is %d, and %s %d", got.Of(bucket), source, want.Of(bucket))
		}
	}
}

// checkConservation compares what came from and went to counterparties, over
// all locations, with what is on hand.
func (v *verifier) checkConservation(stock []ledger.Stock) {
	type total struct {
		medicine ledger.MedicineID
		onHand   int64
		last     ledger.Sequence
	}
	lots := make(map[ledger.LotID]total)
	for key, end := range v.ends {
		lots[key.lot] = total{medicine: key.shelf.Medicine, last: max(end.sequence, lots[key.lot].last)}
	}
	for _, row := range stock {
		t := lots[row.Lot]
		lots[row.Lot] = total{row.Medicine, t.onHand + row.OnHand(), max(t.last, row.LastSequence)}
	}
	for lot, t := range lots {
		var came int64
		var parts []string
		for _, bucket := range slices.Sorted(maps.Keys(v.flows[lot])) {
			if bucket.Held() {
				continue
			}
			came -= v.flows[lot][bucket]
			parts = append(parts, fmt.Sprintf("%s %d", bucket, v.flows[lot][bucket]))
		}
		if came != t.onHand {
			v.found(ruleConserved, fmt.Sprintf("medicine %s, lot %s", t.medicine, lot), t.last,
				"%d units are on hand at all locations; by the counterparties (%s) it is %d", t.onHand, strings.Join(parts, ", "), came)
		}
	}
}

func (v *verifier) compareAll(got, want *ledger.Snapshot) {
	compare(v, "locations", got.Locations, want.Locations, func(d *ledger.Location) (string, ledger.Sequence) {
		return "location " + string(d.ID), d.LastSequence
	})
	compare(v, "medicines", got.Medicines, want.Medicines, func(d *ledger.Medicine) (string, ledger.Sequence) {
		return "medicine " + string(d.ID), d.LastSequence
	})
	compare(v, "lots", got.Lots, want.Lots, func(d *ledger.Lot) (string, ledger.Sequence) {
		return fmt.Sprintf("medicine %s, lot %s", d.Medicine, d.ID), d.LastSequence
	})
	compareNamed(v, "stock", got.Stock, want.Stock, func(d *ledger.Stock) (string, ledger.Sequence) {
		return lotName(d.Shelf, d.Lot), d.LastSequence
	}, func() { v.compareStock(got.Stock, want.Stock) })
	compare(v, "holds, open", got.Holds, want.Holds, func(d *ledger.Hold) (string, ledger.Sequence) {
		return fmt.Sprintf("%s, hold %s", shelfName(d.Shelf), d.ID), d.LastSequence
	})
	compare(v, "documents, open", writtenOut(got.Documents), writtenOut(want.Documents), func(d *writtenDocument) (string, ledger.Sequence) {
		return documentName(d.key), d.LastSequence
	})
}

// compareStock names the buckets in which stored balances differ, and sets them
// right, so that what is compared after it is the rest of the row.
func (v *verifier) compareStock(got, want []ledger.Stock) {
	replayed := make(map[lotKey]*ledger.Stock, len(want))
	for i := range want {
		replayed[lotKey{want[i].Shelf, want[i].Lot}] = &want[i]
	}
	for i := range got {
		key := lotKey{got[i].Shelf, got[i].Lot}
		if row := replayed[key]; row != nil {
			v.compareBalances(ruleProjection, key, row.LastSequence, got[i].Balances, row.Balances, "replayed it is")
			got[i].Balances = row.Balances
		}
	}
}

// compare matches the rows of a table by name.
func compare[T any](v *verifier, table string, got, want []T, name func(*T) (string, ledger.Sequence)) {
	compareNamed(v, table, got, want, name, func() {})
}

// compareNamed is compare for a table of which something is compared before.
func compareNamed[T any](v *verifier, table string, got, want []T, name func(*T) (string, ledger.Sequence), before func()) {
	v.table(table, int64(len(want)), int64(len(got)))
	defer v.ended()
	before()
	stored := make(map[string]*T, len(got))
	for i := range got {
		account, _ := name(&got[i])
		stored[account] = &got[i]
	}
	for i := range want {
		account, sequence := name(&want[i])
		switch document := stored[account]; {
		case document == nil:
			v.found(ruleProjection, account, sequence, "it is missing; replayed is %+v", want[i])
		case !reflect.DeepEqual(*document, want[i]):
			v.found(ruleProjection, account, sequence, "stored is %+v, replayed is %+v", *document, want[i])
		}
		delete(stored, account)
	}
	for account, document := range stored {
		_, sequence := name(document)
		v.found(ruleProjection, account, sequence, "it is stored, and the journal does not make it: %+v", *document)
	}
}
