package txn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn/txntest/faultproxy"
)

// tenantTables lists the tables that have rows of clinics, whatever they are.
func tenantTables(tb testing.TB, db *DB) []string {
	tb.Helper()
	var tables []string
	err := db.readTx(context.Background(), func(tx pgx.Tx) (err error) {
		tables, err = collect(context.Background(), tx, selectFrom(`SELECT table_name FROM information_schema.columns
			WHERE table_schema = current_schema() AND column_name = 'clinic_id' ORDER BY table_name`),
			func(rows pgx.Rows, name *string) error { return rows.Scan(name) })
		return err
	})
	if err != nil || len(tables) < 10 {
		tb.Fatalf("the tables of clinics are %v: %v", tables, err)
	}
	return tables
}

func isModel(name string) bool {
	return slices.ContainsFunc(modelTables, func(t table) bool { return t.name == name })
}

// lose deletes all that the database knows of a clinic.
func lose(tb testing.TB, db *DB, clinic ledger.ClinicID) {
	tb.Helper()
	for _, table := range tenantTables(tb, db) {
		if _, err := db.write.Exec(context.Background(), "DELETE FROM "+table+" WHERE clinic_id = $1", clinic); err != nil {
			tb.Fatalf("lose %s: %v", table, err)
		}
	}
}

// rowsOf writes out all rows of a clinic, by table, without what a restore
// changes: the epochs, when the directory was told, and how far the read models
// have come meanwhile.
func rowsOf(tb testing.TB, db *DB, clinic ledger.ClinicID) map[string][]string {
	tb.Helper()
	all := make(map[string][]string)
	for _, table := range tenantTables(tb, db) {
		if table == "epochs" || table == "clinic_directory" || table == cursorsTable.name || isModel(table) {
			continue
		}
		rows, err := db.read.Query(context.Background(), "SELECT * FROM "+table+" WHERE clinic_id = $1", clinic)
		if err != nil {
			tb.Fatal(err)
		}
		texts, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
			values, err := row.Values()
			if table == "heads" {
				values = slices.DeleteFunc(values, func(v any) bool { _, number := v.(int64); return number })
			}
			return fmt.Sprintf("%v", values), err
		})
		if err != nil {
			tb.Fatal(err)
		}
		slices.Sort(texts)
		if len(texts) > 0 {
			all[table] = texts
		}
	}
	return all
}

func export(tb testing.TB, db *DB, clinic ledger.ClinicID) []byte {
	tb.Helper()
	var file bytes.Buffer
	if _, err := ExportJournal(context.Background(), db, clinic, &file, nil); err != nil {
		tb.Fatal(err)
	}
	return file.Bytes()
}

func restore(tb testing.TB, db *DB, file []byte) ImportedJournal {
	tb.Helper()
	done, err := ImportJournal(context.Background(), NewDirectory(db), bytes.NewReader(file), ImportJournalOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	return done
}

// verifyFile verifies a file and writes each violation as "sequence invariant".
func verifyFile(tb testing.TB, file []byte) (JournalSummary, []string) {
	tb.Helper()
	var got []string
	summary, violations, err := VerifyJournal(context.Background(), bytes.NewReader(file), VerifyJournalOptions{Report: func(v Violation) {
		tb.Logf("%s", v)
		got = append(got, fmt.Sprintf("%d %s", v.Sequence, v.Invariant))
	}})
	if err != nil {
		tb.Fatal(err)
	}
	if violations != len(got) {
		tb.Errorf("%d violations, and %d were reported", violations, len(got))
	}
	return summary, got
}

// record is a record of a file.
type fileRecord struct {
	stored []byte
	hash   ledger.Hash
}

// records reads a file's records.
func records(tb testing.TB, file []byte) (JournalHeader, []fileRecord, ledger.Head) {
	tb.Helper()
	r, err := NewJournalReader(bytes.NewReader(file))
	if err != nil {
		tb.Fatal(err)
	}
	var all []fileRecord
	for {
		stored, hash, err := r.Next()
		if errors.Is(err, io.EOF) {
			return r.Header(), all, r.Head()
		}
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, fileRecord{stored, hash})
	}
}

