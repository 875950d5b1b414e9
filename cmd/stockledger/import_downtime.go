package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// importDowntimeCmd imports what was done on paper while the ledger could not be
// reached.
type importDowntimeCmd struct {
	importFlags
	LateReason string `env:"STOCKLEDGER_LATE_REASON" placeholder:"CODE" help:"Why it is recorded later than the clinic's window for backdating: a code without spaces. The token must permit command.backdate."`
}

// Help describes the file.
func (importDowntimeCmd) Help() string {
	return `One row for each thing that was dispensed, received or counted. Columns:

  what             dispensed, received or counted (required)
  occurred_at      2027-03-10T14:30:00+03:00, or 2027-03-10 14:30 at the clinic (required)
  device           what it was noted with: a terminal, a pad of forms (required; a code)
  paper_reference  the number of the form or of the entry (required; a code)
  location         id or name (required)
  quantity         base units, or packs; when counted, all that lay on the shelf (required)
  medicine         id or name
  lot              id, system|value or gs1|scan; or
  lot_number       as it is printed on the pack, together with the medicine
  pack             what the quantity counts
  prescription, line, patient_id, payer, substitution_reason, wasted_quantity, waste_reason   when dispensed
  supplier, reference   when received
  reason_code           when counted (default DOWNTIME)

Rows are recorded in the order in which they happened. Nothing is refused because stock is missing in the books or a rule was broken: the report lists what broke which rule, and each waits for a second person to look at it. The same entry of the same device is recorded once, whatever file it comes in.

Example:

  stockledger import downtime monday.csv --clinic hillside

` + importHelp
}

var downtimeColumns = []column{
	{name: "what", aliases: []string{"kind"}, required: true},
	{name: "occurred_at", aliases: []string{"time"}, required: true},
	{name: "device", required: true},
	{name: "paper_reference", aliases: []string{"form"}, required: true},
	{name: "location", aliases: []string{"location_id"}, required: true},
	{name: "quantity", required: true},
	{name: "medicine", aliases: []string{"medicine_id"}},
	{name: "lot", aliases: []string{"lot_id"}},
	{name: "lot_number", aliases: []string{"batch"}},
	{name: "pack"},
	{name: "prescription", aliases: []string{"prescription_id"}},
	{name: "line"},
	{name: "patient_id", aliases: []string{"patient"}},
	{name: "payer"},
	{name: "substitution_reason"},
	{name: "wasted_quantity"},
	{name: "waste_reason"},
	{name: "supplier"},
	{name: "reference"},
	{name: "reason_code"},
}

// Run imports the file.
func (c *importDowntimeCmd) Run(ctx context.Context) error { return c.importTo(ctx, os.Stderr) }

func (c *importDowntimeCmd) importTo(ctx context.Context, out io.Writer) error {
	f, err := readCSV(c.File, downtimeColumns)
	if err != nil {
		return err
	}
	im := &downtimeImporter{importer: c.open(out), lateReason: c.LateReason, recorded: make(map[string]csvRow)}
	if err := im.prepare(ctx); err != nil {
		return err
	}
	if err := im.resolveNames(ctx); err != nil {
		return err
	}
	rows := im.read(f)
	if err := im.run(ctx, "records", im.tasks(rows), true); err != nil {
		return err
	}
	if err := im.reportExceptions(ctx); err != nil {
		return err
	}
	return im.finish(f)
}

// downtimeImporter imports in the order in which things happened.
type downtimeImporter struct {
	*importer
	lateReason string
	zone       *time.Location
	locations  names
	medicines  names
	lots       map[string][]string // ids by medicine and lot number
	recorded   map[string]csvRow   // rows by the record that they became
	last       int64               // the last command that recorded one
}

// downtimeRow is a row whose values are understood.
type downtimeRow struct {
	csvRow
	occurred time.Time
	record   *pb.RecordDowntime
}

