package rpc

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/localdb"
	"github.com/stockledger/stockledger/txn/txntest"
)

// behindReplica starts a node with a replica, and returns what stops that once
// it shows a command.
func behindReplica(t *testing.T) (n *node, pause func(clinic string, known int64)) {
	t.Helper()
	primary := txntest.PrivateServer(t)
	if primary.Source != localdb.SourcePostgres {
		t.Skip("CockroachDB reads from its own followers")
	}
	server, err := primary.StartReplica(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	db, err := txn.Open(t.Context(), txn.Config{DatabaseURL: primary.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	replicas, err := txn.OpenReplicas(t.Context(), db, txn.ReplicasConfig{URLs: []string{server.URL}, MaxLag: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(replicas.Close)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		replicas.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	queries := txn.NewQueries(txn.NewDirectory(db))
	queries.UseReplicas(replicas)
	n = startNode(t, Config{}, Deps{Executor: txn.NewExecutor(db, txn.ExecutorConfig{Log: quietLog()}), Database: db, Queries: queries})
	return n, func(clinic string, known int64) {
		awaitReplica(t, replicas, queries, clinic, known)
		if err := server.PauseReplay(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// awaitReplica waits until the replica shows a command and is read.
func awaitReplica(t *testing.T, replicas *txn.Replicas, queries *txn.Queries, clinic string, known int64) {
	t.Helper()
	registry := prometheus.NewRegistry()
	replicas.RegisterMetrics(registry)
	served := func() (count float64) {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			for _, metric := range family.GetMetric() {
				for _, label := range metric.GetLabel() {
					if family.GetName() == "stockledger_bounded_reads_total" && label.GetName() == "from" && label.GetValue() != "primary" {
						count += metric.GetCounter().GetValue()
					}
				}
			}
		}
		return count
	}
	ctx, cancel := context.WithTimeout(t.Context(), watchFor)
	defer cancel()
	for before := served(); served() == before; {
		o := txn.ReadOptions{Consistency: txn.Bounded, MaxStaleness: time.Hour, MinSequence: ledger.Sequence(known)}
		if _, _, err := queries.Clinic(ctx, ledger.ClinicID(clinic), o); err != nil {
			t.Fatal(err)
		}
	}
}

// The queues of what waits for somebody show it at once, also where other lists
// come from a replica that is behind.
func TestQueuesShowWhatWaitsAtOnce(t *testing.T) {
	t.Parallel()
	n, pause := behindReplica(t)
	c := newClinic(t, n)
	policy := &stockledgerv1.Command{Body: &stockledgerv1.Command_SetPolicy{SetPolicy: &stockledgerv1.SetPolicy{
		Rules:         []*stockledgerv1.PolicyRule{{ControlClass: "*", Command: "WriteOffStock", Requires: stockledgerv1.Requirement_REQUIREMENT_APPROVAL}},
		ApprovalHours: 1,
	}}}
	known := c.must(t, policy)[0].GetSequence()
	read := &stockledgerv1.ReadOptions{Consistency: stockledgerv1.Consistency_CONSISTENCY_BOUNDED, MaxStaleness: durationpb.New(time.Hour), MinSequence: known}
	pause(c.id, known)
	last := c.must(t,
		&stockledgerv1.Command{Body: &stockledgerv1.Command_TransferStock{TransferStock: &stockledgerv1.TransferStock{
			FromLocationId: "store", ToLocationId: "ward", Lines: []*stockledgerv1.RequestedLine{{MedicineId: "zinc", Quantity: 5}},
			DispatchBy: timestamppb.New(time.Now().Add(time.Hour)), ReasonCode: "restock",
		}}},
		&stockledgerv1.Command{Body: &stockledgerv1.Command_WriteOffStock{WriteOffStock: &stockledgerv1.WriteOffStock{LocationId: "store", LotId: "L1", Quantity: 1, ReasonCode: "broken"}}},
	)[1].GetSequence()
	transfers := func(req *stockledgerv1.ListTransfersRequest) *stockledgerv1.ListTransfersResponse {
		t.Helper()
		req.ClinicId = c.id
		listed, err := c.admin.query.ListTransfers(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		return listed
	}
	approvals := func(req *stockledgerv1.ListApprovalsRequest) *stockledgerv1.ListApprovalsResponse {
		t.Helper()
		req.ClinicId = c.id
		listed, err := c.admin.query.ListApprovals(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		return listed
	}
	// Whoever may be shown less is: the replica is read, and behind.
	ctx, cancel := context.WithTimeout(t.Context(), watchFor)
	defer cancel()
	for transfers(&stockledgerv1.ListTransfersRequest{Read: read}).GetAsOf().GetSequence() >= last {
		if ctx.Err() != nil {
			t.Fatal("the replica is never read")
		}
	}
	if listed := transfers(&stockledgerv1.ListTransfersRequest{Read: read}); len(listed.GetTransfers()) != 0 {
		t.Errorf("a replica that is behind shows %v", listed)
	}
	open := []stockledgerv1.TransferStatus{stockledgerv1.TransferStatus_TRANSFER_STATUS_REQUESTED}
	for name, req := range map[string]*stockledgerv1.ListTransfersRequest{"all that are open": {}, "the requested": {Statuses: open}} {
		if listed := transfers(req); len(listed.GetTransfers()) != 1 || listed.GetAsOf().GetSequence() != last {
			t.Errorf("%s: %v", name, listed)
		}
	}
	if listed := approvals(&stockledgerv1.ListApprovalsRequest{}); len(listed.GetApprovals()) != 1 || listed.GetAsOf().GetSequence() != last {
		t.Errorf("approvals: %v", listed)
	}
	// What is not a queue is a list like any other.
	if listed := approvals(&stockledgerv1.ListApprovalsRequest{IncludeClosed: true}); listed.GetAsOf().GetSequence() >= last {
		t.Errorf("the list of all approvals is as of %d, and the replica is behind %d", listed.GetAsOf().GetSequence(), last)
	}
}
