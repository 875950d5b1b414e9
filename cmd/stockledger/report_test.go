package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// A report is submitted, waited for and written; again under its key, it is
// fetched. What operators see of operations are their keys, states and outcomes.
func TestReportOnTheCommandLine(t *testing.T) {
	t.Parallel()
	job := newImportJob(t)
	from := newClient(job.node.url, job.node.token)
	if _, err := from.execute(t.Context(), job.clinic, []*pb.Command{
		{IdempotencyKey: "1", Body: &pb.Command_CreateClinic{CreateClinic: &pb.CreateClinic{Name: "Hillside", TimeZone: "Africa/Nairobi"}}},
		{IdempotencyKey: "2", Body: &pb.Command_CreateLocation{CreateLocation: &pb.CreateLocation{LocationId: "store", Name: "Store", Kind: pb.LocationKind_LOCATION_KIND_STORE}}},
	}); err != nil {
		t.Fatal(err)
	}
	at := operationsFlags{Server: job.node.url, Token: job.node.token, Clinic: job.clinic}
	file := filepath.Join(job.dir, "stock.csv")
	report := func(change func(*reportCmd)) error {
		c := &reportCmd{operationsFlags: at, Report: "stock-on-hand", Parameters: map[string]string{"location_id": "store"}, Key: "k", Output: file, Wait: time.Minute}
		change(c)
		return c.Run(t.Context())
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, job.node.url+"/csv/"+job.clinic+"/stock-on-hand?location_id=store", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+job.node.token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	now, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := report(func(*reportCmd) {}); err != nil {
			t.Fatal(err)
		}
		if written, err := os.ReadFile(file); err != nil || string(written) != string(now) || !strings.HasPrefix(string(now), "location_id,") {
			t.Errorf("the file has %d bytes, %v", len(written), err)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	if err := report(func(c *reportCmd) { c.Key, c.Wait = "later", 0 }); err != nil {
		t.Errorf("only submitted: %v", err)
	}
	if err := report(func(c *reportCmd) { c.Report = "gold" }); err == nil || !strings.Contains(err.Error(), "There are: ") {
		t.Errorf("an unknown report: %v", err)
	}
	if err := report(func(c *reportCmd) { c.Parameters = nil }); err == nil || !strings.Contains(err.Error(), "already_exists") {
		t.Errorf("another report under the key: %v", err)
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("a file is there without a report: %v", err)
	}
	for _, run := range []func() error{
		func() error {
			return (&operationsListCmd{operationsFlags: at, State: "accepted", Limit: 5}).Run(t.Context())
		},
		func() error { return (&operationsGetCmd{at, "k"}).Run(t.Context()) },
	} {
		if err := run(); err != nil {
			t.Error(err)
		}
	}
	for _, run := range []func() error{
		func() error { return (&operationsCancelCmd{at, "k"}).Run(t.Context()) },
		func() error { return (&operationsResubmitCmd{at, "k"}).Run(t.Context()) },
		func() error { return (&operationsGetCmd{at, "none"}).Run(t.Context()) },
	} {
		if err := run(); err == nil {
			t.Error("what can't be done was")
		}
	}
}

func TestOperationsArePrinted(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	at := timestamppb.New(time.Date(2027, 3, 31, 14, 0, 0, 0, time.UTC))
	total := int64(90)
	if err := printOperations(&out, []*pb.Operation{
		{IdempotencyKey: "a", Kind: "IssueStock", Priority: pb.Priority_PRIORITY_HIGH, State: pb.OperationState_OPERATION_STATE_ACCEPTED, SubmittedBy: "amina", SubmittedAt: at, FinishedAt: at,
			Result: &pb.CommandResult{Verdict: &pb.CommandResult_Accepted{Accepted: &pb.Accepted{Sequence: 17}}}},
		{IdempotencyKey: "b", Kind: "Report", Priority: pb.Priority_PRIORITY_LOW, State: pb.OperationState_OPERATION_STATE_FAILED, SubmittedAt: at, Attempts: 10,
			LastFailure: &pb.Rejected{Reason: "REPORT_BEHIND", Message: "It is behind."}, Report: &pb.ReportProgress{Report: "stock-card", RowsDone: 5, RowsTotal: &total, Bytes: 70}},
		{IdempotencyKey: "c", Kind: "Report", State: pb.OperationState_OPERATION_STATE_ACCEPTED, SubmittedAt: at, Report: &pb.ReportProgress{Report: "expiries", RowsDone: 90, RowsTotal: &total, KeptUntil: at}},
	}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"IssueStock  high         accepted  amina  2027-03-31T14:00:00Z  2027-03-31T14:00:00Z  0         sequence 17",
		"failed           2027-03-31T14:00:00Z  -                     10        stock-card: 5 of 90 rows, 70 bytes; REPORT_BEHIND: It is behind.",
		"expiries: 90 rows, 0 bytes, kept until 2027-03-31T14:00:00Z",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	out.Reset()
	if err := printCluster(&out, &pb.GetClusterResponse{Reports: &pb.ReportQueue{Waiting: 3, OldestAt: at}, DeadLetters: &pb.DeadLetters{Count: 2, OldestAt: at}}, nil); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"reports that wait: 3, the oldest since 2027-03-31", "dead letters: 2, the oldest since 2027-03-31"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}
