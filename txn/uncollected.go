package txn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// selectUncollected lists, over all clinics, what lies ready and should have
// been collected before a moment.
const selectUncollected = `SELECT due_at, clinic_id, document_id FROM documents
	WHERE kind = 21 AND is_open AND due_at < $1 AND (due_at, clinic_id, document_id) > ($2, $3, $4)
	ORDER BY due_at, clinic_id, document_id LIMIT $5`

// uncollectedChunk is how many dispensings are looked at in one go.
const uncollectedChunk = 500

// notCollected is why the ledger cancels a dispensing by itself.
const notCollected = "NOT_COLLECTED"

// uncollected is a dispensing that lies ready for too long.
type uncollected struct {
	due        time.Time
	clinic     ledger.ClinicID
	dispensing ledger.DispensingID
}

// ReturnUncollected puts back what was laid ready and not collected in time,
// every so often, until ctx ends. It acts by commands under keys of their own,
// so any number of nodes may do it at a time, and any of them may be killed.
func (e *Executor) ReturnUncollected(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if err := e.returnAll(ctx); err != nil && ctx.Err() == nil {
			e.cfg.Log.Warn("what was not collected is not put back; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (e *Executor) returnAll(ctx context.Context) error {
	now := e.cfg.Clock()
	for after := (uncollected{}); ; {
		found, err := e.uncollected(ctx, now, after)
		if err != nil {
			return err
		}
		for _, d := range found {
			after = d
			if err := e.putBack(ctx, d); err != nil {
				return err
			}
		}
		if len(found) < uncollectedChunk {
			return nil
		}
	}
}

func (e *Executor) uncollected(ctx context.Context, now time.Time, after uncollected) (found []uncollected, err error) {
	err = e.db.readTx(ctx, func(tx pgx.Tx) error {
		s := selectFrom(selectUncollected)
		s.args = []any{now, after.due, after.clinic, after.dispensing, uncollectedChunk}
		found, err = collect(ctx, tx, s, func(rows pgx.Rows, d *uncollected) error {
			return rows.Scan(&d.due, &d.clinic, &d.dispensing)
		})
		return err
	})
	return found, err
}

// putBack cancels one dispensing. Where it was handed over or cancelled in the
// meantime, nothing is to be done.
func (e *Executor) putBack(ctx context.Context, d uncollected) error {
	command := ledger.Command{
		Clinic: d.clinic, Actor: ledger.SystemActor, IdempotencyKey: fmt.Sprintf("%suncollected:%s", ledger.SystemKeyPrefix, d.dispensing),
		Body: &ledger.CancelDispensing{DispensingID: d.dispensing, ReasonCode: notCollected},
	}
	verdicts, err := e.Submit(ctx, Submission{Clinic: d.clinic, Commands: []ledger.Command{command}, Bulk: true})
	if err != nil {
		return err
	}
	var rejection *ledger.Rejection
	if errors.As(verdicts[0].Err, &rejection) {
		e.cfg.Log.Info("a dispensing that was not collected stays as it is", "clinic", d.clinic, "dispensing", d.dispensing, "reason", rejection.Reason)
		return nil
	}
	if errors.Is(verdicts[0].Err, ErrRestoring) {
		return nil // its turn comes when the clinic is back
	}
	return verdicts[0].Err
}