func TestRestoreGivesTheSameRows(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	p.everyDocument()
	db, before := p.e.db, p.stored()
	want := rowsOf(t, db, p.id)
	file := export(t, db, p.id)
	if again := export(t, db, p.id); !bytes.Equal(file, again) {
		t.Error("two exports of the same journal differ")
	}
	summary, found := verifyFile(t, file)
	if len(found) > 0 || summary.Head != before.Head || summary.Entries != int64(len(want["entries"])) || summary.Commands != int64(len(want["journal"])) {
		t.Errorf("the file holds %+v, with %v; the clinic is at %+v", summary, found, before.Head)
	}
	_, original, _ := records(t, file)

	lose(t, db, p.id)
	done := restore(t, db, file)
	if diff := gocmp.Diff(want, rowsOf(t, db, p.id)); diff != "" {
		t.Errorf("the rows differ after the restore: %s", diff)
	}
	p.verify()
	after := p.stored()
	if wantEpoch := (Epoch{Epoch: 2, FirstSequence: before.Head.Sequence + 1, StartedAt: done.Epoch.StartedAt}); done.Epoch != wantEpoch || after.Head.Epoch != 2 {
		t.Errorf("the restore started %+v, and the clinic is in epoch %d", done.Epoch, after.Head.Epoch)
	}
	after.Head.Epoch = before.Head.Epoch
	if diff := gocmp.Diff(before, after); diff != "" {
		t.Errorf("the state differs after the restore: %s", diff)
	}

	// Once more, of what was restored: the epochs go along.
	header, copied, head := records(t, export(t, db, p.id))
	if !slices.EqualFunc(original, copied, func(a, b fileRecord) bool { return bytes.Equal(a.stored, b.stored) && a.hash == b.hash }) {
		t.Error("the export of the restored clinic has other records")
	}
	if head.Epoch != 2 || head.Hash != before.Head.Hash || !slices.Equal(header.Epochs, []Epoch{done.Epoch}) {
		t.Errorf("the export of the restored clinic ends with %+v, after %+v", head, header.Epochs)
	}
	p.receive(1)
	if head := p.stored().Head; head.Epoch != 2 || head.Sequence != before.Head.Sequence+1 {
		t.Errorf("the clinic went on to %+v", head)
	}
	p.verify()
}

// A replay whose state is made anew after each command comes to the same.
func TestReplayWithRenewals(t *testing.T) {
	t.Parallel()
	p := newPharmacy(t)
	p.everyDocument()
	p.transferAll(3)
	_, all, head := records(t, export(t, p.e.db, p.id))
	r, err := newReplayer(p.id, 1)
	if err != nil {
		t.Fatal(err)
	}
	r.every = 1
	for _, record := range all {
		if _, _, violation := r.apply(record.stored, record.hash); violation != nil {
			t.Fatal(violation)
		}
		if err := r.renew(); err != nil {
			t.Fatal(err)
		}
	}
	if found := r.finish(head); len(found) > 0 {
		t.Errorf("violations: %v", found)
	}
	if diff := gocmp.Diff(p.stored(), r.state.Snapshot(), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the state differs: %s", diff)
	}
}

// longJournal writes a clinic's journal of so many commands.
func longJournal(tb testing.TB, clinic ledger.ClinicID, commands int) []byte {
	tb.Helper()
	var file bytes.Buffer
	if err := writeLongJournal(&file, clinic, commands); err != nil {
		tb.Fatal(err)
	}
	return file.Bytes()
}

