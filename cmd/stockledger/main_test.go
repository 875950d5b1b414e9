package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

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
	flags := nodeFlags{
		Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0", IssuerKey: filepath.Join(t.TempDir(), "issuer.key"),
		GracePeriod: 10 * time.Second, CachedDocuments: 10_000, WriteConns: 4, ReadConns: 4,
	}
	n, err := openNode(context.Background(), txntest.URL(t), flags, quiet())
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
		"migrate up --database-url postgresql://x",
		"migrate status --database-url postgresql://x",
		"import medicines " + file + " --clinic c --token t",
		"import stock " + file + " --clinic c --token t --create-locations --reference r",
		"verify --database-url postgresql://x --clinic a --clinic b",
		"token --role admin --clinic * --subject s --ttl 1h",
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
	err := (&verifyCmd{databaseFlags: databaseFlags{DatabaseURL: txntest.URL(t)}, Clinic: []string{"no-such-clinic"}}).Run(context.Background(), quiet())
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
	mine := filepath.Join(dir, "mine")
	if err := claimDir(mine); err != nil {
		t.Fatal(err)
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
	if err := loadDemo(context.Background(), n.executor, time.Now(), &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := loadDemo(context.Background(), n.executor, time.Now().AddDate(0, 0, 3), &out); err != nil {
		t.Fatalf("on a later day: %v", err)
	}
	if out.Len() > 0 {
		t.Errorf("the second start added: %s", out.String())
	}
	for _, clinic := range []string{"hillside", "riverside", "st-anne"} {
		n.verify(t, clinic)
	}
}
