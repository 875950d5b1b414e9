package txn

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// Violation is a place where the database contradicts itself.
type Violation struct {
	Clinic ledger.ClinicID
	// Account is the (location, medicine, lot, bucket) concerned, or the
	// document; empty where it is the journal as a whole.
	Account string
	// Sequence is the command concerned, or the last one that touched the
	// account; 0 where none can be named.
	Sequence ledger.Sequence
	Message  string
}

// String writes the violation on one line.
func (v Violation) String() string {
	parts := []string{"clinic " + string(v.Clinic)}
	if v.Account != "" {
		parts = append(parts, v.Account)
	}
	if v.Sequence != 0 {
		parts = append(parts, fmt.Sprintf("sequence %d", v.Sequence))
	}
	return strings.Join(parts, ", ") + ": " + v.Message
}

// VerifySummary counts what was verified.
type VerifySummary struct {
	Clinics    int64
	Commands   int64
	Entries    int64
	Violations int64
}

// maxViolationsPerClinic bounds what one broken clinic reports.
const maxViolationsPerClinic = 100

const selectVerifiable = `SELECT clinic_id FROM heads UNION SELECT clinic_id FROM clinics UNION SELECT clinic_id FROM clinic_directory ORDER BY clinic_id`

// Verify replays the journals of clinics, of all where none is named, and
// compares everything stored with what they say: every invariant of the design
// that a database can show. Each clinic is read at one moment, so load does not
// disturb it. Memory grows with a clinic's state, not with its journal.
//
// report is called for each violation, at most 100 a clinic.
func Verify(ctx context.Context, db *DB, clinics []ledger.ClinicID, report func(Violation)) (VerifySummary, error) {
	var total VerifySummary
	if len(clinics) == 0 {
		err := db.readTx(ctx, func(tx pgx.Tx) (err error) {
			clinics, err = collect(ctx, tx, selectFrom(selectVerifiable), func(rows pgx.Rows, id *ledger.ClinicID) error { return rows.Scan(id) })
			return err
		})
		if err != nil {
			return total, fmt.Errorf("list clinics: %w", err)
		}
	}
	for _, clinic := range clinics {
		var v *verifier
		err := db.readTx(ctx, func(tx pgx.Tx) error {
			// A repeated attempt starts the clinic anew.
			v = newVerifier(clinic, tx)
			return v.run(ctx)
		})
		if err != nil {
			return total, fmt.Errorf("verify clinic %s: %w", clinic, err)
		}
		total.Clinics++
		total.Commands += int64(v.state.Head().Sequence)
		total.Entries += v.entries
		total.Violations += int64(len(v.violations))
		for _, violation := range v.violations {
			report(violation)
		}
	}
	return total, nil
}

// verifier verifies one clinic.
type verifier struct {
	clinic     ledger.ClinicID
	tx         pgx.Tx
	state      *ledger.State // what the journal comes to
	expected   map[ledger.Shelf]*digest
	entries    int64
	violations []Violation
}

func newVerifier(clinic ledger.ClinicID, tx pgx.Tx) *verifier {
	return &verifier{
		clinic: clinic, tx: tx, state: ledger.NewState(clinic, time.LoadLocation),
		expected: make(map[ledger.Shelf]*digest),
	}
}

func (v *verifier) found(account string, sequence ledger.Sequence, format string, args ...any) {
	if len(v.violations) < maxViolationsPerClinic {
		v.violations = append(v.violations, Violation{Clinic: v.clinic, Account: account, Sequence: sequence, Message: fmt.Sprintf(format, args...)})
	}
}

func (v *verifier) run(ctx context.Context) error {
	whole, err := v.replay(ctx)
	if err != nil {
		return err
	}
	if err := v.checkEntries(ctx, whole); err != nil {
		return err
	}
	return v.checkProjections(ctx, whole)
}

// journalRow is a row of the journal as it is stored.
type journalRow struct {
	sequence    ledger.Sequence
	key         string
	kind        ledger.Kind
	recordedAt  time.Time
	event, hash []byte
}

const (
	verifyChunk   = 2000
	selectJournal = `SELECT sequence, idempotency_key, kind, recorded_at, event, hash FROM journal WHERE clinic_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3`
)

