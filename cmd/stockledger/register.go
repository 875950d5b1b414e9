package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/rpc"
	"github.com/stockledger/stockledger/txn"
)

// registerCmd writes the controlled register for an inspector.
type registerCmd struct {
	databaseFlags
	Clinic   string `arg:"" help:"The clinic."`
	Location string `required:"" env:"STOCKLEDGER_REGISTER_LOCATION" placeholder:"ID" help:"The location whose register it is."`
	Medicine string `required:"" env:"STOCKLEDGER_REGISTER_MEDICINE" placeholder:"ID" help:"The medicine."`
	From     string `env:"STOCKLEDGER_REGISTER_FROM" placeholder:"DAY" help:"First day, at the clinic, on which a line was recorded: 2027-01-01. Default: the beginning."`
	To       string `env:"STOCKLEDGER_REGISTER_TO" placeholder:"DAY" help:"Last day, at the clinic, on which a line was recorded. Default: today."`
}

// Help says what stands in it.
func (registerCmd) Help() string {
	return `Writes the register of a medicine at a location as CSV: each movement that changed what lies there, with the balance before and after it, who delivered or got it, for which prescription and by whom it was written, who asked, who decided or witnessed, and which earlier line it corrects. Nothing in it is ever changed; corrections are later lines.

Example:

  stockledger register hillside --location store --medicine morphine-10 --from 2027-01-01 --to 2027-12-31 > register.csv`
}

// Run writes the register to standard output.
func (c *registerCmd) Run(ctx context.Context, log *slog.Logger) error {
	directory, err := c.open(ctx, txn.Config{StatementTimeout: time.Minute, Log: log})
	if err != nil {
		return err
	}
	defer directory.Close()
	lines, err := c.write(ctx, txn.NewQueries(directory), os.Stdout)
	if err != nil {
		return err
	}
	log.Info("register written", "lines", lines)
	return nil
}

// write writes the register and returns the number of its lines.
func (c *registerCmd) write(ctx context.Context, queries *txn.Queries, out io.Writer) (int, error) {
	filter, zone, err := c.filter(ctx, queries)
	if err != nil {
		return 0, err
	}
	w := newRegisterWriter(out, zone)
	const page = 1000
	for place, more := (*txn.RegisterPlace)(nil), true; more; more = place != nil {
		lines, next, _, err := queries.Register(ctx, ledger.ClinicID(c.Clinic), filter, place, page, txn.ReadOptions{})
		if err != nil {
			return w.lines, err
		}
		for i := range lines {
			if err := w.write(&lines[i]); err != nil {
				return w.lines, err
			}
		}
		place = next
	}
	return w.lines, w.flush()
}

// filter reads the days by the clinic's calendar.
func (c *registerCmd) filter(ctx context.Context, queries *txn.Queries) (txn.RegisterFilter, *time.Location, error) {
	f := txn.RegisterFilter{Shelf: ledger.Shelf{Location: ledger.LocationID(c.Location), Medicine: ledger.MedicineID(c.Medicine)}}
	clinic, _, err := queries.Clinic(ctx, ledger.ClinicID(c.Clinic), txn.ReadOptions{})
	if err != nil {
		return f, nil, err
	}
	zone, err := time.LoadLocation(clinic.TimeZone)
	if err != nil {
		return f, nil, err
	}
	if f.From, err = dayBegins("--from", c.From, zone, 0); err != nil {
		return f, nil, err
	}
	if f.To, err = dayBegins("--to", c.To, zone, 1); err != nil {
		return f, nil, err
	}
	if f.To != 0 {
		f.To--
	}
	return f, zone, nil
}

// dayBegins is when a day, or one some days after it, begins; zero where none is
// given.
func dayBegins(flag, text string, zone *time.Location, after int) (ledger.Instant, error) {
	if text == "" {
		return 0, nil
	}
	day, err := time.ParseInLocation(time.DateOnly, text, zone)
	if err != nil {
		return 0, fmt.Errorf("%s: %q is not a day: write it as 2027-03-31", flag, text)
	}
	return ledger.InstantOf(day.AddDate(0, 0, after)), nil
}

// registerWriter writes lines of a register as CSV.
type registerWriter struct {
	csv   *csv.Writer
	zone  *time.Location
	lines int
}

var registerHeader = []string{
	"line", "recorded_at", "occurred_at", "sequence", "command", "lot_id", "party", "opening", "in", "out", "balance",
	"requested_by", "actor", "witness", "reason_code", "reference", "document_id", "corrects_sequence",
	"prescription_id", "prescriber", "patient_id",
}

func newRegisterWriter(w io.Writer, zone *time.Location) *registerWriter {
	r := &registerWriter{csv: csv.NewWriter(w), zone: zone}
	_ = r.csv.Write(registerHeader) // its error comes again with the first line
	return r
}

func (r *registerWriter) write(line *txn.RegisterLine) error {
	r.lines++
	corrects := ""
	if line.Corrects != 0 {
		corrects = strconv.FormatInt(int64(line.Corrects), 10)
	}
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	at := func(i ledger.Instant) string { return i.Time().In(r.zone).Format(time.RFC3339) }
	return r.csv.Write([]string{
		strconv.Itoa(r.lines), at(line.RecordedAt), at(line.OccurredAt), number(int64(line.Sequence)), line.Kind.String(), string(line.Lot), rpc.CSVText(line.Party),
		number(line.Opening), number(line.In), number(line.Out), number(line.Balance),
		rpc.CSVText(string(line.Requester)), rpc.CSVText(string(line.Actor)), rpc.CSVText(string(line.Witness)), line.ReasonCode, line.Reference, line.DocumentID, corrects,
		string(line.PrescriptionID), rpc.CSVText(line.Prescriber), string(line.PatientID),
	})
}

func (r *registerWriter) flush() error {
	r.csv.Flush()
	return r.csv.Error()
}
