package txn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// fullPass is the number of nights over which all clinics are verified from
// nothing, each on its own.
const fullPass = 28

// reconciled is how far a clinic's journal has been verified.
type reconciled struct {
	Place
	hash   ledger.Hash
	fullAt time.Time
}

const (
	selectReconciled = `SELECT epoch, sequence, hash, full_at FROM reconciled WHERE clinic_id = $1`
	upsertReconciled = `INSERT INTO reconciled (clinic_id, epoch, sequence, hash, verified_at, full_at) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (clinic_id) DO UPDATE SET epoch = excluded.epoch, sequence = excluded.sequence, hash = excluded.hash,
		verified_at = excluded.verified_at, full_at = excluded.full_at`
)

// Reconcile compares what is stored of a clinic with its journal. It goes on
// from where it was the last time: the commands since then, the entries that
// they post, the balances that these leave, and what the stored documents say of
// each other. Every few weeks, after a restore, and as long as it finds
// anything, it replays the whole journal. It reads one snapshot, and repairs
// nothing.
func (c *Chores) Reconcile(ctx context.Context, e Errand) (Looked, error) {
	var done Looked
	err := c.directory.at(ctx, e.Clinic, func(db *DB) (err error) {
		done, err = reconcile(ctx, db, e)
		return err
	})
	return done, err
}

func reconcile(ctx context.Context, db *DB, e Errand) (Looked, error) {
	var v *verifier
	var place reconciled
	err := db.patient(verifyTimeout).readTx(ctx, func(tx pgx.Tx) (err error) {
		from := func() *verifier {
			v := newVerifier(e.Clinic, tx)
			v.server = db.server.Kind
			return v
		}
		v = from()
		if place, err = lastReconciled(ctx, tx, e.Clinic); err != nil {
			return err
		}
		var epoch int64
		if err := tx.QueryRow(ctx, `SELECT epoch FROM heads WHERE clinic_id = $1`, e.Clinic).Scan(&epoch); err != nil {
			return err
		}
		if absent := absence(epoch); absent != nil {
			return absent
		}
		if place.Epoch != epoch || fullPassDue(e.Clinic, place.fullAt, e.Now) {
			place = reconciled{Place: Place{Epoch: epoch}, fullAt: e.Now}
			if err := v.run(ctx); err != nil {
				return err
			}
			head := v.state.Head()
			place.Sequence, place.hash = head.Sequence, head.Hash
			return nil
		}
		if err := v.since(ctx, &place); err != nil || v.count == 0 {
			return err
		}
		// Something is wrong: the whole journal tells the account and the first
		// command of it.
		whole := from()
		if err := whole.run(ctx); err != nil {
			return err
		}
		if whole.count > 0 {
			v = whole
		}
		return nil
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return Looked{}, nil // the clinic has no journal yet
	}
	if err != nil {
		return Looked{}, fmt.Errorf("txn: reconcile clinic %s: %w", e.Clinic, err)
	}
	if v.count > 0 {
		place.fullAt = time.Unix(0, 0) // from nothing the next time, too
	}
	err = db.InTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, upsertReconciled, e.Clinic, place.Epoch, place.Sequence, place.hash[:], e.Now, place.fullAt)
		return err
	})
	if err != nil {
		return Looked{}, fmt.Errorf("txn: note how far clinic %s is reconciled: %w", e.Clinic, err)
	}
	return Looked{Findings: findingsOf(v.sorted())}, nil
}

func lastReconciled(ctx context.Context, tx pgx.Tx, clinic ledger.ClinicID) (reconciled, error) {
	var r reconciled
	var hash []byte
	err := tx.QueryRow(ctx, selectReconciled, clinic).Scan(&r.Epoch, &r.Sequence, &hash, &r.fullAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return reconciled{}, nil
	}
	copy(r.hash[:], hash)
	return r, err
}

// fullPassDue spreads the full passes of clinics over nights.
func fullPassDue(clinic ledger.ClinicID, last, now time.Time) bool {
	day := func(t time.Time) int64 { return int64(ledger.DateOf(t.UTC())) }
	if day(now)-day(last) >= fullPass {
		return true
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(clinic))
	return day(now) > day(last) && (day(now)+int64(h.Sum32()))%fullPass == 0
}

// findingsOf are violations as findings: the first of each account and rule.
func findingsOf(violations []Violation) []Finding {
	type about struct{ subject, kind string }
	seen := make(map[about]bool)
	var findings []Finding
	for _, v := range violations {
		subject := v.Account
		if subject == "" {
			subject = "clinic"
		}
		if key := (about{subject, v.Invariant}); !seen[key] {
			seen[key] = true
			findings = append(findings, Finding{Subject: subject, Kind: v.Invariant, Message: v.Message, Sequence: v.Sequence})
		}
	}
	return findings
}