func TestImportGoesOnWhereItWasInterrupted(t *testing.T) {
	t.Parallel()
	db := testDB(t)
	clinic := ledger.ClinicID(newClinicID(t))
	file := longJournal(t, clinic, 2500)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := ImportJournal(ctx, NewDirectory(db), bytes.NewReader(file), ImportJournalOptions{Progress: func(int64, int64) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("the interrupted import ended with %v", err)
	}
	head, _, err := db.readHead(t.Context(), clinic)
	if err != nil || head.Epoch != restoringEpoch || head.Sequence == 0 || head.Sequence >= 2500 {
		t.Fatalf("the interrupted import left %+v, %v", head, err)
	}

	// Nobody gets to the clinic in between.
	e, q := testExecutor(t, ExecutorConfig{}), NewQueries(NewDirectory(db))
	command := ledger.Command{Clinic: clinic, IdempotencyKey: "k", Actor: "a", Body: &ledger.CreateLocation{LocationID: "attic", Name: "Attic", LocationKind: ledger.Store}}
	for range 2 {
		verdicts, err := e.Submit(t.Context(), Submission{Clinic: clinic, Commands: []ledger.Command{command}})
		if err != nil || !errors.Is(verdicts[0].Err, ErrRestoring) {
			t.Errorf("a command during the restore: %v, %v", verdicts, err)
		}
	}
	if _, _, err := q.Clinic(t.Context(), clinic, ReadOptions{}); !errors.Is(err, ErrRestoring) || !errors.Is(err, ErrUnavailable) {
		t.Errorf("a query during the restore: %v", err)
	}
	if _, err := ExportJournal(t.Context(), db, clinic, io.Discard, nil); !errors.Is(err, ErrRestoring) {
		t.Errorf("an export during the restore: %v", err)
	}
	if _, err := StartEpoch(t.Context(), db, clinic, 0); !errors.Is(err, ErrRestoring) {
		t.Errorf("a new epoch during the restore: %v", err)
	}

	if found := violations(t, db, clinic); !slices.Equal(found, []string{fmt.Sprintf("%d head: head-is-last-record", head.Sequence)}) {
		t.Errorf("verification during the restore finds %v", found)
	}

	done := restore(t, db, file)
	if done.Resumed != head.Sequence || done.Commands != 2500 || done.Epoch.Epoch != 2 {
		t.Errorf("the second import did %+v", done)
	}
	if found := violations(t, db, clinic); len(found) > 0 {
		t.Errorf("violations: %v", found)
	}
	verdicts, err := e.Submit(t.Context(), Submission{Clinic: clinic, Commands: []ledger.Command{command}})
	if err != nil || verdicts[0].Err != nil || verdicts[0].Record.Event.Sequence != 2501 {
		t.Errorf("a command after the restore: %v, %v", verdicts, err)
	}
}

func TestImportWithoutItsLastStep(t *testing.T) {
	t.Parallel()
	c, _, _ := verifiable(t, testExecutor(t, ExecutorConfig{}))
	file := export(t, c.e.db, c.id)
	if _, err := c.e.db.write.Exec(t.Context(), updateHeadEpoch, c.id, restoringEpoch); err != nil {
		t.Fatal(err)
	}
	if done := restore(t, c.e.db, file); done.Resumed != 12 || done.Epoch.Epoch != 2 {
		t.Errorf("the import did %+v", done)
	}
	// Now it is all there: again is nothing.
	if done := restore(t, c.e.db, file); done.Resumed != 12 || done.Epoch.Epoch != 0 {
		t.Errorf("the import again did %+v", done)
	}
	if head := c.stored().Head; head.Epoch != 2 {
		t.Errorf("the clinic is at %+v", head)
	}
	c.verify()
}

// An older backup by the database's tools, brought up to a newer export.
func TestImportGoesOnFromAClinicInUse(t *testing.T) {
	t.Parallel()
	c, _, _ := verifiable(t, testExecutor(t, ExecutorConfig{}))
	db := c.e.db
	older := export(t, db, c.id)
	c.receive(7)
	c.must(reserve(2))
	newer := export(t, db, c.id)
	lose(t, db, c.id)
	restore(t, db, older)
	if _, err := StartEpoch(t.Context(), db, c.id, 7); err != nil {
		t.Fatal(err)
	}
	done := restore(t, db, newer)
	if done.Resumed != 12 || done.Epoch.Epoch != 8 || done.Epoch.FirstSequence != 15 {
		t.Errorf("the import did %+v", done)
	}
	_, epochs, err := db.readHead(t.Context(), c.id)
	var got []string
	for _, e := range epochs {
		got = append(got, fmt.Sprintf("%d from %d", e.Epoch, e.FirstSequence))
	}
	if want := []string{"2 from 13", "7 from 13", "8 from 15"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("the epochs are %v, want %v (%v)", got, want, err)
	}
	c.verify()

	// A clinic that went another way is left alone, and so is a longer one.
	c.receive(1)
	before := rowsOf(t, db, c.id)
	refused := func(file []byte, words string) {
		t.Helper()
		_, err := ImportJournal(t.Context(), NewDirectory(db), bytes.NewReader(file), ImportJournalOptions{})
		if !errors.Is(err, ErrOtherJournal) || !strings.Contains(err.Error(), words) {
			t.Errorf("the import ended with %v, want %q", err, words)
		}
	}
	refused(newer, "at sequence 15 already")
	refused(longJournal(t, c.id, 100), "has hash")
	if diff := gocmp.Diff(before, rowsOf(t, db, c.id)); diff != "" {
		t.Errorf("a refused import changed the clinic: %s", diff)
	}
}

// A commit whose answer is lost is neither repeated nor taken for a failure.
func TestImportFindsOutWhatWasCommitted(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]faultproxy.Fault{"request lost": faultproxy.LoseRequest, "answer lost": faultproxy.LoseAnswer} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proxy := faultproxy.New(t, testURL(t))
			db := openTest(t, Config{DatabaseURL: proxy.URL(), TransactionTimeout: 10 * time.Second})
			clinic := ledger.ClinicID(newClinicID(t))
			file := longJournal(t, clinic, 3500)
			// The first arming hits the second chunk's commit, and so on up to
			// the last step.
			done, err := ImportJournal(t.Context(), NewDirectory(db), bytes.NewReader(file), ImportJournalOptions{Progress: func(int64, int64) { proxy.Arm(fault) }})
			if err != nil {
				t.Fatal(err)
			}
			if done.Epoch.Epoch != 2 || proxy.Fired() < 3 {
				t.Errorf("the import did %+v, with %d faults", done, proxy.Fired())
			}
			if found := violations(t, testDB(t), clinic); len(found) > 0 {
				t.Errorf("violations: %v", found)
			}
			head, epochs, err := testDB(t).readHead(t.Context(), clinic)
			if err != nil || head.Epoch != 2 || len(epochs) != 1 {
				t.Errorf("the clinic is at %+v, with epochs %+v (%v)", head, epochs, err)
			}
		})
	}
}

