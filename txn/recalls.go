package txn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// selectRecalls lists the recalls of all clinics that are open.
const selectRecalls = `SELECT clinic_id, document FROM documents
	WHERE kind = 3 AND is_open AND (clinic_id, document_id) > ($1, $2) ORDER BY clinic_id, document_id LIMIT $3`

// away says that a clinic is not here now: its turn comes when it is back, here
// or elsewhere.
func away(err error) bool { return errors.Is(err, ErrRestoring) || errors.Is(err, ErrMoving) }

// FollowRecalls moves the stock of recalled lots to quarantine and voids their
// holds, until ctx ends: at once after a recall that this executor recorded,
// and every so often for those that other nodes recorded, or left behind when
// they stopped. It takes bounded steps under keys of their own, so any number of
// nodes may do it at a time, and any of them may be killed.
func (e *Executor) FollowRecalls(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if err := e.followAll(ctx); err != nil && ctx.Err() == nil {
			e.cfg.Log.Warn("recalls are not followed up; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-e.recalled:
		case <-tick.C:
		}
	}
}

// clinicRecall is an open recall with its clinic.
type clinicRecall struct {
	clinic ledger.ClinicID
	*ledger.Recall
}

func (e *Executor) followAll(ctx context.Context) error {
	var failed error
	var last clinicRecall
	last.Recall = &ledger.Recall{}
	for {
		recalls, err := e.openRecalls(ctx, last)
		if err != nil {
			return errors.Join(failed, err)
		}
		for _, recall := range recalls {
			last = recall
			if recall.FollowedUp {
				continue
			}
			// One clinic's trouble is not the next one's.
			if err := e.follow(ctx, recall); err != nil {
				failed = errors.Join(failed, fmt.Errorf("clinic %s: %w", recall.clinic, err))
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		if len(recalls) < recallChunk {
			return failed
		}
	}
}

// recallChunk is how many recalls are read at a time.
const recallChunk = 500

func (e *Executor) openRecalls(ctx context.Context, after clinicRecall) (recalls []clinicRecall, err error) {
	err = e.db.readTx(ctx, func(tx pgx.Tx) error {
		s := selectFrom(selectRecalls)
		s.args = []any{after.clinic, after.RecallID, recallChunk}
		recalls, err = collect(ctx, tx, s, func(rows pgx.Rows, r *clinicRecall) error {
			var stored []byte
			if err := rows.Scan(&r.clinic, &stored); err != nil {
				return err
			}
			body, err := ledger.DecodeDocument(ledger.DocumentRecall, stored)
			if err != nil {
				return fmt.Errorf("clinic %s: %w", r.clinic, err)
			}
			r.Recall = body.(*ledger.Recall)
			return nil
		})
		return err
	})
	return recalls, err
}

// follow takes the steps of one recall that are left. Other commands of the
// clinic go first.
func (e *Executor) follow(ctx context.Context, r clinicRecall) error {
	for step := r.Step; ; {
		command := ledger.Command{
			Clinic: r.clinic, Actor: ledger.SystemActor, Body: &ledger.ContinueRecall{RecallID: r.RecallID, Step: step},
			IdempotencyKey: fmt.Sprintf("%srecall:%s:%d", ledger.SystemKeyPrefix, r.RecallID, step),
		}
		verdicts, err := e.Submit(ctx, Submission{Clinic: r.clinic, Commands: []ledger.Command{command}, Bulk: true})
		if err == nil {
			err = verdicts[0].Err
		}
		var rejection *ledger.Rejection
		if errors.As(err, &rejection) {
			// Somebody else took the step, or lifted the recall.
			e.cfg.Log.Info("a recall's follow-up goes on elsewhere", "clinic", r.clinic, "recall", r.RecallID, "reason", rejection.Reason)
			return nil
		}
		if away(err) {
			return nil
		}
		if err != nil {
			return err
		}
		after := recallAfter(verdicts[0].Record)
		if after == nil || after.FollowedUp {
			return nil
		}
		step = after.Step
	}
}

// recallAfter is the recall as a ContinueRecall left it.
func recallAfter(record ledger.Record) *ledger.Recall {
	change, ok := record.Event.Body.(*ledger.Change)
	if !ok {
		return nil
	}
	for _, document := range change.Documents {
		if recall, ok := document.(*ledger.Recall); ok {
			return recall
		}
	}
	return nil
}

// noteRecalls wakes FollowRecalls where a recall was among what was committed.
func (e *Executor) noteRecalls(records []ledger.Record) {
	for i := range records {
		kind := records[i].Event.Kind()
		if change, ok := records[i].Event.Body.(*ledger.Change); ok && change.Approved != nil {
			kind = change.ApprovedKind()
		}
		if kind != ledger.KindRecallLot {
			continue
		}
		select {
		case e.recalled <- struct{}{}:
		default: // it is awake
		}
	}
}
