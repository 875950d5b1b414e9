package history

import (
	"testing"

	"github.com/anishathalye/porcupine"
)

// The model must refuse what a broken ledger would answer.
func TestModelRefusesBrokenHistories(t *testing.T) {
	reserve := func(q int64) Call { return Call{Kind: Reserve, Quantity: q} }
	for name, ops := range map[string][]porcupine.Operation{
		"oversold": {
			{ClientId: 1, Input: reserve(6), Output: Answer{Available: 4, Reserved: 6}, Call: 0, Return: 9},
			{ClientId: 2, Input: reserve(6), Output: Answer{Available: 4, Reserved: 6}, Call: 1, Return: 8},
		},
		"stale read": {
			{ClientId: 1, Input: reserve(6), Output: Answer{Available: 4, Reserved: 6}, Call: 0, Return: 2},
			{ClientId: 2, Input: Call{Kind: Read}, Output: Answer{Available: 10}, Call: 3, Return: 4},
		},
		"rejected with stock on the shelf": {
			{ClientId: 1, Input: reserve(6), Output: Answer{Rejected: true}, Call: 0, Return: 2},
		},
		"acknowledged and lost": {
			{ClientId: 1, Input: reserve(6), Output: Answer{Available: 4, Reserved: 6}, Call: 0, Return: 2},
			{ClientId: 1, Input: reserve(6), Output: Answer{Available: 4, Reserved: 6}, Call: 3, Return: 4},
		},
	} {
		t.Run(name, func(t *testing.T) {
			probe := &failureProbe{TB: t}
			r := NewRecorder()
			r.ops = ops
			r.Check(probe, 10, 0)
			if !probe.failed {
				t.Error("the history was accepted")
			}
		})
	}
}

func TestModelForksOnUnknownOutcomes(t *testing.T) {
	for _, left := range []int64{4, 10} {
		r := NewRecorder()
		r.ops = []porcupine.Operation{
			{ClientId: 1, Input: Call{Kind: Reserve, Quantity: 6}, Output: Answer{Unknown: true}, Call: 0, Return: 2},
			{ClientId: 2, Input: Call{Kind: Read}, Output: Answer{Available: left, Reserved: 10 - left}, Call: 3, Return: 4},
		}
		r.Check(t, 10, 0)
	}
}

type failureProbe struct {
	testing.TB
	failed bool
}

func (p *failureProbe) Errorf(string, ...any) { p.failed = true }
