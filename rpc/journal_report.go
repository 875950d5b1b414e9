package rpc

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// journalAtOnce is how many events are looked at for a page of the journal.
const journalAtOnce = 2000

// journalReport is the journal for an audit: every event up to the one that was
// the last when the first page was read.
var journalReport = csvReport{
	columns: []string{
		"epoch", "sequence", "type", "command", "approved_type", "actor", "witness", "recorded_at", "occurred_at", "location_ids", "medicine_ids", "outcome", "hash",
	},
	alsoShows: permissionManageCounts,
	request:   func(clinic string) proto.Message { return &stockledgerv1.ReplayRequest{ClinicId: clinic} },
	shorten: func(req proto.Message) {
		if whole, ok := req.(*stockledgerv1.ReplayRequest); ok && whole.GetToSequence() == 0 {
			whole.ToSequence = max(0, whole.GetAfter().GetSequence()) + 1
		}
	},
	read: func(ctx context.Context, services csvServices, req proto.Message) (*csvRows, error) {
		whole, ok := req.(*stockledgerv1.ReplayRequest)
		if !ok {
			return nil, fmt.Errorf("rpc: a report's request is a %T", req)
		}
		return readJournal(ctx, services, whole)
	},
	goOn: func(req proto.Message, token string) error {
		rest, ok := req.(*stockledgerv1.ReplayRequest)
		if !ok {
			return fmt.Errorf("rpc: a report's request is a %T", req)
		}
		rest.After = &stockledgerv1.EventPlace{}
		_, err := fmt.Sscanf(token, journalPlaces, &rest.After.Epoch, &rest.After.Sequence, &rest.ToSequence)
		return err
	},
}

// journalPlaces names a page: the place after which it begins, and the report's
// last sequence.
const journalPlaces = "%d:%d:%d"

// readJournal reads the first page of a part of the journal.
func readJournal(ctx context.Context, services csvServices, whole *stockledgerv1.ReplayRequest) (*csvRows, error) {
	clinic, err := services.catalog.GetClinic(ctx, &stockledgerv1.GetClinicRequest{ClinicId: whole.GetClinicId()})
	if err != nil {
		return nil, err
	}
	end := clinic.GetAsOf()
	after, last := whole.GetAfter().GetSequence(), end.GetSequence()
	if whole.GetToSequence() != 0 { // one that cannot be is refused by Replay
		last = min(last, whole.GetToSequence())
	}
	part := &stockledgerv1.ReplayRequest{
		ClinicId: whole.GetClinicId(), Filter: whole.GetFilter(), ToSequence: last,
		After: &stockledgerv1.EventPlace{Epoch: cmp.Or(whole.GetAfter().GetEpoch(), end.GetEpoch()), Sequence: after},
	}
	if last-after > journalAtOnce {
		part.ToSequence = after + journalAtOnce
	}
	rows := &csvRows{asOf: end}
	if whole.GetFilter() == nil {
		rows.total = max(0, last-after)
	}
	looked, err := replayInto(ctx, services, part, rows)
	if err == nil && looked.GetSequence() < last {
		rows.next = fmt.Sprintf(journalPlaces, looked.GetEpoch(), min(looked.GetSequence(), part.GetToSequence()), last)
	}
	return rows, err
}

// replayInto adds a part of the journal to rows, and returns up to where it
// looked. It reads to the end: what answers goes on until then.
func replayInto(ctx context.Context, services csvServices, part *stockledgerv1.ReplayRequest, rows *csvRows) (looked *stockledgerv1.EventPlace, failed error) {
	stream, err := services.events.Replay(ctx, part)
	if err != nil {
		return nil, err
	}
	defer func() { _ = stream.Close() }()
	for {
		message, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return looked, failed
		}
		if err != nil {
			return nil, err
		}
		looked = message.GetLooked()
		for _, event := range message.GetEvents() {
			cells, err := eventCells(event)
			failed = errors.Join(failed, err)
			rows.rows = append(rows.rows, cells)
		}
	}
}

func eventCells(e *stockledgerv1.Event) ([]string, error) {
	outcome, err := protojson.Marshal(e.GetOutcome())
	if err != nil {
		return nil, fmt.Errorf("rpc: an event's outcome as JSON: %w", err)
	}
	var compact bytes.Buffer // protojson's spaces differ from release to release
	if err := json.Compact(&compact, outcome); err != nil {
		return nil, fmt.Errorf("rpc: an event's outcome as JSON: %w", err)
	}
	return []string{
		decimal(e.GetEpoch()), decimal(e.GetSequence()), e.GetType(), e.GetCommand(), e.GetApprovedType(), CSVText(e.GetActor()), CSVText(e.GetWitness()),
		cellTime(e.GetRecordedAt()), cellTime(e.GetOccurredAt()), CSVText(strings.Join(e.GetLocationIds(), "; ")), CSVText(strings.Join(e.GetMedicineIds(), "; ")),
		compact.String(), hex.EncodeToString(e.GetHash()),
	}, nil
}
