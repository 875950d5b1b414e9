package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stockledger/stockledger/cluster"
	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
	"github.com/stockledger/stockledger/txn"
)

// serverFlags name a node whose API is asked.
type serverFlags struct {
	Server string `default:"http://127.0.0.1:8080" env:"STOCKLEDGER_SERVER" placeholder:"URL" help:"A node's API. Default: http://127.0.0.1:8080."`
	Token  string `required:"" env:"STOCKLEDGER_TOKEN" help:"Token of somebody who may do this, for all clinics."`
}

// jobsCmd shows and runs the background jobs.
type jobsCmd struct {
	List     jobsListCmd     `cmd:"" help:"List the jobs, each with its last run and its next one."`
	Runs     jobsRunsCmd     `cmd:"" aliases:"show" help:"List the runs of a job, the latest first."`
	Run      jobsRunCmd      `cmd:"" aliases:"trigger" help:"Run a job now."`
	Findings jobsFindingsCmd `cmd:"" help:"List what the jobs found at a clinic that somebody should look at, or at which clinics they found anything."`
}

type jobsListCmd struct{ serverFlags }

// Run prints the jobs.
func (c *jobsListCmd) Run(ctx context.Context) error { return c.printTo(ctx, os.Stdout) }

func (c *jobsListCmd) printTo(ctx context.Context, out io.Writer) error {
	answer, err := newClient(c.Server, c.Token).admin.ListJobs(ctx, &pb.ListJobsRequest{})
	if err != nil {
		return explain(err)
	}
	return printJobs(out, answer.GetJobs())
}

func printJobs(out io.Writer, jobs []*pb.Job) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "JOB\tSCHEDULE\tNEXT\tLAST RUN\tSTATE\tCLINICS\tCOMMANDS\tFINDINGS\tFAILURES")
	for _, job := range jobs {
		schedule := job.GetSchedule() + " " + job.GetTimeZone()
		if job.GetSchedule() == "" {
			schedule = "by hand"
		}
		last := job.GetLastRun()
		if last == nil {
			fmt.Fprintf(w, "%s\t%s\t%s\tnever\n", job.GetJob(), schedule, moment(job.GetNextAt()))
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\n", job.GetJob(), schedule, moment(job.GetNextAt()), moment(last.GetScheduledAt()),
			stateText(last), clinicsText(last), last.GetCommands(), last.GetFindings(), last.GetFailures())
	}
	return w.Flush()
}

type jobsRunsCmd struct {
	serverFlags
	Job   string `arg:"" help:"The job."`
	Limit int32  `default:"20" env:"STOCKLEDGER_LIMIT" help:"Most runs to list. Default: 20."`
}

// Run prints the runs of a job.
func (c *jobsRunsCmd) Run(ctx context.Context) error { return c.printTo(ctx, os.Stdout) }

func (c *jobsRunsCmd) printTo(ctx context.Context, out io.Writer) error {
	answer, err := newClient(c.Server, c.Token).admin.ListJobRuns(ctx, &pb.ListJobRunsRequest{Job: c.Job, Page: &pb.Page{PageSize: c.Limit}})
	if err != nil {
		return explain(err)
	}
	return printRuns(out, answer.GetRuns())
}

func printRuns(out io.Writer, runs []*pb.JobRun) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SCHEDULED\tBY\tSTATE\tNODE\tTOOK\tCLINICS\tCOMMANDS\tFINDINGS\tFAILURES")
	for _, run := range runs {
		by := run.GetRequestedBy()
		if by == "" {
			by = "schedule"
		}
		took := "-"
		if run.GetFinishedAt() != nil {
			took = run.GetFinishedAt().AsTime().Sub(run.GetStartedAt().AsTime()).Round(time.Millisecond).String()
		}
		failures := fmt.Sprint(run.GetFailures())
		if run.GetFailure() != "" {
			failures += ", the last: " + run.GetFailure()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\n", moment(run.GetScheduledAt()), by, stateText(run), run.GetNodeId(), took,
			clinicsText(run), run.GetCommands(), run.GetFindings(), failures)
	}
	return w.Flush()
}

func stateText(run *pb.JobRun) string {
	return strings.ToLower(strings.TrimPrefix(run.GetState().String(), "JOB_RUN_STATE_"))
}

