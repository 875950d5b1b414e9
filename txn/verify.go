package txn

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/stockledger/stockledger/ledger"
)

// Violation is a place where the database contradicts itself.
type Violation struct {
	Clinic ledger.ClinicID
	// Account is the (location, medicine, lot, bucket) concerned, or as much of
	// it as can be named, or the document.
	Account string
	// Sequence is the command concerned, or the last one that touched the
	// account; 0 where none can be named.
	Sequence ledger.Sequence
	// Invariant is the rule that is broken, one of a fixed set of words.
	Invariant string
	Message   string
}

// The invariants, as violations name them.
const (
	ruleGapFree     = "journal-gap-free"
	ruleReadable    = "readable"
	ruleColumns     = "journal-columns"
	ruleReplays     = "journal-replays" // the hash chain and every recorded balance
	ruleHead        = "head-is-last-record"
	ruleEntries     = "entries-follow-journal"
	ruleSum         = "balance-is-sum-of-entries"
	ruleLastEntry   = "balance-is-last-entry"
	ruleConserved   = "received-issued-adjusted-on-hand"
	ruleClearing    = "clearing-is-zero"
	ruleConsistent  = "holds-and-balances" // what a snapshot shows by itself
	ruleClosedEmpty = "closed-holds-are-empty"
	ruleClosedHolds = "closed-holds-follow-journal"
	ruleProjection  = "projection-follows-journal"
	ruleClosedDocs  = "closed-documents-follow-journal"
)

// String writes the violation on one line.
func (v Violation) String() string {
	parts := []string{"clinic " + string(v.Clinic)}
	if v.Account != "" {
		parts = append(parts, v.Account)
	}
	if v.Sequence != 0 {
		parts = append(parts, fmt.Sprintf("sequence %d", v.Sequence))
	}
	return strings.Join(parts, ", ") + ": " + v.Invariant + ": " + v.Message
}

// VerifySummary counts what was verified.
type VerifySummary struct {
	Clinics  int64
	Commands int64
	Entries  int64
	// Violations counts all that were found, also those not reported.
	Violations int64
}

// VerifyProgress says how far a verification has come. Commands and Entries
// fall back when a clinic has to be read again.
type VerifyProgress struct {
	Clinics, ClinicsTotal   int64
	Commands, CommandsTotal int64
	Entries                 int64
}

// VerifyOptions say what to verify. Nothing is required.
type VerifyOptions struct {
	// Clinics are those to verify; none means all that have any row.
	Clinics []ledger.ClinicID
	// Report is called for each violation, at most 100 a clinic.
	Report func(Violation)
	// Progress is called every few thousand rows.
	Progress func(VerifyProgress)
}

const (
	// maxViolationsPerClinic bounds what one broken clinic reports.
	maxViolationsPerClinic = 100
	// verifyChunk is how many rows are read at a time.
	verifyChunk = 2000
	// verifyTimeout bounds one attempt at one clinic. Its snapshot is held as
	// long, which a few minutes do no harm to.
	verifyTimeout = time.Hour
)

// Verify replays the journals of clinics and compares everything stored
// with what they say: every invariant of the design that a database can show.
// Each clinic is read at one moment, so load does not disturb it. Memory grows
// with a clinic's state, and hardly with its journal.
func Verify(ctx context.Context, db *DB, options VerifyOptions) (VerifySummary, error) {
	var total VerifySummary
	db = db.patient(verifyTimeout)
	clinics := options.Clinics
	if len(clinics) == 0 {
		var err error
		if clinics, err = db.clinicsWithRows(ctx); err != nil {
			return total, fmt.Errorf("list clinics: %w", err)
		}
	}
	progress, err := db.startProgress(ctx, options, clinics)
	if err != nil {
		return total, err
	}
	for _, clinic := range clinics {
		var v *verifier
		err := db.readTx(ctx, func(tx pgx.Tx) error {
			// A repeated attempt starts the clinic anew, with no violations.
			v = newVerifier(clinic, tx)
			v.progress = func() { progress(total, v) }
			return v.run(ctx)
		})
		if err != nil {
			return total, fmt.Errorf("verify clinic %s: %w", clinic, err)
		}
		total.Clinics++
		total.Commands += int64(v.state.Head().Sequence)
		total.Entries += v.entries
		total.Violations += v.count
		progress(total, nil)
		if options.Report != nil {
			for _, violation := range v.sorted() {
				options.Report(violation)
			}
		}
	}
	return total, nil
}

