package loadtest

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect/v2"

	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
)

const (
	submitters     = 4
	submittedBatch = 100
)

// killStep is after how many operations a node is killed, while they are
// submitted and again while they are carried out.
func killStep(total int) int64 { return int64(max(submittedBatch, min(total/6, 5000))) }

// operationCount is how many operations are submitted, OPERATIONS or a few.
func operationCount(tb testing.TB) int {
	tb.Helper()
	return numberFrom(tb, "OPERATIONS", 6000)
}

func numberFrom(tb testing.TB, variable string, standard int) int {
	tb.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return standard
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < submittedBatch {
		tb.Fatalf("%s is %q; it must be a number from %d", variable, text, submittedBatch)
	}
	return n
}

// TestOperationsSurvive submits operations to any node while nodes are killed at
// random, until all of them have ended. Each ends once: the units that are gone
// are those of the operations that say so. OPERATIONS sets how many; "make
// bench-operations" takes 100,000.
func TestOperationsSurvive(t *testing.T) {
	t.Parallel()
	const units = 1 << 40
	d := startDevCluster(t)
	eventually(d.tb, d.complete, "all nodes know each other")
	clinics := []string{d.clinic(units), d.clinic(units), d.clinic(units)}
	total := operationCount(t)
	var batches, submitted atomic.Int64
	var submitting sync.WaitGroup
	for from := range submitters {
		submitting.Go(func() {
			for {
				batch := int(batches.Add(1)) - 1
				if batch*submittedBatch >= total {
					return
				}
				d.submit(clinics[batch%len(clinics)], batch, from)
				submitted.Add(submittedBatch)
			}
		})
	}
	kills := 0
	for step := killStep(total); submitted.Load() < int64(total); kills++ {
		until := min(submitted.Load()+step, int64(total))
		eventually(d.tb, func() bool { return submitted.Load() >= until || t.Failed() }, "more operations are submitted")
		d.end(rand.IntN(devClusterNodes), syscall.SIGKILL)
	}
	submitting.Wait()
	kills += d.drainedUnderKills(total)
	count := (total + submittedBatch - 1) / submittedBatch * submittedBatch
	queries := stockledgerv1connect.NewQueryServiceClient(d.connect())
	operations := stockledgerv1connect.NewOperationServiceClient(d.connect())
	var gone, accepted int64
	for _, clinic := range clinics {
		stock, err := queries.GetStock(context.Background(), &pb.GetStockRequest{ClinicId: clinic, LocationId: "store", MedicineId: "zinc", Read: &pb.ReadOptions{Consistency: pb.Consistency_CONSISTENCY_STRONG}})
		if err != nil {
			t.Fatal(err)
		}
		gone += units - stock.GetTotals().GetAvailable()
		seen := make(map[int64]bool)
		for page := (&pb.Page{PageSize: 1000}); ; {
			answer, err := operations.ListOperations(context.Background(), &pb.ListOperationsRequest{ClinicId: clinic, Page: page})
			if err != nil {
				t.Fatal(err)
			}
			for _, op := range answer.GetOperations() {
				sequence := op.GetResult().GetAccepted().GetSequence()
				if op.GetState() != pb.OperationState_OPERATION_STATE_ACCEPTED || seen[sequence] {
					t.Fatalf("an operation ended as %v", op)
				}
				seen[sequence] = true
				accepted++
			}
			if page.PageToken = answer.GetNextPageToken(); page.GetPageToken() == "" {
				break
			}
		}
		d.verify(clinic)
	}
	if gone != int64(count) || accepted != int64(count) {
		t.Errorf("%d operations were submitted, %d say that they were carried out, and %d units are gone", count, accepted, gone)
	}
	t.Logf("%d operations, %d kills", count, kills)
}

