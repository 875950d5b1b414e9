package ledger

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// TestEntriesOfAgreesWithEvolve reads the entries out of the events alone;
// world keeps the ones that Evolve posted.
func TestEntriesOfAgreesWithEvolve(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			step(t, w)
		}
		var got []Entry
		for _, r := range w.records {
			entries := EntriesOf(r.Event)
			location, moves := LocationOf(r.Event)
			if moves != (len(entries) > 0) || moves && location != entries[0].Location {
				t.Fatalf("%s moves stock of location %q (%v) and posts %+v", r.Event.Kind(), location, moves, entries)
			}
			got = append(got, entries...)
		}
		if diff := cmp.Diff(w.entries, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("entries (-evolved +of the events):\n%s", diff)
		}
	})
}