// replay evolves the journal from nothing. It reports whether it came to the
// end: behind a broken link nothing more can be said.
func (v *verifier) replay(ctx context.Context) (bool, error) {
	for after := ledger.Sequence(0); ; {
		s := &selection{args: []any{v.clinic, after, verifyChunk}}
		s.sql.WriteString(selectJournal)
		rows, err := collect(ctx, v.tx, s, func(rows pgx.Rows, r *journalRow) error {
			return rows.Scan(&r.sequence, &r.key, &r.kind, &r.recordedAt, &r.event, &r.hash)
		})
		if err != nil {
			return false, err
		}
		for i := range rows {
			if !v.link(&rows[i]) {
				return false, nil
			}
			after = rows[i].sequence
		}
		v.state.Commit()
		if len(rows) < verifyChunk {
			return true, nil
		}
	}
}

// link checks one row of the journal and applies it.
func (v *verifier) link(row *journalRow) bool {
	if next := v.state.Head().Sequence + 1; row.sequence != next {
		v.found("journal", next, "the journal has no such row; the next one is %d", row.sequence)
		return false
	}
	record, err := openRecord(row.event, row.hash)
	if err != nil {
		v.found("journal", row.sequence, "the event cannot be read: %v", err)
		return false
	}
	event := &record.Event
	if event.IdempotencyKey != row.key || event.Kind() != row.kind || event.At != ledger.InstantOf(row.recordedAt) {
		v.found("journal", row.sequence, "the columns (%s, %s, %s) differ from the event (%s, %s, %s)",
			row.key, row.kind, ledger.InstantOf(row.recordedAt), event.IdempotencyKey, event.Kind(), event.At)
	}
	effects, err := ledger.Evolve(v.state, record)
	if err != nil {
		v.found("journal", row.sequence, "%v", err)
		return false
	}
	clearing := make(map[ledger.LotID]int64)
	for i := range effects.Entries {
		entry := &effects.Entries[i]
		v.expect(entry)
		if entry.Debit == ledger.Clearing {
			clearing[entry.Lot] += entry.Quantity
		}
		if entry.Credit == ledger.Clearing {
			clearing[entry.Lot] -= entry.Quantity
		}
	}
	for lot, left := range clearing {
		if left != 0 {
			v.found("lot "+string(lot)+", bucket clearing", row.sequence, "%d units are left after the command", left)
		}
	}
	return true
}

// digest sums up the entries of a shelf in their order.
type digest struct {
	entries int64
	sum     [sha256.Size]byte
}

func (d *digest) add(e *ledger.Entry) {
	b := append(make([]byte, 0, 256), d.sum[:]...)
	for _, n := range []int64{
		int64(e.Sequence), int64(e.Line), int64(e.Debit), int64(e.Credit), e.Quantity,
		e.After.Available, e.After.Reserved, e.After.Pending, e.After.Quarantined, e.After.InTransit,
	} {
		b = binary.AppendVarint(b, n)
	}
	d.entries++
	d.sum = sha256.Sum256(append(b, e.Lot...))
}

func (v *verifier) expect(e *ledger.Entry) {
	shelf := ledger.Shelf{Location: e.Location, Medicine: e.Medicine}
	if v.expected[shelf] == nil {
		v.expected[shelf] = &digest{}
	}
	v.expected[shelf].add(e)
}

// entryKey is a place in the entries' primary key.
type entryKey struct {
	ledger.Shelf
	sequence ledger.Sequence
	line     int
}

func (v *verifier) entriesAfter(ctx context.Context, after entryKey) ([]ledger.Entry, error) {
	s := selectFrom(`SELECT location_id, medicine_id, sequence, line, lot_id, debit, credit, quantity, available, reserved, pending, quarantined, in_transit
		FROM entries WHERE`).add(` clinic_id = ? AND (location_id, medicine_id, sequence, line) > (?, ?, ?, ?)`,
		v.clinic, after.Location, after.Medicine, after.sequence, after.line).
		add(` ORDER BY location_id, medicine_id, sequence, line LIMIT ?`, verifyChunk)
	return collect(ctx, v.tx, s, scanEntry)
}

func scanEntry(rows pgx.Rows, e *ledger.Entry) error {
	b := &e.After
	return rows.Scan(&e.Location, &e.Medicine, &e.Sequence, &e.Line, &e.Lot, &e.Debit, &e.Credit, &e.Quantity,
		&b.Available, &b.Reserved, &b.Pending, &b.Quarantined, &b.InTransit)
}

// shelfCheck follows the entries of one shelf.
type shelfCheck struct {
	shelf    ledger.Shelf
	actual   digest
	balances map[ledger.LotID]ledger.Balances
	broken   bool
}

