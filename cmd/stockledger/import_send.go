package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect/v2"

	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// Pauses between attempts at commands that nobody judged.
const (
	firstPause = 500 * time.Millisecond
	maxPause   = 5 * time.Second
)

// send carries out a batch and returns a verdict for each task. Commands that
// nobody judged, since the server or its database was away, are sent again
// under their keys for as long as RetryFor says: they are not refused rows.
func (im *importer) send(ctx context.Context, batch []task) ([]*pb.CommandResult, error) {
	results := make([]*pb.CommandResult, len(batch))
	left := make([]int, len(batch))
	for i := range left {
		left[i] = i
	}
	began := time.Now()
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		var err error
		if left, err = im.attempt(ctx, batch, left, results); err == nil {
			return results, nil
		}
		if !isAway(err) || time.Since(began)+pause > im.RetryFor {
			return nil, err
		}
		fmt.Fprintf(im.out, "trying again in %s: %v\n", pause, explain(err))
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		}
	}
}

// attempt sends the tasks at the given places, files their verdicts, and
// returns the places of those that have none, with the reason.
func (im *importer) attempt(ctx context.Context, batch []task, places []int, results []*pb.CommandResult) (left []int, err error) {
	commands := make([]*pb.Command, len(places))
	for i, place := range places {
		commands[i] = batch[place].command
	}
	answers, err := im.client.execute(ctx, im.Clinic, commands)
	if err != nil {
		return places, err
	}
	for i, answer := range answers {
		if r := answer.GetRejected(); unjudged(r) {
			left = append(left, places[i])
			err = connect.NewError(connect.CodeUnavailable, r.GetMessage())
			continue
		}
		results[places[i]] = answer
	}
	return left, err
}

// unjudged tells the rejections that say nothing about the command: the batch
// ended early, the outcome is unknown, or the clinic's queue is full.
func unjudged(r *pb.Rejected) bool {
	switch r.GetCode() {
	case connect.CodeUnavailable.String(), connect.CodeResourceExhausted.String():
		return true
	}
	return false
}

// isAway reports whether a call failed for a reason that may pass by itself.
func isAway(err error) bool {
	var refused *connect.Error
	return errors.As(err, &refused) && refused.Code() == connect.CodeUnavailable
}
