package txn

import (
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/txn/txntest/faultproxy"
)

const insertDirectory = `
	INSERT INTO clinic_directory (clinic_id, shard_id, created_at)
	SELECT unnest($1::text[]), unnest($2::text[]), now()`

// writeBlind inserts rows, one statement for each slice of ids.
func writeBlind(t *testing.T, db *DB, statements ...[]string) error {
	t.Helper()
	return db.execBlind(t.Context(),
		func(b *pgx.Batch) {
			for _, ids := range statements {
				b.Queue(insertDirectory, ids, make([]string, len(ids)))
			}
		},
		func(results pgx.BatchResults) error {
			for range statements {
				if _, err := results.Exec(); err != nil {
					return err
				}
			}
			return nil
		})
}

func countDirectory(t *testing.T, db *DB, ids ...string) (count int) {
	t.Helper()
	err := db.readTx(t.Context(), func(tx pgx.Tx) error {
		return tx.QueryRow(t.Context(), "SELECT count(*) FROM clinic_directory WHERE clinic_id = ANY ($1::text[])", ids).
			Scan(&count)
	})
	if err != nil {
		t.Fatal(err)
	}
	return count
}

// oneConn has a single connection for writing, so that a test sees what one
// batch leaves behind for the next.
func oneConn(t *testing.T) *DB {
	t.Helper()
	return openTest(t, Config{DatabaseURL: testURL(t), MaxWriteConns: 1})
}

func TestBlindBatchCommits(t *testing.T) {
	t.Parallel()
	db, id := oneConn(t), newClinicID(t)
	for _, suffix := range []string{"-1", "-2", "-3"} {
		if err := writeBlind(t, db, []string{id + suffix + "a", id + suffix + "b"}, []string{id + suffix + "c"}); err != nil {
			t.Fatal(err)
		}
		if got := countDirectory(t, db, id+suffix+"a", id+suffix+"b", id+suffix+"c"); got != 3 {
			t.Errorf("%d rows, want 3", got)
		}
	}
}

// The whole point: one round trip. It is seen in the transaction's isolation
// level too, which must be set by the BEGIN that travels along.
func TestBlindBatchIsSerializable(t *testing.T) {
	t.Parallel()
	db := testDB(t)
	var level string
	for range 2 { // not yet prepared, and prepared
		err := db.execBlind(t.Context(),
			func(b *pgx.Batch) { b.Queue("SHOW transaction_isolation") },
			func(results pgx.BatchResults) error { return results.QueryRow().Scan(&level) })
		if err != nil || level != "serializable" {
			t.Errorf("isolation level %q, error %v", level, err)
		}
	}
}

func TestBlindBatchRefusedLeavesNothing(t *testing.T) {
	t.Parallel()
	db, id := oneConn(t), newClinicID(t)
	if err := writeBlind(t, db, []string{id}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		// The second statement is refused; the third is never run.
		err := writeBlind(t, db, []string{id + "-a"}, []string{id}, []string{id + "-b"})
		if constraint, ok := uniqueViolation(err); !ok || constraint != "clinic_directory_pkey" {
			t.Fatalf("got %v, want a violation of clinic_directory_pkey", err)
		}
		if isAmbiguous(err) || isRetryable(err) || isUnavailable(err) {
			t.Errorf("%v is misjudged", err)
		}
		if got := countDirectory(t, db, id+"-a", id+"-b"); got != 0 {
			t.Errorf("%d rows of a refused batch", got)
		}
	}
	if stat := db.write.Stat(); stat.NewConnsCount() != 1 {
		t.Errorf("%d connections were made: a refused batch should cost none", stat.NewConnsCount())
	}
	if err := writeBlind(t, db, []string{id + "-a"}); err != nil {
		t.Errorf("the next batch on the same connection: %v", err)
	}
}

