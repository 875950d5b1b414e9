package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"connectrpc.com/connect/v2"

	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// importCmd imports files through the API.
type importCmd struct {
	Medicines importMedicinesCmd `cmd:"" help:"Import a formulary."`
	Stock     importStockCmd     `cmd:"" help:"Import lots and their quantities, as received stock."`
	Downtime  importDowntimeCmd  `cmd:"" help:"Import what was dispensed, received or counted on paper while the ledger could not be reached."`
}

// importFlags are what all imports need.
type importFlags struct {
	File      string `arg:"" type:"existingfile" help:"The CSV file. Its first line names the columns."`
	Clinic    string `required:"" env:"STOCKLEDGER_CLINIC" placeholder:"ID" help:"The clinic to import into."`
	Server    string `default:"http://127.0.0.1:8080" env:"STOCKLEDGER_SERVER" placeholder:"URL" help:"A node's API. Default: http://127.0.0.1:8080."`
	Token     string `required:"" env:"STOCKLEDGER_TOKEN" help:"Token of somebody who may do this."`
	Reference string `env:"STOCKLEDGER_IMPORT_REFERENCE" help:"Names this import: rows imported under the same name before are not imported again. Default: the file's name."`
	Batch     int    `default:"2000" env:"STOCKLEDGER_IMPORT_BATCH" help:"Commands in one request, up to 10000."`

	RetryFor time.Duration `default:"1m" env:"STOCKLEDGER_IMPORT_RETRY_FOR" help:"How long to try again when the server or its database is away."`

	CreateClinic string `env:"STOCKLEDGER_CREATE_CLINIC" placeholder:"NAME" help:"Create the clinic under this name if it does not exist."`
	TimeZone     string `default:"UTC" env:"STOCKLEDGER_TIME_ZONE" help:"Time zone of a clinic that is created."`
}

const importHelp = `The import goes through the same commands as everything else, some thousands in a request. Interrupt it whenever you like: started again, it goes on where it was. Rows that are refused are listed with their line and reason, and written with both to FILE.refused.csv; mend them in FILE and import it again: the rows that are in already are not imported twice.

Exit codes: 0 all rows are in; 1 rows were refused; 2 the import could not run to its end.`

// importer imports one file.
type importer struct {
	importFlags
	client   *client
	out      io.Writer
	nonce    string // differs for each run
	refused  []refusal
	imported int
	repeated int
}

func (f importFlags) open(out io.Writer) *importer {
	if f.Reference == "" {
		f.Reference = filepath.Base(f.File)
	}
	return &importer{importFlags: f, client: newClient(f.Server, f.Token), out: out, nonce: rand.Text()}
}

// prepare creates the clinic where that was asked for.
func (im *importer) prepare(ctx context.Context) error {
	if im.Batch < 1 || im.Batch > 10_000 {
		return errors.New("--batch must be 1 to 10000")
	}
	if im.CreateClinic == "" {
		return nil
	}
	results, err := im.client.execute(ctx, im.Clinic, []*pb.Command{{
		IdempotencyKey: "import:clinic",
		Body:           &pb.Command_CreateClinic{CreateClinic: &pb.CreateClinic{Name: im.CreateClinic, TimeZone: im.TimeZone}},
	}})
	if err != nil {
		return explain(err)
	}
	switch r := results[0].GetRejected(); r.GetReason() {
	case "", "CLINIC_EXISTS", "IDEMPOTENCY_KEY_REUSED":
		return nil
	default:
		return errors.New(r.GetMessage())
	}
}

// explain puts the server's message first.
func explain(err error) error {
	var refused *connect.Error
	if errors.As(err, &refused) {
		return fmt.Errorf("%s (%s)", refused.Message(), refused.Code())
	}
	return err
}

// task is a command that a row comes to.
type task struct {
	row     csvRow
	command *pb.Command
	// settled, where there is one, takes the verdict: the task is a step on the
	// way to a row and not the row itself.
	settled func(*pb.CommandResult)
}

