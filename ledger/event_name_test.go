package ledger

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// Subscribers filter by these names, and the journal holds these numbers, so
// lines of the file stay as they are for ever. A new kind is a new line.
func TestEventNamesNeverChange(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/event_names.txt")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(string(text)), "\n")
	kinds := append(Kinds(), KindRequestApproval)
	slices.Sort(kinds)
	var got []string
	for _, kind := range kinds {
		got = append(got, fmt.Sprintf("%d %s %s", kind, kind, kind.EventName()))
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("%q is no more", line)
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("add %q to testdata/event_names.txt, if it is what it shall be called for ever", line)
		}
	}
}
