package txn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

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
	ruleErased      = "erased-patient-is-gone"
	ruleModels      = "read-models-follow-journal"
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
	// Replayed is called for each clinic with what its journal came to, beside
	// what is stored, after its violations were reported.
	Replayed func(Replayed)
}

// Replayed is what replaying a clinic's journal came to.
type Replayed struct {
	Clinic ledger.ClinicID
	Head   ledger.Head // as far as the journal goes, or could be replayed
	// Whole tells that it was replayed to its end.
	Whole  bool
	Tables []ReplayedTable
}

// ReplayedTable is what the journal makes of a table, beside what is stored.
type ReplayedTable struct {
	Name             string
	Replayed, Stored int64 // rows; documents and holds count once
	// Differences are what is missing, surplus or not the same. Where a table
	// has very many, not all of them are counted.
	Differences int64
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
			v.server = db.server.Kind
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
		if options.Replayed != nil {
			options.Replayed(Replayed{Clinic: clinic, Head: v.state.Head(), Whole: v.whole, Tables: v.tables})
		}
	}
	return total, nil
}

// patient returns the same database with another bound on transactions: a large
// clinic takes minutes to read, which no command or query may.
func (db *DB) patient(limit time.Duration) *DB {
	cfg := db.cfg
	cfg.TransactionTimeout = max(limit, cfg.TransactionTimeout)
	return db.with(cfg)
}

// persistent returns the same database with another bound on how often a
// transaction is tried.
func (db *DB) persistent(attempts int) *DB {
	cfg := db.cfg
	cfg.MaxAttempts = max(attempts, cfg.MaxAttempts)
	return db.with(cfg)
}

func (db *DB) with(cfg Config) *DB {
	return &DB{cfg: cfg, server: db.server, write: db.write, read: db.read, tuned: db.tuned}
}

const (
	selectVerifiable = `SELECT clinic_id FROM heads UNION SELECT clinic_id FROM clinics UNION SELECT clinic_id FROM clinic_directory WHERE shard_id = 'shard-1'`
	selectLeft       = `SELECT clinic_id FROM heads WHERE epoch < 0`
)

// clinicsWithRows lists the clinics that have a row in any table, in order. Those
// that have left for another shard are verified there.
// Tables with many rows a clinic are not scanned: from each clinic known, the
// next one is looked up, so that only strangers cost a round more.
func (db *DB) clinicsWithRows(ctx context.Context) ([]ledger.ClinicID, error) {
	known := make(map[string]bool)
	var left []string
	err := db.readTx(ctx, func(tx pgx.Tx) (err error) {
		clear(known)
		if left, err = collect(ctx, tx, selectFrom(selectLeft), func(rows pgx.Rows, id *string) error { return rows.Scan(id) }); err != nil {
			return err
		}
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
		if !slices.Contains(left, id) {
			clinics = append(clinics, ledger.ClinicID(id))
		}
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
	server   ServerKind
	progress func()
	state    *ledger.State // what the journal comes to
	// whole says that the journal was replayed to its end. Behind a broken
	// link nothing can be said of what the journal makes.
	whole bool
	// arriving says that the clinic is known not to be in use here yet.
	arriving bool

	posted, stored   tally                                // entries: by the journal, in the table
	closed, archived tally                                // closed holds: by the journal, in the table
	filed            map[ledger.DocumentKey]filedDocument // closed documents, by the journal
	ends             map[lotKey]lotEnd
	flows            map[ledger.LotID]map[ledger.Bucket]int64
	entries          int64
	models           *verifiedModels

	violations []Violation
	count      int64
	// tables are those that were compared; what is found while one of them is,
	// counts as its difference.
	tables    []ReplayedTable
	comparing bool
}

// table begins the comparison of a table, and ended ends it.
func (v *verifier) table(name string, replayed, stored int64) {
	v.tables = append(v.tables, ReplayedTable{Name: name, Replayed: replayed, Stored: stored})
	v.comparing = true
}

func (v *verifier) ended() { v.comparing = false }

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
	if v.comparing {
		v.tables[len(v.tables)-1].Differences++
	}
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
	if !errors.As(err, &value) && !errors.Is(err, errUnreadable) {
		return false
	}
	v.found(ruleReadable, what, sequence, "a row cannot be read: %v", err)
	return true
}

func (v *verifier) run(ctx context.Context) error {
	if err := v.openModels(ctx); err != nil {
		return err
	}
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
	if err := v.checkErasedPatients(ctx); err != nil {
		return err
	}
	if err := v.checkHead(ctx); err != nil {
		return err
	}
	if err := v.checkModels(ctx); err != nil {
		return err
	}
	return v.checkProjections(ctx)
}
