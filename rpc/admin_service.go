package rpc

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// JobInfo describes a background job.
type JobInfo struct {
	Name, About        string
	Schedule, TimeZone string
	Next               time.Time // zero: by hand alone
}

// ClusterNode is a node that is there.
type ClusterNode struct {
	ID, Name, API, Region, Version string
	Started                        time.Time
	// Waiting commands and Clinics in memory are as the node last told.
	Waiting, Clinics int
	// Parts are those of the API that it serves; none: all of them.
	Parts []Part
	// Homes is how many clinics it is home to.
	Homes int
}

// ClusterState is what a node has heard of its cluster.
type ClusterState struct {
	Nodes  []ClusterNode
	Leader string
	// Pins are clinics whose home was chosen by hand, with its name.
	Pins map[ledger.ClinicID]string
}

// Administration is what AdminService stands on.
type Administration struct {
	// Jobs keeps the runs.
	Jobs *txn.Jobs
	// Known are the jobs that there are.
	Known func() []JobInfo
	// Cluster tells who is there; nil where the node takes no part in one.
	Cluster func() ClusterState
	// Homes counts the clinics that each node is home to, by the nodes' ids. Nil
	// without Cluster.
	Homes func(context.Context) (map[string]int, error)
	// EtcdEndpoints are where etcd's members serve clients. Nil without Cluster.
	EtcdEndpoints func(context.Context) []string
	// Home is the id of the node that executes a clinic's commands, empty where
	// each node executes what it is asked for. Nil without Cluster.
	Home func(ledger.ClinicID) string
	// Pin chooses a clinic's home by name; an empty name takes that back. Nil
	// without Cluster.
	Pin func(context.Context, ledger.ClinicID, string) error
	// Leader tells the last term that began.
	Leader func(context.Context) (txn.Term, error)
}

type adminService struct {
	*queryHandler
	Administration
	operations *txn.Operations
}

// forAll refuses callers whose token is not for all clinics and locations.
func forAll(ctx context.Context) error {
	p := principalOf(ctx)
	if !slices.Contains(p.Clinics, AllClinics) {
		return fail(reasonClinicForbidden, "This is about all clinics, and the token is for some. Use one for all of them.")
	}
	return unlimited(p)
}

// unlimited refuses callers whose token is for some locations.
func unlimited(p *Principal) error {
	if p.limited() {
		return &ledger.Rejection{Reason: ledger.ReasonLocationForbidden, Message: "This is about all locations, and the token is for some."}
	}
	return nil
}

// GetCluster tells who is there.
func (s *adminService) GetCluster(ctx context.Context, _ *stockledgerv1.GetClusterRequest) (*stockledgerv1.GetClusterResponse, error) {
	if err := forAll(ctx); err != nil {
		return nil, err
	}
	term, err := s.Leader(ctx)
	if err != nil {
		return nil, err
	}
	depths, err := s.operations.Depths(ctx)
	if err != nil {
		return nil, err
	}
	flagged, err := s.Jobs.Flagged(ctx)
	if err != nil {
		return nil, err
	}
	answer := &stockledgerv1.GetClusterResponse{LeaderEpoch: term.Epoch, FlaggedClinics: flagged}
	letters, err := s.operations.DeadLetters(ctx)
	if err != nil {
		return nil, err
	}
	if letters.Count > 0 {
		answer.DeadLetters = &stockledgerv1.DeadLetters{Count: letters.Count, OldestAt: timestamppb.New(letters.Oldest)}
	}
	for _, d := range depths {
		if d.Priority == txn.ReportPriority {
			answer.Reports = &stockledgerv1.ReportQueue{Waiting: d.Waiting, OldestAt: timestamppb.New(d.Oldest)}
			continue
		}
		answer.Queues = append(answer.Queues, &stockledgerv1.QueueDepth{Priority: fromPriority(d.Priority), Waiting: d.Waiting, OldestAt: timestamppb.New(d.Oldest)})
	}
	if s.Cluster == nil {
		return answer, nil
	}
	homes, err := s.Homes(ctx)
	if err != nil {
		return nil, err
	}
	state := s.Cluster()
	answer.LeaderId, answer.EtcdEndpoints = state.Leader, s.EtcdEndpoints(ctx)
	for _, n := range state.Nodes {
		n.Homes = homes[n.ID]
		answer.Nodes = append(answer.Nodes, fromClusterNode(n))
	}
	for _, clinic := range slices.Sorted(maps.Keys(state.Pins)) {
		answer.Pins = append(answer.Pins, &stockledgerv1.ClinicPin{ClinicId: string(clinic), NodeName: state.Pins[clinic]})
	}
	return answer, nil
}

func fromClusterNode(n ClusterNode) *stockledgerv1.ClusterNode {
	return &stockledgerv1.ClusterNode{
		Id: n.ID, Name: n.Name, ApiAddress: n.API, Region: n.Region, Version: n.Version, StartedAt: timestamppb.New(n.Started),
		WaitingCommands: int64(n.Waiting), Clinics: int64(n.Clinics), Services: each(n.Parts, func(p Part) string { return string(p) }), HomeClinics: int64(n.Homes),
	}
}