// since verifies what came after a place, and moves the place to the end of what
// is sound.
func (v *verifier) since(ctx context.Context, place *reconciled) error {
	var hash []byte
	err := v.tx.QueryRow(ctx, `SELECT hash FROM journal WHERE clinic_id = $1 AND sequence = $2`, v.clinic, place.Sequence).Scan(&hash)
	switch {
	case place.Sequence == 0: // nothing was sound before
	case errors.Is(err, pgx.ErrNoRows):
		v.found(ruleGapFree, "journal", place.Sequence, "the record was there and has gone")
		return nil
	case err != nil:
		return err
	case !bytes.Equal(hash, place.hash[:]):
		v.found(ruleReplays, "journal", place.Sequence, "its hash is %x, and was %s: the journal was rewritten", hash, place.hash)
		return nil
	}
	after := place.Sequence
	if place.Sequence == 0 {
		place.hash = ledger.Genesis(v.clinic)
	}
	touched := make(map[ledger.Shelf]bool)
	whole, err := v.walkAfter(ctx, after, func(row *journalRow) bool {
		event, ok := v.chained(row, place)
		if !ok {
			return false
		}
		entries := ledger.EntriesOf(*event)
		for i := range entries {
			entry := &entries[i]
			v.posted.add(entry.Sequence, entryDigest(entry))
			shelf := ledger.Shelf{Location: entry.Location, Medicine: entry.Medicine}
			touched[shelf] = true
			v.ends[lotKey{shelf, entry.Lot}] = lotEnd{entry.After, entry.Sequence}
		}
		v.checkClearing(entries)
		return true
	})
	if err != nil {
		return err
	}
	if whole {
		if err := v.headIs(ctx, place); err != nil {
			return err
		}
	}
	if err := v.checkEntriesAfter(ctx, after, touched); err != nil {
		return err
	}
	return v.checkSnapshot(ctx)
}

// chained checks that a row of the journal follows from the place before it, and
// moves the place.
func (v *verifier) chained(row *journalRow, place *reconciled) (*ledger.Event, bool) {
	last := Checkpoint{Sequence: place.Sequence, Hash: place.hash}
	event, broken := row.follows(&last)
	if broken != nil {
		v.foundLink("journal", broken)
		return nil, false
	}
	if broken := row.contradicts(v.clinic, event); broken != nil {
		v.foundLink("journal", broken)
	}
	place.Sequence, place.hash = last.Sequence, last.Hash
	return event, true
}

// headIs compares the head with the end of the journal.
func (v *verifier) headIs(ctx context.Context, end *reconciled) error {
	var sequence ledger.Sequence
	var hash []byte
	err := v.tx.QueryRow(ctx, `SELECT sequence, hash FROM heads WHERE clinic_id = $1`, v.clinic).Scan(&sequence, &hash)
	if err != nil {
		return err
	}
	if broken := (Checkpoint{Sequence: end.Sequence, Hash: end.hash}).headDiffers(sequence, hash); broken != nil {
		v.foundLink("head", broken)
	}
	return nil
}

// checkEntriesAfter compares the stored entries of shelves after a command with
// those that the journal posts.
func (v *verifier) checkEntriesAfter(ctx context.Context, after ledger.Sequence, shelves map[ledger.Shelf]bool) error {
	for shelf := range shelves {
		s := selectFrom(`SELECT location_id, medicine_id, sequence, line, lot_id, debit, credit, quantity, available, reserved, pending, quarantined, in_transit
			FROM entries WHERE`).add(` clinic_id = ? AND location_id = ? AND medicine_id = ? AND sequence > ?`, v.clinic, shelf.Location, shelf.Medicine, after)
		entries, err := collect(ctx, v.tx, s, scanEntry)
		if err != nil {
			return err
		}
		for i := range entries {
			v.stored.add(entries[i].Sequence, entryDigest(&entries[i]))
			v.entries++
		}
	}
	if maps.Equal(v.posted, v.stored) {
		return nil
	}
	for span := range v.posted.differences(v.stored) {
		first := max(span*tallySpan, after+1)
		v.found(ruleEntries, "entries", first, "what is stored of commands %d to %d is not what the journal posts", first, (span+1)*tallySpan-1)
	}
	return nil
}

// checkSnapshot compares the stored documents with each other, and the balances
// with what the entries left of which the ends are known.
func (v *verifier) checkSnapshot(ctx context.Context) error {
	got, all, err := v.documents(ctx)
	if err != nil || !all {
		return err
	}
	v.checkConsistency(got)
	stored := make(map[lotKey]*ledger.Stock, len(got.Stock))
	for i := range got.Stock {
		stored[lotKey{got.Stock[i].Shelf, got.Stock[i].Lot}] = &got.Stock[i]
	}
	for key, end := range v.ends {
		row := stored[key]
		if row == nil {
			v.found(ruleLastEntry, lotName(key.shelf, key.lot), end.sequence, "it has entries and no stock; the last entry left %+v", end.balances)
			continue
		}
		v.compareBalances(ruleLastEntry, key, end.sequence, row.Balances, end.balances, "the last entry left")
	}
	return nil
}
