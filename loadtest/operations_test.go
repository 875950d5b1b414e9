package loadtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
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

// operationCount is how many operations are submitted, OPERATIONS or a few.
func operationCount(tb testing.TB) int {
	tb.Helper()
	text := os.Getenv("OPERATIONS")
	if text == "" {
		return 6000
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		tb.Fatalf("OPERATIONS is %q; it must be a number", text)
	}
	return n
}

// TestOperationsSurvive submits operations to any node while nodes are killed in
// turn. Each ends once: the units that are gone are those of the operations that
// say so.
func TestOperationsSurvive(t *testing.T) {
	t.Parallel()
	const units = 1 << 40
	d := startDevCluster(t)
	d.eventually(d.complete, "all nodes know each other")
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
	for step := int64(total / 6); submitted.Load() < int64(total); kills++ {
		until := min(submitted.Load()+step, int64(total))
		d.eventually(func() bool { return submitted.Load() >= until || t.Failed() }, "more operations are submitted")
		d.end(kills%devClusterNodes, syscall.SIGKILL)
	}
	submitting.Wait()
	d.drained()
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

// drained waits until no operation waits.
func (d *devCluster) drained() {
	d.tb.Helper()
	for left := int64(-1); ; {
		d.eventually(func() bool {
			now, err := d.waiting()
			if err != nil || now == left {
				return false
			}
			left = now
			return true
		}, "operations are carried out")
		if left == 0 {
			return
		}
	}
}

func (d *devCluster) waiting() (int64, error) {
	answer, err := stockledgerv1connect.NewAdminServiceClient(connectTo(d.nodes[0])).GetCluster(context.Background(), &pb.GetClusterRequest{})
	var sum int64
	for _, q := range answer.GetQueues() {
		sum += q.GetWaiting()
	}
	return sum, err
}

// TestUrgentOperationsPass measures how long high operations take at a clinic
// where nothing else waits, and while many low ones do. It is a measurement that
// any machine may miss, so only a gross failure fails it; LOW_OPERATIONS sets
// how many.
func TestUrgentOperationsPass(t *testing.T) {
	text := os.Getenv("LOW_OPERATIONS")
	low, err := strconv.Atoi(text)
	if err != nil || low < submittedBatch {
		t.Skip("it takes the machine for itself: set LOW_OPERATIONS, for example to 50000")
	}
	c := startCluster(t)
	clinic := c.clinic(1 << 40)
	operations := stockledgerv1connect.NewOperationServiceClient(c.connect())
	urgent := func(name string, n int) time.Duration {
		took := make([]time.Duration, n)
		for i := range took {
			began, key := time.Now(), fmt.Sprint(name, i)
			_, err := operations.Submit(t.Context(), &pb.SubmitRequest{ClinicId: clinic, Commands: []*pb.Command{issueOf(clinic, key).GetCommand()}, Priority: pb.Priority_PRIORITY_HIGH})
			if err != nil {
				t.Fatal(err)
			}
			answer, err := operations.WaitOperation(t.Context(), &pb.WaitOperationRequest{ClinicId: clinic, IdempotencyKey: key})
			if err != nil || answer.GetOperation().GetState() != pb.OperationState_OPERATION_STATE_ACCEPTED {
				t.Fatal(answer, err)
			}
			took[i] = time.Since(began)
		}
		slices.Sort(took)
		t.Logf("%s: p50 %s, p99 %s", name, took[n/2], took[n*99/100])
		return took[n*99/100]
	}
	idle := urgent("idle", 300)
	for batch := 0; batch*submittedBatch < low; batch += 5 {
		var commands []*pb.Command
		for i := range 5 * submittedBatch {
			commands = append(commands, issueOf(clinic, fmt.Sprint("low-", batch, "-", i)).GetCommand())
		}
		if _, err := operations.Submit(t.Context(), &pb.SubmitRequest{ClinicId: clinic, Commands: commands, Priority: pb.Priority_PRIORITY_LOW}); err != nil {
			t.Fatal(err)
		}
	}
	left := func() (n int64) {
		answer, err := stockledgerv1connect.NewAdminServiceClient(c.connect()).GetCluster(t.Context(), &pb.GetClusterRequest{})
		if err != nil {
			t.Fatal(errors.Unwrap(err))
		}
		for _, q := range answer.GetQueues() {
			n += q.GetWaiting()
		}
		return n
	}
	before := left()
	busy := urgent("busy", 300)
	t.Logf("p99 is %.2f times that of idle; %d low ones waited before, %d after", float64(busy)/float64(idle), before, left())
	if busy > 50*idle {
		t.Error("high operations wait for low ones")
	}
}
