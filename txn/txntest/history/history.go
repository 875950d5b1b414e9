// Package history records what concurrent callers did to one lot's stock and
// checks that the whole history is linearizable: that the answers are those of
// some order of the commands, one at a time, that respects real time.
//
// Bugs that it found: none yet that the invariants had not. Keep the list.
package history

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// Kind is what a caller did.
type Kind int

// The kinds of operations.
const (
	Reserve Kind = iota // moves units from available to reserved
	Release             // moves them back
	Issue               // takes reserved units away
	Read                // reads both balances
)

// Call is an operation as it was sent.
type Call struct {
	Kind     Kind
	Quantity int64
}

// Answer is what came back. Available and Reserved are the balances that an
// accepted command or a read reported.
type Answer struct {
	// Unknown: the call failed in a way that tells nothing. It may have
	// happened, at any time since, or never.
	Unknown   bool
	Rejected  bool
	Available int64
	Reserved  int64
}

type balances struct{ available, reserved int64 }

// Recorder collects the operations of one lot. It is safe for concurrent use.
type Recorder struct {
	mu    sync.Mutex
	began time.Time
	ops   []porcupine.Operation
}

// NewRecorder starts a history.
func NewRecorder() *Recorder { return &Recorder{began: time.Now()} }

// Do runs an operation and records it.
func (r *Recorder) Do(client int, call Call, do func() Answer) Answer {
	began := time.Since(r.began)
	answer := do()
	ended := time.Since(r.began)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, porcupine.Operation{
		ClientId: client, Input: call, Output: answer, Call: began.Nanoseconds(), Return: ended.Nanoseconds(),
	})
	return answer
}

// checkTimeout is generous: a history that is linearizable is checked in a
// moment, since each answer names the balances.
const checkTimeout = 2 * time.Minute

// Check fails the test unless the history is linearizable from the given
// balances.
func (r *Recorder) Check(tb testing.TB, available, reserved int64) {
	tb.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	end := time.Since(r.began).Nanoseconds()
	for i := range r.ops {
		// What is unknown may still happen until the history ends.
		if r.ops[i].Output.(Answer).Unknown {
			r.ops[i].Return = end
		}
	}
	model := porcupine.NondeterministicModel{
		Init: func() []any { return []any{balances{available, reserved}} },
		Step: func(state, input, output any) []any {
			return step(state.(balances), input.(Call), output.(Answer))
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v → %+v", input, output) },
	}
	if result := porcupine.CheckOperationsTimeout(model.ToModel(), r.ops, checkTimeout); result != porcupine.Ok {
		tb.Errorf("a history of %d operations is not linearizable: %s", len(r.ops), result)
	}
}

// Len returns the number of operations recorded.
func (r *Recorder) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ops)
}

// step returns the states that an operation with this answer can lead to.
func step(s balances, call Call, answer Answer) []any {
	if call.Kind == Read {
		if answer.Unknown || s == (balances{answer.Available, answer.Reserved}) {
			return []any{s}
		}
		return nil
	}
	after, possible := apply(s, call)
	switch {
	case answer.Unknown && possible:
		return []any{s, after}
	case answer.Unknown:
		return []any{s}
	case answer.Rejected && !possible:
		return []any{s}
	case !answer.Rejected && possible && after == (balances{answer.Available, answer.Reserved}):
		return []any{after}
	}
	return nil
}

func apply(s balances, call Call) (balances, bool) {
	switch call.Kind {
	case Reserve:
		s.available -= call.Quantity
		s.reserved += call.Quantity
	case Release:
		s.available += call.Quantity
		s.reserved -= call.Quantity
	case Issue:
		s.reserved -= call.Quantity
	}
	return s, s.available >= 0 && s.reserved >= 0
}
