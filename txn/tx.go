package txn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"github.com/cockroachdb/cockroach-go/v2/crdb"
	crdbpgx "github.com/cockroachdb/cockroach-go/v2/crdb/crdbpgxv5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// This file is the one door to the database: nothing else begins a transaction.

var (
	writeOptions = pgx.TxOptions{IsoLevel: pgx.Serializable, AccessMode: pgx.ReadWrite}
	readOptions  = pgx.TxOptions{IsoLevel: pgx.Serializable, AccessMode: pgx.ReadOnly}
	// A PostgreSQL standby has no other that is one snapshot.
	replicaOptions = pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
)

const (
	beginBlind  = "BEGIN ISOLATION LEVEL SERIALIZABLE"
	commitBlind = "COMMIT"
)

// cleanUpTimeout bounds a ROLLBACK, which is sent even when the caller has
// left, so that the connection need not be thrown away.
const cleanUpTimeout = 2 * time.Second

// errBroken means that a connection broke before COMMIT was sent on it.
var errBroken = errors.New("the connection broke before the commit")

// errRolledBack means that the server answered COMMIT with ROLLBACK: a
// statement had failed, and its error was ignored.
var errRolledBack = errors.New("txn: the transaction was rolled back because a statement in it had failed")

// InTx runs fn in a SERIALIZABLE transaction and commits it. fn may run many
// times, each time in a fresh transaction or (on CockroachDB) after the same one
// was rolled back, so it must have no side effects but on the database, must
// start anew each time, and must neither sleep nor wait for anything else:
// locks are held. An attempt that takes longer than TransactionTimeout has its
// connection cut. An error of fn ends the transaction and is returned as it is;
// errors of the database must be wrapped, never replaced, or they can't be told
// from fn's own.
//
// Otherwise the error is ErrAmbiguous if the outcome is unknown, ErrUnavailable
// if the database was away or still refused after the last attempt, or the
// error that the database gave; then nothing was committed.
func (db *DB) InTx(ctx context.Context, fn func(pgx.Tx) error) error {
	return db.retry(ctx, db.writing(fn), db.write)
}

// tryTx is one attempt of InTx. Its error may also be one after which InTx would
// make another.
func (db *DB) tryTx(ctx context.Context, fn func(pgx.Tx) error) error {
	return db.withConn(ctx, db.write, db.writing(fn))
}

func (db *DB) writing(fn func(pgx.Tx) error) func(context.Context, *pgxpool.Conn) error {
	return func(ctx context.Context, conn *pgxpool.Conn) error {
		if db.server.Kind == CockroachDB {
			return db.attemptCockroach(ctx, conn, fn)
		}
		return db.attempt(ctx, conn, writeOptions, fn)
	}
}

// readTx runs fn in a SERIALIZABLE READ ONLY transaction on the pool for
// reading. What fn read is true only if readTx returns nil. fn may run many
// times, as in InTx.
func (db *DB) readTx(ctx context.Context, fn func(pgx.Tx) error) error {
	return db.retry(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		err := db.attempt(ctx, conn, readOptions, fn)
		if errors.Is(err, ErrAmbiguous) {
			// Reading twice does no harm. The cause is not wrapped: a read has
			// no outcome that somebody would have to look up.
			return fmt.Errorf("%w: %s", errBroken, err.Error())
		}
		return err
	}, db.read)
}

// retry runs attempt until it succeeds, fails for good, or has had its number
// of attempts. It pauses between them, outside any transaction.
func (db *DB) retry(
	ctx context.Context, attempt func(context.Context, *pgxpool.Conn) error, pool *pgxpool.Pool,
) error {
	for n := 1; ; n++ {
		err := db.withConn(ctx, pool, attempt)
		switch {
		case err == nil:
			return nil
		case !mayRepeat(err):
			return err
		case n >= db.cfg.MaxAttempts:
			return unavailable(fmt.Errorf("gave up after %d attempts: %w", n, err))
		}
		if ended := db.pause(ctx, n); ended != nil {
			return fmt.Errorf("%w after %d attempts: %w", ended, n, err)
		}
	}
}

// mayRepeat says that nothing was committed and that another attempt may go
// better.
func mayRepeat(err error) bool { return isRetryable(err) || errors.Is(err, errBroken) }