// run sends tasks in batches, in their order, and counts their verdicts.
func (im *importer) run(ctx context.Context, what string, tasks []task, counts bool) error {
	bar := newProgress(im.out, what, len(tasks))
	defer bar.finish()
	for batch := range slices.Chunk(tasks, im.Batch) {
		results, err := im.send(ctx, batch)
		if err != nil {
			return fmt.Errorf("the import stopped; start it again to go on: %w", explain(err))
		}
		for i, result := range results {
			im.settle(&batch[i], result, counts)
		}
		bar.add(len(batch))
	}
	return nil
}

func (im *importer) settle(t *task, result *pb.CommandResult, counts bool) {
	if t.settled != nil {
		t.settled(result)
		return
	}
	rejected := result.GetRejected()
	// A row's key says all that is in the row. Where it is bound to another
	// command, that is the same row, imported by somebody else.
	there := result.GetAccepted().GetReplayed() || rejected.GetReason() == "IDEMPOTENCY_KEY_REUSED"
	switch {
	case rejected != nil && !there:
		im.refused = append(im.refused, refusal{t.row, rejected.GetMessage()})
	case !counts:
	case there:
		im.repeated++
	default:
		im.imported++
	}
}

// onceKey is the key of a step that needs none for resuming: what it makes has
// a name of its own in the ledger, and is found there.
func (im *importer) onceKey(step string, values ...string) string {
	keys := rowKeys{reference: im.nonce, seen: make(map[string]int)}
	return keys.next(step, values...)
}

// finish reports. Refused rows make the process end with code 1.
func (im *importer) finish(f *csvFile) error {
	refused := append(slices.Clone(f.refused), im.refused...)
	slices.SortStableFunc(refused, func(a, b refusal) int { return a.row.line - b.row.line })
	// What follows from a row's first reason is no second refusal.
	refused = slices.CompactFunc(refused, func(a, b refusal) bool { return a.row.line == b.row.line })
	if len(f.ignored) > 0 {
		fmt.Fprintf(im.out, "columns not imported: %s\n", strings.Join(f.ignored, ", "))
	}
	fmt.Fprintf(im.out, "%d rows imported, %d were there already, %d refused\n", im.imported, im.repeated, len(refused))
	if len(refused) == 0 {
		return nil
	}
	const shown = 20
	for _, r := range refused[:min(shown, len(refused))] {
		fmt.Fprintf(im.out, "  line %d: %s\n", r.row.line, r.reason)
	}
	path, err := f.writeRefused(refused)
	if err != nil {
		return err
	}
	fmt.Fprintf(im.out, "all refused rows with their reasons: %s\nmend them in %s and import it again", path, f.path)
	if im.Reference != filepath.Base(f.path) {
		fmt.Fprintf(im.out, " with --reference %q", im.Reference)
	}
	fmt.Fprintln(im.out, ": the other rows are not imported twice")
	return exitError(1)
}

// rowKeys makes idempotency keys from rows' content, so that a row keeps its
// key when rows around it are added, removed or mended. Rows that are the same
// are told apart by their number.
type rowKeys struct {
	reference string
	seen      map[string]int
}

func (k *rowKeys) next(step string, values ...string) string {
	content := strings.Join(append([]string{k.reference, step}, values...), "\x00")
	k.seen[content]++
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d", content, k.seen[content]))
	return "import:" + step + ":" + hex.EncodeToString(sum[:16])
}

// progress shows how far a long job is: a bar on a terminal, else a line now
// and then.
type progress struct {
	out   io.Writer
	what  string
	total int
	done  int
	bar   *progressbar.ProgressBar
	told  time.Time
}

const progressInterval = 5 * time.Second

func newProgress(out io.Writer, what string, total int) *progress {
	p := &progress{out: out, what: what, total: total, told: time.Now()}
	if file, ok := out.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		p.bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(out), progressbar.OptionSetDescription(what),
			progressbar.OptionShowCount(), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
	}
	return p
}

func (p *progress) add(n int) { p.set(p.done+n, p.total) }

// set says how much is done, and of how much, which may become known late.
func (p *progress) set(done, total int) {
	p.done, p.total = done, total
	if p.bar != nil {
		p.bar.ChangeMax(total)
		_ = p.bar.Set(done)
		return
	}
	if time.Since(p.told) >= progressInterval {
		p.told = time.Now()
		fmt.Fprintf(p.out, "%s: %d of %d\n", p.what, p.done, p.total)
	}
}

func (p *progress) finish() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}