// patient returns the same database with another bound on transactions: a large
// clinic takes minutes to read, which no command or query may.
func (db *DB) patient(limit time.Duration) *DB {
	cfg := db.cfg
	cfg.TransactionTimeout = max(limit, cfg.TransactionTimeout)
	return &DB{cfg: cfg, server: db.server, write: db.write, read: db.read, tuned: db.tuned}
}

const selectVerifiable = `SELECT clinic_id FROM heads UNION SELECT clinic_id FROM clinics UNION SELECT clinic_id FROM clinic_directory`

// clinicsWithRows lists the clinics that have a row in any table, in order.
// Tables with many rows a clinic are not scanned: from each clinic known, the
// next one is looked up, so that only strangers cost a round more.
func (db *DB) clinicsWithRows(ctx context.Context) ([]ledger.ClinicID, error) {
	known := make(map[string]bool)
	err := db.readTx(ctx, func(tx pgx.Tx) error {
		clear(known)
		listed, err := collect(ctx, tx, selectFrom(selectVerifiable), func(rows pgx.Rows, id *string) error { return rows.Scan(id) })
		if err != nil {
			return err
		}
		for _, id := range listed {
			known[id] = true
		}
		for _, t := range []table{journalTable, entriesTable, stockTable, holdsTable, locationsTable, medicinesTable, lotsTable, documentsTable} {
			for from := append(slices.Sorted(maps.Keys(known)), ""); len(from) > 0; {
				if from, err = db.strangersAfter(ctx, tx, t, from, known); err != nil {
					return err
				}
			}
		}
		return nil
	})
	clinics := make([]ledger.ClinicID, 0, len(known))
	for _, id := range slices.Sorted(maps.Keys(known)) {
		clinics = append(clinics, ledger.ClinicID(id))
	}
	return clinics, err
}

// strangersAfter adds to known the clinics that directly follow others in a
// table, and returns those that were not known.
func (db *DB) strangersAfter(ctx context.Context, tx pgx.Tx, t table, from []string, known map[string]bool) ([]string, error) {
	sql := "SELECT (SELECT t.clinic_id FROM " + t.name + " AS t WHERE t.clinic_id > k.clinic_id ORDER BY t.clinic_id LIMIT 1) FROM " +
		keySource(db.server.Kind, []string{"clinic_id"}, []string{"text"})
	var strangers []string
	for chunk := range slices.Chunk(from, verifyChunk) {
		s := selectFrom(sql)
		s.args = append(s.args, chunk)
		next, err := collect(ctx, tx, s, func(rows pgx.Rows, id **string) error { return rows.Scan(id) })
		if err != nil {
			return nil, err
		}
		for _, id := range next {
			if id != nil && !known[*id] {
				known[*id] = true
				strangers = append(strangers, *id)
			}
		}
	}
	return strangers, nil
}

// startProgress returns what tells the caller how far the verification is: what
// is done, and the clinic under way, if any.
func (db *DB) startProgress(
	ctx context.Context, options VerifyOptions, clinics []ledger.ClinicID,
) (func(VerifySummary, *verifier), error) {
	if options.Progress == nil {
		return func(VerifySummary, *verifier) {}, nil
	}
	p := VerifyProgress{ClinicsTotal: int64(len(clinics))}
	err := db.readTx(ctx, func(tx pgx.Tx) error {
		const sum = `SELECT COALESCE(sum(sequence), 0)::INT8 FROM heads WHERE clinic_id = ANY($1)`
		return tx.QueryRow(ctx, sum, texts(clinics)).Scan(&p.CommandsTotal)
	})
	if err != nil {
		return nil, fmt.Errorf("count commands: %w", err)
	}
	return func(done VerifySummary, under *verifier) {
		p.Clinics, p.Commands, p.Entries = done.Clinics, done.Commands, done.Entries
		if under != nil {
			p.Commands += int64(under.state.Head().Sequence)
			p.Entries += under.entries
		}
		// Commands that came after the count are verified too.
		p.CommandsTotal = max(p.CommandsTotal, p.Commands)
		options.Progress(p)
	}, nil
}

