package txn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// access is one way in which a plan reads a table: the index, and those of the
// table's columns that the index is searched by.
type access struct {
	index   string
	columns []string
}

func (a access) String() string { return a.index + "(" + strings.Join(a.columns, ", ") + ")" }

// planner explains statements on the connections that send them, with the
// settings and the arguments that they have there.
type planner struct {
	tb    testing.TB
	db    *DB
	write *recorder
	read  *recorder
	// plain is the same database for what is not to be recorded; nil means the
	// process's.
	plain *DB
}

// sent is what was recorded on each of the pools since the last call, with the
// accesses of its plan.
func (p *planner) sent(kinds ...session) map[string][]access {
	p.tb.Helper()
	plans := make(map[string][]access)
	for _, kind := range kinds {
		r := map[session]*recorder{readSession: p.read, writeSession: p.write}[kind]
		for _, s := range r.take() {
			if _, known := plans[s.sql]; known || !planned(s.sql) {
				continue
			}
			plans[s.sql] = p.explain(kind, s)
		}
	}
	return plans
}

// planned says whether a statement has a plan, which those that begin and end
// transactions or set something up have not.
func planned(sql string) bool {
	verb, _, _ := strings.Cut(strings.ToUpper(strings.TrimSpace(sql)), " ")
	return slices.Contains([]string{"SELECT", "INSERT", "UPSERT", "UPDATE", "DELETE", "WITH"}, verb)
}

func (p *planner) explain(kind session, s statement) []access {
	p.tb.Helper()
	if p.db.server.Kind == CockroachDB {
		p.explainCockroach(kind, s)
		return nil
	}
	plan := p.plan(kind, s)
	for _, fault := range plan.faults(kind) {
		p.tb.Errorf("%s: %s", fault, s.sql)
	}
	return plan.accesses()
}

// plan asks PostgreSQL for a statement's plan. In a database that others write to,
// sorting is made to look dear: they change what the server knows of the tables
// from second to second, and by it a few rows are as well sorted as read in the
// order of an index. What is asked there is whether there is an index that serves.
func (p *planner) plan(kind session, s statement) *planNode {
	p.tb.Helper()
	var text []byte
	p.on(kind, "EXPLAIN (FORMAT JSON) "+s.sql, s.args, func(rows pgx.Rows) error {
		for rows.Next() {
			if err := rows.Scan(&text); err != nil {
				return err
			}
		}
		return rows.Err()
	})
	var plans []struct{ Plan planNode }
	if err := json.Unmarshal(text, &plans); err != nil || len(plans) != 1 {
		p.tb.Fatalf("plan of %s: %v: %s", s.sql, err, text)
	}
	return &plans[0].Plan
}

