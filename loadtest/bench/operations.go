package main

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// urgent is one clinic at which operations of high priority are submitted and
// waited for, one after the other, while others of low priority wait. It has a
// place of its own, and a new clinic in each round.
type urgent struct {
	apart
	low int // that wait
}

// lowBatch is how many operations are submitted in a request, which is the most.
const lowBatch = 500

// prepare submits what waits: last, so that it waits still when the clock starts.
func (u urgent) prepare(round int) error {
	if err := u.apart.prepare(round); err != nil || u.low == 0 {
		return err
	}
	u.b.progress("submitting %d low operations\n", u.low)
	w, err := dial(u.at.node(0))
	if err != nil {
		return err
	}
	defer func() { _ = w.conn.Close() }()
	for from := 0; from < u.low; from += lowBatch {
		if err := u.submit(w, pb.Priority_PRIORITY_LOW, fmt.Sprint("low-", from, "-"), min(lowBatch, u.low-from)); err != nil {
			return err
		}
	}
	return nil
}

func (u urgent) submit(w *wire, priority pb.Priority, key string, n int) error {
	req := &pb.SubmitRequest{ClinicId: u.clinic(0), Priority: priority}
	for i := range n {
		req.Commands = append(req.Commands, u.command(fmt.Sprint(key, i)))
	}
	body, err := proto.Marshal(req)
	if err == nil {
		_, err = w.post("OperationService/Submit", body)
	}
	return err
}

// load submits high operations and waits for each.
func (u urgent) load(ctx context.Context, round int) (sample, error) {
	w, err := dial(u.at.node(0))
	if err != nil {
		return sample{}, err
	}
	defer func() { _ = w.conn.Close() }()
	done, err := drive(ctx, 1, func(_ context.Context, _, n int) (int, error) {
		key := fmt.Sprint("high-", round, "-", n, "-")
		if err := u.submit(w, pb.Priority_PRIORITY_HIGH, key, 1); err != nil {
			return 0, err
		}
		body, err := proto.Marshal(&pb.WaitOperationRequest{ClinicId: u.clinic(0), IdempotencyKey: key + "0"})
		if err != nil {
			return 0, err
		}
		answer, err := w.post("OperationService/WaitOperation", body)
		if err != nil {
			return 0, err
		}
		var ended pb.WaitOperationResponse
		if err := proto.Unmarshal(answer, &ended); err != nil {
			return 0, err
		}
		if state := ended.GetOperation().GetState(); state != pb.OperationState_OPERATION_STATE_ACCEPTED {
			return 0, fmt.Errorf("a high operation is %s", state)
		}
		return 1, nil
	})
	if err == nil && u.low > 0 {
		err = u.stillWaiting(w)
	}
	return done, err
}

// stillWaiting makes sure that what was measured was measured beside something.
func (u urgent) stillWaiting(w *wire) error {
	body, err := proto.Marshal(&pb.ListOperationsRequest{ClinicId: u.clinic(0), State: pb.OperationState_OPERATION_STATE_WAITING, Page: &pb.Page{PageSize: 1}})
	if err != nil {
		return err
	}
	answer, err := w.post("OperationService/ListOperations", body)
	if err != nil {
		return err
	}
	var list pb.ListOperationsResponse
	if err := proto.Unmarshal(answer, &list); err != nil {
		return err
	}
	if len(list.GetOperations()) == 0 {
		return errors.New("no low operation waits any more: set BENCH_LOW_OPERATIONS higher")
	}
	return nil
}

// agree counts the operations that ended. The low ones may end at any moment, so
// the journal may hold more than the high ones.
func (u urgent) agree(ctx context.Context, high int64) error {
	var recorded int64
	err := u.at.pool.QueryRow(ctx, `SELECT count(*) FROM journal AS j JOIN operations AS o ON o.clinic_id = j.clinic_id AND o.idempotency_key = j.idempotency_key
		WHERE o.clinic_id = $1 AND o.priority = 1 AND o.state = 2 AND o.sequence = j.sequence`, u.clinic(0)).Scan(&recorded)
	if err == nil && recorded != high {
		err = fmt.Errorf("%d high operations were told as done, and the journal has %d", high, recorded)
	}
	return err
}

// operationParts measure how long an operation of high priority takes, from its
// submission to its answer, at a clinic where nothing waits and at one where many
// low ones do.
func (b *bench) operationParts() []*part {
	idle := urgent{apart{b.newSpread("idle", 1, 1), [][]string{nil}}, 0}
	busy := urgent{apart{b.newSpread("queued", 1, 1), [][]string{nil}}, b.LowOperations}
	base := &part{key: "urgent_idle", name: "a high operation, nothing waits", prepare: idle.prepare, load: idle.load, agree: idle.agree}
	return []*part{base, {
		key: "urgent_queued", name: fmt.Sprintf("a high operation, %d low ones wait", b.LowOperations),
		prepare: busy.prepare, load: busy.load, agree: busy.agree, against: base, latency: true,
	}}
}