// verifier verifies one clinic.
type verifier struct {
	clinic   ledger.ClinicID
	tx       pgx.Tx
	progress func()
	state    *ledger.State // what the journal comes to
	// whole says that the journal was replayed to its end. Behind a broken
	// link nothing can be said of what the journal makes.
	whole bool

	posted, stored   tally                                // entries: by the journal, in the table
	closed, archived tally                                // closed holds: by the journal, in the table
	filed            map[ledger.DocumentKey]filedDocument // closed documents, by the journal
	ends             map[lotKey]lotEnd
	flows            map[ledger.LotID]map[ledger.Bucket]int64
	entries          int64

	violations []Violation
	count      int64
}

func newVerifier(clinic ledger.ClinicID, tx pgx.Tx) *verifier {
	return &verifier{
		clinic: clinic, tx: tx, progress: func() {}, state: ledger.NewState(clinic, time.LoadLocation),
		posted: make(tally), stored: make(tally), closed: make(tally), archived: make(tally),
		filed: make(map[ledger.DocumentKey]filedDocument),
		ends:  make(map[lotKey]lotEnd),
		flows: make(map[ledger.LotID]map[ledger.Bucket]int64),
	}
}

func (v *verifier) found(invariant, account string, sequence ledger.Sequence, format string, args ...any) {
	v.count++
	if len(v.violations) < maxViolationsPerClinic {
		v.violations = append(v.violations, Violation{
			Clinic: v.clinic, Account: account, Sequence: sequence, Invariant: invariant, Message: fmt.Sprintf(format, args...),
		})
	}
}

// sorted returns the violations with the oldest command first: later ones often
// follow from it.
func (v *verifier) sorted() []Violation {
	slices.SortStableFunc(v.violations, func(a, b Violation) int {
		return cmp.Or(cmp.Compare(a.Sequence, b.Sequence), cmp.Compare(a.Account, b.Account), cmp.Compare(a.Invariant, b.Invariant))
	})
	return v.violations
}

// unreadable turns a value that this program never writes, such as an infinite
// date, into a violation; one of them must not hide all others. It reports
// whether it did.
func (v *verifier) unreadable(what string, sequence ledger.Sequence, err error) bool {
	var value pgx.ScanArgError
	if !errors.As(err, &value) {
		return false
	}
	v.found(ruleReadable, what, sequence, "a row cannot be read: %v", err)
	return true
}

func (v *verifier) run(ctx context.Context) error {
	if err := v.replay(ctx); err != nil {
		return err
	}
	if err := v.checkEntries(ctx); err != nil {
		return err
	}
	if err := v.checkClosedHolds(ctx); err != nil {
		return err
	}
	if err := v.checkClosedDocuments(ctx); err != nil {
		return err
	}
	if err := v.checkHead(ctx); err != nil {
		return err
	}
	return v.checkProjections(ctx)
}

// journalRow is a row of the journal as it is stored.
type journalRow struct {
	sequence    ledger.Sequence
	key         string
	kind        ledger.Kind
	recordedAt  pgtype.Timestamptz // which may be infinite
	event, hash []byte
}

const selectJournal = `SELECT sequence, idempotency_key, kind, recorded_at, event, hash FROM journal WHERE clinic_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3`

