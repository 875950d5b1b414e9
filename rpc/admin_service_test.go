package rpc

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/txntest"
)

// testAdministration knows two jobs, one of which has no schedule, and a cluster
// of two nodes, of which the first is home to all clinics that are not pinned.
func testAdministration(db *txn.DB) Administration {
	var mu sync.Mutex
	pins := make(map[ledger.ClinicID]string)
	next := time.Date(2027, 3, 1, 2, 0, 0, 0, time.UTC)
	return Administration{
		Jobs: txn.NewJobs(db), Leader: db.Leader,
		Known: func() []JobInfo {
			return []JobInfo{{Name: "tidy", About: "Tidies up.", Schedule: "0 2 * * *", TimeZone: "UTC", Next: next}, {Name: "by-hand", About: "Waits."}}
		},
		Cluster: func() ClusterState {
			mu.Lock()
			defer mu.Unlock()
			return ClusterState{
				Nodes:  []ClusterNode{{ID: "n1", Name: "north", API: "10.0.0.1:8080", Version: "1", Waiting: 3, Clinics: 4}, {ID: "n2", Name: "south", API: "10.0.0.2:8080", Version: "1"}},
				Leader: "n1", Pins: maps.Clone(pins),
			}
		},
		Homes:         func(context.Context) (map[string]int, error) { return map[string]int{"n1": 7}, nil },
		EtcdEndpoints: func(context.Context) []string { return []string{"http://10.0.0.1:2379"} },
		Home: func(clinic ledger.ClinicID) string {
			mu.Lock()
			defer mu.Unlock()
			if pins[clinic] == "south" {
				return "n2"
			}
			return "n1"
		},
		Pin: func(_ context.Context, clinic ledger.ClinicID, name string) error {
			mu.Lock()
			defer mu.Unlock()
			if pins[clinic] = name; name == "" {
				delete(pins, clinic)
			}
			return nil
		},
	}
}

func (n *node) administrator(tb testing.TB, p Principal) stockledgerv1connect.AdminServiceClient {
	tb.Helper()
	return stockledgerv1connect.NewAdminServiceClient(connect.NewClient(connecthttp.NewTransport(h2c(), n.url), bearer(n.token(tb, p))))
}

var everywhere = Principal{Subject: "olga", Roles: []Role{RoleAdmin}, Clinics: []ledger.ClinicID{AllClinics}}