// checkEntries reads the entries in the order of their key. Each must leave the
// balances that it records, and those of a shelf must be those that the journal
// posts.
func (v *verifier) checkEntries(ctx context.Context, whole bool) error {
	seen := make(map[ledger.Shelf]bool)
	check := &shelfCheck{}
	for after := (entryKey{}); ; {
		entries, err := v.entriesAfter(ctx, after)
		if err != nil {
			return err
		}
		for i := range entries {
			e := &entries[i]
			shelf := ledger.Shelf{Location: e.Location, Medicine: e.Medicine}
			if shelf != check.shelf {
				if err := v.endShelf(ctx, check, whole); err != nil {
					return err
				}
				check = &shelfCheck{shelf: shelf, balances: make(map[ledger.LotID]ledger.Balances)}
				seen[shelf] = true
			}
			v.checkEntry(check, e)
			after = entryKey{shelf, e.Sequence, e.Line}
		}
		v.entries += int64(len(entries))
		if len(entries) < verifyChunk {
			break
		}
	}
	if err := v.endShelf(ctx, check, whole); err != nil {
		return err
	}
	for shelf, expected := range v.expected {
		if whole && !seen[shelf] {
			v.found(shelfName(shelf), 0, "the journal posts %d entries, and none is stored", expected.entries)
		}
	}
	return nil
}

func (v *verifier) checkEntry(check *shelfCheck, e *ledger.Entry) {
	check.actual.add(e)
	want := check.balances[e.Lot]
	add := func(bucket ledger.Bucket, quantity int64) {
		switch bucket {
		case ledger.Available:
			want.Available += quantity
		case ledger.Reserved:
			want.Reserved += quantity
		case ledger.Pending:
			want.Pending += quantity
		case ledger.Quarantined:
			want.Quarantined += quantity
		case ledger.InTransit:
			want.InTransit += quantity
		}
	}
	add(e.Credit, -e.Quantity)
	add(e.Debit, e.Quantity)
	if want != e.After {
		v.found(lotName(check.shelf, e.Lot), e.Sequence, "the entries sum to %+v, and the balances recorded are %+v", want, e.After)
		check.broken = true
	}
	if min(e.After.Available, e.After.Reserved, e.After.Pending, e.After.Quarantined, e.After.InTransit) < 0 {
		v.found(lotName(check.shelf, e.Lot), e.Sequence, "a held balance is negative: %+v", e.After)
	}
	check.balances[e.Lot] = e.After
}

// endShelf compares a shelf's entries with those that the journal posts, and
// looks for the first difference where there is one.
func (v *verifier) endShelf(ctx context.Context, check *shelfCheck, whole bool) error {
	if check.shelf == (ledger.Shelf{}) || !whole {
		return nil
	}
	expected := v.expected[check.shelf]
	if expected != nil && *expected == check.actual {
		return nil
	}
	if expected == nil {
		v.found(shelfName(check.shelf), 0, "%d entries are stored that the journal does not post", check.actual.entries)
		return nil
	}
	return v.findDifference(ctx, check.shelf)
}

// findDifference names the first entry of a shelf that differs.
func (v *verifier) findDifference(ctx context.Context, shelf ledger.Shelf) error {
	next := v.storedEntries(ctx, shelf)
	for after := ledger.Sequence(0); ; {
		s := &selection{args: []any{v.clinic, after, verifyChunk}}
		s.sql.WriteString(selectJournalAfter)
		records, err := collect(ctx, v.tx, s, func(rows pgx.Rows, r *ledger.Record) error {
			var event, hash []byte
			if err := rows.Scan(&event, &hash); err != nil {
				return err
			}
			record, err := openRecord(event, hash)
			*r = record
			return err
		})
		if err != nil {
			return err
		}
		for _, record := range records {
			after = record.Event.Sequence
			for _, want := range ledger.EntriesOf(record.Event) {
				if want.Location != shelf.Location || want.Medicine != shelf.Medicine {
					continue
				}
				got, err := next()
				if err != nil {
					return err
				}
				if got == nil || *got != want {
					v.found(lotName(shelf, want.Lot), want.Sequence, "the journal posts the entry %+v, and stored is %+v", want, got)
					return nil
				}
			}
		}
		if len(records) < verifyChunk {
			break
		}
	}
	extra, err := next()
	if err == nil && extra != nil {
		v.found(lotName(shelf, extra.Lot), extra.Sequence, "an entry is stored that the journal does not post: %+v", *extra)
	}
	return err
}