// walk visits the journal's rows until one is refused.
func (v *verifier) walk(ctx context.Context, visit func(*journalRow) bool) (whole bool, err error) {
	// The lowest sequence a row could have, not 0: the table forbids others,
	// but what is verified is not trusted.
	for after := ledger.Sequence(-1 << 63); ; {
		s := selectFrom(selectJournal)
		s.args = []any{v.clinic, after, verifyChunk}
		rows, err := collect(ctx, v.tx, s, func(rows pgx.Rows, r *journalRow) error {
			return rows.Scan(&r.sequence, &r.key, &r.kind, &r.recordedAt, &r.event, &r.hash)
		})
		if err != nil {
			return false, err
		}
		for i := range rows {
			if !visit(&rows[i]) {
				return false, nil
			}
			after = rows[i].sequence
		}
		v.progress()
		if len(rows) < verifyChunk {
			return true, nil
		}
	}
}

// replay evolves the journal from nothing, as far as it goes.
func (v *verifier) replay(ctx context.Context) error {
	var err error
	v.whole, err = v.walk(ctx, v.link)
	return err
}

// link checks one row of the journal and applies it.
func (v *verifier) link(row *journalRow) bool {
	if next := v.state.Head().Sequence + 1; row.sequence != next {
		v.found(ruleGapFree, "journal", next, "the journal has no such row; the next one is %d", row.sequence)
		return false
	}
	record, err := openRecord(row.event, row.hash)
	if err != nil {
		v.found(ruleReadable, "journal", row.sequence, "the event cannot be read: %v", err)
		return false
	}
	event := &record.Event
	at := row.recordedAt
	if event.IdempotencyKey != row.key || event.Kind() != row.kind ||
		at.InfinityModifier != pgtype.Finite || event.At != ledger.InstantOf(at.Time) {
		v.found(ruleColumns, "journal", row.sequence, "the columns (%s, %s, %s %s) differ from the event (%s, %s, %s)",
			row.key, row.kind, at.InfinityModifier, ledger.InstantOf(at.Time), event.IdempotencyKey, event.Kind(), event.At)
	}
	effects, err := ledger.Evolve(v.state, record)
	if err != nil {
		v.found(ruleReplays, "journal", row.sequence, "%v", err)
		return false
	}
	v.state.Commit()
	for i := range effects.Entries {
		v.posted.add(effects.Entries[i].Sequence, entryDigest(&effects.Entries[i]))
	}
	for _, hold := range closedRows(effects.Holds) {
		v.closed.add(hold.lastSequence, hold.digest())
	}
	v.file(effects.Documents)
	v.checkClearing(effects.Entries)
	return true
}

// checkClearing sums up what a command left in clearing.
func (v *verifier) checkClearing(entries []ledger.Entry) {
	type account struct {
		medicine ledger.MedicineID
		lot      ledger.LotID
	}
	var left map[account]int64
	for _, e := range entries {
		if e.Debit != ledger.Clearing && e.Credit != ledger.Clearing {
			continue
		}
		if left == nil {
			left = make(map[account]int64)
		}
		left[account{e.Medicine, e.Lot}] += flowInto(&e, ledger.Clearing)
	}
	for a, quantity := range left {
		if quantity != 0 {
			v.found(ruleClearing, fmt.Sprintf("medicine %s, lot %s, bucket %s", a.medicine, a.lot, ledger.Clearing),
				entries[0].Sequence, "%d units are left after the command", quantity)
		}
	}
}

// flowInto is what an entry adds to a bucket.
func flowInto(e *ledger.Entry, bucket ledger.Bucket) int64 {
	var flow int64
	if e.Debit == bucket {
		flow += e.Quantity
	}
	if e.Credit == bucket {
		flow -= e.Quantity
	}
	return flow
}

// tally sums up rows in any order, for each span of sequences, so that two sets
// of rows can be compared without either being sorted or kept.
type tally map[ledger.Sequence]rowSum

// tallySpan is how many sequences share a sum.
const tallySpan = 1000

// rowSum is the number of rows and the sum of their hashes, word by word.
type rowSum struct {
	rows  int64
	words [sha256.Size / 8]uint64
}