// pause waits for a random time below a limit that doubles with each attempt.
func (db *DB) pause(ctx context.Context, attempt int) error {
	limit := min(db.cfg.Backoff<<min(attempt-1, 10), 50*db.cfg.Backoff)
	timer := time.NewTimer(rand.N(limit + 1))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// withConn lends fn a connection for at most the time that a transaction may
// take.
func (db *DB) withConn(
	ctx context.Context, pool *pgxpool.Pool, fn func(context.Context, *pgxpool.Conn) error,
) error {
	bounded, cancel := context.WithTimeout(ctx, db.cfg.TransactionTimeout)
	defer cancel()
	conn, err := pool.Acquire(bounded)
	if err != nil {
		if contextEnded(ctx, err) {
			return fmt.Errorf("txn: waiting for a connection: %w", err)
		}
		return unavailable(err)
	}
	defer conn.Release()
	late := db.cutAfter(conn, db.cfg.TransactionTimeout)
	err = fn(bounded, conn)
	// Either may come first: the context counts from before the connection was
	// to be had.
	overdue := late() || bounded.Err() != nil
	if overdue && err != nil && !isAmbiguous(err) && ctx.Err() == nil {
		return unavailable(fmt.Errorf("no end within %v: %w", db.cfg.TransactionTimeout, err))
	}
	return err
}

// cutAfter breaks a connection after some time, whatever is under way on it: a
// transaction's statements run under contexts that are not ours to bound. The
// returned function must be called before the connection is released; it says
// whether the time had come.
func (db *DB) cutAfter(conn *pgxpool.Conn, limit time.Duration) (late func() bool) {
	network := conn.Conn().PgConn().Conn()
	timer := time.AfterFunc(limit, func() { _ = network.SetDeadline(time.Now()) })
	return func() bool {
		if timer.Stop() {
			return false
		}
		// Its deadline has passed or is about to: nobody else can use it.
		ctx, cancel := context.WithTimeout(context.Background(), cleanUpTimeout)
		defer cancel()
		_ = conn.Conn().Close(ctx)
		db.noteBroken()
		return true
	}
}

// attempt runs fn in one fresh transaction and checks COMMIT's answer.
//
// This is the loop for PostgreSQL, which commits, and detects write skew, at
// COMMIT. cockroach-go's loop ignores that answer, since on CockroachDB
// everything was decided before.
func (db *DB) attempt(
	ctx context.Context, conn *pgxpool.Conn, options pgx.TxOptions, fn func(pgx.Tx) error,
) error {
	tx, err := conn.BeginTx(ctx, options)
	if err != nil {
		return db.beforeCommit(ctx, conn, err)
	}
	// Does nothing once the transaction has ended; also runs if fn panics.
	defer db.rollBack(ctx, conn)
	if err := work(ctx, tx, fn); err != nil {
		return db.beforeCommit(ctx, conn, err)
	}
	return db.afterCommit(conn, tx.Commit(ctx))
}

// work runs fn and then proves that COMMIT can be sent. This must be known
// before: pgx reports a COMMIT whose answer was cut as "conn closed", an error
// that claims to have come before anything was sent.
func work(ctx context.Context, tx pgx.Tx, fn func(pgx.Tx) error) error {
	if err := fn(tx); err != nil {
		return err
	}
	return canSend(ctx, tx.Conn())
}

func canSend(ctx context.Context, conn *pgx.Conn) error {
	if conn.IsClosed() {
		return pgconn.ErrConnClosed
	}
	return ctx.Err()
}

// attemptCockroach runs fn in cockroach-go's loop, which commits by releasing a
// savepoint and retries once at once, keeping its place in the queue for
// contended rows. Further attempts are ours, after a pause.
func (db *DB) attemptCockroach(ctx context.Context, conn *pgxpool.Conn, fn func(pgx.Tx) error) error {
	defer db.rollBack(ctx, conn)
	err := crdbpgx.ExecuteTx(crdb.WithMaxRetries(ctx, 1), conn, writeOptions, func(tx pgx.Tx) error {
		return work(ctx, tx, fn)
	})
	var undecided *crdb.AmbiguousCommitError
	if errors.As(err, &undecided) {
		return db.afterCommit(conn, undecided.Unwrap())
	}
	// Whatever else failed, it failed before the release or the release was
	// refused.
	return db.beforeCommit(ctx, conn, err)
}

// beforeCommit classifies an error from before COMMIT was sent.
func (db *DB) beforeCommit(ctx context.Context, conn *pgxpool.Conn, err error) error {
	if err == nil {
		return nil
	}
	// pgx closes a connection when reading or writing it fails: this tells the
	// network's errors from fn's own. It does the same when it can't encode an
	// argument in a batch, which another attempt would not change.
	if conn.Conn().IsClosed() && !unencodable(err) {
		db.noteBroken()
		if ctx.Err() == nil {
			return fmt.Errorf("%w: %w", errBroken, err)
		}
	}
	return statementError(err)
}

// unencodable says that an argument in a batch could not be encoded.
func unencodable(err error) bool {
	var unsent pgx.ErrPreprocessingBatch
	var network net.Error
	return errors.As(err, &unsent) &&
		!errors.As(err, &network) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, pgconn.ErrConnClosed)
}

