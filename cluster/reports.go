package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn"
)

// ReportReader reads reports a page at a time.
type ReportReader interface {
	// ReadReport reads the page of a report that is next, with the rights of who
	// submitted it. An error that is a [*txn.ReportError] says what to do about it; any
	// other is tried again.
	ReadReport(ctx context.Context, op *txn.QueuedOperation) (*txn.ReportPage, error)
}

// reportTurn is how long a clinic's report is read before one of another clinic
// gets the place, if any waits.
const reportTurn = 5 * time.Second

// ReadReports has the dispatcher read reports too. It must be called before
// [Dispatcher.Run].
func (d *Dispatcher) ReadReports(with ReportReader) { d.reports = with }

// readReports reads what waits of a clinic's reports, one after the other, for
// the time of a turn. It reports whether there is more to do.
func (d *Dispatcher) readReports(ctx context.Context, id laneID) (more bool) {
	for began := time.Now(); ctx.Err() == nil && d.router.executesHere(id.clinic); {
		ops, err := d.ops.Next(ctx, id.clinic, txn.ReportPriority, txn.OperationPlace{}, time.Now(), 1)
		switch {
		case err != nil:
			pause(ctx, d.cfg.RetryAfter)
			return true
		case len(ops) == 0:
			if d.rest(id) {
				return false
			}
		case !d.readReport(ctx, &ops[0], began.Add(reportTurn)):
			return true
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.lanes, id)
	return false
}

// readReport reads one report from where it is, until it has ended, failed for
// now, or the time is up, of which it says false.
func (d *Dispatcher) readReport(ctx context.Context, op *txn.QueuedOperation, until time.Time) bool {
	for d.router.executesHere(op.Clinic) && ctx.Err() == nil {
		began := time.Now()
		page, err := d.reports.ReadReport(ctx, op)
		if err == nil && op.Report.Bytes+int64(len(page.Data)) > d.cfg.ReportBytes {
			err = &txn.ReportError{Final: true, Cause: &ledger.Rejection{
				Reason: "REPORT_TOO_LARGE", Message: fmt.Sprintf("The result has more than %d bytes after %d rows.", d.cfg.ReportBytes, op.Report.Rows),
			}}
		}
		if err == nil {
			op.Operation, err = d.ops.AdvanceReport(ctx, op.Operation, page, time.Now())
		}
		switch {
		case ctx.Err() != nil:
			return true
		case errors.Is(err, txn.ErrNotQueued):
			d.metrics.end(*op, "gone")
			return true
		case errors.Is(err, txn.ErrReportMoved):
			return true // to look where it is
		case err != nil:
			d.reportFailed(ctx, op, err)
			return true
		case op.State != txn.OperationWaiting:
			d.metrics.end(*op, "accepted")
			return true
		}
		if time.Now().After(until) {
			return false
		}
		d.makeWay(ctx, laneID{op.Clinic, reportLane}, began)
	}
	return true
}

// reportFailed has a report that could not be read tried again, begun anew, or
// ended.
func (d *Dispatcher) reportFailed(ctx context.Context, op *txn.QueuedOperation, err error) {
	var known *txn.ReportError
	if !errors.As(err, &known) {
		d.cfg.Log.Warn("a report cannot be read; trying again", "clinic", op.Clinic, "idempotency_key", op.IdempotencyKey, "report", op.Report.Name, "error", err)
		known = &txn.ReportError{Cause: &ledger.Rejection{Reason: "INTERNAL", Message: "Something went wrong inside the ledger."}}
	}
	switch {
	case known.Final:
		if err := d.ops.RejectReport(ctx, op.Operation, known.Cause, time.Now()); err != nil {
			d.cfg.Log.Debug("a report cannot be rejected", "error", err)
		}
		d.metrics.end(*op, "rejected")
		return
	case known.Anew:
		if err := d.ops.BeginReportAnew(ctx, op.Operation); err != nil {
			d.cfg.Log.Debug("a report cannot be begun anew", "error", err)
		}
	}
	d.postpone(ctx, *op, known.Cause)
}
