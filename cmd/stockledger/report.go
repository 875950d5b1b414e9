package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// reportCmd has a report read and fetches it.
type reportCmd struct {
	operationsFlags
	Report     string            `arg:"" help:"The report: stock-card, stock-on-hand, expiries, controlled-register, low-stock, reorder-suggestions, dispensing or journal."`
	Parameters map[string]string `name:"parameter" env:"STOCKLEDGER_PARAMETERS" placeholder:"NAME=VALUE" help:"A parameter of the report, for example location_id=ward. May be repeated; in the environment separated by semicolons."`
	Key        string            `env:"STOCKLEDGER_KEY" help:"Key that names the operation. With the same key and parameters the command goes on where it was interrupted. Default: a new one, which is printed."`
	Output     string            `short:"o" env:"STOCKLEDGER_OUTPUT" placeholder:"FILE" help:"Write the report here; - is standard output. Default: REPORT-CLINIC.csv in the current folder."`
	Wait       time.Duration     `default:"24h" env:"STOCKLEDGER_WAIT" help:"Wait so long for the report; 0 only submits it. Default: 24h."`
}

// Help says when to use it.
func (reportCmd) Help() string {
	return `The server reads the report in the background, a page at a time, and another node goes on where one has ended. The result is kept for 7 days. It is the same as what is read at /csv/CLINIC/REPORT; use it for what takes longer than a connection holds.

Example:

  stockledger report hillside stock-card --parameter location_id=store --parameter medicine_id=amoxicillin-250 --output card.csv`
}

// Run submits a report, waits for it and writes it.
func (c *reportCmd) Run(ctx context.Context) error {
	from := newClient(c.Server, c.Token)
	if c.Key == "" {
		c.Key = "report-" + rand.Text()
	}
	if _, err := from.operations.SubmitReport(ctx, &pb.SubmitReportRequest{ClinicId: c.Clinic, IdempotencyKey: c.Key, Report: c.Report, Parameters: c.Parameters}); err != nil {
		return explain(err)
	}
	fmt.Fprintln(os.Stderr, "submitted as", c.Key)
	if c.Wait == 0 {
		return nil
	}
	op, err := c.await(ctx, from)
	if err != nil {
		return err
	}
	if op.GetState() != pb.OperationState_OPERATION_STATE_ACCEPTED {
		return fmt.Errorf("the report is %s: %s", word("OPERATION_STATE_", op.GetState()), outcomeText(op))
	}
	if c.Output == "-" {
		return c.write(ctx, from, os.Stdout)
	}
	if c.Output == "" {
		c.Output = c.Report + "-" + c.Clinic + ".csv"
	}
	if err := writeWhole(c.Output, func(w io.Writer) error { return c.write(ctx, from, w) }); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%s: %d rows\n", c.Output, op.GetReport().GetRowsDone())
	return nil
}

// awhile is how long one question for the report's end takes.
const awhile = 5 * time.Second

// await waits for the report's end, and shows how it goes. A node that ends or
// a connection that breaks is waited for.
func (c *reportCmd) await(ctx context.Context, from *client) (*pb.Operation, error) {
	waiting, cancel := context.WithTimeout(ctx, c.Wait)
	defer cancel()
	for shown := int64(-1); ; {
		answer, err := from.operations.WaitOperation(waiting, &pb.WaitOperationRequest{ClinicId: c.Clinic, IdempotencyKey: c.Key, Timeout: durationpb.New(min(awhile, c.Wait))})
		op := answer.GetOperation()
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err == nil && op.GetState() != pb.OperationState_OPERATION_STATE_WAITING:
			return op, nil
		case waiting.Err() != nil:
			return nil, fmt.Errorf("the report has not ended within %s; it goes on, and the same command with --key %s fetches it", c.Wait, c.Key)
		case err != nil && !comesBack(err):
			return nil, explain(err)
		case err != nil:
			pause := time.NewTimer(time.Second)
			select {
			case <-pause.C:
			case <-waiting.Done():
			}
			pause.Stop()
		case op.GetReport().GetRowsDone() != shown:
			shown = op.GetReport().GetRowsDone()
			fmt.Fprintln(os.Stderr, progressText(op.GetReport()))
		}
	}
}

// comesBack tells the errors of a connection or a node that may be there again.
func comesBack(err error) bool {
	var answered *connect.Error
	code := connect.CodeOf(err)
	return errors.As(err, &answered) && (code == connect.CodeUnavailable || code == connect.CodeUnknown || code == connect.CodeCanceled)
}

// interruptions is how often a transfer that broke off is gone on with without a
// further part.
const interruptions = 5

// write writes the result, and goes on with the next part where the connection
// breaks.
func (c *reportCmd) write(ctx context.Context, from *client, w io.Writer) error {
	var next int32
	for broken := 0; ; {
		began := next
		err := c.transfer(ctx, from, w, &next)
		if next > began {
			broken = 0
		}
		if broken++; err == nil || ctx.Err() != nil || !comesBack(err) || broken > interruptions {
			return explain(err)
		}
	}
}

func (c *reportCmd) transfer(ctx context.Context, from *client, w io.Writer, next *int32) error {
	stream, err := from.operations.FetchResult(ctx, &pb.FetchResultRequest{ClinicId: c.Clinic, IdempotencyKey: c.Key, FirstPart: *next})
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	for {
		part, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := w.Write(part.GetData()); err != nil {
			return err
		}
		*next = part.GetPart() + 1
	}
}
