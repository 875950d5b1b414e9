package main

import (
	"context"
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
}

// importFlags are what both imports need.
type importFlags struct {
	File      string `arg:"" type:"existingfile" help:"The CSV file. Its first line names the columns."`
	Clinic    string `required:"" env:"STOCKLEDGER_CLINIC" placeholder:"ID" help:"The clinic to import into."`
	Server    string `default:"http://127.0.0.1:8080" env:"STOCKLEDGER_SERVER" placeholder:"URL" help:"A node's API."`
	Token     string `required:"" env:"STOCKLEDGER_TOKEN" help:"Token of somebody who may do this."`
	Reference string `env:"STOCKLEDGER_IMPORT_REFERENCE" help:"Names this import: rows imported under the same name before are not imported again. Default: the file's name."`
	Batch     int    `default:"2000" env:"STOCKLEDGER_IMPORT_BATCH" help:"Commands in one request, up to 10000."`

	CreateClinic string `env:"STOCKLEDGER_CREATE_CLINIC" placeholder:"NAME" help:"Create the clinic under this name if it does not exist."`
	TimeZone     string `default:"UTC" env:"STOCKLEDGER_TIME_ZONE" help:"Time zone of a clinic that is created."`
}

const importHelp = `The import goes through the same commands as everything else, some thousands in a request. Interrupt it whenever you like: started again, it goes on where it was. Rows that are refused are listed with their reasons and written to a file beside the one imported; mend them there and import that file under the same --reference.`

// importer imports one file.
type importer struct {
	importFlags
	client   *client
	out      io.Writer
	refused  []refusal
	imported int
	repeated int
}

func (f importFlags) open(out io.Writer) *importer {
	if f.Reference == "" {
		f.Reference = filepath.Base(f.File)
	}
	return &importer{importFlags: f, client: newClient(f.Server, f.Token), out: out}
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
	// settled is called with the verdict, and may turn a rejection into
	// success by returning true.
	settled func(*pb.CommandResult) bool
}

// run sends tasks in batches, in their order, and counts their verdicts.
func (im *importer) run(ctx context.Context, what string, tasks []task, counts bool) error {
	bar := newProgress(im.out, what, len(tasks))
	defer bar.finish()
	for batch := range slices.Chunk(tasks, im.Batch) {
		commands := make([]*pb.Command, len(batch))
		for i, t := range batch {
			commands[i] = t.command
		}
		results, err := im.client.execute(ctx, im.Clinic, commands)
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
	fine := t.settled != nil && t.settled(result)
	if r := result.GetRejected(); r != nil && !fine {
		im.refused = append(im.refused, refusal{t.row, r.GetMessage()})
		return
	}
	switch {
	case !counts:
	case result.GetRejected() != nil || result.GetAccepted().GetReplayed():
		im.repeated++
	default:
		im.imported++
	}
}

// finish reports. Refused rows make the process end with code 1.
func (im *importer) finish(f *csvFile) error {
	refused := append(slices.Clone(f.refused), im.refused...)
	slices.SortStableFunc(refused, func(a, b refusal) int { return a.row.line - b.row.line })
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
	fmt.Fprintf(im.out, "all refused rows with their reasons: %s\nmend them and run: import … %s --reference %q\n", path, path, im.Reference)
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