// clinicsText is how many clinics are done, and of how many while the run is
// under way.
func clinicsText(run *pb.JobRun) string {
	if run.GetFinishedAt() != nil || run.GetTotalClinics() == 0 {
		return fmt.Sprint(run.GetClinics())
	}
	return fmt.Sprintf("%d of %d", run.GetClinics(), run.GetTotalClinics())
}

func moment(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	return t.AsTime().UTC().Format("2006-01-02T15:04:05Z")
}

type jobsRunCmd struct {
	serverFlags
	Job  string        `arg:"" help:"The job."`
	Wait time.Duration `default:"0s" env:"STOCKLEDGER_WAIT" help:"Wait so long for the run to end, and show how it goes."`
}

// Run asks for a run, and follows it where it is told to.
func (c *jobsRunCmd) Run(ctx context.Context) error { return c.printTo(ctx, os.Stdout) }

func (c *jobsRunCmd) printTo(ctx context.Context, out io.Writer) error {
	from := newClient(c.Server, c.Token).admin
	answer, err := from.RunJob(ctx, &pb.RunJobRequest{Job: c.Job})
	if err != nil {
		return explain(err)
	}
	run := answer.GetRun()
	if c.Wait == 0 {
		fmt.Fprintf(out, "%s is asked for. To see how it goes: stockledger jobs runs %s\n", c.Job, c.Job)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.Wait)
	defer cancel()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for clinics := int64(-1); ; {
		runs, err := from.ListJobRuns(ctx, &pb.ListJobRunsRequest{Job: c.Job, Page: &pb.Page{PageSize: 100}})
		if err != nil && ctx.Err() == nil {
			return explain(err)
		}
		for _, r := range runs.GetRuns() {
			if !r.GetScheduledAt().AsTime().Equal(run.GetScheduledAt().AsTime()) {
				continue
			}
			if r.GetFinishedAt() != nil {
				return printRuns(out, []*pb.JobRun{r})
			}
			if r.GetClinics() != clinics {
				clinics = r.GetClinics()
				fmt.Fprintf(os.Stderr, "%s: %s clinics done\n", stateText(r), clinicsText(r))
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the run of %s has not ended within %s; it goes on, and stockledger jobs runs %s tells how", c.Job, c.Wait, c.Job)
		case <-tick.C:
		}
	}
}

type jobsFindingsCmd struct {
	serverFlags
	Clinic string `arg:"" optional:"" help:"The clinic. Without one: at which clinics anything was found."`
	Job    string `env:"STOCKLEDGER_JOB" help:"Only what this job found."`
	Kind   string `env:"STOCKLEDGER_KIND" help:"Only findings of this kind, where no clinic is named, for example STOCK_LOW."`
}

// Run prints what was found at a clinic, or at which clinics anything was.
func (c *jobsFindingsCmd) Run(ctx context.Context) error { return c.printTo(ctx, os.Stdout) }

func (c *jobsFindingsCmd) printTo(ctx context.Context, out io.Writer) error {
	from := newClient(c.Server, c.Token).admin
	if c.Clinic == "" {
		return c.listClinics(ctx, from, out)
	}
	if c.Kind != "" {
		return errors.New("--kind is for the list of clinics: name no clinic with it")
	}
	findings, err := everyPage(func(page *pb.Page) ([]*pb.Finding, string, error) {
		answer, err := from.ListFindings(ctx, &pb.ListFindingsRequest{ClinicId: c.Clinic, Job: c.Job, Page: page})
		return answer.GetFindings(), answer.GetNextPageToken(), err
	})
	if err != nil {
		return explain(err)
	}
	if len(findings) == 0 {
		fmt.Fprintln(out, "nothing was found")
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "JOB\tKIND\tSUBJECT\tSEQUENCE\tSINCE\tMESSAGE")
	for _, f := range findings {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", f.GetJob(), f.GetKind(), f.GetSubject(), f.GetSequence(), moment(f.GetFirstFoundAt()), f.GetMessage())
	}
	return w.Flush()
}

func (c *jobsFindingsCmd) listClinics(ctx context.Context, from stockledgerv1connect.AdminServiceClient, out io.Writer) error {
	clinics, err := everyPage(func(page *pb.Page) ([]*pb.ClinicFindings, string, error) {
		answer, err := from.ListClinicsWithFindings(ctx, &pb.ListClinicsWithFindingsRequest{Job: c.Job, Kind: c.Kind, Page: page})
		return answer.GetClinics(), answer.GetNextPageToken(), err
	})
	if err != nil {
		return explain(err)
	}
	if len(clinics) == 0 {
		fmt.Fprintln(out, "nothing was found")
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "JOB\tKIND\tCLINIC\tFINDINGS\tSINCE")
	for _, f := range clinics {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", f.GetJob(), f.GetKind(), f.GetClinicId(), f.GetFindings(), moment(f.GetFirstFoundAt()))
	}
	return w.Flush()
}

// clusterCmd shows the cluster.
type clusterCmd struct {
	Status  clusterStatusCmd  `cmd:"" help:"Show the nodes, the leader and the jobs."`
	Home    clusterHomeCmd    `cmd:"" help:"Show which node executes a clinic's commands."`
	Pin     clusterPinCmd     `cmd:"" help:"Have a node execute a clinic's commands for as long as it is there."`
	Unpin   clusterUnpinCmd   `cmd:"" help:"Let a clinic go back to the node where it would be without a pin."`
	Replace clusterReplaceCmd `cmd:"" name:"replace-member" help:"Make room for an etcd member in the place of one whose data is lost."`
	Adopt   clusterAdoptCmd   `cmd:"" help:"Let a database belong to another etcd cluster, after the first one is gone for good."`
}

type clusterStatusCmd struct{ serverFlags }

// Run prints how the cluster is.
func (c *clusterStatusCmd) Run(ctx context.Context) error { return c.printTo(ctx, os.Stdout) }

func (c *clusterStatusCmd) printTo(ctx context.Context, out io.Writer) error {
	from := newClient(c.Server, c.Token).admin
	state, err := from.GetCluster(ctx, &pb.GetClusterRequest{})
	if err != nil {
		return explain(err)
	}
	jobs, err := from.ListJobs(ctx, &pb.ListJobsRequest{})
	if err != nil {
		return explain(err)
	}
	return printCluster(out, state, jobs.GetJobs())
}

func printCluster(out io.Writer, state *pb.GetClusterResponse, jobs []*pb.Job) error {
	if len(state.GetEtcdEndpoints()) == 0 {
		fmt.Fprint(out, "this node takes no part in a cluster, or has not joined it yet\n\n")
	} else {
		fmt.Fprintf(out, "etcd: %s\n\n", strings.Join(state.GetEtcdEndpoints(), ", "))
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tAPI\tREGION\tVERSION\tSTARTED\tSERVICES\tHOME TO\tIN MEMORY\tWAITING\tROLE")
	for _, n := range state.GetNodes() {
		role := ""
		if n.GetId() == state.GetLeaderId() {
			role = fmt.Sprintf("leader, epoch %d", state.GetLeaderEpoch())
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\n", n.GetName(), n.GetApiAddress(), n.GetRegion(), n.GetVersion(), moment(n.GetStartedAt()), strings.Join(n.GetServices(), ","),
			n.GetHomeClinics(), n.GetClinics(), n.GetWaitingCommands(), role)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if flagged := state.GetFlaggedClinics(); flagged > 0 {
		fmt.Fprintf(out, "\nWHAT IS STORED DOES NOT FOLLOW FROM THE JOURNAL at %d clinics: stockledger jobs findings --job reconcile\n", flagged)
	}
	fmt.Fprintln(out, "\nOPERATIONS THAT WAIT")
	if len(state.GetQueues()) == 0 {
		fmt.Fprintln(out, "none")
	}
	for _, q := range state.GetQueues() {
		fmt.Fprintf(out, "%s: %d, the oldest since %s\n", strings.ToLower(strings.TrimPrefix(q.GetPriority().String(), "PRIORITY_")), q.GetWaiting(), moment(q.GetOldestAt()))
	}
	if r := state.GetReports(); r != nil {
		fmt.Fprintf(out, "\nreports that wait: %d, the oldest since %s\n", r.GetWaiting(), moment(r.GetOldestAt()))
	}
	if letters := state.GetDeadLetters(); letters != nil {
		fmt.Fprintf(out, "\ndead letters: %d, the oldest since %s; see stockledger operations list CLINIC --state failed\n", letters.GetCount(), moment(letters.GetOldestAt()))
	}
	for _, pin := range state.GetPins() {
		fmt.Fprintf(out, "\nclinic %s is pinned to %s\n", pin.GetClinicId(), pin.GetNodeName())
	}
	fmt.Fprintln(out)
	return printJobs(out, jobs)
}

type clusterHomeCmd struct {
	serverFlags
	Clinic string `arg:"" help:"The clinic."`
}

// Run prints a clinic's home.
func (c *clusterHomeCmd) Run(ctx context.Context) error { return c.printTo(ctx, os.Stdout) }

func (c *clusterHomeCmd) printTo(ctx context.Context, out io.Writer) error {
	answer, err := newClient(c.Server, c.Token).admin.GetHome(ctx, &pb.GetHomeRequest{ClinicId: c.Clinic})
	if err != nil {
		return explain(err)
	}
	switch home := answer.GetHome(); {
	case home == nil:
		fmt.Fprintln(out, "each node executes the commands that it is asked for")
	case answer.GetPinned():
		fmt.Fprintf(out, "%s at %s, pinned\n", home.GetName(), home.GetApiAddress())
	default:
		fmt.Fprintf(out, "%s at %s\n", home.GetName(), home.GetApiAddress())
	}
	return nil
}

type clusterPinCmd struct {
	serverFlags
	Clinic string `arg:"" help:"The clinic."`
	Node   string `arg:"" help:"The node's name, as stockledger cluster status shows it."`
}

// Run pins a clinic.
func (c *clusterPinCmd) Run(ctx context.Context) error {
	_, err := newClient(c.Server, c.Token).admin.PinClinic(ctx, &pb.PinClinicRequest{ClinicId: c.Clinic, NodeName: c.Node})
	return explain(err)
}

type clusterUnpinCmd struct {
	serverFlags
	Clinic string `arg:"" help:"The clinic."`
}

// Run takes a pin back.
func (c *clusterUnpinCmd) Run(ctx context.Context) error {
	_, err := newClient(c.Server, c.Token).admin.PinClinic(ctx, &pb.PinClinicRequest{ClinicId: c.Clinic})
	return explain(err)
}

type clusterReplaceCmd struct {
	Name          string   `arg:"" help:"The lost member's name: its --etcd-name."`
	PeerURL       string   `required:"" env:"STOCKLEDGER_PEER_URL" placeholder:"URL" help:"The new member's address in --etcd-initial-cluster, for example https://10.0.0.3:2380."`
	EtcdEndpoints []string `required:"" env:"STOCKLEDGER_ETCD_ENDPOINTS" placeholder:"URL" help:"Where members that are there serve clients: see stockledger cluster status."`
}

// Help says how to go on.
func (clusterReplaceCmd) Help() string {
	return `Where a node runs an etcd member of its own and has lost its --etcd-dir, the other members still wait for the lost one and refuse an empty one in its place. Run this where a member's --etcd-listen-client is reached, while more than half of the members are there. Then start the node with an empty --etcd-dir, the same --etcd-name and --etcd-initial-cluster, and --etcd-initial-cluster-state existing.

Example:

  stockledger cluster replace-member c --peer-url https://10.0.0.3:2380 --etcd-endpoints http://127.0.0.1:2379`
}

// Run replaces a member.
func (c *clusterReplaceCmd) Run(ctx context.Context) error {
	if err := cluster.ReplaceMember(ctx, cluster.EtcdConfig{Endpoints: c.EtcdEndpoints}, c.Name, c.PeerURL); err != nil {
		return err
	}
	fmt.Printf("etcd waits for a new member at %s: start node %s with an empty --etcd-dir and --etcd-initial-cluster-state existing\n", c.PeerURL, c.Name)
	return nil
}

type clusterAdoptCmd struct{ databaseFlags }

// Help says when to use it.
func (clusterAdoptCmd) Help() string {
	return `A database remembers the etcd cluster that it belongs to, and nodes of another refuse to start: they would elect a second leader. Where the first cluster is gone for good, for example because its data folder was lost, stop all nodes and run this once. The next node that starts brings its own.`
}

// Run forgets the etcd cluster.
func (c *clusterAdoptCmd) Run(ctx context.Context, log *slog.Logger) error {
	db, err := txn.Open(ctx, txn.Config{DatabaseURL: c.DatabaseURL, Log: log})
	if err != nil {
		return err
	}
	defer db.Close()
	if err := db.LeaveCluster(ctx); err != nil {
		return err
	}
	fmt.Println("the database belongs to no etcd cluster now; the next node that starts brings its own")
	return nil
}