func (t tally) add(sequence ledger.Sequence, digest [sha256.Size]byte) {
	sum := t[sequence/tallySpan]
	sum.rows++
	for i := range sum.words {
		sum.words[i] += binary.BigEndian.Uint64(digest[8*i:])
	}
	t[sequence/tallySpan] = sum
}

// differences returns the first spans in which two tallies differ.
func (t tally) differences(other tally, most int) map[ledger.Sequence]bool {
	all := make(map[ledger.Sequence]bool)
	for _, pair := range [][2]tally{{t, other}, {other, t}} {
		for span, sum := range pair[0] {
			if sum != pair[1][span] {
				all[span] = true
			}
		}
	}
	spans := slices.Sorted(maps.Keys(all))
	for _, span := range spans[min(most, len(spans)):] {
		delete(all, span)
	}
	return all
}

// suspectSpans is how many spans of a tally are compared row by row.
const suspectSpans = 20

// digestOf hashes texts and numbers so that no two rows are written alike.
func digestOf(words []string, numbers ...int64) [sha256.Size]byte {
	b := make([]byte, 0, 256)
	for _, word := range words {
		b = binary.AppendUvarint(b, uint64(len(word)))
		b = append(b, word...)
	}
	for _, n := range numbers {
		b = binary.AppendVarint(b, n)
	}
	return sha256.Sum256(b)
}

func entryDigest(e *ledger.Entry) [sha256.Size]byte {
	return digestOf([]string{string(e.Location), string(e.Medicine), string(e.Lot)},
		int64(e.Sequence), int64(e.Line), int64(e.Debit), int64(e.Credit), e.Quantity,
		e.After.Available, e.After.Reserved, e.After.Pending, e.After.Quarantined, e.After.InTransit)
}

// entryKey is a place in the entries' primary key.
type entryKey struct {
	ledger.Shelf
	sequence ledger.Sequence
	line     int
}

func entryKeyOf(e *ledger.Entry) entryKey {
	return entryKey{ledger.Shelf{Location: e.Location, Medicine: e.Medicine}, e.Sequence, e.Line}
}

// eachEntry visits the stored entries in the order of their key: any other
// would have the server sort all of them.
func (v *verifier) eachEntry(ctx context.Context, visit func(*ledger.Entry)) error {
	for after := (entryKey{sequence: -1 << 63}); ; {
		s := selectFrom(`SELECT location_id, medicine_id, sequence, line, lot_id, debit, credit, quantity, available, reserved, pending, quarantined, in_transit
			FROM entries WHERE`).add(` clinic_id = ? AND (location_id, medicine_id, sequence, line) > (?, ?, ?, ?)`,
			v.clinic, after.Location, after.Medicine, after.sequence, after.line).
			add(` ORDER BY location_id, medicine_id, sequence, line LIMIT ?`, verifyChunk)
		entries, err := collect(ctx, v.tx, s, scanEntry)
		if err != nil {
			return err
		}
		for i := range entries {
			visit(&entries[i])
			after = entryKeyOf(&entries[i])
		}
		if len(entries) < verifyChunk {
			return nil
		}
	}
}

func scanEntry(rows pgx.Rows, e *ledger.Entry) error {
	b := &e.After
	return rows.Scan(&e.Location, &e.Medicine, &e.Sequence, &e.Line, &e.Lot, &e.Debit, &e.Credit, &e.Quantity,
		&b.Available, &b.Reserved, &b.Pending, &b.Quarantined, &b.InTransit)
}

// beyond says that the journal could not be replayed as far as a sequence.
func (v *verifier) beyond(sequence ledger.Sequence) bool {
	return !v.whole && sequence > v.state.Head().Sequence
}