func TestExportRefusesWhatDoesNotReplay(t *testing.T) {
	t.Parallel()
	e := testExecutor(t, ExecutorConfig{})
	for name, test := range map[string]struct{ sql, words string }{
		"a changed event": {`UPDATE journal SET event = decode(replace(encode(event, 'hex'), '746573746572', '746573746573'), 'hex') WHERE clinic_id = $1 AND sequence = 10`, "sequence 10: journal-replays"},
		"a missing row":   {`DELETE FROM journal WHERE clinic_id = $1 AND sequence = 9`, "sequence 9: journal-gap-free"},
		"a short hash":    {`UPDATE journal SET hash = '\x00' WHERE clinic_id = $1 AND sequence = 3`, "sequence 3: readable"},
		"no last row":     {`DELETE FROM journal WHERE clinic_id = $1 AND sequence = 12`, "sequence 12: journal-gap-free"},
		"another head":    {`UPDATE heads SET hash = decode(repeat('ab', 32), 'hex') WHERE clinic_id = $1`, "head-is-last-record"},
	} {
		t.Run(name, func(t *testing.T) {
			c, _, _ := verifiable(t, e)
			defer lose(t, e.db, c.id)
			if _, err := e.db.write.Exec(t.Context(), test.sql, c.id); err != nil {
				t.Fatal(err)
			}
			var file bytes.Buffer
			if _, err := ExportJournal(t.Context(), e.db, c.id, &file, nil); err == nil || !strings.Contains(err.Error(), test.words) {
				t.Errorf("the export ended with %v, want %q", err, test.words)
			}
			if _, found := verifyFile(t, file.Bytes()); len(found) == 0 {
				t.Error("what a failed export left is taken for a journal")
			}
		})
	}
	var absent *ledger.Rejection
	if _, err := ExportJournal(t.Context(), e.db, "t-nowhere", io.Discard, nil); !errors.As(err, &absent) || absent.Reason != ledger.ReasonClinicNotFound {
		t.Errorf("the export of an unknown clinic: %v", err)
	}
}

func TestPlansOfRestores(t *testing.T) {
	t.Parallel()
	db, write, read := traced(t)
	p := &planner{tb: t, db: db, write: write, read: read}
	c, _, _ := verifiable(t, testExecutorOn(t, db, ExecutorConfig{}))
	c.startEpoch()
	p.sent(readSession, writeSession) // what made the clinic
	const heads, epochs = "heads_pkey(clinic_id)", "epochs_pkey(clinic_id)"
	var file bytes.Buffer
	p.check(wantPlan{"ExportJournal", func() error {
		_, err := ExportJournal(t.Context(), db, c.id, &file, nil)
		return err
	}, []string{heads, epochs, "journal_pkey(clinic_id, sequence)"}}, readSession)
	p.check(wantPlan{"StartEpoch", func() error {
		_, err := StartEpoch(t.Context(), db, c.id, 0)
		return err
	}, []string{heads, epochs}}, writeSession)
	p.check(wantPlan{"ClinicsWithHeads", func() error {
		_, err := ClinicsWithHeads(t.Context(), db, c.id, 10)
		return err
	}, []string{heads}}, readSession)
	p.check(wantPlan{"a read of an older epoch", func() error {
		_, _, err := NewQueries(NewDirectory(db)).Clinic(t.Context(), c.id, ReadOptions{MinEpoch: 1, MinSequence: 12})
		return err
	}, []string{heads, "clinics_pkey(clinic_id)", epochs}}, readSession)
	lose(t, testDB(t), c.id)
	p.check(wantPlan{"ImportJournal", func() error {
		_, err := ImportJournal(t.Context(), NewDirectory(db), bytes.NewReader(file.Bytes()), ImportJournalOptions{})
		return err
	}, []string{heads, epochs, "clinics_pkey(conflict)", "locations_pkey(conflict)", "medicines_pkey(conflict)", "stock_pkey(conflict)"}}, writeSession)
}