// submit submits a batch, at one node after the other until one takes it.
func (d *devCluster) submit(clinic string, batch, from int) {
	commands := make([]*pb.Command, submittedBatch)
	for i := range commands {
		commands[i] = issueOf(clinic, fmt.Sprint("op-", batch, "-", i)).GetCommand()
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for attempt := from; ctx.Err() == nil; attempt++ {
		n := d.nodes[attempt%len(d.nodes)]
		answer, err := stockledgerv1connect.NewOperationServiceClient(connectTo(n)).Submit(ctx, &pb.SubmitRequest{
			ClinicId: clinic, Commands: commands, Priority: pb.Priority(1 + batch%3),
		})
		if err == nil {
			for _, o := range answer.GetOutcomes() {
				if o.GetRejected() != nil {
					d.tb.Errorf("a command was not submitted: %v", o)
				}
			}
			return
		}
		if code := connect.CodeOf(err); code != connect.CodeUnavailable && code != connect.CodeUnknown && code != connect.CodeCanceled {
			d.tb.Errorf("a client was told: %v", err)
			return
		}
		wait := time.NewTimer(20 * time.Millisecond)
		<-wait.C
	}
	d.tb.Errorf("batch %d was not taken within %s", batch, patience)
}

// drainedUnderKills waits until no operation waits, and goes on killing nodes at
// random whenever some more have ended. It returns how many it killed.
func (d *devCluster) drainedUnderKills(total int) (kills int) {
	d.tb.Helper()
	step := killStep(total)
	for left, next := int64(-1), int64(total); left != 0; {
		eventually(d.tb, func() bool {
			now, err := d.waiting()
			if err != nil || now == left {
				return false
			}
			left = now
			return true
		}, "operations are carried out")
		if left > 0 && left <= next {
			d.end(rand.IntN(devClusterNodes), syscall.SIGKILL)
			kills++
			next = left - step
		}
	}
	return kills
}

func (d *devCluster) waiting() (int64, error) {
	answer, err := stockledgerv1connect.NewAdminServiceClient(connectTo(d.nodes[0])).GetCluster(context.Background(), &pb.GetClusterRequest{})
	var sum int64
	for _, q := range answer.GetQueues() {
		sum += q.GetWaiting()
	}
	return sum, err
}

// TestUrgentOperationsPass has high operations carried out while many low ones
// wait at the same clinic: they are done while those wait still, and those get
// their share. It tells how long they take, which is for "make bench" to judge;
// here only a gross failure counts. LOW_OPERATIONS sets how many low ones.
func TestUrgentOperationsPass(t *testing.T) {
	low := numberFrom(t, "LOW_OPERATIONS", 3000)
	c := startCluster(t)
	u := &urgency{c, c.clinic(1 << 40), stockledgerv1connect.NewOperationServiceClient(c.connect())}
	idle := u.high("idle", 100)
	const batch = 5 * submittedBatch
	for from := 0; from < low; from += batch {
		u.submit(pb.Priority_PRIORITY_LOW, fmt.Sprint("low-", from), min(batch, low-from))
	}
	u.high("warm", 1)
	before := u.waiting()
	busy := u.high("busy", 100)
	after := u.waiting()
	t.Logf("p99 is %.2f times that of idle, p50 %.2f; %d low ones waited before, %d after", idle.times(busy, 0.99), idle.times(busy, 0.5), before, after)
	if after == 0 {
		t.Errorf("%d low ones were done before 100 high ones", before)
	}
	if ratio := idle.times(busy, 0.5); ratio > 20 {
		t.Errorf("high operations wait for low ones: the half of them took %.1f times as long", ratio)
	}
	until := time.Now().Add(time.Minute)
	for u.waiting() >= after {
		if time.Now().After(until) {
			t.Fatal("low operations get no share")
		}
	}
}

// urgency measures high operations at a clinic.
type urgency struct {
	*cluster
	clinic     string
	operations stockledgerv1connect.OperationServiceClient
}

func (u *urgency) submit(priority pb.Priority, key string, n int) {
	u.tb.Helper()
	commands := make([]*pb.Command, n)
	for i := range commands {
		commands[i] = issueOf(u.clinic, fmt.Sprint(key, "-", i)).GetCommand()
	}
	if _, err := u.operations.Submit(context.Background(), &pb.SubmitRequest{ClinicId: u.clinic, Commands: commands, Priority: priority}); err != nil {
		u.tb.Fatal(err)
	}
}

// latencies are sorted.
type latencies []time.Duration

func (l latencies) percentile(share float64) time.Duration { return l[int(share*float64(len(l)-1))] }

// times is how many times as long others took.
func (l latencies) times(others latencies, share float64) float64 {
	return float64(others.percentile(share)) / float64(l.percentile(share))
}

// high has so many high operations carried out, one after the other.
func (u *urgency) high(name string, n int) latencies {
	u.tb.Helper()
	took := make(latencies, n)
	for i := range took {
		began, key := time.Now(), fmt.Sprint(name, i)
		u.submit(pb.Priority_PRIORITY_HIGH, key, 1)
		answer, err := u.operations.WaitOperation(context.Background(), &pb.WaitOperationRequest{ClinicId: u.clinic, IdempotencyKey: key + "-0"})
		if err != nil || answer.GetOperation().GetState() != pb.OperationState_OPERATION_STATE_ACCEPTED {
			u.tb.Fatal(answer, err)
		}
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	u.tb.Logf("%s: p50 %s, p99 %s", name, took.percentile(0.5), took.percentile(0.99))
	return took
}

// waiting counts what waits at the clinic.
func (u *urgency) waiting() (n int) {
	u.tb.Helper()
	for page := (&pb.Page{PageSize: 1000}); ; {
		answer, err := u.operations.ListOperations(context.Background(), &pb.ListOperationsRequest{ClinicId: u.clinic, State: pb.OperationState_OPERATION_STATE_WAITING, Page: page})
		if err != nil {
			u.tb.Fatal(err)
		}
		n += len(answer.GetOperations())
		if page.PageToken = answer.GetNextPageToken(); page.GetPageToken() == "" {
			return n
		}
	}
}

// TestReportsSurvive kills the nodes of a cluster at random while one of them
// reads a report. It ends, with each row once: the file is the one that is read
// at once.
func TestReportsSurvive(t *testing.T) {
	t.Parallel()
	const movements = 12_000
	d := startDevCluster(t)
	eventually(d.tb, d.complete, "all nodes know each other")
	clinic := d.clinic(1 << 40)
	for from := 0; from < movements; from += 1000 {
		batch := &pb.ExecuteBatchRequest{ClinicId: clinic}
		for i := range 1000 {
			batch.Commands = append(batch.Commands, issueOf(clinic, fmt.Sprint("i-", from+i)).GetCommand())
		}
		if _, err := d.inventory().ExecuteBatch(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	operations := func(which int) stockledgerv1connect.OperationServiceClient {
		return stockledgerv1connect.NewOperationServiceClient(connectTo(d.nodes[which]))
	}
	if _, err := operations(0).SubmitReport(t.Context(), &pb.SubmitReportRequest{ClinicId: clinic, IdempotencyKey: "card", Report: "stock-card"}); err != nil {
		t.Fatal(err)
	}
	kills := 0
	for ended := false; !ended; kills++ {
		which := rand.IntN(devClusterNodes)
		d.end(which, syscall.SIGKILL)
		eventually(d.tb, func() bool {
			answer, err := operations(which).GetOperation(t.Context(), &pb.GetOperationRequest{ClinicId: clinic, IdempotencyKey: "card"})
			ended = answer.GetOperation().GetState() == pb.OperationState_OPERATION_STATE_ACCEPTED
			return err == nil
		}, "the report is there")
		if kills == 20 { // and now it may end
			break
		}
	}
	eventually(d.tb, func() bool {
		answer, err := operations(0).GetOperation(t.Context(), &pb.GetOperationRequest{ClinicId: clinic, IdempotencyKey: "card"})
		return err == nil && answer.GetOperation().GetReport().GetRowsDone() == movements+1 && answer.GetOperation().GetState() == pb.OperationState_OPERATION_STATE_ACCEPTED
	}, "the report ends")
	if later, now := d.download(clinic+"/operations/card"), d.download(clinic+"/stock-card"); later != now || strings.Count(now, "\n") != movements+2 {
		t.Errorf("the report has %d bytes and %d lines, and read at once it has %d bytes", len(later), strings.Count(later, "\n"), len(now))
	}
	t.Logf("%d kills", kills)
}

// download reads a report as CSV.
func (d *devCluster) download(path string) string {
	d.tb.Helper()
	request, err := http.NewRequest(http.MethodGet, "http://"+d.nodes[0].Address+"/csv/"+path, nil)
	if err != nil {
		d.tb.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+d.nodes[0].Token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		d.tb.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		d.tb.Fatalf("%s: %d %s, %v", path, response.StatusCode, body, err)
	}
	return string(body)
}