// checkEntries compares the stored entries with the ones before them and with
// those that the journal posts.
func (v *verifier) checkEntries(ctx context.Context) error {
	err := v.eachEntry(ctx, func(e *ledger.Entry) {
		v.checkEntry(e)
		if !v.beyond(e.Sequence) {
			v.stored.add(e.Sequence, entryDigest(e))
		}
		if v.entries++; v.entries%verifyChunk == 0 {
			v.progress()
		}
	})
	if err != nil {
		return err
	}
	if maps.Equal(v.posted, v.stored) {
		return nil
	}
	return v.explainEntries(ctx)
}

// lotEnd is what the last entry of a lot on a shelf left.
type lotEnd struct {
	balances ledger.Balances
	sequence ledger.Sequence
}

var heldBuckets = []ledger.Bucket{ledger.Available, ledger.Reserved, ledger.Pending, ledger.Quarantined, ledger.InTransit}

func (v *verifier) checkEntry(e *ledger.Entry) {
	key := lotKey{ledger.Shelf{Location: e.Location, Medicine: e.Medicine}, e.Lot}
	before := v.ends[key]
	for _, bucket := range heldBuckets {
		want, got := before.balances.Of(bucket)+flowInto(e, bucket), e.After.Of(bucket)
		if want != got {
			v.found(ruleSum, bucketName(key, bucket), e.Sequence, "the entries sum to %d, and the balance recorded is %d", want, got)
		}
	}
	// Later entries are judged by this one, so that an error is told once.
	v.ends[key] = lotEnd{e.After, e.Sequence}
	flows := v.flows[e.Lot]
	if flows == nil {
		flows = make(map[ledger.Bucket]int64)
		v.flows[e.Lot] = flows
	}
	flows[e.Debit] += e.Quantity
	flows[e.Credit] -= e.Quantity
}

// explainEntries names the entries in which the journal and the table differ.
func (v *verifier) explainEntries(ctx context.Context) error {
	spans := v.posted.differences(v.stored, suspectSpans)
	posted := make(map[entryKey]ledger.Entry)
	err := v.again(ctx, func(effects *ledger.Effects) {
		for _, e := range effects.Entries {
			if spans[e.Sequence/tallySpan] {
				posted[entryKeyOf(&e)] = e
			}
		}
	})
	if err != nil {
		return err
	}
	err = v.eachEntry(ctx, func(e *ledger.Entry) {
		if !spans[e.Sequence/tallySpan] || v.beyond(e.Sequence) {
			return
		}
		key := entryKeyOf(e)
		want, ok := posted[key]
		delete(posted, key)
		switch account := lotName(key.Shelf, e.Lot); {
		case !ok:
			v.found(ruleEntries, account, e.Sequence, "an entry is stored that the journal does not post: %s", entryText(e))
		case want != *e:
			v.found(ruleEntries, lotName(key.Shelf, want.Lot), e.Sequence, "the journal posts the entry %s; stored is %s", entryText(&want), entryText(e))
		}
	})
	missing := slices.SortedFunc(maps.Values(posted), func(a, b ledger.Entry) int { return cmp.Compare(a.Sequence, b.Sequence) })
	for _, want := range missing {
		v.found(ruleEntries, lotName(entryKeyOf(&want).Shelf, want.Lot), want.Sequence, "the journal posts an entry that is not stored: %s", entryText(&want))
	}
	return err
}

func entryText(e *ledger.Entry) string {
	return fmt.Sprintf("line %d, lot %s, %d from %s to %s, leaving %+v", e.Line, e.Lot, e.Quantity, e.Credit, e.Debit, e.After)
}

// again replays the journal once more, as far as it went, to look at what only
// a sum was kept of.
func (v *verifier) again(ctx context.Context, visit func(*ledger.Effects)) error {
	state := ledger.NewState(v.clinic, time.LoadLocation)
	var broken error
	_, err := v.walk(ctx, func(row *journalRow) bool {
		if state.Head().Sequence == v.state.Head().Sequence {
			return false
		}
		record, err := openRecord(row.event, row.hash)
		if err != nil {
			broken = err
			return false
		}
		effects, err := ledger.Evolve(state, record)
		if err != nil {
			broken = err
			return false
		}
		state.Commit()
		visit(&effects)
		return true
	})
	return errors.Join(err, broken)
}

