package loadtest

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stockledger/stockledger/ledger"
	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
	"github.com/stockledger/stockledger/txn"
)

const (
	leaderClinics = 200
	leaderHolds   = 5
	leaderJob     = "expire-holds"
)

// failoverWithin is how soon another leader must have ended what the last one was
// in the middle of. On a machine that does nothing else that is 10 s
// (FAILOVER_WITHIN=10s); beside other tests nodes lose leases that they hold.
func failoverWithin(tb testing.TB) time.Duration {
	return durationOf(tb, "FAILOVER_WITHIN", time.Minute)
}

// stoppedFor is for how long a leader is stopped at least, LEADER_STOPPED_FOR or
// until another one has done its work.
func stoppedFor(tb testing.TB) time.Duration { return durationOf(tb, "LEADER_STOPPED_FOR", 0) }

func durationOf(tb testing.TB, variable string, otherwise time.Duration) time.Duration {
	tb.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		tb.Fatalf("%s is %q; it must be a duration, such as 1m", variable, text)
	}
	return d
}

// A leader is stopped in the middle of a run, as a machine that is suspended is.
// Another one takes over and ends the run. When the first one goes on, where it
// was, it can record nothing; and every hold was given up once. It measures, so
// it does not run beside others.
func TestLeaderIsStopped(t *testing.T) {
	d, clinics := overdueCluster(t)
	leader, before := d.inTheMiddle()
	began := time.Now()
	d.signal(leader, syscall.SIGSTOP)
	t.Cleanup(func() { d.signal(leader, syscall.SIGCONT) })
	run := d.takenOver(leader, before, began)
	epoch := d.state((leader + 1) % devClusterNodes).GetLeaderEpoch()
	if wait := time.Until(began.Add(stoppedFor(t))); wait > 0 {
		<-time.After(wait)
	}
	if names, _ := d.members((leader + 1) % devClusterNodes); len(names) != devClusterNodes-1 {
		t.Errorf("%q are there while the leader is stopped", names)
	}
	d.signal(leader, syscall.SIGCONT)
	// It registers again once it has noticed, and everything that it was in the
	// middle of has ended.
	eventually(d.tb, d.complete, "the one that was stopped is back")
	state := d.state(leader)
	// A later term is anybody's; the one that ended the run is its own.
	if same := state.GetLeaderEpoch() == epoch; state.GetLeaderEpoch() < epoch || same && state.GetLeaderId() != run.GetNodeId() {
		t.Errorf("%s leads with epoch %d; the run was ended by %s, and the epoch was %d", state.GetLeaderId(), state.GetLeaderEpoch(), run.GetNodeId(), epoch)
	}
	if again := d.lastRun(leader); !proto.Equal(run, again) {
		t.Errorf("the run was %v, and is %v", run, again)
	}
	d.givenUpOnce(clinics)
}

// A leader is killed in the middle of a run, with its etcd member.
func TestLeaderIsKilled(t *testing.T) {
	d, clinics := overdueCluster(t)
	leader, before := d.inTheMiddle()
	began := time.Now()
	pid := d.signal(leader, syscall.SIGKILL)
	d.takenOver(leader, before, began)
	eventually(d.tb, func() bool { return d.pids[leader].Load() != pid && d.complete() }, "the one that was killed is back")
	d.givenUpOnce(clinics)
	d.statusTells(leaderClinics)
}

// statusTells asks a node how the cluster is, as an operator does, until it has
// counted the homes of the node that came back.
func (d *devCluster) statusTells(clinics int) {
	d.tb.Helper()
	var missing string
	defer func() {
		if missing != "" {
			d.tb.Log(missing)
		}
	}()
	eventually(d.tb, func() bool { missing = d.missingInStatus(clinics); return missing == "" }, "status tells it all")
}

// missingInStatus says what is not as it should be in the status.
func (d *devCluster) missingInStatus(clinics int) string {
	d.tb.Helper()
	out, err := exec.Command(d.binary, "cluster", "status", "--server", "http://"+d.nodes[1].Address, "--token", d.nodes[1].Token).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%v: %s", err, out)
	}
	homes, leaders := 0, 0
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) < 8 || !slices.Contains([]string{"a", "b", "c"}, fields[0]) {
			continue
		}
		// No node has a region here: name, address, version, start, services.
		n, err := strconv.Atoi(fields[5])
		if err != nil || n == 0 {
			return "a node is home to no clinic: " + line
		}
		homes += n
		leaders += strings.Count(line, "leader, epoch ")
	}
	if leaders != 1 || homes < clinics || homes > clinics+10 { // there are those of the demo
		return fmt.Sprintf("%d leaders, and homes of %d clinics, want %d", leaders, homes, clinics)
	}
	for _, part := range []string{"etcd: http://", leaderJob + "  ", "reconcile  ", "checkpoints  ", "OPERATIONS THAT WAIT\nnone"} {
		if !strings.Contains(string(out), part) {
			return fmt.Sprintf("%q is not in it:\n%s", part, out)
		}
	}
	return ""
}

// overdueCluster is a cluster with clinics at which holds are overdue, which
// nobody gives up before he is asked to.
func overdueCluster(t *testing.T) (*devCluster, []string) {
	t.Helper()
	d := startDevCluster(t, "STOCKLEDGER_JOB_SCHEDULE="+leaderJob+"=never")
	eventually(d.tb, d.complete, "all nodes know each other")
	deadline := time.Now().Add(15 * time.Second)
	clinics := make([]string, leaderClinics)
	var making sync.WaitGroup
	next := make(chan int)
	for range 8 {
		making.Go(func() {
			for i := range next {
				clinics[i] = d.clinic(100)
				d.hold(clinics[i], deadline)
			}
		})
	}
	for i := range clinics {
		next <- i
	}
	close(next)
	making.Wait()
	eventually(d.tb, func() bool { return time.Now().After(deadline) }, "the holds are overdue")
	return d, clinics
}

