package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stockledger/stockledger/cluster"
	"github.com/stockledger/stockledger/ledger"
	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/txntest"
)

// say runs a command and returns what it prints, its columns one space apart.
func say(t *testing.T, printTo func(context.Context, io.Writer) error) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := printTo(t.Context(), &out)
	var lines []string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n"), err
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it did not happen: ", what)
		}
	}
}

// A node by itself leads: jobs are listed, run by hand and followed, and what the
// reconciliation finds can be seen by whoever looks at the cluster.
func TestJobsCommands(t *testing.T) {
	t.Parallel()
	url := txntest.PrivateServer(t).URL
	if err := txn.Migrate(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	n := startTestNodeOn(t, url, clusterFlags{
		EtcdDir: t.TempDir(), NodeName: "alone", PeerListen: "127.0.0.1:0", JobTimeZone: "Africa/Nairobi",
		JobSchedule: map[string]string{txn.JobReconcile: neverScheduled, "low-stock": neverScheduled},
	})
	at := serverFlags{Server: n.url, Token: n.token}
	for _, clinic := range []string{"good", "odd"} {
		n.furnish(t, ledger.ClinicID(clinic))
	}
	list := func() string {
		out, err := say(t, (&jobsListCmd{at}).printTo)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	out := list()
	wantIn(t, out, "expire-holds * * * * * Africa/Nairobi 2", "reconcile by hand - never", "retention 30 3 * * * Africa/Nairobi")

	run := jobsRunCmd{serverFlags: at, Job: txn.JobReconcile, Wait: time.Minute}
	out, err := say(t, run.printTo)
	if err != nil {
		t.Fatal(err)
	}
	wantIn(t, out, "SCHEDULED BY STATE NODE", "tester done alone-", "s 2 0 0 0")
	findings := jobsFindingsCmd{serverFlags: at}
	if out, err := say(t, findings.printTo); err != nil || strings.Contains(out, "reconcile") {
		t.Errorf("before anything is wrong: %s, %v", out, err)
	}

	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if tag, err := conn.Exec(t.Context(), `UPDATE stock SET available = available + 1 WHERE clinic_id = 'odd'`); err != nil || tag.RowsAffected() == 0 {
		t.Fatal(tag, err)
	}
	// Everything anew, as it is every few weeks.
	if _, err := conn.Exec(t.Context(), `DELETE FROM reconciled`); err != nil {
		t.Fatal(err)
	}
	if _, err := say(t, run.printTo); err != nil {
		t.Fatal(err)
	}
	findings.Job = txn.JobReconcile
	out, err = say(t, findings.printTo)
	if err != nil || strings.Contains(out, "good") {
		t.Errorf("it says %s, %v", out, err)
	}
	wantIn(t, out, "JOB KIND CLINIC FINDINGS SINCE", "reconcile balance-", " odd ")
	findings.Kind = "no-such-kind"
	if out, err := say(t, findings.printTo); err != nil || out != "nothing was found" {
		t.Errorf("of a kind that nothing is of it says %q, %v", out, err)
	}
	findings.Clinic = "odd"
	if _, err := say(t, findings.printTo); err == nil {
		t.Error("--kind is ignored")
	}
	findings.Kind = ""
	out, err = say(t, findings.printTo)
	if err != nil {
		t.Fatal(err)
	}
	wantIn(t, out, "JOB KIND SUBJECT SEQUENCE SINCE MESSAGE", "location ", "bucket available")
	status := func() string {
		out, err := say(t, (&clusterStatusCmd{at}).printTo)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	wantIn(t, status(), "WHAT IS STORED DOES NOT FOLLOW FROM THE JOURNAL at 1 clinics", " 2 2 0 leader, epoch 1", "OPERATIONS THAT WAIT\nnone")
	// One that nobody carries out before the century is over.
	_, err = conn.Exec(t.Context(), `INSERT INTO operations (clinic_id, idempotency_key, priority, state, kind, actor, request_hash, submission, attempts, submitted_at, due_at, sequence, failure)
		VALUES ('good', 'later', 3, 1, 1, 'mary', '', '', 1, '2027-03-01 02:00:00+00', '2100-01-01', 0, '')`)
	if err != nil {
		t.Fatal(err)
	}
	wantIn(t, status(), "OPERATIONS THAT WAIT\nlow: 1, the oldest since 2027-03-01T02:00:00Z")
	wantIn(t, list(), "reconcile by hand - 2")
	out, err = say(t, (&jobsRunsCmd{serverFlags: at, Job: txn.JobReconcile, Limit: 1}).printTo)
	if err != nil || strings.Count(out, "\n") != 1 {
		t.Errorf("one run of two: %s, %v", out, err)
	}
	wantIn(t, out, "tester done alone-")
	run.Job = "nothing"
	if _, err := say(t, run.printTo); err == nil || !strings.Contains(err.Error(), "reconcile") {
		t.Errorf("of a job that there is not it says %v", err)
	}
	run.Job, run.Wait = "low-stock", 0
	if out, err = say(t, run.printTo); err != nil {
		t.Fatal(err)
	}
	wantIn(t, out, "low-stock is asked for")
	eventually(t, "the run ends", func() bool {
		return strings.Contains(list(), "low-stock by hand - 2") && !strings.Contains(list(), "waiting")
	})
	if out, err = say(t, (&clusterHomeCmd{serverFlags: at, Clinic: "good"}).printTo); err != nil {
		t.Fatal(err)
	}
	wantIn(t, out, "alone at 127.0.0.1:")
}

func TestProgressOfRuns(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		run  *pb.JobRun
		want string
	}{
		{&pb.JobRun{Clinics: 3, TotalClinics: 8}, "3 of 8"},
		{&pb.JobRun{Clinics: 8, TotalClinics: 8, FinishedAt: timestamppb.Now()}, "8"},
		{&pb.JobRun{}, "0"},
	} {
		if got := clinicsText(test.run); got != test.want {
			t.Errorf("%v: %q, want %q", test.run, got, test.want)
		}
	}
}

func TestJobFlags(t *testing.T) {
	t.Parallel()
	standard := func() []cluster.Job {
		return []cluster.Job{{Name: "daily", Schedule: "0 2 * * *"}, {Name: "hourly", Schedule: "0 * * * *"}}
	}
	for name, test := range map[string]struct {
		flags clusterFlags
		want  string
		err   string
	}{
		"as they are":      {clusterFlags{JobTimeZone: "UTC"}, "daily 0 2 * * * UTC; hourly 0 * * * * UTC", ""},
		"a time zone":      {clusterFlags{JobTimeZone: "Africa/Nairobi"}, "daily 0 2 * * * Africa/Nairobi; hourly 0 * * * * Africa/Nairobi", ""},
		"another schedule": {clusterFlags{JobTimeZone: "UTC", JobSchedule: map[string]string{"daily": "5 3 * * *"}}, "daily 5 3 * * * UTC; hourly 0 * * * * UTC", ""},
		"never":            {clusterFlags{JobTimeZone: "UTC", JobSchedule: map[string]string{"hourly": "never"}}, "daily 0 2 * * * UTC; hourly  UTC", ""},
		"no such zone":     {clusterFlags{JobTimeZone: "Mars/Olympus"}, "", "--job-time-zone Mars/Olympus"},
		"no such job":      {clusterFlags{JobTimeZone: "UTC", JobSchedule: map[string]string{"weekly": "never"}}, "", `there is no job "weekly"; there are daily, hourly`},
		"no such schedule": {clusterFlags{JobTimeZone: "UTC", JobSchedule: map[string]string{"daily": "at night"}}, "", "five fields"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			jobs, err := test.flags.jobs(standard())
			if err == nil {
				_, err = cluster.NewRunner(nil, jobs, cluster.RunnerConfig{})
			}
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("it says %v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, job := range jobs {
				got = append(got, fmt.Sprint(job.Name, " ", job.Schedule, " ", job.TimeZone))
			}
			if !slices.Equal(got, strings.Split(test.want, "; ")) {
				t.Errorf("they are %q, want %q", got, test.want)
			}
		})
	}
}

// A node with a schedule that makes no sense does not start.
func TestJobFlagsThatAreWrong(t *testing.T) {
	t.Parallel()
	flags := nodeFlags{
		IssuerKey:    filepath.Join(t.TempDir(), "issuer.key"),
		clusterFlags: clusterFlags{JobTimeZone: "UTC", JobSchedule: map[string]string{"reconcile": "nightly"}},
	}
	n, err := openNode(t.Context(), databaseFlags{DatabaseURL: txntest.URL(t)}, flags, quiet())
	if err == nil {
		n.directory.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "reconcile") || errors.Is(err, txn.ErrUnavailable) {
		t.Errorf("it says %v", err)
	}
}
