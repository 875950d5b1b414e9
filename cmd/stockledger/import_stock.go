package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/stockledger/stockledger/ledger"
	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// importStockCmd imports lots with their quantities.
type importStockCmd struct {
	importFlags
	CreateLocations bool `env:"STOCKLEDGER_CREATE_LOCATIONS" help:"Create locations that the clinic does not have, as stores."`
}

// Help describes the file.
func (importStockCmd) Help() string {
	return `Columns: location (id or name), medicine (id or name), lot_number, expiry (2027-03-31) and quantity (base units) are required; manufacturer (default "unknown"), gtin, supplier and reference are not. Lots that the clinic does not know are registered; a lot whose expiry differs from the one that is known is refused.

Example:

  stockledger import stock delivery-17.csv --clinic hillside --create-locations

` + importHelp
}

var stockColumns = []column{
	{name: "location", aliases: []string{"location_id"}, required: true},
	{name: "medicine", aliases: []string{"medicine_id", "name"}, required: true},
	{name: "lot_number", aliases: []string{"lot", "batch"}, required: true},
	{name: "expiry", aliases: []string{"expiry_date"}, required: true},
	{name: "quantity", required: true},
	{name: "manufacturer"},
	{name: "gtin"},
	{name: "supplier"},
	{name: "reference"},
}

// Run imports the file.
func (c *importStockCmd) Run(ctx context.Context) error { return c.importTo(ctx, os.Stderr) }

func (c *importStockCmd) importTo(ctx context.Context, out io.Writer) error {
	f, err := readCSV(c.File, stockColumns)
	if err != nil {
		return err
	}
	im := &stockImporter{importer: c.open(out), lots: make(map[string]string), barred: make(map[string]string)}
	if err := im.prepare(ctx); err != nil {
		return err
	}
	if err := im.resolveNames(ctx, f, c.CreateLocations); err != nil {
		return err
	}
	im.keys = rowKeys{reference: im.Reference, seen: make(map[string]int)}
	rows := im.read(f)
	im.barTwoExpiries(rows)
	if err := im.run(ctx, "lots", im.registrations(rows), false); err != nil {
		return err
	}
	if err := im.compareExpiries(ctx, rows); err != nil {
		return err
	}
	if err := im.run(ctx, "stock", im.receipts(rows), true); err != nil {
		return err
	}
	return im.finish(f)
}

// stockImporter imports in two passes: lots, and then what was received of them.
type stockImporter struct {
	*importer
	keys      rowKeys
	locations names
	medicines names
	lots      map[string]string // ids by identity, once registered
	barred    map[string]string // reasons by identity, of lots that can't be received
	known     bool              // some lots were registered before this import
}

// stockRow is a row whose values are understood.
type stockRow struct {
	csvRow
	location, medicine string
	expiry             ledger.Date
	quantity           int64
	maker, gtin        string
	lot                string // identity
}