func TestBlindBatchPoisonedIsDefinite(t *testing.T) {
	t.Parallel()
	db, id := oneConn(t), newClinicID(t)
	// A NUL byte: the server refuses the parameter.
	err := writeBlind(t, db, []string{id}, []string{id + "\x00"})
	if err == nil || isAmbiguous(err) || isUnavailable(err) {
		t.Errorf("a NUL byte: got %v, want a definite error", err)
	}
	// A value that pgx can't encode.
	err = db.execBlind(t.Context(),
		func(b *pgx.Batch) {
			b.Queue(insertDirectory, []string{id}, []string{"x"})
			b.Queue(insertDirectory, struct{}{}, 1)
		},
		func(results pgx.BatchResults) error { _, err := results.Exec(); return err })
	if err == nil || isAmbiguous(err) || isUnavailable(err) {
		t.Errorf("a value that can't be encoded: got %v, want a definite error", err)
	}
	// A statement that doesn't parse.
	err = db.execBlind(t.Context(),
		func(b *pgx.Batch) { b.Queue("INSERT INTO nowhere VALUES (1)") },
		func(results pgx.BatchResults) error { _, err := results.Exec(); return err })
	if err == nil || isAmbiguous(err) || isUnavailable(err) {
		t.Errorf("an unknown table: got %v, want a definite error", err)
	}
	if got := countDirectory(t, db, id); got != 0 {
		t.Errorf("%d rows of refused batches", got)
	}
	if err := writeBlind(t, db, []string{id}); err != nil {
		t.Errorf("the next batch: %v", err)
	}
}

// read can't stop a COMMIT that is on its way.
func TestBlindBatchReadErrorIsAmbiguous(t *testing.T) {
	t.Parallel()
	db, id := oneConn(t), newClinicID(t)
	mine := errors.New("changed my mind")
	err := db.execBlind(t.Context(),
		func(b *pgx.Batch) { b.Queue(insertDirectory, []string{id}, []string{"x"}) },
		func(pgx.BatchResults) error { return mine })
	if !errors.Is(err, ErrAmbiguous) || !errors.Is(err, mine) {
		t.Errorf("got %v, want ErrAmbiguous", err)
	}
	if got := countDirectory(t, db, id); got != 1 {
		t.Errorf("%d rows, want 1: the batch was committed", got)
	}
	if err := writeBlind(t, db, []string{id + "-a"}); err != nil {
		t.Errorf("the next batch: %v", err)
	}
}

func TestBlindBatchCutIsAmbiguous(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		fault faultproxy.Fault
		want  int
	}{
		{"request lost", faultproxy.LoseRequest, 0},
		{"answer lost", faultproxy.LoseAnswer, 1},
		{"answer late", faultproxy.HoldAnswer, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			proxy := faultproxy.New(t, testURL(t))
			db := openTest(t, Config{DatabaseURL: proxy.URL(), TransactionTimeout: time.Second})
			id := newClinicID(t)
			proxy.Arm(test.fault)
			if err := writeBlind(t, db, []string{id}); !errors.Is(err, ErrAmbiguous) {
				t.Errorf("got %v, want ErrAmbiguous", err)
			}
			if proxy.Fired() != 1 {
				t.Errorf("%d faults, want 1", proxy.Fired())
			}
			if got := countDirectory(t, testDB(t), id); got != test.want {
				t.Errorf("%d rows, want %d", got, test.want)
			}
			if err := writeBlind(t, db, []string{id + "-a"}); err != nil {
				t.Errorf("the next batch: %v", err)
			}
		})
	}
}

func TestBlindBatchWithoutADatabase(t *testing.T) {
	t.Parallel()
	proxy := faultproxy.New(t, testURL(t))
	db := openTest(t, Config{DatabaseURL: proxy.URL()})
	proxy.Down()
	err := writeBlind(t, db, []string{newClinicID(t)})
	if !errors.Is(err, ErrUnavailable) || isAmbiguous(err) {
		t.Errorf("got %v, want ErrUnavailable: nothing was sent", err)
	}
}

// Two batches that read what the other writes: one is refused at COMMIT.
func TestBlindBatchWriteSkewIsRetryable(t *testing.T) {
	t.Parallel()
	db := testDB(t)
	rows := [2]string{newClinicID(t), newClinicID(t)}
	mustSet(t, db, rows[0], 1)
	mustSet(t, db, rows[1], 1)
	const leave = `
		UPDATE heads SET sequence = 0
		WHERE clinic_id = $1 AND (SELECT sequence FROM heads WHERE clinic_id = $2) = 1`
	err := db.InTx(t.Context(), func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), leave, rows[0], rows[1]); err != nil {
			return err
		}
		if db.Server().Kind == CockroachDB {
			// There the batch would wait for the lock that is held here.
			return nil
		}
		return db.execBlind(t.Context(),
			func(b *pgx.Batch) { b.Queue(leave, rows[1], rows[0]) },
			func(results pgx.BatchResults) error { _, err := results.Exec(); return err })
	})
	if err != nil {
		t.Fatal(err)
	}
	left := mustGet(t, db, rows[0]) + mustGet(t, db, rows[1])
	if left != 1 {
		t.Errorf("%d are left, want 1", left)
	}
}
