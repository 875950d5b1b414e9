package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect/v2"

	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// recalledPatientsCmd writes whom a lot reached.
type recalledPatientsCmd struct {
	Clinic   string        `required:"" env:"STOCKLEDGER_CLINIC" placeholder:"ID" help:"The clinic."`
	Lot      string        `env:"STOCKLEDGER_RECALLED_LOT" placeholder:"ID" help:"The lot: its id, system|value or gs1|scan."`
	Recall   string        `env:"STOCKLEDGER_RECALL" placeholder:"ID" help:"Instead of a lot: the recall whose lots are meant, for example RC-17."`
	Server   string        `default:"http://127.0.0.1:8080" env:"STOCKLEDGER_SERVER" placeholder:"URL" help:"A node's API. Default: http://127.0.0.1:8080."`
	Token    string        `required:"" env:"STOCKLEDGER_TOKEN" help:"Token of somebody who may trace recalls."`
	RetryFor time.Duration `default:"1m" env:"STOCKLEDGER_RECALLED_RETRY_FOR" help:"How long to try again when the server is away. The list goes on where it was."`
	Page     int           `default:"1000" env:"STOCKLEDGER_RECALLED_PAGE" help:"How many dispensings are read at a time, at most 1,000."`
}

// Help says what stands in it.
func (recalledPatientsCmd) Help() string {
	return `Writes one row for each dispensing that units of the lot went into, as CSV to standard output: the patient's token, how much, what came back since, when and by whom. Who a patient is, GetPatient says to those who may know.

Examples:

  stockledger recalled-patients --clinic hillside --lot ZN-77 > reached.csv
  stockledger recalled-patients --clinic hillside --recall RC-17 > reached.csv`
}

// Run writes the list to standard output.
func (c *recalledPatientsCmd) Run(ctx context.Context, log *slog.Logger) error {
	if (c.Lot == "") == (c.Recall == "") {
		return errors.New("name either a lot with --lot, or a recall with --recall")
	}
	rows, err := c.write(ctx, newClient(c.Server, c.Token), os.Stdout)
	if err != nil {
		return fmt.Errorf("the list is not whole, it ended after %d rows: %w", rows, explain(err))
	}
	log.Info("list written", "dispensings", rows)
	return nil
}

var recalledHeader = []string{
	"lot_id", "patient_id", "quantity", "returned", "day", "dispensing_id", "status", "prescription_id", "location_id", "dispenser", "sequence",
}

// write writes the list as it comes, and goes on with it where the stream
// breaks. It returns the number of rows.
func (c *recalledPatientsCmd) write(ctx context.Context, from *client, out io.Writer) (int, error) {
	w := csv.NewWriter(out)
	_ = w.Write(recalledHeader) // its error comes again with the first row
	rows, place := 0, ""
	for began := time.Now(); ; {
		err := c.stream(ctx, from, &place, func(d *pb.RecalledDispensing) error {
			rows++
			return w.Write(recalledRow(d))
		})
		w.Flush()
		if err == nil || !isAway(err) && !brokeOff(err) || time.Since(began) > c.RetryFor || ctx.Err() != nil {
			return rows, errors.Join(err, w.Error())
		}
		timer := time.NewTimer(firstPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return rows, ctx.Err()
		}
	}
}

// stream reads the list from after a place, which it moves on with each message.
func (c *recalledPatientsCmd) stream(ctx context.Context, from *client, place *string, give func(*pb.RecalledDispensing) error) error {
	stream, err := from.pharmacy.ListRecalledPatients(ctx, &pb.ListRecalledPatientsRequest{
		ClinicId: c.Clinic, LotId: c.Lot, RecallId: c.Recall, Page: &pb.Page{PageSize: int32(c.Page), PageToken: *place},
	})
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	for {
		message, err := stream.Receive()
		if errors.Is(err, io.EOF) && *place == "" {
			return nil
		}
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("the stream ended before the list did: %w", io.ErrUnexpectedEOF)
		}
		if err != nil {
			return err
		}
		for _, d := range message.GetDispensings() {
			if err := give(d); err != nil {
				return err
			}
		}
		*place = message.GetNextPageToken()
		if *place == "" {
			return nil
		}
	}
}

// brokeOff reports whether a stream was cut in the middle. The node that sent it
// may have died; Connect's clients say so in several ways.
func brokeOff(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || connect.CodeOf(err) == connect.CodeUnknown
}

func recalledRow(d *pb.RecalledDispensing) []string {
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	day := d.GetDispensing().GetDay()
	status := strings.ToLower(strings.TrimPrefix(d.GetDispensing().GetStatus().String(), "DISPENSING_STATUS_"))
	return []string{
		d.GetLotId(), d.GetPatientId(), number(d.GetQuantity()), number(d.GetReturned()),
		fmt.Sprintf("%04d-%02d-%02d", day.GetYear(), day.GetMonth(), day.GetDay()), d.GetDispensing().GetDispensingId(), status,
		d.GetDispensing().GetPrescriptionId(), d.GetDispensing().GetLocationId(), d.GetDispensing().GetDispenser(), number(d.GetSequence()),
	}
}