func (im *downtimeImporter) resolveNames(ctx context.Context) error {
	clinic, err := im.client.catalog.GetClinic(ctx, &pb.GetClinicRequest{ClinicId: im.Clinic})
	if err != nil {
		return explain(err)
	}
	if im.zone, err = time.LoadLocation(clinic.GetClinic().GetTimeZone()); err != nil {
		return fmt.Errorf("this machine does not know the clinic's time zone: %w", err)
	}
	locations, err := im.client.locations(ctx, im.Clinic)
	if err != nil {
		return explain(err)
	}
	im.locations = make(names)
	for _, l := range locations {
		im.locations.add(l.GetLocationId(), l.GetName())
	}
	medicines, err := im.client.medicines(ctx, im.Clinic)
	if err != nil {
		return explain(err)
	}
	im.medicines = make(names)
	for _, m := range medicines {
		im.medicines.add(m.GetMedicineId(), m.GetName())
	}
	lots, err := im.client.lots(ctx, im.Clinic)
	if err != nil {
		return explain(err)
	}
	im.lots = make(map[string][]string)
	for _, l := range lots {
		key := lotKey(l.GetMedicineId(), l.GetLotNumber())
		im.lots[key] = append(im.lots[key], l.GetLotId())
	}
	return nil
}

func lotKey(medicine, number string) string { return medicine + "\x00" + strings.ToLower(number) }

// read understands the rows, refuses those that it can't, and puts them in the
// order in which they happened.
func (im *downtimeImporter) read(f *csvFile) []downtimeRow {
	var rows []downtimeRow
	for _, row := range f.rows {
		r, err := im.understand(row)
		if err != nil {
			im.refused = append(im.refused, refusal{row, err.Error()})
			continue
		}
		rows = append(rows, r)
	}
	slices.SortStableFunc(rows, func(a, b downtimeRow) int { return a.occurred.Compare(b.occurred) })
	return rows
}

func (im *downtimeImporter) understand(row csvRow) (downtimeRow, error) {
	r := downtimeRow{csvRow: row, record: &pb.RecordDowntime{Device: row.get("device"), PaperReference: row.get("paper_reference")}}
	var err error
	if r.occurred, err = im.moment(row.get("occurred_at")); err != nil {
		return r, err
	}
	if r.record.LocationId, err = im.locations.find("location", row.get("location")); err != nil {
		return r, err
	}
	quantity, err := number(row, "quantity")
	if err != nil {
		return r, err
	}
	medicine, lot, err := im.item(row)
	if err != nil {
		return r, err
	}
	switch what := strings.ToLower(row.get("what")); what {
	case "dispensed":
		err = dispensedRow(&r, medicine, lot, quantity)
	case "received":
		r.record.What = &pb.RecordDowntime_Received{Received: &pb.DowntimeReceipt{
			LotId: lot, Quantity: quantity, Pack: row.get("pack"), Supplier: row.get("supplier"), Reference: row.get("reference"),
		}}
	case "counted":
		r.record.What = &pb.RecordDowntime_Counted{Counted: &pb.DowntimeCount{
			LotId: lot, Counted: quantity, Pack: row.get("pack"), ReasonCode: cmp.Or(row.get("reason_code"), "DOWNTIME"),
		}}
	default:
		err = fmt.Errorf("what is %q: it must be dispensed, received or counted", what)
	}
	if err == nil && lot == "" && r.record.GetDispensed() == nil {
		err = fmt.Errorf("a row that was received or counted needs a lot, or a medicine and a lot_number")
	}
	return r, err
}

func dispensedRow(r *downtimeRow, medicine, lot string, quantity int64) error {
	line, err := number(r.csvRow, "line")
	if err != nil {
		return err
	}
	wasted, err := number(r.csvRow, "wasted_quantity")
	r.record.What = &pb.RecordDowntime_Dispensed{Dispensed: &pb.DowntimeDispensing{
		PrescriptionId: r.get("prescription"), Line: line, PatientId: r.get("patient_id"), MedicineId: medicine, LotId: lot,
		Quantity: quantity, Pack: r.get("pack"), SubstitutionReason: r.get("substitution_reason"),
		WastedQuantity: wasted, WasteReason: r.get("waste_reason"), Payer: r.get("payer"),
	}}
	return err
}

// number reads a whole number; an empty field is 0.
func number(row csvRow, column string) (int64, error) {
	text := row.get(column)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s is %q: it must be a whole number", column, text)
	}
	return n, nil
}

// moment reads when it happened; without an offset, by the clinic's clocks.
func (im *downtimeImporter) moment(text string) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02 15:04", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02T15:04:05"} {
		if t, err := time.ParseInLocation(layout, text, im.zone); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("occurred_at is %q: write it like 2027-03-10T14:30:00+03:00, or 2027-03-10 14:30 for a time at the clinic", text)
}

