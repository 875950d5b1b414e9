package txn

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/stockledger/stockledger/txn/txntest/faultproxy"
)

// setHead and head use the heads table as a table of numbers: each test has
// rows of its own there.
func setHead(ctx context.Context, tx pgx.Tx, row string, value int64) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO heads (clinic_id, epoch, sequence, hash, recorded_at) VALUES ($1, 0, $2, '', now())
		ON CONFLICT (clinic_id) DO UPDATE SET sequence = excluded.sequence`, row, value)
	return err
}

func head(ctx context.Context, tx pgx.Tx, row string) (value int64, err error) {
	err = tx.QueryRow(ctx, "SELECT sequence FROM heads WHERE clinic_id = $1", row).Scan(&value)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	return value, err
}

func mustSet(t *testing.T, db *DB, row string, value int64) {
	t.Helper()
	err := db.InTx(t.Context(), func(tx pgx.Tx) error { return setHead(t.Context(), tx, row, value) })
	if err != nil {
		t.Fatal(err)
	}
}

func mustGet(t *testing.T, db *DB, row string) (value int64) {
	t.Helper()
	err := db.readTx(t.Context(), func(tx pgx.Tx) (err error) {
		value, err = head(t.Context(), tx, row)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// meeting makes the first calls of two goroutines wait for each other, so that
// their transactions overlap. Later calls, which are retries, pass.
type meeting struct {
	calls atomic.Int32
	both  chan struct{}
}

func newMeeting() *meeting { return &meeting{both: make(chan struct{})} }

func (m *meeting) wait(ctx context.Context) {
	switch m.calls.Add(1) {
	case 1:
		select {
		case <-m.both:
		case <-ctx.Done():
		}
	case 2:
		close(m.both)
	}
}

// Two doctors are on call; each may leave if the other stays. Each transaction
// reads both rows and writes its own: a write skew, which only a serializable
// database refuses, and which PostgreSQL finds out at COMMIT.
func TestWriteSkewIsRefused(t *testing.T) {
	t.Parallel()
	db := testDB(t)
	for range 5 {
		rows := [2]string{newClinicID(t), newClinicID(t)}
		mustSet(t, db, rows[0], 1)
		mustSet(t, db, rows[1], 1)
		meet := newMeeting()
		var attempts atomic.Int32
		group, ctx := errgroup.WithContext(t.Context())
		for i := range rows {
			group.Go(func() error {
				return db.InTx(ctx, func(tx pgx.Tx) error {
					attempts.Add(1)
					other, err := head(ctx, tx, rows[1-i])
					if err != nil {
						return err
					}
					own, err := head(ctx, tx, rows[i])
					if err != nil {
						return err
					}
					meet.wait(ctx)
					if own+other < 2 {
						return nil // the other one has left
					}
					return setHead(ctx, tx, rows[i], 0)
				})
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		if left := mustGet(t, db, rows[0]) + mustGet(t, db, rows[1]); left != 1 {
			t.Fatalf("%d on call after %d attempts, want 1", left, attempts.Load())
		}
		if attempts.Load() < 3 {
			t.Errorf("%d attempts: the transactions did not overlap", attempts.Load())
		}
	}
}

func TestNoUpdateIsLost(t *testing.T) {
	t.Parallel()
	db := openTest(t, Config{DatabaseURL: testURL(t), MaxAttempts: 1000})
	row := newClinicID(t)
	mustSet(t, db, row, 0)
	const clients, each = 8, 10
	group, ctx := errgroup.WithContext(t.Context())
	for range clients {
		group.Go(func() error {
			for range each {
				err := db.InTx(ctx, func(tx pgx.Tx) error {
					value, err := head(ctx, tx, row)
					if err != nil {
						return err
					}
					return setHead(ctx, tx, row, value+1)
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := mustGet(t, db, row); got != clients*each {
		t.Errorf("%d after %d increments", got, clients*each)
	}
}

func TestAttemptsAreLimited(t *testing.T) {
	t.Parallel()
	db := openTest(t, Config{DatabaseURL: testURL(t), MaxAttempts: 3})
	perAttempt := 1
	if db.Server().Kind == CockroachDB {
		perAttempt = 2 // cockroach-go's own retry
	}
	calls := 0
	err := db.InTx(t.Context(), func(pgx.Tx) error {
		calls++
		return serverError("ERROR", codeSerializationFailure)
	})
	if !errors.Is(err, ErrUnavailable) || !isRetryable(err) || isAmbiguous(err) {
		t.Errorf("got %v", err)
	}
	if want := 3 * perAttempt; calls != want {
		t.Errorf("%d calls, want %d", calls, want)
	}
}

func TestFnsOwnErrorIsReturnedAsItIs(t *testing.T) {
	t.Parallel()
	db, row := testDB(t), newClinicID(t)
	mine := errors.New("no such lot")
	calls := 0
	err := db.InTx(t.Context(), func(tx pgx.Tx) error {
		calls++
		if err := setHead(t.Context(), tx, row, 7); err != nil {
			return err
		}
		return mine
	})
	if !errors.Is(err, mine) || isUnavailable(err) || isAmbiguous(err) || calls != 1 {
		t.Errorf("%d calls, error %v", calls, err)
	}
	if got := mustGet(t, db, row); got != 0 {
		t.Errorf("an abandoned transaction wrote %d", got)
	}
}

func TestPanicEndsTheTransaction(t *testing.T) {
	t.Parallel()
	db, row := openTest(t, Config{DatabaseURL: testURL(t), MaxWriteConns: 1}), newClinicID(t)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_ = db.InTx(t.Context(), func(tx pgx.Tx) error {
			if err := setHead(t.Context(), tx, row, 7); err != nil {
				return err
			}
			panic("bug")
		})
	}()
	// The pool's one connection is free again and in no transaction.
	mustSet(t, db, newClinicID(t), 1)
	if got := mustGet(t, db, row); got != 0 {
		t.Errorf("a transaction that panicked wrote %d", got)
	}
}

func TestIgnoredStatementErrorIsNotACommit(t *testing.T) {
	t.Parallel()
	db, row := testDB(t), newClinicID(t)
	err := db.InTx(t.Context(), func(tx pgx.Tx) error {
		if err := setHead(t.Context(), tx, row, 7); err != nil {
			return err
		}
		_, _ = tx.Exec(t.Context(), "SELECT 1/0")
		return nil
	})
	if err == nil || isAmbiguous(err) {
		t.Errorf("got %v, want a definite error", err)
	}
	if got := mustGet(t, db, row); got != 0 {
		t.Errorf("a failed transaction wrote %d", got)
	}
}

func TestCallerLeaves(t *testing.T) {
	t.Parallel()
	db, row := testDB(t), newClinicID(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := db.InTx(ctx, func(tx pgx.Tx) error {
		if err := setHead(ctx, tx, row, 7); err != nil {
			return err
		}
		cancel()
		return nil
	})
	// COMMIT is not sent for a caller who left before.
	if !errors.Is(err, context.Canceled) || isAmbiguous(err) {
		t.Errorf("got %v, want a definite cancellation", err)
	}
	if got := mustGet(t, db, row); got != 0 {
		t.Errorf("wrote %d", got)
	}
}

// What the proxy does to COMMIT decides what is in the database, but the caller
// must be told the same: nobody knows.
func TestCommitCutIsAmbiguous(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		fault faultproxy.Fault
		want  int64
	}{
		{"request lost", faultproxy.LoseRequest, 0},
		{"answer lost", faultproxy.LoseAnswer, 7},
		{"answer late", faultproxy.HoldAnswer, 7},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			proxy := faultproxy.New(t, testURL(t))
			db := openTest(t, Config{DatabaseURL: proxy.URL(), TransactionTimeout: time.Second})
			row := newClinicID(t)
			calls := 0
			proxy.Arm(test.fault)
			err := db.InTx(t.Context(), func(tx pgx.Tx) error {
				calls++
				return setHead(t.Context(), tx, row, 7)
			})
			if !errors.Is(err, ErrAmbiguous) || errors.Is(err, ErrUnavailable) {
				t.Errorf("got %v, want ErrAmbiguous", err)
			}
			if calls != 1 || proxy.Fired() != 1 {
				t.Errorf("%d calls, %d faults, want one each: an ambiguous commit is never repeated", calls, proxy.Fired())
			}
			if got := mustGet(t, testDB(t), row); got != test.want {
				t.Errorf("the database has %d, want %d", got, test.want)
			}
		})
	}
}

func TestReadIsRepeatedWhenItsCommitIsCut(t *testing.T) {
	t.Parallel()
	proxy := faultproxy.New(t, testURL(t))
	db := openTest(t, Config{DatabaseURL: proxy.URL()})
	proxy.Arm(faultproxy.LoseAnswer)
	if err := readOne(t, db); err != nil {
		t.Error(err)
	}
	if proxy.Fired() != 1 {
		t.Errorf("%d faults, want 1", proxy.Fired())
	}
}

// A connection that breaks before COMMIT has committed nothing: the transaction
// is done again on another one.
func TestBreakBeforeCommitIsRetried(t *testing.T) {
	t.Parallel()
	proxy := faultproxy.New(t, testURL(t))
	db := openTest(t, Config{DatabaseURL: proxy.URL()})
	row := newClinicID(t)
	calls := 0
	err := db.InTx(t.Context(), func(tx pgx.Tx) error {
		if calls++; calls == 1 {
			if err := setHead(t.Context(), tx, row, 5); err != nil {
				return err
			}
			proxy.Down()
			proxy.Up(t)
		}
		return setHead(t.Context(), tx, row, 7)
	})
	if err != nil || calls != 2 {
		t.Errorf("%d calls, error %v", calls, err)
	}
	if got := mustGet(t, db, row); got != 7 {
		t.Errorf("the database has %d, want 7", got)
	}
}

func TestBusyPoolEndsWithTheCaller(t *testing.T) {
	t.Parallel()
	db := openTest(t, Config{DatabaseURL: testURL(t), MaxWriteConns: 1})
	release, holding := make(chan struct{}), make(chan struct{})
	var holder sync.WaitGroup
	holder.Go(func() {
		_ = db.InTx(t.Context(), func(pgx.Tx) error {
			close(holding)
			<-release
			return nil
		})
	})
	<-holding
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	err := db.InTx(ctx, func(pgx.Tx) error { return nil })
	if !errors.Is(err, context.DeadlineExceeded) || isAmbiguous(err) {
		t.Errorf("got %v, want the caller's deadline", err)
	}
	close(release)
	holder.Wait()
}

func TestStalledDatabaseIsUnavailable(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]Config{
		"statement":   {StatementTimeout: 50 * time.Millisecond},
		"transaction": {TransactionTimeout: 50 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg.DatabaseURL = testURL(t)
			// Connect first: that takes time too.
			db := openTest(t, cfg)
			for range 2 {
				err := db.InTx(t.Context(), func(tx pgx.Tx) error {
					_, err := tx.Exec(t.Context(), "SELECT pg_sleep(10)")
					return err
				})
				if !errors.Is(err, ErrUnavailable) || isAmbiguous(err) {
					t.Errorf("got %v, want ErrUnavailable", err)
				}
			}
		})
	}
}

// The time spent waiting for a connection counts, so what ends first may be the
// transaction's context and not the cut of its connection.
func TestTransactionLateByItsWaitIsUnavailable(t *testing.T) {
	t.Parallel()
	db := openTest(t, Config{DatabaseURL: testURL(t), MaxWriteConns: 1, TransactionTimeout: 500 * time.Millisecond})
	sleep := func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), "SELECT pg_sleep(0.35)")
		return err
	}
	holding := make(chan struct{})
	var holder sync.WaitGroup
	holder.Go(func() {
		_ = db.InTx(t.Context(), func(tx pgx.Tx) error {
			close(holding)
			return sleep(tx)
		})
	})
	<-holding
	if err := db.InTx(t.Context(), sleep); !errors.Is(err, ErrUnavailable) || isAmbiguous(err) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	holder.Wait()
}

// A process that was stopped or cut off in the middle of a transaction holds no
// lock for longer than it may idle. If it wakes up, it finds its transaction
// gone, and does all of it again.
func TestIdleTransactionLosesItsLock(t *testing.T) {
	t.Parallel()
	db := openTest(t, Config{DatabaseURL: testURL(t), IdleTimeout: 200 * time.Millisecond})
	row := newClinicID(t)
	mustSet(t, db, row, 1)
	locked, awake := make(chan struct{}), make(chan struct{})
	var calls int
	stopped := make(chan error, 1)
	go func() {
		stopped <- db.InTx(t.Context(), func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), "SELECT 1 FROM heads WHERE clinic_id = $1 FOR UPDATE", row); err != nil {
				return err
			}
			if calls++; calls == 1 {
				close(locked)
				<-awake // the process is stopped
			}
			value, err := head(t.Context(), tx, row)
			if err != nil {
				return err
			}
			return setHead(t.Context(), tx, row, value+1)
		})
	}()
	<-locked
	// This one waits for the lock: it gets it because the other one idles.
	if err := db.InTx(t.Context(), func(tx pgx.Tx) error { return setHead(t.Context(), tx, row, 10) }); err != nil {
		t.Fatal("another one does not get the lock:", err)
	}
	close(awake)
	if err := <-stopped; err != nil || calls < 2 {
		t.Errorf("the one that was stopped: %v after %d calls", err, calls)
	}
	if got := mustGet(t, db, row); got != 11 {
		t.Errorf("the row is %d, want 11", got)
	}
}

// Whoever only reads locks nobody out, and may take its time: a verification
// computes for long between statements.
func TestReadersMayIdle(t *testing.T) {
	t.Parallel()
	db := openTest(t, Config{DatabaseURL: testURL(t), IdleTimeout: time.Millisecond})
	var read, write string
	err := db.readTx(t.Context(), func(tx pgx.Tx) error {
		return tx.QueryRow(t.Context(), "SELECT current_setting('idle_in_transaction_session_timeout')").Scan(&read)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.write.QueryRow(t.Context(), "SELECT current_setting('idle_in_transaction_session_timeout')").Scan(&write); err != nil {
		t.Fatal(err)
	}
	if read != "0" || write == "0" {
		t.Errorf("readers may idle for %q, writers for %q", read, write)
	}
}
