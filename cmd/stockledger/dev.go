package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stockledger/stockledger/cmd/stockledger/demo"
	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/rpc"
	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/localdb"
)

// devCmd runs everything on one machine.
type devCmd struct {
	DataDir     string `type:"path" env:"STOCKLEDGER_DATA_DIR" placeholder:"DIR" help:"Where the database, the key and the token are kept: a folder of its own. Default: .stockledger in the current folder, and .stockledger-cluster with several nodes."`
	Listen      string `default:"127.0.0.1:8080" env:"STOCKLEDGER_LISTEN" placeholder:"ADDRESS" help:"Address of the API; another port is taken where this one is in use. Default: 127.0.0.1:8080."`
	AdminListen string `default:"127.0.0.1:8081" env:"STOCKLEDGER_ADMIN_LISTEN" placeholder:"ADDRESS" help:"Address of probes and metrics; another port is taken where this one is in use. Default: 127.0.0.1:8081."`
	Nodes       int    `default:"1" env:"STOCKLEDGER_NODES" help:"How many nodes to start: with 3 or 5, each is a process of its own with an etcd member, and one that ends is started again. Default: 1."`
	BasePort    int    `default:"8080" env:"STOCKLEDGER_BASE_PORT" placeholder:"PORT" help:"With several nodes: the first port of the first node. A node takes five, and the next one begins ten ports on. Default: 8080."`
	CleanData   bool   `help:"Delete the data folder and exit."`
}

// Help says where the database comes from.
func (devCmd) Help() string {
	return `Finds or starts a database, brings its schema up to date, loads three demo clinics, starts a node, and prints addresses, a token and three commands to try. Ctrl-C stops all that it started. The next start comes back with the data.

The database is the one that STOCKLEDGER_DATABASE_URL names; else a cockroach binary (COCKROACH_BINARY, or in PATH); else PostgreSQL's server binaries, run as a child process in the data folder; on Debian, root has PostgreSQL installed first.

Examples:

  stockledger dev
  stockledger dev --data-dir /var/lib/stockledger --listen 127.0.0.1:9080
  stockledger dev --nodes 3
  stockledger dev --clean-data`
}

// markerFile tells a data folder of ours from one that only has the same name.
const markerFile = "stockledger-data"

const devTokenTTL = 30 * 24 * time.Hour

// Run serves until interrupted.
func (c *devCmd) Run(ctx context.Context, log *slog.Logger) error {
	dir := c.dataDir()
	if c.CleanData {
		return cleanData(dir, os.Stdout)
	}
	if err := c.check(); err != nil {
		return err
	}
	if err := claimDir(dir); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "starting a database …")
	database, err := localdb.Start(ctx, localdb.Options{DataDir: filepath.Join(dir, "database"), Log: log})
	if err != nil {
		return err
	}
	if c.Nodes > 1 {
		err = c.serveCluster(ctx, log, dir, database)
	} else {
		err = c.serve(ctx, log, dir, database)
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := errors.Join(err, database.Stop(stop)); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (c *devCmd) dataDir() string {
	if c.DataDir != "" {
		return c.DataDir
	}
	if c.Nodes > 1 {
		return ".stockledger-cluster"
	}
	return ".stockledger"
}

// claimDir makes a folder ours. One that holds something else is left alone:
// what is ours may be deleted whole.
func claimDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the database's user must be able to pass through
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	ours := slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == markerFile })
	if len(entries) > 0 && !ours {
		return fmt.Errorf("%s holds something else already: name a folder that is empty or does not exist yet with --data-dir", dir)
	}
	return os.WriteFile(filepath.Join(dir, markerFile), []byte("This folder belongs to stockledger dev.\n"), 0o600)
}

// cleanData deletes a data folder, and nothing else by mistake.
func cleanData(dir string, out io.Writer) error {
	if _, err := os.Stat(filepath.Join(dir, markerFile)); errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(out, "there is no data in %s\n", dir)
			return nil
		}
		return fmt.Errorf("%s was not made by stockledger dev, so it is left alone", dir)
	} else if err != nil {
		return err
	}
	if err := localdb.Remove(filepath.Join(dir, "database")); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	fmt.Fprintf(out, "deleted %s\n", dir)
	return nil
}

func (c *devCmd) serve(ctx context.Context, log *slog.Logger, dir string, database *localdb.Server) error {
	n, err := c.open(ctx, log, dir, database, clusterFlags{EtcdDir: filepath.Join(dir, "etcd"), JobTimeZone: "UTC"})
	if err != nil {
		return err
	}
	return n.run(ctx, func() { printWelcome(os.Stdout, n, dir) })
}