// storedEntries walks the stored entries of a shelf, nil at the end.
func (v *verifier) storedEntries(ctx context.Context, shelf ledger.Shelf) func() (*ledger.Entry, error) {
	var chunk []ledger.Entry
	at := entryKey{Shelf: shelf, sequence: -1}
	return func() (*ledger.Entry, error) {
		if len(chunk) == 0 {
			var err error
			if chunk, err = v.entriesAfter(ctx, at); err != nil {
				return nil, err
			}
		}
		if len(chunk) == 0 || chunk[0].Location != shelf.Location || chunk[0].Medicine != shelf.Medicine {
			return nil, nil
		}
		e := chunk[0]
		chunk = chunk[1:]
		at.sequence, at.line = e.Sequence, e.Line
		return &e, nil
	}
}

func shelfName(s ledger.Shelf) string {
	return fmt.Sprintf("location %s, medicine %s", s.Location, s.Medicine)
}

func lotName(s ledger.Shelf, lot ledger.LotID) string {
	return fmt.Sprintf("%s, lot %s", shelfName(s), lot)
}

const selectClosedHolds = `SELECT hold_id, lot_id, quantity, last_sequence FROM holds WHERE clinic_id = $1 AND status <> 1 AND quantity <> 0`

// checkProjections compares the stored documents with the replayed ones.
func (v *verifier) checkProjections(ctx context.Context, whole bool) error {
	stored, err := loadSnapshots(ctx, v.tx, []ledger.ClinicID{v.clinic})
	if err != nil {
		return err
	}
	got := stored[v.clinic]
	for _, broken := range got.CheckInvariants() {
		v.found("stock", got.Head.Sequence, "%v", broken)
	}
	s := &selection{args: []any{v.clinic}}
	s.sql.WriteString(selectClosedHolds)
	closed, err := collect(ctx, v.tx, s, func(rows pgx.Rows, h *ledger.Hold) error {
		h.Lines = make([]ledger.HoldLine, 1)
		return rows.Scan(&h.ID, &h.Lines[0].Lot, &h.Lines[0].Quantity, &h.LastSequence)
	})
	if err != nil {
		return err
	}
	for _, h := range closed {
		v.found("hold "+string(h.ID)+", lot "+string(h.Lines[0].Lot), h.LastSequence, "it is closed and holds %d units", h.Lines[0].Quantity)
	}
	if !whole {
		return nil
	}
	want := v.state.Snapshot()
	if got.Head != want.Head {
		v.found("head", want.Head.Sequence, "it says sequence %d, hash %s, time %s; the journal ends at sequence %d, hash %s, time %s",
			got.Head.Sequence, got.Head.Hash, got.Head.At, want.Head.Sequence, want.Head.Hash, want.Head.At)
	}
	if !reflect.DeepEqual(got.Clinic, want.Clinic) {
		v.found("the clinic's row", want.Head.Sequence, "stored is %+v, replayed is %+v", got.Clinic, want.Clinic)
	}
	v.compareAll(got, &want)
	return nil
}

func (v *verifier) compareAll(got, want *ledger.Snapshot) {
	compare(v, got.Locations, want.Locations, func(d *ledger.Location) (string, ledger.Sequence) {
		return "location " + string(d.ID), d.LastSequence
	})
	compare(v, got.Medicines, want.Medicines, func(d *ledger.Medicine) (string, ledger.Sequence) {
		return "medicine " + string(d.ID), d.LastSequence
	})
	compare(v, got.Lots, want.Lots, func(d *ledger.Lot) (string, ledger.Sequence) {
		return "lot " + string(d.ID), d.LastSequence
	})
	compare(v, got.Stock, want.Stock, func(d *ledger.Stock) (string, ledger.Sequence) {
		return lotName(d.Shelf, d.Lot), d.LastSequence
	})
	compare(v, got.Holds, want.Holds, func(d *ledger.Hold) (string, ledger.Sequence) {
		return fmt.Sprintf("%s, hold %s", shelfName(d.Shelf), d.ID), d.LastSequence
	})
}

// compare matches documents by name.
func compare[T any](v *verifier, got, want []T, name func(*T) (string, ledger.Sequence)) {
	stored := make(map[string]*T, len(got))
	for i := range got {
		account, _ := name(&got[i])
		stored[account] = &got[i]
	}
	for i := range want {
		account, sequence := name(&want[i])
		switch document := stored[account]; {
		case document == nil:
			v.found(account, sequence, "it is missing; replayed is %+v", want[i])
		case !reflect.DeepEqual(*document, want[i]):
			v.found(account, sequence, "stored is %+v, replayed is %+v", *document, want[i])
		}
		delete(stored, account)
	}
	for account, document := range stored {
		_, sequence := name(document)
		v.found(account, sequence, "it is stored, and the journal does not make it: %+v", *document)
	}
}