func (p *planner) on(kind session, sql string, args []any, read func(pgx.Rows) error) {
	p.tb.Helper()
	shared := p.plain
	if shared == nil {
		shared = testDB(p.tb)
	}
	pool := map[session]func(context.Context, func(pgx.Tx) error) error{readSession: shared.readTx, writeSession: shared.InTx}[kind]
	err := pool(context.Background(), func(tx pgx.Tx) error {
		if p.plain == nil && shared.server.Kind == PostgreSQL {
			if _, err := tx.Exec(context.Background(), "SET LOCAL enable_sort = off"); err != nil {
				return err
			}
		}
		rows, err := tx.Query(context.Background(), sql, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		return read(rows)
	})
	if err != nil {
		p.tb.Fatalf("%s: %v", sql, err)
	}
}

// explainCockroach looks for scans of whole tables; a scan of an index, or a
// look-up, names its spans.
func (p *planner) explainCockroach(kind session, s statement) {
	p.tb.Helper()
	var plan strings.Builder
	p.on(kind, "EXPLAIN "+s.sql, s.args, func(rows pgx.Rows) error {
		plan.Reset()
		for rows.Next() {
			values, err := rows.Values()
			if err != nil {
				return err
			}
			fmt.Fprintln(&plan, values...)
		}
		return rows.Err()
	})
	if strings.Contains(plan.String(), "FULL SCAN") {
		p.tb.Errorf("a table is scanned by %s\n%s", s.sql, plan.String())
	}
}

// planNode is a node of PostgreSQL's plans.
type planNode struct {
	Type      string     `json:"Node Type"`
	Relation  string     `json:"Relation Name"`
	Index     string     `json:"Index Name"`
	Condition string     `json:"Index Cond"`
	Filter    string     `json:"Filter"`
	Arbiters  []string   `json:"Conflict Arbiter Indexes"`
	Plans     []planNode `json:"Plans"`
}

// each visits the node and all below it.
func (n *planNode) each(visit func(*planNode)) {
	visit(n)
	for i := range n.Plans {
		n.Plans[i].each(visit)
	}
}

// ofAllClinics are the indexes of what is the installation's and no clinic's, and
// of what operators look for at all clinics.
var ofAllClinics = []string{"leadership_pkey", "job_runs_pkey", "job_runs_unfinished", "job_findings_by_kind"}

// faults are what no plan may do. On the connections that write, a scan or a
// bitmap would lock whole tables.
func (n *planNode) faults(kind session) []string {
	var found []string
	n.each(func(n *planNode) {
		switch {
		case n.Type == "Seq Scan":
			found = append(found, "table "+n.Relation+" is scanned")
		case n.Index != "" && !slices.Contains(searched(n.Condition), "clinic_id") && !slices.Contains(ofAllClinics, n.Index):
			found = append(found, fmt.Sprintf("index %s is not searched by clinic (%q)", n.Index, n.Condition))
		case kind == writeSession && (strings.Contains(n.Type, "Bitmap") || n.Type == "Hash Join" || n.Type == "Merge Join"):
			found = append(found, "a "+n.Type+" writes")
		}
	})
	return found
}

// accesses lists the plan's accesses, each once, in order.
func (n *planNode) accesses() []access {
	all := make(map[string]access)
	n.each(func(n *planNode) {
		if n.Index != "" {
			a := access{n.Index, searched(n.Condition)}
			all[a.String()] = a
		}
		for _, index := range n.Arbiters {
			a := access{index, []string{"conflict"}}
			all[a.String()] = a
		}
	})
	list := make([]access, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		list = append(list, all[name])
	}
	return list
}

var (
	quotedText = regexp.MustCompile(`'(?:[^']|'')*'`)
	columnName = regexp.MustCompile(`(?:(\w+)\.)?\b(clinic_id|location_id|medicine_id|lot_id|hold_id|kind|document_id|opened_sequence|sequence|line|idempotency_key|patient_id|day|month|due_at|deadline|priority|state|submitted_at|webhook_id|run|part|role|job|scheduled_at|lateness|occurred_at)\b`)
)

// searched returns the columns that a condition compares, without those of
// other tables.
func searched(condition string) []string {
	var columns []string
	for _, match := range columnName.FindAllStringSubmatch(quotedText.ReplaceAllString(condition, "''"), -1) {
		if match[1] == "" && !slices.Contains(columns, match[2]) {
			columns = append(columns, match[2])
		}
	}
	return columns
}

// wantPlan says which accesses a call's plans must hold: at least these
// columns, of these indexes.
type wantPlan struct {
	name string
	call func() error
	want []string
}

// serves tells whether an index is the one that is wanted. Both indexes of lots
// begin with the clinic, and either will do to read all of a clinic's; so do both
// that list documents by when they were opened, and those of summaries.
func serves(index, want string) bool {
	return index == want || want == "lots" && (index == "lots_pkey" || index == "lots_by_medicine") ||
		want == "summaries" && strings.HasPrefix(index, "location_stock_summary_") ||
		want == "documents" && (index == "documents_open" || index == "documents_by_opening")
}

// check runs the call and explains what it sent on the given kinds of
// connections.
func (p *planner) check(test wantPlan, kinds ...session) map[string][]access {
	p.tb.Helper()
	if err := test.call(); err != nil {
		p.tb.Fatalf("%s: %v", test.name, err)
	}
	plans := p.sent(kinds...)
	if len(plans) == 0 {
		p.tb.Fatalf("%s sent nothing", test.name)
	}
	if p.db.server.Kind != PostgreSQL {
		return plans
	}
	got := slices.Concat(slices.Collect(maps.Values(plans))...)
	for _, want := range test.want {
		index, columns, _ := strings.Cut(strings.TrimSuffix(want, ")"), "(")
		if !slices.ContainsFunc(got, func(a access) bool {
			return serves(a.index, index) && (columns == "" || !slices.ContainsFunc(strings.Split(columns, ", "), func(c string) bool { return !slices.Contains(a.columns, c) }))
		}) {
			p.tb.Errorf("%s: no plan uses %s; they use %v", test.name, want, got)
		}
	}
	for _, a := range got {
		if !slices.ContainsFunc(test.want, func(want string) bool {
			index, _, _ := strings.Cut(want, "(")
			return serves(a.index, index)
		}) {
			p.tb.Errorf("%s: a plan uses %s, which is not expected", test.name, a)
		}
	}
	return plans
}

// crowd fills a clinic until scanning it would look cheap to nobody: medicines
// m000… with two lots each at two locations, and holds of them, and
// prescriptions, dispensings and charges.
func crowd(tb testing.TB, e *Executor) *testClinic {
	tb.Helper()
	c := newTestClinic(tb, e)
	bodies := []ledger.CommandBody{&ledger.RegisterPatient{PatientID: ada}}
	for i := range 400 {
		medicine := ledger.MedicineID(fmt.Sprintf("m%03d", i))
		bodies = append(bodies, &ledger.AddMedicine{MedicineID: medicine, Name: string(medicine), BaseUnit: "tablet"})
		for n := range 2 {
			lot := ledger.LotID(fmt.Sprintf("%s-%d", medicine, n))
			bodies = append(bodies,
				&ledger.RegisterLot{LotID: lot, MedicineID: medicine, Manufacturer: "Acme", LotNumber: string(lot), Expiry: ledger.MaxDate},
				&ledger.ReceiveStock{LocationID: "store", LotID: lot, Quantity: 10},
				&ledger.ReceiveStock{LocationID: "ward", LotID: lot, Quantity: 10})
		}
		bodies = append(bodies,
			&ledger.ReserveStock{LocationID: "store", MedicineID: medicine, Quantity: 15, ReasonCode: "ward-round", Deadline: ledger.InstantOf(time.Now().Add(time.Hour))},
			&ledger.IssueStock{LocationID: "ward", MedicineID: medicine, Quantity: 12},
			&ledger.UpdateStockLevels{LocationID: "ward", MedicineID: medicine, Min: 1, Reorder: 2},
			&ledger.TransferStock{
				From: "store", To: "ward", Lines: []ledger.RequestedLine{{MedicineID: medicine, Quantity: 1}},
				DispatchBy: ledger.MaxInstant, ReasonCode: "restock",
			},
			&ledger.SetPrice{MedicineID: medicine, Price: ledger.Price{From: 1, Amount: 5, Per: 1, Currency: "KES"}},
			&ledger.DispenseMedicine{Dispense: ledger.Dispense{LocationID: "ward", MedicineID: medicine, Quantity: 1, Payer: "self"}},
			&ledger.CreatePrescription{
				PatientID: ada, LocationID: "store", Prescriber: "Dr. Hill", ValidUntil: ledger.MaxDate, Lines: []ledger.PrescribedLine{{MedicineID: medicine, Quantity: 5}},
			})
	}
	c.mustAll(bodies...)
	// Most holds are closed ones.
	for range 4 {
		var reserves, releases []ledger.CommandBody
		for i := range 400 {
			reserves = append(reserves, &ledger.ReserveStock{
				LocationID: "store", MedicineID: ledger.MedicineID(fmt.Sprintf("m%03d", i)), Quantity: 1,
				ReasonCode: "ward-round", Deadline: ledger.InstantOf(time.Now().Add(time.Hour)),
			})
		}
		for _, v := range c.mustAll(reserves...) {
			releases = append(releases, &ledger.ReleaseStock{HoldID: v.Record.Event.Body.(*ledger.StockReserved).HoldID})
		}
		c.mustAll(releases...)
	}
	return c
}

// TestPlansOfReads explains every statement that reads, on tables that hold
// something and whose statistics the server knows. They are those of a database
// of its own: what other tests write, and when, would change the plans.
func TestPlansOfReads(t *testing.T) {
	t.Parallel()
	plain := ownDB(t)
	e := testExecutorOn(t, plain, ExecutorConfig{})
	for range 30 {
		newTestClinic(t, e)
	}
	c := crowd(t, e)
	db, write, read := tracedOn(t, plain)
	p := &planner{tb: t, db: db, write: write, read: read, plain: plain}
	ctx, q, o := t.Context(), NewQueries(NewDirectory(db)), ReadOptions{}
	const (
		view    = "heads_pkey(clinic_id)"
		clinics = "clinics_pkey(clinic_id)"
		where   = "locations_pkey(clinic_id, location_id)"
		// A clinic has so few locations that the server may as well look at all.
		places   = "locations_pkey(clinic_id)"
		what     = "medicines_pkey(clinic_id, medicine_id)"
		lots     = "lots_pkey(clinic_id, lot_id)"
		onShelf  = "stock_pkey(clinic_id, location_id, medicine_id)"
		aJournal = "journal_pkey(clinic_id, sequence)"
		cursors  = "read_model_cursors_pkey(clinic_id)"
	)
	chores := NewChores(NewDirectory(db), nil, slog.Default())
	c.mustAll(
		&ledger.UpdateStockLevels{LocationID: "ward", MedicineID: "m200", Reorder: 50, Max: 100},
		&ledger.RegisterLot{LotID: "soon", MedicineID: "m200", Manufacturer: "Acme", LotNumber: "soon", Expiry: ledger.DateOf(time.Now()) + 10},
		&ledger.ReceiveStock{LocationID: "ward", LotID: "soon", Quantity: 5},
	)
	NewReadModels(plain, ReadModelsConfig{}).moveUp(t, c.id)
	const identifiers = `INSERT INTO patient_identifiers (clinic_id, digest, patient_id)
		SELECT $1, 'digest-' || n, 'patient-' || n % 100 FROM generate_series(1, 1000) AS n`
	if _, err := plain.write.Exec(t.Context(), identifiers, c.id); err != nil {
		t.Fatal(err)
	}
	analyze(t, plain)
	store, card := []ledger.LocationID{"store"}, shelf("store", "m100")
	listStock := func(f StockFilter) func() error {
		return func() error {
			_, _, _, err := q.ListStock(ctx, c.id, f, StockKey{Shelf: shelf("store", "m050")}, 50, o)
			return err
		}
	}
	movements := func(f MovementFilter, after *MovementKey) func() error {
		return func() error {
			_, _, _, err := q.Movements(ctx, c.id, f, after, 50, o)
			return err
		}
	}
	documents := func(f DocumentFilter) func() error {
		return func() error {
			_, _, _, err := q.Documents(ctx, c.id, f, &DocumentPlace{Opened: 5, ID: "TR-5"}, 50, o)
			return err
		}
	}
	holds := func(f HoldFilter) func() error {
		return func() error {
			_, _, _, err := q.Holds(ctx, c.id, f, HoldKey{Shelf: shelf("store", "m050")}, 50, o)
			return err
		}
	}
	tests := []wantPlan{
		{"Clinic", func() error { _, _, err := q.Clinic(ctx, c.id, o); return err }, []string{view, clinics}},
		{"ListClinics", func() error { _, _, err := q.ListClinics(ctx, nil, "", 50); return err }, []string{clinics}},
		{"ListClinics of some", func() error { _, _, err := q.ListClinics(ctx, []ledger.ClinicID{c.id, "x"}, "", 50); return err }, []string{clinics}},
		{"Location", func() error { _, _, err := q.Location(ctx, c.id, "store", o); return err }, []string{view, clinics, where}},
		{"ListLocations", func() error { _, _, _, err := q.ListLocations(ctx, c.id, nil, "s", 50, o); return err }, []string{view, clinics, where}},
		{"ListLocations of some", func() error { _, _, _, err := q.ListLocations(ctx, c.id, store, "", 50, o); return err }, []string{view, clinics, where}},
		{"Medicine", func() error { _, _, err := q.Medicine(ctx, c.id, "m001", o); return err }, []string{view, clinics, what}},
		{"ListMedicines", func() error { _, _, _, err := q.ListMedicines(ctx, c.id, "", "m001", 50, o); return err }, []string{view, clinics, what}},
		{"ListMedicines by name", func() error { _, _, _, err := q.ListMedicines(ctx, c.id, "10", "m001", 50, o); return err }, []string{view, clinics, what}},
		{"Lot", func() error { _, _, err := q.Lot(ctx, c.id, "m001-0", o); return err }, []string{view, clinics, lots}},
		{"ListLots", func() error { _, _, _, err := q.ListLots(ctx, c.id, "", "m001-0", 50, o); return err }, []string{view, clinics, lots}},
		{"ListLots of a medicine", func() error { _, _, _, err := q.ListLots(ctx, c.id, "m001", "", 50, o); return err },
			[]string{view, clinics, "lots_by_medicine(clinic_id, medicine_id, lot_id)"}},
		{"Stock", func() error { _, _, err := q.Stock(ctx, c.id, card, o); return err }, []string{view, clinics, places, what, lots, onShelf}},
		{"ListStock", listStock(StockFilter{}), []string{view, clinics, lots, onShelf}},
		{"ListStock of a location", listStock(StockFilter{Location: "store"}), []string{view, clinics, lots, onShelf}},
		{"ListStock of a medicine", listStock(StockFilter{Medicine: "m100"}), []string{view, clinics, places, lots, onShelf}},
		{"ListStock of both", listStock(StockFilter{Location: "store", Medicine: "m100"}), []string{view, clinics, lots, onShelf}},
		{"ListStock for a limited caller", listStock(StockFilter{Locations: store}), []string{view, clinics, lots, onShelf}},
		{"Availability", func() error {
			_, _, err := q.Availability(ctx, c.id, []ledger.MedicineID{"m001", "m100"}, nil, 0, o)
			return err
		}, []string{view, clinics, places, what, lots, onShelf}},
		{"Movements of a shelf", movements(MovementFilter{Shelf: card}, nil),
			[]string{view, clinics, places, what, aJournal, "entries_pkey(clinic_id, location_id, medicine_id)"}},
		{"Movements of a part of a shelf", movements(MovementFilter{Shelf: card, From: 100, To: 2000, NewestFirst: true, Lot: "m100-0"}, &MovementKey{Sequence: 1500, Line: 1}),
			[]string{view, clinics, places, what, aJournal, "entries_pkey(clinic_id, location_id, medicine_id, sequence)"}},
		{"Movements after a place on a shelf", movements(MovementFilter{Shelf: card}, &MovementKey{Sequence: 500, Line: 1}),
			[]string{view, clinics, places, what, aJournal, "entries_pkey(clinic_id, location_id, medicine_id, sequence)"}},
		{"Movements", movements(MovementFilter{}, nil), []string{view, clinics, "journal_pkey(clinic_id)"}},
		{"Movements of a part", movements(MovementFilter{From: 100, To: 2000, NewestFirst: true}, &MovementKey{Sequence: 1500}), []string{view, clinics, aJournal}},
		{"Holds", holds(HoldFilter{}), []string{view, clinics, "holds_open(clinic_id, location_id, medicine_id, hold_id)"}},
		{"Holds of a location", holds(HoldFilter{Shelf: shelf("store", "")}), []string{view, clinics, "holds_open(clinic_id, location_id)"}},
		{"Holds of a shelf", holds(HoldFilter{Shelf: card}), []string{view, clinics, "holds_open(clinic_id, location_id, medicine_id)"}},
		{"Holds and closed ones", holds(HoldFilter{IncludeClosed: true}), []string{view, clinics, "holds_pkey(clinic_id, location_id, medicine_id, hold_id)"}},
		{"Document", func() error {
			_, _, err := q.Document(ctx, c.id, ledger.DocumentKey{Kind: ledger.DocumentTransfer, ID: "TR-1"}, o)
			return err
		}, []string{view, clinics, "documents_pkey(clinic_id, kind, document_id)"}},
		{"Documents", documents(DocumentFilter{Kind: ledger.DocumentTransfer, NewestFirst: true}), []string{view, clinics, "documents_by_opening(clinic_id, kind, opened_sequence)"}},
		{"open Documents for a limited caller", documents(DocumentFilter{Kind: ledger.DocumentTransfer, OpenOnly: true, Locations: store}),
			[]string{view, clinics, "documents(clinic_id, kind, opened_sequence)"}},
		{"Prescriptions of a patient", func() error {
			_, _, _, err := q.Prescriptions(ctx, c.id, PrescriptionFilter{Patient: ada, NewestFirst: true}, &DocumentPlace{Opened: 5, ID: "RX-5"}, 50, o)
			return err
		}, []string{view, clinics, "documents_by_patient(clinic_id, patient_id, kind, opened_sequence)"}},
		{"open Prescriptions", func() error {
			_, _, _, err := q.Prescriptions(ctx, c.id, PrescriptionFilter{Location: "store", Locations: store, OpenOnly: true}, &DocumentPlace{Opened: 5, ID: "RX-5"}, 50, o)
			return err
		}, []string{view, clinics, "documents_open(clinic_id, kind, opened_sequence)"}},
		{"Charges", func() error {
			_, _, _, err := q.Charges(ctx, c.id, ChargeFilter{Location: "store"}, &DocumentPlace{Opened: 5, ID: "BL-5"}, 50, o)
			return err
		}, []string{view, clinics, "documents_by_opening(clinic_id, kind, opened_sequence)"}},
		{"DispensingReport", func() error {
			_, _, err := q.DispensingReport(ctx, c.id, DispensingFilter{From: 20_000, To: 30_000, Locations: store}, o)
			return err
		}, []string{view, clinics, "documents_by_day(clinic_id, kind, day)"}},
		{"RecalledDispensings", func() error {
			_, _, _, err := q.RecalledDispensings(ctx, c.id, []ledger.LotID{"m001-0"}, store, &RecalledPlace{Lot: "m001-0", Sequence: 5}, 50, o)
			return err
		}, []string{view, clinics, aJournal, "entries_dispensed(clinic_id, lot_id, sequence)"}},
		{"what was not collected", func() error {
			_, err := chores.ReturnUncollected(ctx, Errand{Clinic: c.id, Now: time.Unix(0, 0)})
			return err
		}, []string{"documents_due_by_clinic(clinic_id, due_at)", sealedHere}},
		{"overdue holds", func() error {
			_, err := chores.ExpireHolds(ctx, Errand{Clinic: c.id, Now: time.Unix(0, 0)})
			return err
		}, []string{"holds_due(clinic_id, deadline, hold_id)", sealedHere}},
		{"chores that are due", func() error {
			_, holds := chores.WithHoldsDue(ctx, time.Now(), c.id, 5)
			_, dispensings := chores.WithDispensingsDue(ctx, time.Now(), c.id, 5)
			_, approvals := chores.WithApprovals(ctx, time.Now(), c.id, 5)
			_, transfers := chores.WithTransfers(ctx, time.Now(), c.id, 5)
			return errors.Join(holds, dispensings, approvals, transfers)
		}, []string{view, "holds_due(clinic_id, deadline)", "documents_due_by_clinic(clinic_id, due_at)", "documents_open(clinic_id, kind)"}},
		{"BalanceAt", func() error {
			stock, _, err := q.Stock(ctx, c.id, card, o)
			if err == nil {
				_, _, err = q.BalanceAt(ctx, c.id, card, stock.Rows[0].Lot, stock.Rows[0].LastSequence-1, o)
			}
			return err
		},
			[]string{view, clinics, places, what, lots, onShelf, "entries_pkey(clinic_id, location_id, medicine_id, sequence)"}},
		{"BalanceAtTime", func() error {
			_, _, err := q.BalanceAtTime(ctx, c.id, card, "m100-0", ledger.InstantOf(time.Now().Add(-time.Minute)), true, o)
			return err
		}, []string{view, clinics, places, what, aJournal, onShelf, cursors, "late_entries_pkey(clinic_id, location_id, medicine_id, lot_id, lateness, occurred_at)"}},
		{"FlowAt", func() error {
			_, _, err := q.FlowAt(ctx, c.id, card, "m100-0", ledger.Issued, 500, 0, false, o)
			return err
		}, []string{view, clinics, places, what, "entries_pkey(clinic_id, location_id, medicine_id, sequence)"}},
		{"VerifyChain", func() error {
			_, _, _, err := q.VerifyChain(ctx, c.id, Checkpoint{}, nil)
			return err
		}, []string{view, clinics, aJournal}},
		{"Register", func() error {
			_, _, _, err := q.Register(ctx, c.id, RegisterFilter{Shelf: card, From: 1, To: ledger.InstantOf(time.Now())}, nil, 10, o)
			return err
		}, []string{view, clinics, places, what, lots, onShelf, aJournal, "entries_pkey(clinic_id, location_id, medicine_id, sequence)"}},
		{"loadStates", func() error { _, err := db.loadStates(ctx, []ledger.ClinicID{c.id, "x"}); return err }, []string{
			view, clinics, "locations_pkey(clinic_id)", "medicines_pkey(clinic_id)", "lots(clinic_id)", "stock_pkey(clinic_id)", "holds_open(clinic_id)", "documents_open(clinic_id)",
		}},
		{"catchUp", func() error {
			return db.readTx(ctx, func(tx pgx.Tx) error { return catchUp(ctx, tx, ledger.NewState(c.id, time.LoadLocation)) })
		}, []string{aJournal}},
		{"readRecordsByKey", func() error {
			return db.readTx(ctx, func(tx pgx.Tx) error {
				_, err := readRecordsByKey(ctx, tx, newStatements(db.server.Kind), c.id, []string{"key-1", "x"})
				return err
			})
		}, []string{"journal_idempotency_key(clinic_id, idempotency_key)"}},
		{"Shard", func() error { _, err := NewDirectory(db).Shard(ctx, c.id); return err }, []string{"clinic_directory_pkey(clinic_id)"}},
		{"Verify", func() error { _, err := Verify(ctx, db, VerifyOptions{Clinics: []ledger.ClinicID{c.id}}); return err }, []string{
			view, clinics, "locations_pkey(clinic_id)", "medicines_pkey(clinic_id)", "lots(clinic_id)", "stock_pkey(clinic_id)", "holds_open(clinic_id)", "documents_open(clinic_id)",
			aJournal, "entries_pkey(clinic_id, location_id, medicine_id, sequence, line)", "holds_pkey(clinic_id, location_id, medicine_id, hold_id, lot_id)",
			"documents_pkey(clinic_id, kind, document_id)",
			"patient_keys_pkey(clinic_id, patient_id)", "patient_texts_pkey(clinic_id, patient_id)", "patient_identifiers_by_patient(clinic_id, patient_id)",
			cursors, "summaries(clinic_id)", "consumption_months_pkey(clinic_id)", "stock_outs_pkey(clinic_id)", "dispensing_days_pkey(clinic_id)",
			"late_entries_pkey(clinic_id)",
		}},
		{"StockSummaries", func() error {
			_, _, _, err := q.StockSummaries(ctx, c.id, SummaryFilter{StockFilter: StockFilter{Location: "ward"}, LowOnly: true}, card, 10, o)
			return err
		}, []string{view, clinics, places, what, cursors, "low_stock_alerts(clinic_id, location_id, medicine_id)"}},
		{"StockSummaries of a medicine", func() error {
			_, _, _, err := q.StockSummaries(ctx, c.id, SummaryFilter{StockFilter: StockFilter{Medicine: "m100"}}, ledger.Shelf{}, 10, o)
			return err
		}, []string{view, clinics, what, places, cursors, "summaries(clinic_id, medicine_id)"}},
		{"StockSummaries of a location", func() error {
			_, _, _, err := q.StockSummaries(ctx, c.id, SummaryFilter{StockFilter: StockFilter{Locations: store}}, card, 10, o)
			return err
		}, []string{view, clinics, cursors, "location_stock_summary_by_location(clinic_id, location_id, medicine_id)"}},
		{"MedicineSummaries", func() error {
			_, _, _, err := q.MedicineSummaries(ctx, c.id, StockFilter{}, "m100", 10, o)
			return err
		}, []string{view, clinics, cursors, "location_stock_summary_pkey(clinic_id, medicine_id)"}},
		{"Expiring", func() error {
			_, _, _, err := q.Expiring(ctx, c.id, StockFilter{}, func(today ledger.Date) (ledger.Date, ledger.Date) { return today, today + 30 }, nil, 10, o)
			return err
		}, []string{view, clinics, "locations_pkey(clinic_id)", lots, onShelf, "lots_by_expiry(clinic_id)"}},
		{"ReorderSuggestions", func() error {
			_, _, _, err := q.ReorderSuggestions(ctx, c.id, StockFilter{}, shelf("ward", "m100"), 10, o)
			return err
		}, []string{
			view, clinics, cursors, "low_stock_alerts(clinic_id, location_id, medicine_id)", "documents(clinic_id, kind)", onShelf, lots,
			"consumption_months_pkey(clinic_id, location_id, medicine_id, month)", "stock_outs_pkey(clinic_id, location_id, medicine_id)",
		}},
		{"DispensingReport", func() error {
			_, _, err := q.DispensingReport(ctx, c.id, DispensingFilter{From: 1, To: 99999, Location: "ward"}, ReadOptions{Consistency: Bounded})
			return err
		}, []string{view, clinics, cursors, "dispensing_days_pkey(clinic_id, day)"}},
		{"Patients", func() error {
			patients := NewPatients(NewDirectory(db))
			_, noKey := patients.Key(ctx, c.id, ada)
			_, noText := patients.Text(ctx, c.id, ada, textDigest(1))
			_, noPatient := patients.Identified(ctx, c.id, textDigest(1))
			return errors.Join(noKey, noText, noPatient)
		}, []string{"patient_keys_pkey(clinic_id, patient_id)", "patient_texts_pkey(clinic_id, patient_id)", "patient_identifiers_pkey(clinic_id)", sealedHere}},
	}
	for _, test := range tests {
		p.check(test, readSession)
	}
}

// analyze makes statistics of all tables, as they are from now on.
func analyze(t *testing.T, db *DB) {
	t.Helper()
	var tables []string
	err := db.readTx(t.Context(), func(tx pgx.Tx) error {
		rows, err := tx.Query(t.Context(), `SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public' ORDER BY table_name`)
		if err != nil {
			return err
		}
		tables, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range tables {
		if _, err := db.write.Exec(t.Context(), "ANALYZE "+name); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPlansOfWrites explains every statement of the executor on the connections
// that write: on the blind path, under the head's lock, and where it repeats
// keys or rejects. What it loads is among the reads.
func TestPlansOfWrites(t *testing.T) {
	t.Parallel()
	db, write, read := traced(t)
	p := &planner{tb: t, db: db, write: write, read: read}
	seen := make(map[string]bool)
	for _, test := range executorCalls(t, db) {
		for sql := range p.check(test, writeSession) {
			seen[sql] = true
		}
	}
	sql := newStatements(db.server.Kind)
	for fields, i := reflect.ValueOf(sql), 1; i < fields.NumField(); i++ {
		name, text := fields.Type().Field(i).Name, fields.Field(i).String()
		if !seen[text] {
			t.Errorf("no call sends the executor's statement %s: %s", name, text)
		}
	}
	changed := []string{holdsTable.upsert(db.server.Kind), lotsTable.upsert(db.server.Kind)}
	if db.server.Kind == CockroachDB {
		changed = []string{deleteByKeysSQL(holdsTable, 1), deleteByKeysSQL(lotsTable, 1)}
	}
	for _, text := range append(changed, headLock, selectJournalAfter, directoryInsert) {
		if !seen[text] {
			t.Errorf("no call sends %s", text)
		}
	}
}

// executorCalls are what a clinic's life takes, told so that each statement is
// sent by one of them.
func executorCalls(tb testing.TB, db *DB) []wantPlan {
	tb.Helper()
	e, other := testExecutorOn(tb, db, ExecutorConfig{}), testExecutorOn(tb, db, ExecutorConfig{})
	c := &testClinic{tb: tb, e: e, id: ledger.ClinicID(newClinicID(tb))}
	known := func(e *Executor, commands []ledger.Command) func() error {
		return func() error {
			verdicts, err := e.Submit(context.Background(), Submission{Clinic: c.id, Commands: commands})
			for _, v := range verdicts {
				if err == nil {
					err = v.Err
				}
			}
			return err
		}
	}
	first := c.commands(
		&ledger.CreateClinic{Name: "Test clinic", TimeZone: "UTC"},
		&ledger.CreateLocation{LocationID: "store", Name: "Store", LocationKind: ledger.Store},
		&ledger.AddMedicine{MedicineID: "zinc", Name: "Zinc", BaseUnit: "tablet"},
		&ledger.RegisterLot{LotID: "L1", MedicineID: "zinc", Manufacturer: "Acme", LotNumber: "1", Expiry: ledger.MaxDate},
		&ledger.ReceiveStock{LocationID: "store", LotID: "L1", Quantity: 100}, reserve(10))
	var hold ledger.HoldID
	const (
		heads   = "heads_pkey(conflict)"
		lock    = "heads_pkey(clinic_id)"
		journal = "journal_pkey(clinic_id, sequence)"
		keys    = "journal_idempotency_key(clinic_id, idempotency_key)"
		stock   = "stock_pkey(conflict)"
	)
	return []wantPlan{
		{"a new clinic", known(e, first), []string{
			"clinics_pkey(conflict)", "locations_pkey(conflict)", "medicines_pkey(conflict)", stock,
		}},
		{"a hold that is there", func() error {
			states, err := testDB(tb).loadStates(context.Background(), []ledger.ClinicID{c.id})
			if err != nil {
				return err
			}
			hold = states[c.id].Snapshot().Holds[0].ID
			return known(e, c.commands(
				&ledger.IssueStock{HoldID: hold, Quantity: 3}, &ledger.UpdateLot{LotID: "L1", LotNumber: ptr("2")},
			))()
		}, []string{heads, stock, "holds_pkey(conflict)", "lots_pkey(conflict)"}},
		{"a node that knows nothing", known(other, c.commands(reserve(1))), []string{heads, stock}},
		// The other node moved the head, so the blind commit is refused.
		{"a stale node", known(e, c.commands(reserve(1))), []string{heads, lock, journal, keys, stock}},
		{"a prescription", known(e, c.commands(
			&ledger.RegisterPatient{PatientID: ada},
			&ledger.CreatePrescription{PatientID: ada, Prescriber: "Dr. Hill", ValidUntil: ledger.MaxDate, Identifier: "his|1", Lines: []ledger.PrescribedLine{{MedicineID: "zinc", Quantity: 5}}},
		)), []string{heads}},
		{"a patient's key", func() error {
			_, err := NewPatients(NewDirectory(db)).PutKey(context.Background(), c.id, bob, []byte("wrapped"))
			return err
		}, []string{"patient_keys_pkey(clinic_id, patient_id)", "documents_pkey(clinic_id, kind, document_id)", sealedHere}},
		{"a patient's texts", func() error {
			c.mustPrivate(&ledger.RegisterPatient{PatientID: bob, TextDigest: textDigest(1)}, identity(bob, 1, "b1"))
			c.mustPrivate(&ledger.UpdatePatient{PatientID: bob, TextDigest: textDigest(2)}, identity(bob, 2, "b2"))
			c.must(&ledger.ErasePatient{PatientID: bob, ReasonCode: "asked"})
			return nil
		}, []string{
			heads, "documents_pkey(conflict)", "patient_keys_pkey(clinic_id, patient_id)", "patient_texts_pkey(clinic_id, patient_id)", "patient_texts_pkey(conflict)",
			"patient_identifiers_by_patient(clinic_id, patient_id)", "patient_identifiers_pkey(conflict)",
		}},
		{"a dispensing on another node", known(other, c.commands(dispense("his|1", 1))), []string{heads, lock, journal, keys, stock, "documents_pkey(conflict)"}},
		{"documents that are named", func() error {
			return db.InTx(context.Background(), func(tx pgx.Tx) error {
				state, err := loadStateTx(context.Background(), tx, c.id)
				if err != nil {
					return err
				}
				return e.named(context.Background(), tx, state, []*unit{{commands: c.commands(dispense("his|1", 1))}})
			})
		}, []string{lock, "documents_pkey(clinic_id, kind, document_id)", "clinics_pkey(clinic_id)", "locations_pkey(clinic_id)", "medicines_pkey(clinic_id)",
			"lots(clinic_id)", "stock_pkey(clinic_id)", "holds_open(clinic_id)", "documents_open(clinic_id)"}},
		{"repeated keys, blindly", known(e, first[4:]), []string{lock, keys}},
		{"repeated keys, on another node", known(testExecutorOn(tb, db, ExecutorConfig{}), first[4:]), []string{heads, stock, lock, keys, journal}},
		{"a rejection", func() error {
			c.rejected(c.give(c.command(reserve(1000))), ledger.ReasonInsufficientStock)
			return nil
		}, []string{lock, keys, journal}},
	}
}

// sealedHere is how a read or a write that takes no lock learns that the clinic
// has left.
const sealedHere = "sealed_clinics_pkey(clinic_id)"

// TestPlansOfMoves explains what is kept beside the journal and copied, and what
// tells of shards.
func TestPlansOfMoves(t *testing.T) {
	t.Parallel()
	db, write, read := traced(t)
	p, d := &planner{tb: t, db: db, write: write, read: read}, NewDirectory(db)
	m := &mover{directory: d, clinic: ledger.ClinicID(newClinicID(t)), from: db, to: db}
	searched := map[string]string{
		"patient_keys": "patient_keys_pkey(clinic_id, patient_id)", "patient_texts": "patient_texts_pkey(clinic_id, patient_id)",
		"patient_identifiers": "patient_identifiers_pkey(clinic_id)", "operations": "operations_pkey(clinic_id, idempotency_key)",
		"webhooks": "webhooks_pkey(clinic_id, webhook_id)",
		"reports":  "reports_pkey(clinic_id, idempotency_key)", "report_parts": "report_parts_pkey(clinic_id, idempotency_key, run, part)",
	}
	for _, table := range keptTables {
		after := make([]any, len(table.key))
		for i, key := range table.key {
			if after[i] = ""; key == "run" || key == "part" {
				after[i] = 0
			}
		}
		p.check(wantPlan{table.name, func() error {
			return db.readTx(t.Context(), func(tx pgx.Tx) error { _, err := table.page(t.Context(), tx, m.clinic, after); return err })
		}, []string{searched[table.name]}}, readSession)
	}
	c := newTestClinic(t, testExecutorOn(t, db, ExecutorConfig{})) // so that there are rows to delete
	write.take()
	read.take()
	for _, table := range purgedTables {
		key := table.name + "_pkey(clinic_id)"
		if table.name == lotsTable.name {
			key = "lots(clinic_id)"
		}
		p.check(wantPlan{"purge of " + table.name, func() error {
			return db.InTx(t.Context(), func(tx pgx.Tx) error {
				last, _, err := table.deletePage(t.Context(), tx, c.id, nil)
				if err == nil && last != nil {
					_, _, err = table.deletePage(t.Context(), tx, c.id, last)
				}
				return err
			})
		}, []string{key}}, writeSession)
	}
	if _, err := d.settle(t.Context(), m.clinic, MainShard); err != nil {
		t.Fatal(err)
	}
	read.take()
	p.check(wantPlan{"may be purged", func() error { _, err := d.mayPurge(t.Context(), m.clinic, "shard-c"); return err }, []string{
		"clinic_directory_pkey(clinic_id)", "clinic_moves_pkey(clinic_id)",
	}}, readSession)
	m.moved.To = "shard-b"
	d.shards[m.moved.To] = db
	write.take()
	p.check(wantPlan{"a seal", func() error { _, err := m.begin(t.Context()); return errors.Join(err, m.seal(t.Context())) }, []string{
		"heads_pkey(clinic_id)", "clinic_directory_pkey(clinic_id)", "sealed_clinics_pkey(conflict)", "clinic_moves_pkey(clinic_id)",
	}}, writeSession)
	p.check(wantPlan{"whose it is", func() error {
		return db.InTx(t.Context(), func(tx pgx.Tx) error { return m.ours(t.Context(), tx) })
	}, []string{sealedHere}}, writeSession)
	c.sql(`UPDATE heads SET epoch = -epoch WHERE clinic_id = $1`, c.id)
	write.take()
	p.check(wantPlan{"an empty head", func() error {
		if there, err := db.empty(t.Context(), c.id, ""); err != nil || !there {
			return fmt.Errorf("there: %t, %w", there, err)
		}
		return db.InTx(t.Context(), func(tx pgx.Tx) error { return vacate(t.Context(), tx, c.id) })
	}, []string{"heads_pkey(clinic_id)", sealedHere, "journal_pkey(clinic_id)"}}, writeSession)
	p.check(wantPlan{"the end", func() error { return m.end(t.Context()) }, []string{"clinic_moves_pkey(clinic_id)"}}, writeSession)
}

// TestPlansOfReadModels explains what moves the read models.
func TestPlansOfReadModels(t *testing.T) {
	t.Parallel()
	db, write, read := traced(t)
	p := &planner{tb: t, db: db, write: write, read: read}
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	models := NewReadModels(db, ReadModelsConfig{})
	move := func() error {
		return models.moveAll(t.Context(), map[ledger.ClinicID]*backlog{c.id: {lost: true}})
	}
	c.receive(5)
	p.check(wantPlan{"anew", move, []string{
		"heads_pkey(clinic_id)", "journal_pkey(clinic_id, sequence)", "read_model_cursors_pkey(clinic_id)", "read_model_cursors_pkey(conflict)",
		"summaries(clinic_id)", "location_stock_summary_pkey(conflict)", "consumption_months_pkey(clinic_id)", "stock_outs_pkey(clinic_id)", "dispensing_days_pkey(clinic_id)", "late_entries_pkey(clinic_id)",
	}}, readSession, writeSession)
	c.must(&ledger.DispenseMedicine{Dispense: ledger.Dispense{LocationID: "store", MedicineID: "zinc", Quantity: 5}})
	c.receive(1)
	models = NewReadModels(db, ReadModelsConfig{}) // which has kept nothing
	p.check(wantPlan{"a step", move, []string{
		"heads_pkey(clinic_id)", "journal_pkey(clinic_id, sequence)", "read_model_cursors_pkey(clinic_id)", "read_model_cursors_pkey(conflict)",
		"summaries(clinic_id, location_id, medicine_id)", "location_stock_summary_pkey(conflict)",
		"consumption_months_pkey(clinic_id, location_id, medicine_id, month)", "consumption_months_pkey(conflict)", "stock_outs_pkey(conflict)",
		"dispensing_days_pkey(clinic_id, day)", "dispensing_days_pkey(conflict)",
	}}, readSession, writeSession)
	c.receive(1)
	p.check(wantPlan{"a look", func() error {
		models.looked = c.id[:len(c.id)-1]
		_, err := models.behind(t.Context())
		return err
	}, []string{"heads_pkey(clinic_id)", "read_model_cursors_pkey(clinic_id)", "journal_pkey(clinic_id, sequence)"}}, readSession)
}

// TestPlanFaultsAreSeen asks for plans that the tests above must refuse.
func TestPlanFaultsAreSeen(t *testing.T) {
	t.Parallel()
	if testDB(t).server.Kind != PostgreSQL {
		t.Skip("CockroachDB names its full scans itself")
	}
	p := &planner{tb: t}
	for _, sql := range []string{
		`SELECT event FROM journal WHERE idempotency_key = 'clinic_id'`,
		`SELECT lot_id FROM stock WHERE medicine_id = 'x'`,
		`SELECT s.lot_id FROM stock AS s JOIN lots AS l ON l.lot_id = s.lot_id WHERE s.clinic_id = 'x'`,
	} {
		if plan := p.plan(readSession, statement{sql: sql}); len(plan.faults(readSession)) == 0 {
			t.Errorf("nothing is wrong with %s: %v", sql, plan.accesses())
		}
	}
}

// TestPlansOfWebhooks explains what keeps webhooks and moves their cursors.
func TestPlansOfWebhooks(t *testing.T) {
	t.Parallel()
	db, write, read := traced(t)
	p := &planner{tb: t, db: db, write: write, read: read}
	c := newTestClinic(t, testExecutor(t, ExecutorConfig{}))
	s, ctx := NewWebhooks(NewDirectory(db)), t.Context()
	w := testWebhook(c.id, "billing")
	const key, all, sealed = "webhooks_pkey(clinic_id, webhook_id)", "webhooks_pkey(clinic_id)", "sealed_clinics_pkey(clinic_id)"
	p.check(wantPlan{"Create", func() error { _, _, err := s.Create(ctx, w); return err }, []string{key, sealed}}, writeSession)
	p.check(wantPlan{"Change", func() error {
		_, err := s.Change(ctx, w.WebhookKey, func(*Webhook) error { return nil })
		return err
	}, []string{key, sealed}}, writeSession)
	w.Version = 2
	p.check(wantPlan{"Move", func() error { _, err := s.Move(ctx, &w, Place{1, 5}, w.WebhookProgress); return err }, []string{key, sealed}}, writeSession)
	p.check(wantPlan{"Get", func() error { _, err := s.Get(ctx, w.WebhookKey); return err }, []string{key, sealed}}, readSession)
	p.check(wantPlan{"List", func() error { _, err := s.List(ctx, c.id); return err }, []string{all, sealed}}, readSession)
	p.check(wantPlan{"Look", func() error { _, err := s.Look(ctx, WebhookKey{}, 10); return err }, []string{key, "heads_pkey(clinic_id)"}}, readSession)
	p.check(wantPlan{"Delete", func() error { return s.Delete(ctx, &w) }, []string{key, sealed}}, writeSession)
}