// item finds the medicine and the lot that a row names.
func (im *downtimeImporter) item(row csvRow) (medicine, lot string, err error) {
	medicine, lot = row.get("medicine"), row.get("lot")
	if medicine != "" && !strings.Contains(medicine, "|") {
		if medicine, err = im.medicines.find("medicine", medicine); err != nil {
			return "", "", err
		}
	}
	printed := row.get("lot_number")
	if lot != "" || printed == "" {
		return medicine, lot, nil
	}
	if medicine == "" {
		return "", "", fmt.Errorf("a lot_number needs the medicine that it is of")
	}
	switch found := im.lots[lotKey(medicine, printed)]; len(found) {
	case 1:
		return medicine, found[0], nil
	case 0:
		return "", "", fmt.Errorf("the clinic has no lot %q of medicine %s: register it first, or leave it out if nobody knows it", printed, medicine)
	default:
		return "", "", fmt.Errorf("%d lots of medicine %s have the number %q: name one by its id: %s", len(found), medicine, printed, strings.Join(found, ", "))
	}
}

// tasks are the commands. An entry's key says which device noted it and as what,
// so that it is recorded once whatever file it comes in.
func (im *downtimeImporter) tasks(rows []downtimeRow) []task {
	keys := rowKeys{reference: "downtime", seen: make(map[string]int)}
	tasks := make([]task, len(rows))
	for i, r := range rows {
		entry := []string{
			r.record.GetDevice(), r.record.GetPaperReference(), strings.ToLower(r.get("what")), r.occurred.UTC().Format(time.RFC3339),
			r.record.GetLocationId(), r.get("medicine"), r.get("lot"), r.get("lot_number"), r.get("quantity"), r.get("pack"), r.get("prescription"),
		}
		tasks[i] = task{row: r.csvRow, command: &pb.Command{
			IdempotencyKey: keys.next("downtime", entry...), OccurredAt: timestamppb.New(r.occurred), LateReasonCode: im.lateReason,
			Body: &pb.Command_RecordDowntime{RecordDowntime: r.record},
		}}
		tasks[i].settled = func(result *pb.CommandResult) {
			im.note(r.csvRow, result)
			im.settle(&task{row: r.csvRow}, result, true)
		}
	}
	return tasks
}

// note remembers which record a row became.
func (im *downtimeImporter) note(row csvRow, result *pb.CommandResult) {
	accepted := result.GetAccepted()
	for _, document := range accepted.GetChange().GetDocuments() {
		if document.GetKind() == pb.DocumentKind_DOCUMENT_KIND_DOWNTIME_RECORD {
			im.recorded[document.GetId()] = row
			im.last = max(im.last, accepted.GetSequence())
		}
	}
}

// reportExceptions lists what broke a rule or was not in the books.
func (im *downtimeImporter) reportExceptions(ctx context.Context) error {
	if len(im.recorded) == 0 {
		return nil
	}
	records, err := everyPage(func(page *pb.Page) ([]*pb.DowntimeRecord, string, error) {
		response, err := im.client.pharmacy.ListDowntimeRecords(ctx, &pb.ListDowntimeRecordsRequest{
			ClinicId: im.Clinic, ExceptionsOnly: true, Page: page,
			Read: &pb.ReadOptions{Consistency: pb.Consistency_CONSISTENCY_STRONG, MinSequence: im.last},
		})
		return response.GetRecords(), response.GetNextPageToken(), err
	})
	if err != nil {
		return explain(err)
	}
	told := false
	for _, r := range records {
		row, ours := im.recorded[r.GetDowntimeId()]
		if !ours {
			continue
		}
		if !told {
			fmt.Fprintln(im.out, "recorded as they were, and to be looked at:")
			told = true
		}
		fmt.Fprintf(im.out, "  line %d: %s (%s %s)%s%s\n", row.line, r.GetDowntimeId(), r.GetDevice(), r.GetPaperReference(), brokenRules(r), shortUnits(r))
	}
	return nil
}

func brokenRules(r *pb.DowntimeRecord) string {
	if len(r.GetExceptions()) == 0 {
		return ""
	}
	return fmt.Sprintf(": %s; approval AP-%d waits for a second person", strings.Join(r.GetExceptions(), ", "), r.GetSequence())
}

func shortUnits(r *pb.DowntimeRecord) string {
	if r.GetShortage() == 0 {
		return ""
	}
	return fmt.Sprintf("; %d units were not in the books (DOWNTIME_SHORTAGE)", r.GetShortage())
}