// afterCommit classifies COMMIT's error.
func (db *DB) afterCommit(conn *pgxpool.Conn, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pgx.ErrTxCommitRollback):
		return errRolledBack
	case errors.Is(err, pgx.ErrTxClosed):
		return fmt.Errorf("txn: fn must not end the transaction itself: %w", err)
	}
	if conn.Conn().IsClosed() {
		db.noteBroken()
	}
	return commitError(err)
}

// rollBack ends the transaction that the connection is still in, if any. If it
// can't, the pool destroys the connection when it is released.
func (db *DB) rollBack(ctx context.Context, conn *pgxpool.Conn) {
	if conn.Conn().IsClosed() || conn.Conn().PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	if _, err := conn.Exec(ctx, "ROLLBACK"); err != nil {
		db.cfg.Log.Debug("rollback failed; the connection is destroyed", "error", err)
	}
}

// execBlind runs statements that need no answer from one another in one round
// trip: BEGIN, what queue queues, and COMMIT travel together. read must consume
// exactly the results of what queue queued, in order.
//
// COMMIT is on its way before anything is known, so read cannot stop it: only a
// statement that the server refuses does. Therefore an error of read that is
// not, or does not wrap, such a refusal is ErrAmbiguous, and so is a connection
// that breaks at any time after the batch was sent. Every other error means
// that nothing was committed. There is one attempt: only the caller knows
// whether the same statements still make sense.
//
// The statements stay prepared on the connection, so their texts should be few.
func (db *DB) execBlind(
	ctx context.Context, queue func(b *pgx.Batch), read func(br pgx.BatchResults) error,
) error {
	batch := &pgx.Batch{}
	batch.Queue(beginBlind)
	queue(batch)
	batch.Queue(commitBlind)
	return db.withConn(ctx, db.write, func(ctx context.Context, conn *pgxpool.Conn) error {
		// Statements that pgx prepares on its own are dropped and prepared
		// again after any failed batch. Preparing them first also means that
		// nothing but the batch itself can be ambiguous.
		for _, query := range batch.QueuedQueries {
			if _, err := conn.Conn().Prepare(ctx, query.SQL, query.SQL); err != nil {
				return db.unbroken(db.beforeCommit(ctx, conn, err))
			}
		}
		defer db.rollBack(ctx, conn)
		return db.unbroken(db.sendBlind(ctx, conn, batch, read))
	})
}

// unbroken turns the mark for the retry loop into what callers outside it know.
func (db *DB) unbroken(err error) error {
	if errors.Is(err, errBroken) {
		return unavailable(err)
	}
	return err
}

func (db *DB) sendBlind(
	ctx context.Context, conn *pgxpool.Conn, batch *pgx.Batch, read func(br pgx.BatchResults) error,
) error {
	if err := canSend(ctx, conn.Conn()); err != nil {
		return db.beforeCommit(ctx, conn, err)
	}
	results := conn.SendBatch(ctx, batch)
	// Also reads what is left after an error, up to the end of the batch. Once
	// COMMIT's answer is here, an error of Close changes nothing; the pool
	// destroys a connection that is not as it should be.
	defer func() { _ = results.Close() }()

	if _, err := results.Exec(); err != nil {
		return db.blindError(conn, err)
	}
	if err := read(results); err != nil {
		return db.blindError(conn, err)
	}
	tag, err := results.Exec()
	if err != nil {
		return db.afterCommit(conn, err)
	}
	switch tag.String() {
	case "COMMIT":
		return nil
	case "ROLLBACK":
		return errRolledBack
	}
	return ambiguous(fmt.Errorf("the server answered COMMIT with %q", tag.String()))
}

// blindError classifies an error from before COMMIT's answer. The server works
// through the batch in order and skips the rest of it after an error.
func (db *DB) blindError(conn *pgxpool.Conn, err error) error {
	if pg, ok := pgError(err); ok && !fatal(pg) && pg.Code != codeAmbiguousResult {
		return statementError(err)
	}
	if unencodable(err) {
		return err // the batch was never sent
	}
	if conn.Conn().IsClosed() {
		db.noteBroken()
	}
	return ambiguous(err)
}