// GetHome tells which node executes a clinic's commands.
func (s *adminService) GetHome(ctx context.Context, req *stockledgerv1.GetHomeRequest) (*stockledgerv1.GetHomeResponse, error) {
	clinic, err := s.existing(ctx, req.GetClinicId())
	if err != nil || s.Cluster == nil {
		return &stockledgerv1.GetHomeResponse{}, err
	}
	answer, state, id := &stockledgerv1.GetHomeResponse{}, s.Cluster(), s.Home(clinic)
	for _, n := range state.Nodes {
		if n.ID == id {
			answer.Home = fromClusterNode(n)
			answer.Pinned = state.Pins[clinic] == n.Name
		}
	}
	return answer, nil
}

// PinClinic chooses a clinic's home.
func (s *adminService) PinClinic(ctx context.Context, req *stockledgerv1.PinClinicRequest) (*stockledgerv1.PinClinicResponse, error) {
	if err := forAll(ctx); err != nil {
		return nil, err
	}
	clinic, err := s.existing(ctx, req.GetClinicId())
	if err != nil {
		return nil, err
	}
	if s.Cluster == nil {
		return nil, &ledger.Rejection{Reason: ledger.ReasonInvalidField, Field: "clinic_id", Message: "This node takes no part in a cluster (--no-cluster), so it has nowhere to pin a clinic to. Ask a node that does."}
	}
	var names []string
	for _, n := range s.Cluster().Nodes {
		if len(n.Parts) == 0 || slices.Contains(n.Parts, PartInventory) {
			names = append(names, n.Name)
		}
	}
	if name := req.GetNodeName(); name != "" && !slices.Contains(names, name) {
		return nil, invalidField("node_name", "There is no node %q that executes commands. There are %s.", name, strings.Join(names, ", "))
	}
	if err := s.Pin(ctx, clinic, req.GetNodeName()); err != nil {
		return nil, fmt.Errorf("%w: %w", txn.ErrUnavailable, err)
	}
	return &stockledgerv1.PinClinicResponse{}, nil
}

// existing makes sure that there is a clinic.
func (s *adminService) existing(ctx context.Context, id string) (ledger.ClinicID, error) {
	clinic := ledger.ClinicID(id)
	_, _, err := s.queries.Clinic(ctx, clinic, txn.ReadOptions{Consistency: txn.Strong})
	return clinic, err
}

// ListJobs lists the background jobs.
func (s *adminService) ListJobs(ctx context.Context, _ *stockledgerv1.ListJobsRequest) (*stockledgerv1.ListJobsResponse, error) {
	if err := forAll(ctx); err != nil {
		return nil, err
	}
	answer := &stockledgerv1.ListJobsResponse{}
	for _, job := range s.Known() {
		rendered := &stockledgerv1.Job{Job: job.Name, Description: job.About, Schedule: job.Schedule, TimeZone: job.TimeZone, NextAt: timeOrNone(job.Next)}
		runs, err := s.Jobs.Runs(ctx, job.Name, endOfTime, 1)
		if err != nil {
			return nil, err
		}
		if len(runs) > 0 {
			rendered.LastRun = fromJobRun(&runs[0])
		}
		answer.Jobs = append(answer.Jobs, rendered)
	}
	return answer, nil
}

// endOfTime is later than any run is scheduled.
var endOfTime = ledger.MaxDate.Time()

// ListJobRuns lists the runs of a job.
func (s *adminService) ListJobRuns(ctx context.Context, req *stockledgerv1.ListJobRunsRequest) (*stockledgerv1.ListJobRunsResponse, error) {
	if err := forAll(ctx); err != nil {
		return nil, err
	}
	if err := s.known(req.GetJob()); err != nil {
		return nil, err
	}
	asked, err := s.open(ctx, req, 1)
	if err != nil {
		return nil, err
	}
	before := endOfTime
	if asked.key[0] != "" {
		micros, err := strconv.ParseInt(asked.key[0], 10, 64)
		if err != nil {
			return nil, err
		}
		before = time.UnixMicro(micros)
	}
	runs, err := s.Jobs.Runs(ctx, req.GetJob(), before, asked.size+1)
	if err != nil {
		return nil, err
	}
	answer := &stockledgerv1.ListJobRunsResponse{}
	if len(runs) > asked.size {
		runs = runs[:asked.size]
		last := runs[len(runs)-1].ScheduledAt.UnixMicro()
		if answer.NextPageToken, err = s.seal(ctx, req, txn.AsOf{}, strconv.FormatInt(last, 10)); err != nil {
			return nil, err
		}
	}
	for i := range runs {
		answer.Runs = append(answer.Runs, fromJobRun(&runs[i]))
	}
	return answer, nil
}

