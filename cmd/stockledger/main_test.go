package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"github.com/stockledger/stockledger/cmd/stockledger/demo"
	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/rpc"
	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/txntest"
)

func TestMain(m *testing.M) { txntest.Main(m) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// testNode is a node on the shared database.
type testNode struct {
	*node
	url   string
	token string
}

func startTestNode(t *testing.T) *testNode {
	t.Helper()
	// The tests share one database, and it belongs to one cluster at most.
	return startTestNodeOn(t, txntest.URL(t), clusterFlags{NoCluster: true, JobTimeZone: "UTC"})
}

func startTestNodeOn(t *testing.T, url string, in clusterFlags) *testNode {
	t.Helper()
	flags := nodeFlags{
		Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0", IssuerKey: filepath.Join(t.TempDir(), "issuer.key"),
		GracePeriod: 10 * time.Second, CachedDocuments: 10_000, WriteConns: 4, ReadConns: 4,
		clusterFlags: in,
	}
	n, err := openNode(context.Background(), databaseFlags{DatabaseURL: url}, flags, quiet())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	listening, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- n.run(ctx, func() { close(listening) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the node ended with: %v", err)
		}
	})
	select {
	case <-listening:
	case err := <-ended:
		ended <- nil
		t.Fatalf("the node did not start: %v", err)
	}
	token, err := n.issuer.Issue(rpc.Principal{Subject: "tester", Roles: []rpc.Role{rpc.RoleAdmin}, Clinics: []ledger.ClinicID{rpc.AllClinics}}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return &testNode{node: n, url: "http://" + n.server.Addr(), token: token}
}

// verify replays a clinic's journal against everything stored.
func (n *testNode) verify(t *testing.T, clinic string) {
	t.Helper()
	_, err := txn.Verify(context.Background(), n.db, txn.VerifyOptions{
		Clinics: []ledger.ClinicID{ledger.ClinicID(clinic)}, Report: func(v txn.Violation) { t.Errorf("violation: %s", v) },
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCommandLineParses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "some.csv")
	writeFile(t, file, "name\n")
	for _, line := range []string{
		"serve --database-url postgresql://x --listen :1 --issuer-key k --migrate",
		"serve --database-url postgresql://x --services pharmacy --etcd-endpoints http://e:2379",
		"migrate up --database-url postgresql://x",
		"migrate status --database-url postgresql://x",
		"import medicines " + file + " --clinic c --token t",
		"import downtime " + file + " --clinic c --token t --late-reason OUTAGE",
		"import stock " + file + " --clinic c --token t --create-locations --reference r",
		"verify --database-url postgresql://x --clinic a --clinic b",
		"verify --file f",
		"replay --database-url postgresql://x a b",
		"verify --database-url postgresql://x --checkpoints d --issuer-key k",
		"checkpoint --database-url postgresql://x --dir d --issuer-key k",
		"clinic export c --database-url postgresql://x --output -",
		"clinic import " + file + " --database-url postgresql://x",
		"clinic new-epoch a b --database-url postgresql://x --epoch 7",
		"clinic new-epoch --all --database-url postgresql://x",
		"clinic move c --to south --database-url postgresql://x --shard south=postgresql://y",
		"shard list --database-url postgresql://x",
		"shard add south --region south --database-url postgresql://x --shard south=postgresql://y",
		"shard open south --database-url postgresql://x",
		"shard close south --database-url postgresql://x",
		"recalled-patients --clinic c --lot l --token t",
		"webhook create c w https://example.org --types StockReserved --after 5 --token t",
		"webhook replay c w --from 5 --epoch 2 --token t",
		"operations list c --state failed --limit 5 --token t",
		"operations get c k --token t",
		"operations cancel c k --token t",
		"operations resubmit c k --token t",
		"report c stock-card --parameter location_id=ward --parameter medicine_id=zinc --key k --output - --wait 1h --token t",
		"token --role admin --clinic * --subject s --ttl 1h",
		"jobs list --token t",
		"jobs runs reconcile --token t", "jobs show reconcile --token t",
		"jobs run reconcile --token t --wait 1m", "jobs trigger reconcile --token t",
		"jobs findings --token t --job low-stock --kind STOCK_LOW", "jobs findings c --token t",
		"cluster status --token t",
		"cluster replace-member c --peer-url https://10.0.0.3:2380 --etcd-endpoints http://127.0.0.1:2379",
		"serve --database-url postgresql://x --etcd-initial-cluster-state existing",
		"dev --data-dir d",
		"dev --clean-data",
		"version --log-format json --log-level debug",
	} {
		var c cli
		parser, err := newParser(&c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parser.Parse(strings.Fields(line)); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// Every flag can be set by the environment, and says what it is for.
func TestEveryFlagHasAVariableAndHelp(t *testing.T) {
	var c cli
	parser, err := newParser(&c)
	if err != nil {
		t.Fatal(err)
	}
	flags := 0
	err = kong.Visit(parser.Model, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok && flag.Name != "help" && flag.Name != "clean-data" {
			flags++
			if len(flag.Envs) == 0 || !strings.HasPrefix(flag.Envs[0], "STOCKLEDGER_") {
				t.Errorf("--%s has no STOCKLEDGER_ variable", flag.Name)
			}
			if flag.Help == "" {
				t.Errorf("--%s has no help", flag.Name)
			}
		}
		return next(nil)
	})
	if err != nil || flags < 30 {
		t.Errorf("%d flags were seen: %v", flags, err)
	}
}

func TestBadCommandLinesEndWithTwo(t *testing.T) {
	away := "serve --database-url postgresql://nobody@127.0.0.1:1/x --startup-timeout 1ms --issuer-key " + filepath.Join(t.TempDir(), "issuer.key")
	for _, line := range []string{"", "serve", "token --role admin", "nonsense", away} {
		if code := run(context.Background(), strings.Fields(line)); code != 2 {
			t.Errorf("%q ends with %d", line, code)
		}
	}
}

func TestVerifyRefusesAnUnknownClinic(t *testing.T) {
	err := (&verifyCmd{DatabaseURL: txntest.URL(t), Clinic: []string{"no-such-clinic"}}).Run(context.Background(), quiet())
	var rejection *ledger.Rejection
	if !errors.As(err, &rejection) || rejection.Reason != ledger.ReasonClinicNotFound {
		t.Errorf("error is %v", err)
	}
}

func TestCleanDataLeavesOtherFoldersAlone(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "thesis.txt"), "years of work")
	var out bytes.Buffer
	if err := cleanData(dir, &out); err == nil {
		t.Error("a stranger's folder was deleted")
	}
	if err := claimDir(dir); err == nil {
		t.Error("a stranger's folder was claimed, and clean-up would delete it")
	}
	mine := filepath.Join(dir, "mine")
	if err := claimDir(mine); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(mine, "token"), "secret")
	if err := claimDir(mine); err != nil {
		t.Errorf("our own folder, again: %v", err)
	}
	if err := cleanData(mine, &out); err != nil {
		t.Errorf("our own folder: %v", err)
	}
	if err := cleanData(mine, &out); err != nil || !strings.Contains(out.String(), "there is no data") {
		t.Errorf("a folder that is gone: %v, %s", err, out.String())
	}
}

func TestDemoIsLoadedOnce(t *testing.T) {
	n := startTestNode(t)
	// The demo's clinics have fixed names, so a database that keeps its data
	// has them already.
	if err := loadDemo(context.Background(), n.executors, time.Now(), &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := loadDemo(context.Background(), n.executors, time.Now().AddDate(0, 0, 3), &out); err != nil {
		t.Fatalf("on a later day: %v", err)
	}
	if out.Len() > 0 {
		t.Errorf("the second start added: %s", out.String())
	}
	for _, clinic := range []string{"hillside", "riverside", "st-anne"} {
		n.verify(t, clinic)
	}
}

// An untouched clinic takes all of the demo; one that has gone its own way takes
// what still fits.
func TestDemoFitsAndDoesNotInsist(t *testing.T) {
	n := startTestNode(t)
	medicines, err := demo.Medicines()
	if err != nil {
		t.Fatal(err)
	}
	clinic := demo.Clinics()[0]
	give := func(want string) (added, leftOut int) {
		t.Helper()
		added, leftOut, err := giveDemo(context.Background(), n.executors, ledger.ClinicID(clinic.ID), demoCommands(clinic, medicines, time.Now()))
		if err != nil {
			t.Fatalf("%s: %v", want, err)
		}
		return added, leftOut
	}
	clinic.ID = txntest.NewClinicID(t)
	if added, leftOut := give("an untouched clinic"); added < 500 || leftOut != 0 {
		t.Errorf("an untouched clinic took %d commands and refused %d", added, leftOut)
	}
	medicines[0].ID = "another-release-called-it-so"
	if added, leftOut := give("another release's demo"); added != 0 || leftOut == 0 {
		t.Errorf("with an id of another release, %d commands were taken and %d refused", added, leftOut)
	}
	n.verify(t, clinic.ID)
}

func TestPrintedPathsAreShellWords(t *testing.T) {
	for path, want := range map[string]string{
		"/srv/amina/.stockledger/token": "/srv/amina/.stockledger/token",
		"/srv/a b/token":                "'/srv/a b/token'",
		"/srv/o'neill/$x":               `'/srv/o'\''neill/$x'`,
	} {
		if got := shellWord(path); got != want {
			t.Errorf("%s becomes %s, want %s", path, got, want)
		}
	}
}

func TestWaitingForTheDatabaseEndsWithItsError(t *testing.T) {
	calls := 0
	away := func(context.Context) error { calls++; return fmt.Errorf("%w: connection refused", txn.ErrUnavailable) }
	err := awaitDatabase(context.Background(), quiet(), 0, away)
	if err == nil || calls != 1 || !strings.Contains(err.Error(), "connection refused") || !strings.Contains(err.Error(), "--startup-timeout") {
		t.Errorf("after %d attempts: %v", calls, err)
	}
	broken := errors.New("the schema is odd")
	if err := awaitDatabase(context.Background(), quiet(), time.Hour, func(context.Context) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("what is no outage must not be waited out: %v", err)
	}
}

// What the command prints is what the verifier of a node with its key takes.
func TestTokenRoundTrip(t *testing.T) {
	key := filepath.Join(t.TempDir(), "new", "issuer.key")
	var log bytes.Buffer
	cmd := &tokenCmd{
		IssuerKey: key, Role: []string{"storekeeper", "auditor"}, Clinic: []string{"hillside"}, Location: []string{"main-store"},
		Subject: "amina", TTL: time.Hour,
	}
	issue := func() string {
		t.Helper()
		token, err := cmd.token(slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	token := issue()
	if !strings.Contains(log.String(), "a new one is made") {
		t.Errorf("a new key is made without a word: %s", log.String())
	}
	issuer, err := rpc.OpenIssuer(key)
	if err != nil {
		t.Fatal(err)
	}
	got, err := rpc.NewVerifier(issuer.Trust()).Verify(token)
	want := &rpc.Principal{
		Subject: "amina", Roles: []rpc.Role{rpc.RoleStorekeeper, rpc.RoleAuditor},
		Clinics: []ledger.ClinicID{"hillside"}, Locations: []ledger.LocationID{"main-store"},
	}
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(got.Expires); left < 59*time.Minute || left > 62*time.Minute {
		t.Errorf("a token for an hour is good for %s", left)
	}
	want.Expires = got.Expires
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the principal differs: %s", diff)
	}
	log.Reset()
	if issue(); log.Len() > 0 {
		t.Errorf("with a key there already it says: %s", log.String())
	}
}

// A node keeps the read models up unless it is told not to, as the one of
// stockledger dev is not.
func TestNodeKeepsReadModels(t *testing.T) {
	n := startTestNode(t)
	clinic := demo.Clinics()[0]
	clinic.ID = txntest.NewClinicID(t)
	medicines, err := demo.Medicines()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := giveDemo(t.Context(), n.executors, ledger.ClinicID(clinic.ID), demoCommands(clinic, medicines, time.Now())); err != nil {
		t.Fatal(err)
	}
	queries := txn.NewQueries(txn.NewDirectory(n.db))
	for attempt := 1; ; attempt++ {
		rows, _, _, err := queries.MedicineSummaries(t.Context(), ledger.ClinicID(clinic.ID), txn.StockFilter{}, "", 10, txn.ReadOptions{})
		var behind *txn.ReadModelsBehindError
		if errors.As(err, &behind) && attempt < 30 {
			continue // it has waited by itself
		}
		if err != nil || len(rows) != 10 {
			t.Fatalf("the models show %d medicines, %v", len(rows), err)
		}
		return
	}
}