// heldKey is a row's place in the holds' primary key.
type heldKey struct {
	ledger.Shelf
	hold ledger.HoldID
	lot  ledger.LotID
}

// holdRow is a row of the holds' table.
type holdRow struct {
	heldKey
	line               int
	quantity, reserved int64
	status             ledger.HoldStatus
	reasonCode         string
	deadline           ledger.Instant
	actor              ledger.Actor
	opened             ledger.Sequence
	lastSequence       ledger.Sequence
}

func (r *holdRow) digest() [sha256.Size]byte {
	return digestOf([]string{
		string(r.Location), string(r.Medicine), string(r.hold), string(r.lot), r.reasonCode, string(r.actor),
	}, int64(r.line), r.quantity, r.reserved, int64(r.status), int64(r.deadline), int64(r.opened), int64(r.lastSequence))
}

// String writes what the row says about its lot's part in the hold.
func (r *holdRow) String() string {
	return fmt.Sprintf("line %d, %d of %d units held, status %d, reason %s, deadline %s, actor %s, opened by %d, changed by %d",
		r.line, r.quantity, r.reserved, r.status, r.reasonCode, r.deadline, r.actor, r.opened, r.lastSequence)
}

// closedRows are the rows of the holds that a command has closed.
func closedRows(holds []*ledger.Hold) []holdRow {
	var rows []holdRow
	for _, hold := range holds {
		if hold.Status == ledger.HoldOpen {
			continue
		}
		for i, line := range hold.Lines {
			rows = append(rows, holdRow{
				heldKey: heldKey{hold.Shelf, hold.ID, line.Lot}, line: i, quantity: line.Quantity, reserved: line.Reserved,
				status: hold.Status, reasonCode: hold.ReasonCode, deadline: hold.Deadline, actor: hold.Actor,
				opened: hold.OpenedSequence, lastSequence: hold.LastSequence,
			})
		}
	}
	return rows
}

// eachClosedHold visits the stored rows of closed holds in the order of their
// key.
func (v *verifier) eachClosedHold(ctx context.Context, visit func(*holdRow)) error {
	for after := (heldKey{}); ; {
		s := selectFrom(`SELECT location_id, medicine_id, hold_id, lot_id, line, quantity, reserved_quantity, status, reason_code, deadline, actor, opened_sequence, last_sequence
			FROM holds WHERE`).add(` clinic_id = ? AND status <> 1 AND (location_id, medicine_id, hold_id, lot_id) > (?, ?, ?, ?)`,
			v.clinic, after.Location, after.Medicine, after.hold, after.lot).
			add(` ORDER BY location_id, medicine_id, hold_id, lot_id LIMIT ?`, verifyChunk)
		holds, err := collect(ctx, v.tx, s, func(rows pgx.Rows, r *holdRow) error {
			var deadline time.Time
			err := rows.Scan(&r.Location, &r.Medicine, &r.hold, &r.lot, &r.line, &r.quantity, &r.reserved, &r.status,
				&r.reasonCode, &deadline, &r.actor, &r.opened, &r.lastSequence)
			r.deadline = ledger.InstantOf(deadline)
			return err
		})
		if err != nil {
			return err
		}
		for i := range holds {
			visit(&holds[i])
			after = holds[i].heldKey
		}
		v.progress()
		if len(holds) < verifyChunk {
			return nil
		}
	}
}

// checkClosedHolds compares the holds that are closed, which the state has
// forgotten, with those that the journal has closed.
func (v *verifier) checkClosedHolds(ctx context.Context) error {
	err := v.eachClosedHold(ctx, func(r *holdRow) {
		if r.quantity != 0 {
			v.found(ruleClosedEmpty, r.account(), r.lastSequence, "it is closed and holds %d units", r.quantity)
		}
		if !v.beyond(r.lastSequence) {
			v.archived.add(r.lastSequence, r.digest())
		}
	})
	if v.unreadable("holds", 0, err) {
		return nil
	}
	if err != nil || maps.Equal(v.closed, v.archived) {
		return err
	}
	return v.explainClosedHolds(ctx)
}