func (s *adminService) known(name string) error {
	var names []string
	for _, job := range s.Known() {
		if job.Name == name {
			return nil
		}
		names = append(names, job.Name)
	}
	return invalidField("job", "There is no job %q. There are %s.", name, strings.Join(names, ", "))
}

// RunJob asks for a run of a job.
func (s *adminService) RunJob(ctx context.Context, req *stockledgerv1.RunJobRequest) (*stockledgerv1.RunJobResponse, error) {
	if err := forAll(ctx); err != nil {
		return nil, err
	}
	if err := s.known(req.GetJob()); err != nil {
		return nil, err
	}
	run, err := s.Jobs.Request(ctx, req.GetJob(), principalOf(ctx).Subject, time.Now())
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.RunJobResponse{Run: fromJobRun(&run)}, nil
}

// ListFindings lists what the jobs found at a clinic.
func (s *adminService) ListFindings(ctx context.Context, req *stockledgerv1.ListFindingsRequest) (*stockledgerv1.ListFindingsResponse, error) {
	if err := unlimited(principalOf(ctx)); err != nil {
		return nil, err
	}
	if req.GetJob() != "" {
		if err := s.known(req.GetJob()); err != nil {
			return nil, err
		}
	}
	asked, err := s.open(ctx, req, 3)
	if err != nil {
		return nil, err
	}
	after := txn.FindingPlace{Job: asked.key[0], Subject: asked.key[1], Kind: asked.key[2]}
	findings, err := s.Jobs.Findings(ctx, ledger.ClinicID(req.GetClinicId()), req.GetJob(), after, asked.size+1)
	if err != nil {
		return nil, err
	}
	answer := &stockledgerv1.ListFindingsResponse{}
	if len(findings) > asked.size {
		findings = findings[:asked.size]
		last := findings[len(findings)-1]
		if answer.NextPageToken, err = s.seal(ctx, req, txn.AsOf{}, last.Job, last.Subject, last.Kind); err != nil {
			return nil, err
		}
	}
	for _, f := range findings {
		answer.Findings = append(answer.Findings, &stockledgerv1.Finding{
			Job: f.Job, Subject: f.Subject, Kind: f.Kind, Message: f.Message, Sequence: int64(f.Sequence),
			FirstFoundAt: timestamppb.New(f.FirstFoundAt), FoundAt: timestamppb.New(f.FoundAt),
		})
	}
	return answer, nil
}

// ListClinicsWithFindings lists at which clinics the jobs found anything.
func (s *adminService) ListClinicsWithFindings(ctx context.Context, req *stockledgerv1.ListClinicsWithFindingsRequest) (*stockledgerv1.ListClinicsWithFindingsResponse, error) {
	if err := forAll(ctx); err != nil {
		return nil, err
	}
	if req.GetJob() != "" {
		if err := s.known(req.GetJob()); err != nil {
			return nil, err
		}
	}
	asked, err := s.open(ctx, req, 3)
	if err != nil {
		return nil, err
	}
	after := txn.ClinicFindings{Job: asked.key[0], Kind: asked.key[1], Clinic: ledger.ClinicID(asked.key[2])}
	list, err := s.Jobs.ClinicsWithFindings(ctx, req.GetJob(), req.GetKind(), after, asked.size+1)
	if err != nil {
		return nil, err
	}
	answer := &stockledgerv1.ListClinicsWithFindingsResponse{}
	if len(list) > asked.size {
		list = list[:asked.size]
		last := list[len(list)-1]
		if answer.NextPageToken, err = s.seal(ctx, req, txn.AsOf{}, last.Job, last.Kind, string(last.Clinic)); err != nil {
			return nil, err
		}
	}
	for _, c := range list {
		answer.Clinics = append(answer.Clinics, &stockledgerv1.ClinicFindings{
			ClinicId: string(c.Clinic), Job: c.Job, Kind: c.Kind, Findings: c.Findings, FirstFoundAt: timestamppb.New(c.FirstFoundAt),
		})
	}
	return answer, nil
}

func fromJobRun(r *txn.JobRun) *stockledgerv1.JobRun {
	state := stockledgerv1.JobRunState_JOB_RUN_STATE_WAITING
	switch {
	case !r.FinishedAt.IsZero():
		state = stockledgerv1.JobRunState_JOB_RUN_STATE_DONE
	case !r.StartedAt.IsZero():
		state = stockledgerv1.JobRunState_JOB_RUN_STATE_RUNNING
	}
	return &stockledgerv1.JobRun{
		Job: r.Job, ScheduledAt: timestamppb.New(r.ScheduledAt), State: state, RequestedBy: string(r.RequestedBy), NodeId: r.Node,
		StartedAt: timeOrNone(r.StartedAt), FinishedAt: timeOrNone(r.FinishedAt),
		Clinics: r.Clinics, TotalClinics: r.Total, LastClinicId: string(r.After), Commands: r.Commands, Findings: r.Findings, Failures: r.Failures, Failure: r.Failure,
	}
}

func timeOrNone(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