func TestAdministration(t *testing.T) {
	t.Parallel()
	n := shared(t)
	admin := n.administrator(t, everywhere)
	db := txntest.Open(t)
	jobs := txn.NewJobs(db)
	// Nobody leads here; what a leader would do is done below.
	var asked []time.Time
	for range 3 {
		answer, err := admin.RunJob(t.Context(), &stockledgerv1.RunJobRequest{Job: "by-hand"})
		if err != nil {
			t.Fatal(err)
		}
		run := answer.GetRun()
		if run.GetRequestedBy() != "olga" || run.GetState() != stockledgerv1.JobRunState_JOB_RUN_STATE_WAITING || run.GetStartedAt() != nil {
			t.Errorf("the run is %v", run)
		}
		asked = append(asked, run.GetScheduledAt().AsTime())
	}
	term, err := db.TakeLead(t.Context(), "n1")
	if err != nil {
		t.Fatal(err)
	}
	clinic := ledger.ClinicID(newClinic(t, n).id)
	done := txn.JobRun{Job: "by-hand", ScheduledAt: asked[1], RequestedBy: "olga", StartedAt: asked[1], FinishedAt: asked[1].Add(time.Second), Total: 2}
	var found []txn.Finding
	for i := range 3 {
		found = append(found, txn.Finding{Subject: fmt.Sprint("thing ", i), Kind: "ODD", Message: "It is odd.", Sequence: 7})
	}
	other := ledger.ClinicID(newClinic(t, n).id)
	looked := []txn.ClinicLooked{{Clinic: clinic, Looked: txn.Looked{Commands: 2, Findings: found}}, {Clinic: other, Looked: txn.Looked{Findings: found[:1]}}}
	if err := jobs.Record(t.Context(), term, &done, looked, asked[1]); err != nil {
		t.Fatal(err)
	}

	var listed []time.Time
	page := &stockledgerv1.Page{PageSize: 2}
	for {
		answer, err := admin.ListJobRuns(t.Context(), &stockledgerv1.ListJobRunsRequest{Job: "by-hand", Page: page})
		if err != nil {
			t.Fatal(err)
		}
		for _, run := range answer.GetRuns() {
			listed = append(listed, run.GetScheduledAt().AsTime())
			if at := run.GetScheduledAt().AsTime(); at.Equal(asked[1]) != (run.GetTotalClinics() == 2 && run.GetState() == stockledgerv1.JobRunState_JOB_RUN_STATE_DONE) {
				t.Errorf("the run of %s is %v", at, run)
			}
		}
		if page.PageToken = answer.GetNextPageToken(); page.PageToken == "" {
			break
		}
	}
	slices.Reverse(asked)
	if !slices.EqualFunc(listed, asked, time.Time.Equal) {
		t.Errorf("listed are %v, want %v", listed, asked)
	}

	list, err := admin.ListJobs(t.Context(), &stockledgerv1.ListJobsRequest{})
	if err != nil || len(list.GetJobs()) != 2 {
		t.Fatal(list, err)
	}
	if tidy := list.GetJobs()[0]; tidy.GetNextAt() == nil || tidy.GetLastRun() != nil || tidy.GetSchedule() != "0 2 * * *" {
		t.Errorf("the first job is %v", tidy)
	}
	if byHand := list.GetJobs()[1]; byHand.GetNextAt() != nil || !byHand.GetLastRun().GetScheduledAt().AsTime().Equal(asked[0]) {
		t.Errorf("the second job is %v", byHand)
	}

	var subjects []string
	page = &stockledgerv1.Page{PageSize: 2}
	for {
		answer, err := admin.ListFindings(t.Context(), &stockledgerv1.ListFindingsRequest{ClinicId: string(clinic), Job: "by-hand", Page: page})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range answer.GetFindings() {
			subjects = append(subjects, f.GetSubject())
			if f.GetKind() != "ODD" || f.GetSequence() != 7 || f.GetMessage() == "" || f.GetFoundAt() == nil {
				t.Errorf("found %v", f)
			}
		}
		if page.PageToken = answer.GetNextPageToken(); page.PageToken == "" {
			break
		}
	}
	if !slices.Equal(subjects, []string{"thing 0", "thing 1", "thing 2"}) {
		t.Errorf("found %q", subjects)
	}

	var rows []string
	page = &stockledgerv1.Page{PageSize: 1}
	for {
		answer, err := admin.ListClinicsWithFindings(t.Context(), &stockledgerv1.ListClinicsWithFindingsRequest{Job: "by-hand", Kind: "ODD", Page: page})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range answer.GetClinics() {
			rows = append(rows, fmt.Sprint(c.GetClinicId(), " ", c.GetJob(), " ", c.GetKind(), " ", c.GetFindings(), " ", c.GetFirstFoundAt().AsTime().Equal(asked[1])))
		}
		if page.PageToken = answer.GetNextPageToken(); page.PageToken == "" {
			break
		}
	}
	want := []string{string(clinic) + " by-hand ODD 3 true", string(other) + " by-hand ODD 1 true"}
	if slices.Sort(want); !slices.Equal(rows, want) {
		t.Errorf("clinics with findings are %q, want %q", rows, want)
	}
	if answer, err := admin.ListClinicsWithFindings(t.Context(), &stockledgerv1.ListClinicsWithFindingsRequest{Job: "by-hand", Kind: "EVEN"}); err != nil || len(answer.GetClinics()) != 0 {
		t.Errorf("of a kind that nobody found: %v, %v", answer, err)
	}
	_, err = admin.ListClinicsWithFindings(t.Context(), &stockledgerv1.ListClinicsWithFindingsRequest{Job: "nothing"})
	wantError(t, err, connect.CodeInvalidArgument, ledger.ReasonInvalidField)

	state, err := admin.GetCluster(t.Context(), &stockledgerv1.GetClusterRequest{})
	if err != nil || len(state.GetNodes()) != 2 || state.GetNodes()[0].GetHomeClinics() != 7 || state.GetNodes()[1].GetHomeClinics() != 0 || state.GetLeaderId() != "n1" || state.GetLeaderEpoch() < term.Epoch || len(state.GetEtcdEndpoints()) != 1 {
		t.Errorf("the cluster is %v, %v", state, err)
	}
}