func (im *stockImporter) resolveNames(ctx context.Context, f *csvFile, create bool) error {
	if create {
		if err := im.createLocations(ctx, f); err != nil {
			return err
		}
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
	return nil
}

// createLocations creates the file's locations; those that exist are as good.
func (im *stockImporter) createLocations(ctx context.Context, f *csvFile) error {
	existing, err := im.client.locations(ctx, im.Clinic)
	if err != nil {
		return explain(err)
	}
	known := make(map[string]bool)
	for _, l := range existing {
		known[l.GetLocationId()], known[strings.ToLower(l.GetName())] = true, true
	}
	var tasks []task
	for _, row := range f.rows {
		name := row.get("location")
		if name == "" || known[name] || known[strings.ToLower(name)] {
			continue
		}
		known[strings.ToLower(name)] = true
		tasks = append(tasks, task{row: row, command: &pb.Command{
			IdempotencyKey: im.onceKey("location", strings.ToLower(name)),
			Body:           &pb.Command_CreateLocation{CreateLocation: &pb.CreateLocation{Name: name, Kind: pb.LocationKind_LOCATION_KIND_STORE}},
		}})
	}
	return im.run(ctx, "locations", tasks, false)
}

// read understands the rows, and refuses those that it can't.
func (im *stockImporter) read(f *csvFile) []stockRow {
	var rows []stockRow
	for _, row := range f.rows {
		r, err := im.understand(row)
		if err != nil {
			im.refused = append(im.refused, refusal{row, err.Error()})
			continue
		}
		rows = append(rows, r)
	}
	return rows
}

func (im *stockImporter) understand(row csvRow) (stockRow, error) {
	r := stockRow{csvRow: row, maker: row.get("manufacturer"), gtin: row.get("gtin")}
	var err error
	if r.location, err = im.locations.find("location", row.get("location")); err != nil {
		return r, fmt.Errorf("%w: create it, or import with --create-locations", err)
	}
	if r.medicine, err = im.medicines.find("medicine", row.get("medicine")); err != nil {
		return r, fmt.Errorf("%w: import it first", err)
	}
	if r.expiry, err = ledger.ParseDate(row.get("expiry")); err != nil {
		return r, fmt.Errorf("expiry: %w", err)
	}
	if gone := ledger.DateOf(time.Now().UTC()) - r.expiry; gone > 1 {
		// Refused before its lot is registered with a wrong expiry. Whether a
		// lot ends today is the clinic's to say.
		return r, fmt.Errorf("the lot expired on %s, %d days ago: it can't be received", r.expiry, gone)
	}
	if r.quantity, err = strconv.ParseInt(row.get("quantity"), 10, 64); err != nil || r.quantity < 1 || r.quantity > ledger.MaxQuantity {
		return r, fmt.Errorf("quantity %q is not a whole number of base units from 1 to 2^53", row.get("quantity"))
	}
	if r.maker == "" && r.gtin == "" {
		r.maker = "unknown"
	}
	r.lot = strings.Join([]string{r.medicine, strings.ToLower(r.maker), r.gtin, row.get("lot_number")}, "\x00")
	return r, nil
}

// names finds ids by id, or by name without regard to case.
type names map[string][]string

func (n names) add(id, name string) {
	n["id "+id] = []string{id}
	key := "name " + strings.ToLower(name)
	n[key] = append(n[key], id)
}

func (n names) find(what, name string) (string, error) {
	if ids := n["id "+name]; len(ids) == 1 {
		return ids[0], nil
	}
	switch ids := n["name "+strings.ToLower(name)]; len(ids) {
	case 0:
		return "", fmt.Errorf("the clinic has no %s %q", what, name)
	case 1:
		return ids[0], nil
	default:
		return "", fmt.Errorf("%d entries of the clinic are called %q, so name one by its id: %s", len(ids), name, strings.Join(ids, ", "))
	}
}

// registrations make the rows' lots known, each once.
func (im *stockImporter) registrations(rows []stockRow) []task {
	var tasks []task
	asked := make(map[string]bool)
	for _, r := range rows {
		if asked[r.lot] || im.barred[r.lot] != "" {
			continue
		}
		asked[r.lot] = true
		command := &pb.Command{
			IdempotencyKey: im.onceKey("lot", r.lot),
			Body: &pb.Command_RegisterLot{RegisterLot: &pb.RegisterLot{
				MedicineId: r.medicine, Manufacturer: r.maker, Gtin: r.gtin, LotNumber: r.get("lot_number"), Expiry: toDate(r.expiry),
			}},
		}
		tasks = append(tasks, task{row: r.csvRow, command: command, settled: func(result *pb.CommandResult) { im.registered(r.lot, result) }})
	}
	return tasks
}

// registered notes a lot's id, or why it has none.
func (im *stockImporter) registered(lot string, result *pb.CommandResult) {
	if accepted := result.GetAccepted(); accepted != nil {
		im.lots[lot] = accepted.GetDocument().GetId()
		return
	}
	rejected := result.GetRejected()
	if id := rejected.GetMetadata()["lot_id"]; id != "" && rejected.GetReason() == "LOT_EXISTS" {
		im.lots[lot], im.known = id, true
		return
	}
	im.barred[lot] = rejected.GetMessage()
}

// receipts take in the rows whose lots are known.
func (im *stockImporter) receipts(rows []stockRow) []task {
	var tasks []task
	for _, r := range rows {
		if reason := im.barred[r.lot]; reason != "" {
			im.refused = append(im.refused, refusal{r.csvRow, reason})
			continue
		}
		tasks = append(tasks, task{row: r.csvRow, command: &pb.Command{
			IdempotencyKey: im.keys.next("stock", r.location, r.lot, r.get("expiry"), r.get("quantity"), r.get("supplier"), r.get("reference")),
			Body: &pb.Command_ReceiveStock{ReceiveStock: &pb.ReceiveStock{
				LocationId: r.location, LotId: im.lots[r.lot], Quantity: r.quantity, Supplier: r.get("supplier"), Reference: r.get("reference"),
			}},
		}})
	}
	return tasks
}
