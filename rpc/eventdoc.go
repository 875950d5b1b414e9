package rpc

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/stockledger/stockledger/ledger"
)

// EventsDoc returns docs/events.md: the names of all events.
func EventsDoc() string {
	kinds := append(ledger.Kinds(), ledger.KindRequestApproval)
	slices.SortFunc(kinds, func(a, b ledger.Kind) int { return cmp.Compare(a.EventName(), b.EventName()) })
	var b strings.Builder
	b.WriteString(eventsDocHead)
	b.WriteString("| type | command | in the journal as kind |\n|---|---|---|\n")
	for _, kind := range kinds {
		fmt.Fprintf(&b, "| `%s` | `%s` | %d |\n", kind.EventName(), kind, kind)
	}
	return b.String()
}

const eventsDocHead = `<!-- Written by go run ./rpc/gendocs. Do not edit. -->

# Events

One event is recorded for each accepted command. Its ` + "`type`" + ` is what happened, its
` + "`command`" + ` what was asked for. Neither name ever changes or is used for something
else; later releases add some, so let pass what you do not know.

A command that waits for a second person is an ` + "`ApprovalRequested`" + ` event. When it is
approved, the event is ` + "`CommandApproved`" + ` and ` + "`approved_type`" + ` says what it came to; a
filter for either name finds it.

`