func TestWhoMayAdministrate(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	id := ledger.ClinicID(c.id)
	calls := map[string]func(context.Context, stockledgerv1connect.AdminServiceClient) error{
		"cluster": func(ctx context.Context, a stockledgerv1connect.AdminServiceClient) error {
			_, err := a.GetCluster(ctx, &stockledgerv1.GetClusterRequest{})
			return err
		},
		"jobs": func(ctx context.Context, a stockledgerv1connect.AdminServiceClient) error {
			_, err := a.ListJobs(ctx, &stockledgerv1.ListJobsRequest{})
			return err
		},
		"runs": func(ctx context.Context, a stockledgerv1connect.AdminServiceClient) error {
			_, err := a.ListJobRuns(ctx, &stockledgerv1.ListJobRunsRequest{Job: "tidy"})
			return err
		},
		"run": func(ctx context.Context, a stockledgerv1connect.AdminServiceClient) error {
			_, err := a.RunJob(ctx, &stockledgerv1.RunJobRequest{Job: "nothing"})
			return err
		},
		"clinics": func(ctx context.Context, a stockledgerv1connect.AdminServiceClient) error {
			_, err := a.ListClinicsWithFindings(ctx, &stockledgerv1.ListClinicsWithFindingsRequest{})
			return err
		},
		"findings": func(ctx context.Context, a stockledgerv1connect.AdminServiceClient) error {
			_, err := a.ListFindings(ctx, &stockledgerv1.ListFindingsRequest{ClinicId: c.id})
			return err
		},
	}
	for name, who := range map[string]struct {
		principal Principal
		reason    ledger.Reason
		but       map[string]ledger.Reason
	}{
		"everybody's auditor":  {Principal{Subject: "a", Roles: []Role{RoleAuditor}, Clinics: []ledger.ClinicID{AllClinics}}, "", map[string]ledger.Reason{"run": reasonPermissionDenied}},
		"one clinic's admin":   {Principal{Subject: "b", Roles: []Role{RoleAdmin}, Clinics: []ledger.ClinicID{id}}, reasonClinicForbidden, map[string]ledger.Reason{"findings": ""}},
		"one location's admin": {Principal{Subject: "c", Roles: []Role{RoleAdmin}, Clinics: []ledger.ClinicID{AllClinics}, Locations: []ledger.LocationID{"ward"}}, ledger.ReasonLocationForbidden, nil},
		"another's manager":    {Principal{Subject: "d", Roles: []Role{RoleManager}, Clinics: []ledger.ClinicID{"other"}}, reasonPermissionDenied, map[string]ledger.Reason{"findings": reasonClinicForbidden, "clinics": reasonClinicForbidden}},
		"a storekeeper":        {Principal{Subject: "e", Roles: []Role{RoleStorekeeper}, Clinics: []ledger.ClinicID{id}}, reasonPermissionDenied, map[string]ledger.Reason{"findings": "", "clinics": reasonClinicForbidden}},
	} {
		admin := n.administrator(t, who.principal)
		for what, call := range calls {
			want, special := who.but[what]
			if !special {
				want = who.reason
			}
			err := call(t.Context(), admin)
			switch {
			case want == "" && err != nil:
				t.Errorf("%s asks for %s: %v", name, what, err)
			case want != "":
				wantError(t, err, connect.CodePermissionDenied, want)
			}
		}
	}
	err := calls["run"](t.Context(), n.administrator(t, everywhere))
	wantError(t, err, connect.CodeInvalidArgument, ledger.ReasonInvalidField)
}

func TestPinnedClinics(t *testing.T) {
	t.Parallel()
	n := shared(t)
	admin := n.administrator(t, everywhere)
	clinic := newClinic(t, n).id
	home := func() string {
		t.Helper()
		answer, err := admin.GetHome(t.Context(), &stockledgerv1.GetHomeRequest{ClinicId: clinic})
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(answer.GetHome().GetName(), " ", answer.GetPinned())
	}
	if got := home(); got != "north false" {
		t.Errorf("the home is %s", got)
	}
	pin := func(name string) error {
		_, err := admin.PinClinic(t.Context(), &stockledgerv1.PinClinicRequest{ClinicId: clinic, NodeName: name})
		return err
	}
	if err := pin("south"); err != nil {
		t.Fatal(err)
	}
	if got := home(); got != "south true" {
		t.Errorf("pinned, the home is %s", got)
	}
	state, err := admin.GetCluster(t.Context(), &stockledgerv1.GetClusterRequest{})
	if err != nil || !slices.ContainsFunc(state.GetPins(), func(p *stockledgerv1.ClinicPin) bool { return p.GetClinicId() == clinic && p.GetNodeName() == "south" }) {
		t.Errorf("the cluster is %v, %v", state, err)
	}
	wantError(t, pin("west"), connect.CodeInvalidArgument, "INVALID_FIELD")
	if err := pin(""); err != nil {
		t.Fatal(err)
	}
	if got := home(); got != "north false" {
		t.Errorf("after the pin was taken back, the home is %s", got)
	}
	_, err = admin.GetHome(t.Context(), &stockledgerv1.GetHomeRequest{ClinicId: "nowhere"})
	wantError(t, err, connect.CodeNotFound, "CLINIC_NOT_FOUND")
	_, err = admin.PinClinic(t.Context(), &stockledgerv1.PinClinicRequest{ClinicId: "nowhere", NodeName: "south"})
	wantError(t, err, connect.CodeNotFound, "CLINIC_NOT_FOUND")
	reader := n.administrator(t, Principal{Subject: "ray", Roles: []Role{RoleViewer}, Clinics: []ledger.ClinicID{AllClinics}})
	_, err = reader.PinClinic(t.Context(), &stockledgerv1.PinClinicRequest{ClinicId: clinic, NodeName: "south"})
	wantError(t, err, connect.CodePermissionDenied, "PERMISSION_DENIED")
	one := n.administrator(t, Principal{Subject: "otto", Roles: []Role{RoleAdmin}, Clinics: []ledger.ClinicID{ledger.ClinicID(clinic)}})
	_, err = one.PinClinic(t.Context(), &stockledgerv1.PinClinicRequest{ClinicId: clinic, NodeName: "south"})
	wantError(t, err, connect.CodePermissionDenied, "CLINIC_FORBIDDEN")
}
