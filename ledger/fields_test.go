package ledger

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// api are the fields of the API's messages, by the message's name.
type api map[string]map[string]string

var (
	messageLine = regexp.MustCompile(`^message (\w+) \{`)
	fieldLine   = regexp.MustCompile(`^ {2}(?: {2})?(?:repeated |optional )?([\w.]+) (\w+) = \d+`)
)

// apiFields reads the messages' definitions: a rejection names fields as they
// are spelt there.
func apiFields(t *testing.T) api {
	t.Helper()
	files, err := filepath.Glob("../proto/stockledger/v1/*.proto")
	if err != nil || len(files) == 0 {
		t.Fatalf("the API's definition is not there: %v", err)
	}
	fields := make(api)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var message map[string]string
		for line := range strings.Lines(string(text)) {
			if found := messageLine.FindStringSubmatch(line); found != nil {
				message = make(map[string]string)
				fields[found[1]] = message
			}
			if found := fieldLine.FindStringSubmatch(line); found != nil && message != nil {
				message[found[2]] = found[1]
			}
		}
	}
	return fields
}

// ofEveryCommand are the fields that stand around a command.
var ofEveryCommand = []string{"clinic_id", "idempotency_key", "actor", "occurred_at", "witness_token", "late_reason_code"}

var index = regexp.MustCompile(`\[\d+\]`)

// check reports a rejection whose field is none of the command's. What an
// ApproveCommand is rejected for may stand in the command that it approves.
func (a api) check(kind Kind, r *Rejection) error {
	if r.Field == "" || slices.Contains(ofEveryCommand, r.Field) || kind == KindApproveCommand {
		return nil
	}
	message := kind.String()
	for part := range strings.SplitSeq(r.Field, ".") {
		next, ok := a[message][index.ReplaceAllString(part, "")]
		if !ok {
			return fmt.Errorf("%s was rejected (%s) for its field %q, and there is no %q in %s", kind, r.Reason, r.Field, part, message)
		}
		message = next
	}
	return nil
}