func (d *devCluster) hold(clinic string, until time.Time) {
	var commands []*pb.Command
	for i := range leaderHolds {
		commands = append(commands, &pb.Command{IdempotencyKey: fmt.Sprint("hold-", i), Body: &pb.Command_ReserveStock{ReserveStock: &pb.ReserveStock{
			LocationId: "store", MedicineId: "zinc", Quantity: 1, ReasonCode: "round", Deadline: timestamppb.New(until),
		}}})
	}
	answer, err := d.inventory().ExecuteBatch(context.Background(), &pb.ExecuteBatchRequest{ClinicId: clinic, Commands: commands})
	if err != nil {
		d.tb.Errorf("hold stock: %v", err)
	}
	for _, result := range answer.GetResults() {
		if result.GetAccepted() == nil {
			d.tb.Errorf("hold stock: %v", result)
		}
	}
}

func (d *devCluster) admin(which int) stockledgerv1connect.AdminServiceClient {
	return stockledgerv1connect.NewAdminServiceClient(connectTo(d.nodes[which]))
}

func (d *devCluster) state(which int) *pb.GetClusterResponse {
	d.tb.Helper()
	state, err := d.admin(which).GetCluster(context.Background(), &pb.GetClusterRequest{})
	if err != nil {
		d.tb.Fatal(err)
	}
	return state
}

// lastRun is the job's last run, as a node has it.
func (d *devCluster) lastRun(which int) *pb.JobRun {
	d.tb.Helper()
	answer, err := d.admin(which).ListJobRuns(context.Background(), &pb.ListJobRunsRequest{Job: leaderJob, Page: &pb.Page{PageSize: 1}})
	if err != nil || len(answer.GetRuns()) != 1 {
		d.tb.Fatalf("the runs are %v, %v", answer, err)
	}
	return answer.GetRuns()[0]
}

// inTheMiddle asks for a run, and returns once the leader is in the middle of it.
func (d *devCluster) inTheMiddle() (leader int, before *pb.GetClusterResponse) {
	d.tb.Helper()
	_, name := d.members(0)
	leader = slices.IndexFunc([]string{"a", "b", "c"}, func(n string) bool { return n == name })
	before = d.state((leader + 1) % devClusterNodes)
	if _, err := d.admin((leader+1)%devClusterNodes).RunJob(context.Background(), &pb.RunJobRequest{Job: leaderJob}); err != nil {
		d.tb.Fatal(err)
	}
	eventually(d.tb, func() bool { return d.lastRun((leader+1)%devClusterNodes).GetClinics() > 0 }, "the run has begun")
	return leader, before
}

// takenOver waits until another leader has ended the run.
func (d *devCluster) takenOver(leader int, before *pb.GetClusterResponse, began time.Time) *pb.JobRun {
	d.tb.Helper()
	other := (leader + 1) % devClusterNodes
	at := d.lastRun(other)
	if at.GetFinishedAt() != nil {
		d.tb.Fatal("the run had ended before its leader did")
	}
	run := at
	eventually(d.tb, func() bool {
		run = d.lastRun(other)
		return run.GetFinishedAt() != nil
	}, "another leader ends the run")
	took := time.Since(began)
	d.tb.Logf("the run was at clinic %d of %d, and ended %s after its leader", at.GetClinics(), leaderClinics, took.Round(time.Millisecond))
	if limit := failoverWithin(d.tb); took > limit {
		d.tb.Errorf("it took %s, want at most %s", took, limit)
	}
	state := d.state(other)
	if run.GetNodeId() == before.GetLeaderId() || state.GetLeaderEpoch() <= before.GetLeaderEpoch() {
		d.tb.Errorf("the run was ended by %s; %s led with epoch %d and %s does with %d", run.GetNodeId(),
			before.GetLeaderId(), before.GetLeaderEpoch(), state.GetLeaderId(), state.GetLeaderEpoch())
	}
	// What its leader did and could not record any more is not due again.
	if run.GetClinics() <= at.GetClinics() || run.GetClinics() > leaderClinics || run.GetFailures() != 0 {
		d.tb.Errorf("the run is %v", run)
	}
	return run
}

// givenUpOnce counts in the journals.
func (d *devCluster) givenUpOnce(clinics []string) {
	d.tb.Helper()
	db, err := txn.Open(context.Background(), txn.Config{DatabaseURL: d.databaseURL, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		d.tb.Fatal(err)
	}
	defer db.Close()
	queries := txn.NewQueries(txn.NewDirectory(db))
	for _, clinic := range clinics {
		events, _, _, err := queries.Events(context.Background(), ledger.ClinicID(clinic), txn.Place{}, &txn.EventFilter{}, 100, txn.ReadOptions{})
		if err != nil {
			d.tb.Fatal(err)
		}
		given := 0
		for _, e := range events {
			if e.Event.Kind() == ledger.KindExpireReservation {
				given++
			}
		}
		if given != leaderHolds {
			d.tb.Errorf("%d holds were given up at %s, want each of %d once", given, clinic, leaderHolds)
		}
	}
	d.verify(clinics[0])
}
