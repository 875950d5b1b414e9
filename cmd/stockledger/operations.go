package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// operationsCmd shows and changes what is carried out later.
type operationsCmd struct {
	List     operationsListCmd     `cmd:"" help:"List a clinic's operations, the latest first. Who may not see those of others sees their own."`
	Get      operationsGetCmd      `cmd:"" help:"Show what has become of an operation."`
	Cancel   operationsCancelCmd   `cmd:"" help:"End an operation that waits, or a report that is being read."`
	Resubmit operationsResubmitCmd `cmd:"" help:"Let an operation wait again that was rejected, cancelled, or failed again and again."`
}

// operationsFlags name a node whose API is asked, and the clinic.
type operationsFlags struct {
	Server string `default:"http://127.0.0.1:8080" env:"STOCKLEDGER_SERVER" placeholder:"URL" help:"A node's API. Default: http://127.0.0.1:8080."`
	Token  string `required:"" env:"STOCKLEDGER_TOKEN" help:"Token of somebody who may do this at the clinic."`
	Clinic string `arg:"" help:"The clinic."`
}

type operationsListCmd struct {
	operationsFlags
	State string `enum:",waiting,accepted,rejected,failed,cancelled" default:"" env:"STOCKLEDGER_STATE" help:"Only those that are waiting, accepted, rejected, failed (the dead letters) or cancelled."`
	Limit int32  `default:"50" env:"STOCKLEDGER_LIMIT" help:"Most operations to list, up to 1000. Default: 50."`
}

// Run prints operations.
func (c *operationsListCmd) Run(ctx context.Context) error {
	state := pb.OperationState(pb.OperationState_value["OPERATION_STATE_"+strings.ToUpper(c.State)])
	answer, err := newClient(c.Server, c.Token).operations.ListOperations(ctx, &pb.ListOperationsRequest{ClinicId: c.Clinic, State: state, Page: &pb.Page{PageSize: c.Limit}})
	if err != nil {
		return explain(err)
	}
	if len(answer.GetOperations()) == 0 {
		fmt.Println("there are none")
		return nil
	}
	if err := printOperations(os.Stdout, answer.GetOperations()); err != nil {
		return err
	}
	if answer.GetNextPageToken() != "" {
		fmt.Println("there are more: see --limit")
	}
	return nil
}

func printOperations(out io.Writer, operations []*pb.Operation) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "KEY\tKIND\tPRIORITY\tSTATE\tBY\tSUBMITTED\tFINISHED\tATTEMPTS\tOUTCOME")
	for _, op := range operations {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", op.GetIdempotencyKey(), op.GetKind(), word("PRIORITY_", op.GetPriority()), word("OPERATION_STATE_", op.GetState()),
			op.GetSubmittedBy(), moment(op.GetSubmittedAt()), moment(op.GetFinishedAt()), op.GetAttempts(), outcomeText(op))
	}
	return w.Flush()
}

func word(prefix string, value fmt.Stringer) string {
	return strings.ToLower(strings.TrimPrefix(value.String(), prefix))
}

// outcomeText is what an operation has come to, or why it has not.
func outcomeText(op *pb.Operation) string {
	var parts []string
	if r := op.GetReport(); r != nil {
		parts = append(parts, progressText(r))
	}
	if accepted := op.GetResult().GetAccepted(); accepted != nil {
		parts = append(parts, fmt.Sprint("sequence ", accepted.GetSequence()))
	}
	for _, refused := range []*pb.Rejected{op.GetResult().GetRejected(), op.GetLastFailure()} {
		if refused != nil {
			parts = append(parts, fmt.Sprintf("%s: %s", refused.GetReason(), refused.GetMessage()))
		}
	}
	return strings.Join(parts, "; ")
}

// progressText tells which report it is and how far it has come.
func progressText(r *pb.ReportProgress) string {
	rows := fmt.Sprint(r.GetRowsDone())
	if r.RowsTotal != nil && r.GetRowsTotal() != r.GetRowsDone() {
		rows += fmt.Sprint(" of ", r.GetRowsTotal())
	}
	text := fmt.Sprintf("%s: %s rows, %d bytes", r.GetReport(), rows, r.GetBytes())
	switch {
	case r.GetDeleted():
		text += ", deleted"
	case r.GetKeptUntil() != nil:
		text += ", kept until " + moment(r.GetKeptUntil())
	}
	return text
}

type operationsGetCmd struct {
	operationsFlags
	Key string `arg:"" help:"The operation's key."`
}

// Run prints an operation.
func (c *operationsGetCmd) Run(ctx context.Context) error {
	answer, err := newClient(c.Server, c.Token).operations.GetOperation(ctx, &pb.GetOperationRequest{ClinicId: c.Clinic, IdempotencyKey: c.Key})
	return printOperation(answer.GetOperation(), err)
}

func printOperation(op *pb.Operation, err error) error {
	if err != nil {
		return explain(err)
	}
	return printOperations(os.Stdout, []*pb.Operation{op})
}

type operationsCancelCmd struct {
	operationsFlags
	Key string `arg:"" help:"The operation's key."`
}

// Run cancels an operation.
func (c *operationsCancelCmd) Run(ctx context.Context) error {
	answer, err := newClient(c.Server, c.Token).operations.CancelOperation(ctx, &pb.CancelOperationRequest{ClinicId: c.Clinic, IdempotencyKey: c.Key})
	return printOperation(answer.GetOperation(), err)
}

type operationsResubmitCmd struct {
	operationsFlags
	Key string `arg:"" help:"The operation's key."`
}

// Run lets an operation wait again.
func (c *operationsResubmitCmd) Run(ctx context.Context) error {
	answer, err := newClient(c.Server, c.Token).operations.ResubmitOperation(ctx, &pb.ResubmitOperationRequest{ClinicId: c.Clinic, IdempotencyKey: c.Key})
	return printOperation(answer.GetOperation(), err)
}