// open brings the schema up to date, opens a node, loads the demo and leaves a
// token: nothing is printed to try before it works.
func (c *devCmd) open(ctx context.Context, log *slog.Logger, dir string, database *localdb.Server, in clusterFlags) (*node, error) {
	fmt.Fprintf(os.Stderr, "database: %s\n", database.Description)
	if err := txn.Migrate(ctx, database.URL); err != nil {
		return nil, err
	}
	flags := nodeFlags{
		Listen: freeOr(c.Listen), AdminListen: freeOr(c.AdminListen), IssuerKey: filepath.Join(dir, "issuer.key"), PatientKey: filepath.Join(dir, "patient.key"), GracePeriod: 10 * time.Second,
		CachedDocuments: 400_000, CheckpointDir: checkpointsOf(dir), webhookFlags: webhookFlags{WebhookAllowPrivate: true}, clusterFlags: in,
	}
	n, err := openNode(ctx, databaseFlags{DatabaseURL: database.URL}, flags, log)
	if err != nil {
		return nil, err
	}
	err = loadDemo(ctx, n.executors, time.Now(), os.Stderr)
	if err == nil {
		err = writeDevToken(n.issuer, tokenFile(dir))
	}
	if err == nil {
		// For stockledger verify and the other commands on the database.
		err = os.WriteFile(filepath.Join(dir, "database-url"), []byte(database.URL+"\n"), 0o600)
	}
	if err != nil {
		n.directory.Close()
		return nil, err
	}
	return n, nil
}

// checkpointsOf is the folder that checkpoints are written to.
func checkpointsOf(dir string) string { return filepath.Join(dir, "checkpoints") }

func tokenFile(dir string) string { return filepath.Join(dir, "token") }

// freeOr returns the address if nobody listens on it, else one with a free port.
func freeOr(address string) string {
	l, err := net.Listen("tcp", address)
	if err == nil {
		_ = l.Close()
		return address
	}
	host, _, splitErr := net.SplitHostPort(address)
	if splitErr != nil {
		return address
	}
	fmt.Fprintf(os.Stderr, "%s is in use; taking a free port\n", address)
	return net.JoinHostPort(host, "0")
}

// writeDevToken leaves a token for everything in a file, for shells.
func writeDevToken(issuer *rpc.Issuer, path string) error {
	token, err := issuer.Issue(rpc.Principal{Subject: "dev", Roles: []rpc.Role{rpc.RoleAdmin}, Clinics: []ledger.ClinicID{rpc.AllClinics}}, devTokenTTL)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(token+"\n"), 0o600)
}

// shellPath is a path from anywhere, as a shell takes it.
func shellPath(path string) string {
	if whole, err := filepath.Abs(path); err == nil {
		path = whole
	}
	return shellWord(path)
}

// shellWord quotes a path where a shell would take it for several words.
func shellWord(path string) string {
	safe := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:@%", r)
	}
	if strings.IndexFunc(path, func(r rune) bool { return !safe(r) }) < 0 {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

// printWelcome prints what to try. The commands can be pasted again and again:
// their keys hold the time.
func printWelcome(out io.Writer, n *node, dir string) {
	token, api := shellPath(tokenFile(dir)), "http://"+n.server.Addr()
	fmt.Fprintf(out, `
stockledger is ready.

  API      %s   (Connect, gRPC, gRPC-Web and JSON)
  admin    http://%s   (/livez, /readyz, /metrics)
  clinics  hillside, riverside, st-anne
  data     %s
  token    %s   (does everything, for 30 days)

Paste these in another terminal, as often as you like:
`, api, n.server.AdminAddr(), dir, token)
	printToTry(out, api, token)
	fmt.Fprint(out, `
Ctrl-C stops everything. "make clean-data" starts over.

`)
}

// printToTry prints three commands.
func printToTry(out io.Writer, api, token string) {
	clinic := demo.Clinics()[0]
	fmt.Fprintf(out, `
1. What does the dispensary hold?

  curl -s %[1]s/stockledger.v1.QueryService/GetStock -H "Authorization: Bearer $(cat %[2]s)" -H 'Content-Type: application/json' -d '{"clinicId":"%[3]s","locationId":"%[4]s","medicineId":"%[5]s"}'

2. Reserve 20 of it until tonight:

  curl -s %[1]s/stockledger.v1.InventoryService/ReserveStock -H "Authorization: Bearer $(cat %[2]s)" -H 'Content-Type: application/json' -d '{"clinicId":"%[3]s","command":{"idempotencyKey":"try-reserve-'$(date +%%s%%N)'","reserveStock":{"locationId":"%[4]s","medicineId":"%[5]s","quantity":"20","reasonCode":"ward-round","deadline":"'$(date -u +%%Y-%%m-%%d)'T23:59:59Z"}}}'

3. Issue 5 of it to a ward:

  curl -s %[1]s/stockledger.v1.InventoryService/IssueStock -H "Authorization: Bearer $(cat %[2]s)" -H 'Content-Type: application/json' -d '{"clinicId":"%[3]s","command":{"idempotencyKey":"try-issue-'$(date +%%s%%N)'","issueStock":{"locationId":"%[4]s","medicineId":"%[5]s","quantity":"5","recipient":"maternity"}}}'
`, api, token, clinic.ID, demo.ShownLocation, demo.ShownMedicine)
}