// account names the reserved units of the row's lot, and the hold.
func (r *holdRow) account() string {
	return fmt.Sprintf("%s, hold %s", bucketName(lotKey{r.Shelf, r.lot}, ledger.Reserved), r.hold)
}

// explainClosedHolds names the closed holds in which the journal and the table
// differ.
func (v *verifier) explainClosedHolds(ctx context.Context) error {
	spans := v.closed.differences(v.archived, suspectSpans)
	closed := make(map[heldKey]holdRow)
	err := v.again(ctx, func(effects *ledger.Effects) {
		for _, row := range closedRows(effects.Holds) {
			if spans[row.lastSequence/tallySpan] {
				closed[row.heldKey] = row
			}
		}
	})
	if err != nil {
		return err
	}
	err = v.eachClosedHold(ctx, func(r *holdRow) {
		if !spans[r.lastSequence/tallySpan] || v.beyond(r.lastSequence) {
			return
		}
		want, ok := closed[r.heldKey]
		delete(closed, r.heldKey)
		switch {
		case !ok:
			v.found(ruleClosedHolds, r.account(), r.lastSequence, "a closed hold is stored that the journal does not close: %s", r)
		case want != *r:
			v.found(ruleClosedHolds, r.account(), want.lastSequence, "stored is %s, replayed is %s", r, &want)
		}
	})
	missing := slices.SortedFunc(maps.Values(closed), func(a, b holdRow) int { return cmp.Compare(a.lastSequence, b.lastSequence) })
	for _, want := range missing {
		v.found(ruleClosedHolds, want.account(), want.lastSequence, "the closed hold is missing, or stored as open: replayed is %s", &want)
	}
	return err
}

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
	var sequence ledger.Sequence
	var hash []byte
	var at time.Time
	want := v.state.Head()
	err := v.tx.QueryRow(ctx, `SELECT sequence, hash, recorded_at FROM heads WHERE clinic_id = $1`, v.clinic).Scan(&sequence, &hash, &at)
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
	last := make(map[string]ledger.Sequence, len(got.Stock))
	for i := range got.Stock {
		last[lotName(got.Stock[i].Shelf, got.Stock[i].Lot)] = got.Stock[i].LastSequence
	}
	for _, broken := range got.CheckInvariants() {
		account, message, _ := strings.Cut(broken.Error(), ": ")
		v.found(ruleConsistent, account, last[account], "%s", message)
	}
	v.checkBalances(got.Stock)
	v.checkConservation(got.Stock)
	if !v.whole {
		return nil
	}
	want := v.state.Snapshot()
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
	compare(v, got.Locations, want.Locations, func(d *ledger.Location) (string, ledger.Sequence) {
		return "location " + string(d.ID), d.LastSequence
	})
	compare(v, got.Medicines, want.Medicines, func(d *ledger.Medicine) (string, ledger.Sequence) {
		return "medicine " + string(d.ID), d.LastSequence
	})
	compare(v, got.Lots, want.Lots, func(d *ledger.Lot) (string, ledger.Sequence) {
		return fmt.Sprintf("medicine %s, lot %s", d.Medicine, d.ID), d.LastSequence
	})
	v.compareStock(got.Stock, want.Stock)
	compare(v, got.Stock, want.Stock, func(d *ledger.Stock) (string, ledger.Sequence) {
		return lotName(d.Shelf, d.Lot), d.LastSequence
	})
	compare(v, got.Holds, want.Holds, func(d *ledger.Hold) (string, ledger.Sequence) {
		return fmt.Sprintf("%s, hold %s", shelfName(d.Shelf), d.ID), d.LastSequence
	})
	compare(v, writtenOut(got.Documents), writtenOut(want.Documents), func(d *writtenDocument) (string, ledger.Sequence) {
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
