package txn

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// column is a column that the executor writes, with its element type in SQL.
type column struct{ name, sqlType string }

// table is a table that the executor writes.
type table struct {
	name    string
	key     []string
	columns []column
}

var (
	headsTable = table{"heads", []string{"clinic_id"}, []column{
		{"clinic_id", "text"}, {"epoch", "int8"}, {"sequence", "int8"}, {"hash", "bytea"}, {"recorded_at", "timestamptz"},
	}}
	journalTable = table{"journal", []string{"clinic_id", "sequence"}, []column{
		{"clinic_id", "text"}, {"sequence", "int8"}, {"idempotency_key", "text"}, {"kind", "int2"},
		{"recorded_at", "timestamptz"}, {"event", "bytea"}, {"hash", "bytea"},
	}}
	entriesTable = table{"entries", []string{"clinic_id", "location_id", "medicine_id", "sequence", "line"}, []column{
		{"clinic_id", "text"}, {"location_id", "text"}, {"medicine_id", "text"}, {"sequence", "int8"}, {"line", "int4"},
		{"lot_id", "text"}, {"debit", "int2"}, {"credit", "int2"}, {"quantity", "int8"},
		{"available", "int8"}, {"reserved", "int8"}, {"pending", "int8"}, {"quarantined", "int8"}, {"in_transit", "int8"},
	}}
	stockTable = table{"stock", []string{"clinic_id", "location_id", "medicine_id", "lot_id"}, []column{
		{"clinic_id", "text"}, {"location_id", "text"}, {"medicine_id", "text"}, {"lot_id", "text"},
		{"available", "int8"}, {"reserved", "int8"}, {"pending", "int8"}, {"quarantined", "int8"}, {"in_transit", "int8"},
		{"first_sequence", "int8"}, {"last_sequence", "int8"},
	}}
	holdsTable = table{"holds", []string{"clinic_id", "location_id", "medicine_id", "hold_id", "lot_id"}, []column{
		{"clinic_id", "text"}, {"location_id", "text"}, {"medicine_id", "text"}, {"hold_id", "text"}, {"lot_id", "text"},
		{"line", "int4"}, {"quantity", "int8"}, {"reserved_quantity", "int8"}, {"status", "int2"}, {"reason_code", "text"},
		{"deadline", "timestamptz"}, {"actor", "text"}, {"opened_sequence", "int8"}, {"last_sequence", "int8"}, {"owner", "text"},
	}}
	clinicsTable = table{"clinics", []string{"clinic_id"}, []column{
		{"clinic_id", "text"}, {"name", "text"}, {"time_zone", "text"}, {"backdating_days", "int8"}, {"active", "bool"}, {"last_sequence", "int8"},
	}}
	locationsTable = table{"locations", []string{"clinic_id", "location_id"}, []column{
		{"clinic_id", "text"}, {"location_id", "text"}, {"name", "text"}, {"kind", "int2"}, {"active", "bool"}, {"last_sequence", "int8"},
	}}
	medicinesTable = table{"medicines", []string{"clinic_id", "medicine_id"}, []column{
		{"clinic_id", "text"}, {"medicine_id", "text"}, {"name", "text"}, {"base_unit", "text"}, {"strength", "text"},
		{"form", "text"}, {"atc_code", "text"}, {"category", "text"}, {"active", "bool"}, {"last_sequence", "int8"},
		{"control_class", "text"},
	}}
	lotsTable = table{"lots", []string{"clinic_id", "lot_id"}, []column{
		{"clinic_id", "text"}, {"lot_id", "text"}, {"medicine_id", "text"}, {"manufacturer", "text"}, {"gtin", "text"},
		{"lot_number", "text"}, {"expiry", "date"}, {"active", "bool"}, {"registered_sequence", "int8"}, {"last_sequence", "int8"},
		{"bar", "int2"}, {"recall_id", "text"}, {"parents", "text"},
	}}
	documentsTable = table{"documents", []string{"clinic_id", "kind", "document_id"}, []column{
		{"clinic_id", "text"}, {"kind", "int2"}, {"document_id", "text"}, {"is_open", "bool"}, {"location_id", "text"},
		{"other_location_id", "text"}, {"opened_sequence", "int8"}, {"last_sequence", "int8"}, {"document", "bytea"},
		{"patient_id", "text"}, {"day", "date"}, {"due_at", "timestamptz"},
	}}
)

func (t table) names() (names, types []string) {
	for _, c := range t.columns {
		names, types = append(names, c.name), append(types, c.sqlType)
	}
	return names, types
}

// selection selects all columns where what is to be added holds.
func (t table) selection() *selection {
	names, _ := t.names()
	return selectFrom("SELECT " + strings.Join(names, ", ") + " FROM " + t.name + " WHERE")
}

func (t table) insert() string {
	names, types := t.names()
	return insertSQL(t.name, names, types)
}

func (t table) upsert(server ServerKind) string {
	names, types := t.names()
	return upsertSQL(server, t.name, names, types, t.key)
}

// statements are the executor's SQL for one server.
type statements struct {
	server                                                ServerKind
	heads, nextHeads, journal, entries, stock, openHolds  string
	clinics, locations, medicines, newLots, headsOf, keys string
	newDocuments, named, privateTexts                     string
}

func newStatements(server ServerKind) statements {
	return statements{
		server:    server,
		heads:     headsTable.insert(),
		nextHeads: nextHeadsSQL(server),
		journal:   journalTable.insert(),
		entries:   entriesTable.insert(),
		stock:     stockTable.upsert(server),
		openHolds: holdsTable.insert(),
		clinics:   clinicsTable.upsert(server),
		locations: locationsTable.upsert(server),
		medicines: medicinesTable.upsert(server),
		newLots:   lotsTable.insert(),

		newDocuments: documentsTable.insert(),
		privateTexts: patientTextsTable.upsert(server),
		named:        selectNamedSQL(server),
		headsOf:      selectByKeysSQL(server, "heads", []string{"clinic_id", "epoch", "sequence", "hash"}, []string{"clinic_id"}, []string{"text"}, ""),
		keys: selectByKeysSQL(server, tableAtIndex(server, "journal", "journal_idempotency_key"),
			[]string{"event", "hash"}, []string{"clinic_id", "idempotency_key"}, []string{"text", "text"}, ""),
	}
}

// rowSet collects the rows of plans, one array a column, and writes them with
// one statement a table. Heads come first, so that two writers of one clinic
// meet there and nowhere else; clinics are in the order in which they were
// added, so that they meet in the same order.
type rowSet struct {
	heads     headRows // of journals that begin
	nextHeads nextHeadRows
	journal   journalRows
	entries   entryRows
	stock     stockRows
	openHolds holdRows
	holds     holdRows
	clinics   clinicRows
	locations locationRows
	medicines medicineRows
	newLots   lotRows
	lots      lotRows
	documents documentRows
	// Documents on demand are made under ids that nothing had before.
	newDocuments documentRows
	private      privateRows
	queued       int
}

func newRowSet() *rowSet { return &rowSet{} }

type lotKey struct {
	shelf ledger.Shelf
	lot   ledger.LotID
}

// add collects what a plan changed. Of a document that changed several times
// only the last state is written.
func (s *rowSet) add(p *plan) {
	if len(p.records) == 0 {
		return
	}
	clinic := p.home.clinic
	if p.base.Sequence == 0 {
		s.heads.add(clinic, p.home.state.Head())
	} else {
		s.nextHeads.add(clinic, p.base, p.home.state.Head())
	}
	var stock []*ledger.Stock
	seen := make(map[lotKey]bool, len(p.effects))
	last := lastDocuments{}
	for i := range p.effects {
		s.journal.add(clinic, &p.records[i])
		effects := &p.effects[i]
		for _, entry := range effects.Entries {
			s.entries.add(clinic, entry)
		}
		for _, row := range effects.Stock {
			key := lotKey{row.Shelf, row.Lot}
			if !seen[key] {
				seen[key] = true
				stock = append(stock, row)
			}
		}
		last.note(effects)
	}
	for _, row := range stock {
		s.stock.add(clinic, row)
	}
	s.addDocuments(clinic, p.base.Sequence, &last)
	s.private.add(p)
}

// lastDocuments are the last states of the documents that a plan changed, in
// the order of their first change.
type lastDocuments struct {
	clinic    *ledger.Clinic
	holds     latest[ledger.HoldID, *ledger.Hold]
	locations latest[ledger.LocationID, *ledger.Location]
	medicines latest[ledger.MedicineID, *ledger.Medicine]
	lots      latest[ledger.LotID, *ledger.Lot]
	documents latest[ledger.DocumentKey, *ledger.Document]
}

// latest keeps the last value given for each key, in the order of first keys.
type latest[K comparable, V any] struct {
	values []V
	at     map[K]int
}

func (l *latest[K, V]) set(key K, value V) {
	if i, ok := l.at[key]; ok {
		l.values[i] = value
		return
	}
	if l.at == nil {
		l.at = make(map[K]int)
	}
	l.at[key] = len(l.values)
	l.values = append(l.values, value)
}

func (l *lastDocuments) note(e *ledger.Effects) {
	for _, hold := range e.Holds {
		l.holds.set(hold.ID, hold)
	}
	if e.Clinic != nil {
		l.clinic = e.Clinic
	}
	if e.Location != nil {
		l.locations.set(e.Location.ID, e.Location)
	}
	if e.Medicine != nil {
		l.medicines.set(e.Medicine.ID, e.Medicine)
	}
	for _, lot := range e.Lots {
		l.lots.set(lot.ID, lot)
	}
	for _, document := range e.Documents {
		l.documents.set(document.Body.About().DocumentKey, document)
	}
}

func (s *rowSet) addDocuments(clinic ledger.ClinicID, base ledger.Sequence, last *lastDocuments) {
	for _, hold := range last.holds.values {
		if hold.OpenedSequence > base {
			s.openHolds.add(clinic, hold)
		} else {
			s.holds.add(clinic, hold)
		}
	}
	if last.clinic != nil {
		s.clinics.add(clinic, last.clinic)
	}
	for _, location := range last.locations.values {
		s.locations.add(clinic, location)
	}
	for _, medicine := range last.medicines.values {
		s.medicines.add(clinic, medicine)
	}
	for _, lot := range last.lots.values {
		if lot.RegisteredSequence > base {
			s.newLots.add(clinic, lot)
		} else {
			s.lots.add(clinic, lot)
		}
	}
	for _, document := range last.documents.values {
		if document.Body.About().Kind.OnDemand() && document.OpenedSequence > base {
			s.newDocuments.add(clinic, document)
		} else {
			s.documents.add(clinic, document)
		}
	}
}

// queue adds the statements of all tables that have rows to a batch.
func (s *rowSet) queue(b *pgx.Batch, sql statements) {
	before := b.Len()
	queueRows(b, sql.heads, len(s.heads.clinic), s.heads.columns)
	queueNextHeads(b, sql, &s.nextHeads)
	queueRows(b, sql.journal, len(s.journal.clinic), s.journal.columns)
	queueRows(b, sql.clinics, len(s.clinics.clinic), s.clinics.columns)
	queueRows(b, sql.locations, len(s.locations.clinic), s.locations.columns)
	queueRows(b, sql.medicines, len(s.medicines.clinic), s.medicines.columns)
	queueRows(b, sql.newLots, len(s.newLots.clinic), s.newLots.columns)
	queueChanged(b, sql.server, lotsTable, len(s.lots.clinic), s.lots.key, s.lots.columns)
	queueRows(b, sql.entries, len(s.entries.clinic), s.entries.columns)
	queueRows(b, sql.stock, len(s.stock.clinic), s.stock.columns)
	queueRows(b, sql.openHolds, len(s.openHolds.clinic), s.openHolds.columns)
	queueChanged(b, sql.server, holdsTable, len(s.holds.clinic), s.holds.key, s.holds.columns)
	queueChanged(b, sql.server, documentsTable, len(s.documents.clinic), s.documents.key, s.documents.columns)
	queueRows(b, sql.newDocuments, len(s.newDocuments.clinic), s.newDocuments.columns)
	s.private.queue(b, sql)
	s.queued = b.Len() - before
}

func queueRows(b *pgx.Batch, sql string, rows int, columns func() []any) {
	if rows > 0 {
		b.Queue(sql, columns()...)
	}
}

// read consumes the results of what queue queued.
func (s *rowSet) read(br pgx.BatchResults) error {
	for range s.queued {
		if _, err := br.Exec(); err != nil {
			return err
		}
	}
	return nil
}

// send writes the rows within a transaction.
func (s *rowSet) send(ctx context.Context, tx pgx.Tx, sql statements) error {
	batch := &pgx.Batch{}
	s.queue(batch, sql)
	if batch.Len() == 0 {
		return nil
	}
	results := tx.SendBatch(ctx, batch)
	if err := s.read(results); err != nil {
		_ = results.Close()
		return fmt.Errorf("write a group: %w", err)
	}
	return results.Close()
}

type headRows struct {
	clinic   []string
	epoch    []int64
	sequence []int64
	hash     [][]byte
	at       []time.Time
}

func (r *headRows) add(clinic ledger.ClinicID, head ledger.Head) {
	r.clinic = append(r.clinic, string(clinic))
	r.epoch = append(r.epoch, head.Epoch)
	r.sequence = append(r.sequence, int64(head.Sequence))
	r.hash = append(r.hash, head.Hash[:])
	r.at = append(r.at, head.At.Time())
}

func (r *headRows) columns() []any { return []any{r.clinic, r.epoch, r.sequence, r.hash, r.at} }

// nextHeadRows are heads of journals that go on, each with the hash that the
// head before it must have.
type nextHeadRows struct {
	headRows
	before [][]byte
}

func (r *nextHeadRows) add(clinic ledger.ClinicID, before, head ledger.Head) {
	r.headRows.add(clinic, head)
	r.before = append(r.before, before.Hash[:])
}

type journalRows struct {
	clinic   []string
	sequence []int64
	key      []string
	kind     []int16
	at       []time.Time
	event    [][]byte
	hash     [][]byte
}

func (r *journalRows) add(clinic ledger.ClinicID, record *ledger.Record) {
	r.clinic = append(r.clinic, string(clinic))
	r.sequence = append(r.sequence, int64(record.Event.Sequence))
	r.key = append(r.key, record.Event.IdempotencyKey)
	r.kind = append(r.kind, int16(record.Event.Kind()))
	r.at = append(r.at, record.Event.At.Time())
	r.event = append(r.event, record.Stored)
	r.hash = append(r.hash, record.Hash[:])
}

func (r *journalRows) columns() []any {
	return []any{r.clinic, r.sequence, r.key, r.kind, r.at, r.event, r.hash}
}

// balanceColumns are the held balances of rows.
type balanceColumns struct {
	available, reserved, pending, quarantined, inTransit []int64
}

func (r *balanceColumns) add(b ledger.Balances) {
	r.available = append(r.available, b.Available)
	r.reserved = append(r.reserved, b.Reserved)
	r.pending = append(r.pending, b.Pending)
	r.quarantined = append(r.quarantined, b.Quarantined)
	r.inTransit = append(r.inTransit, b.InTransit)
}

type entryRows struct {
	clinic, location, medicine []string
	sequence                   []int64
	line                       []int32
	lot                        []string
	debit, credit              []int16
	quantity                   []int64
	after                      balanceColumns
}

func (r *entryRows) add(clinic ledger.ClinicID, e ledger.Entry) {
	r.clinic = append(r.clinic, string(clinic))
	r.location = append(r.location, string(e.Location))
	r.medicine = append(r.medicine, string(e.Medicine))
	r.sequence = append(r.sequence, int64(e.Sequence))
	r.line = append(r.line, int32(e.Line))
	r.lot = append(r.lot, string(e.Lot))
	r.debit = append(r.debit, int16(e.Debit))
	r.credit = append(r.credit, int16(e.Credit))
	r.quantity = append(r.quantity, e.Quantity)
	r.after.add(e.After)
}

func (r *entryRows) columns() []any {
	return []any{
		r.clinic, r.location, r.medicine, r.sequence, r.line, r.lot, r.debit, r.credit, r.quantity,
		r.after.available, r.after.reserved, r.after.pending, r.after.quarantined, r.after.inTransit,
	}
}

type stockRows struct {
	clinic, location, medicine, lot []string
	balances                        balanceColumns
	first, last                     []int64
}

func (r *stockRows) add(clinic ledger.ClinicID, s *ledger.Stock) {
	r.clinic = append(r.clinic, string(clinic))
	r.location = append(r.location, string(s.Location))
	r.medicine = append(r.medicine, string(s.Medicine))
	r.lot = append(r.lot, string(s.Lot))
	r.balances.add(s.Balances)
	r.first = append(r.first, int64(s.FirstSequence))
	r.last = append(r.last, int64(s.LastSequence))
}

func (r *stockRows) columns() []any {
	return []any{
		r.clinic, r.location, r.medicine, r.lot,
		r.balances.available, r.balances.reserved, r.balances.pending, r.balances.quarantined, r.balances.inTransit,
		r.first, r.last,
	}
}

type holdRows struct {
	clinic, location, medicine, hold, lot []string
	line                                  []int32
	quantity, reserved                    []int64
	status                                []int16
	reasonCode                            []string
	deadline                              []time.Time
	actor                                 []string
	opened, last                          []int64
	owner                                 []string
}

func (r *holdRows) add(clinic ledger.ClinicID, h *ledger.Hold) {
	for i, line := range h.Lines {
		r.clinic = append(r.clinic, string(clinic))
		r.location = append(r.location, string(h.Location))
		r.medicine = append(r.medicine, string(h.Medicine))
		r.hold = append(r.hold, string(h.ID))
		r.lot = append(r.lot, string(line.Lot))
		r.line = append(r.line, int32(i))
		r.quantity = append(r.quantity, line.Quantity)
		r.reserved = append(r.reserved, line.Reserved)
		r.status = append(r.status, int16(h.Status))
		r.reasonCode = append(r.reasonCode, h.ReasonCode)
		r.deadline = append(r.deadline, h.Deadline.Time())
		r.actor = append(r.actor, string(h.Actor))
		r.opened = append(r.opened, int64(h.OpenedSequence))
		r.last = append(r.last, int64(h.LastSequence))
		r.owner = append(r.owner, h.Owner)
	}
}

func (r *holdRows) key(row int) []any {
	return []any{r.clinic[row], r.location[row], r.medicine[row], r.hold[row], r.lot[row]}
}

func (r *holdRows) columns() []any {
	return []any{
		r.clinic, r.location, r.medicine, r.hold, r.lot, r.line, r.quantity, r.reserved, r.status, r.reasonCode,
		r.deadline, r.actor, r.opened, r.last, r.owner,
	}
}

type clinicRows struct {
	clinic, name, zone []string
	backdating         []int64
	active             []bool
	last               []int64
}

func (r *clinicRows) add(clinic ledger.ClinicID, c *ledger.Clinic) {
	r.clinic = append(r.clinic, string(clinic))
	r.name = append(r.name, c.Name)
	r.zone = append(r.zone, c.TimeZone)
	r.backdating = append(r.backdating, c.BackdatingDays)
	r.active = append(r.active, c.Active)
	r.last = append(r.last, int64(c.LastSequence))
}

func (r *clinicRows) columns() []any {
	return []any{r.clinic, r.name, r.zone, r.backdating, r.active, r.last}
}

type locationRows struct {
	clinic, location, name []string
	kind                   []int16
	active                 []bool
	last                   []int64
}

func (r *locationRows) add(clinic ledger.ClinicID, l *ledger.Location) {
	r.clinic = append(r.clinic, string(clinic))
	r.location = append(r.location, string(l.ID))
	r.name = append(r.name, l.Name)
	r.kind = append(r.kind, int16(l.Kind))
	r.active = append(r.active, l.Active)
	r.last = append(r.last, int64(l.LastSequence))
}

func (r *locationRows) columns() []any {
	return []any{r.clinic, r.location, r.name, r.kind, r.active, r.last}
}

type medicineRows struct {
	clinic, medicine, name, unit, strength, form, atc, category, class []string
	active                                                             []bool
	last                                                               []int64
}

func (r *medicineRows) add(clinic ledger.ClinicID, m *ledger.Medicine) {
	r.clinic = append(r.clinic, string(clinic))
	r.medicine = append(r.medicine, string(m.ID))
	r.name = append(r.name, m.Name)
	r.unit = append(r.unit, m.BaseUnit)
	r.strength = append(r.strength, m.Strength)
	r.form = append(r.form, m.Form)
	r.atc = append(r.atc, m.ATCCode)
	r.category = append(r.category, m.Category)
	r.class = append(r.class, m.ControlClass)
	r.active = append(r.active, m.Active)
	r.last = append(r.last, int64(m.LastSequence))
}

func (r *medicineRows) columns() []any {
	return []any{r.clinic, r.medicine, r.name, r.unit, r.strength, r.form, r.atc, r.category, r.active, r.last, r.class}
}

type lotRows struct {
	clinic, lot, medicine, manufacturer, gtin, number []string
	expiry                                            []time.Time
	active                                            []bool
	registered, last                                  []int64
	bar                                               []int16
	recall, parents                                   []string
}

func (r *lotRows) add(clinic ledger.ClinicID, l *ledger.Lot) {
	r.clinic = append(r.clinic, string(clinic))
	r.lot = append(r.lot, string(l.ID))
	r.medicine = append(r.medicine, string(l.Medicine))
	r.manufacturer = append(r.manufacturer, l.Manufacturer)
	r.gtin = append(r.gtin, l.GTIN)
	r.number = append(r.number, l.LotNumber)
	r.expiry = append(r.expiry, l.Expiry.Time())
	r.active = append(r.active, l.Active)
	r.registered = append(r.registered, int64(l.RegisteredSequence))
	r.last = append(r.last, int64(l.LastSequence))
	r.bar = append(r.bar, int16(l.Bar))
	r.recall = append(r.recall, string(l.RecallID))
	r.parents = append(r.parents, parentsText(l.Parents))
}

// parentsText joins the ids of the lots that a lot was made from; ids hold no
// spaces.
func parentsText(parents []ledger.LotID) string { return strings.Join(texts(parents), " ") }

func parentsOf(text string) []ledger.LotID {
	var parents []ledger.LotID
	for _, id := range strings.Fields(text) {
		parents = append(parents, ledger.LotID(id))
	}
	return parents
}

func (r *lotRows) key(row int) []any { return []any{r.clinic[row], r.lot[row]} }

func (r *lotRows) columns() []any {
	return []any{
		r.clinic, r.lot, r.medicine, r.manufacturer, r.gtin, r.number, r.expiry, r.active, r.registered, r.last,
		r.bar, r.recall, r.parents,
	}
}

type documentRows struct {
	clinic                       []string
	kind                         []int16
	id                           []string
	open                         []bool
	location, otherLocation      []string
	openedSequence, lastSequence []int64
	document                     [][]byte
	patient                      []string
	day, due                     []time.Time
}

func (r *documentRows) add(clinic ledger.ClinicID, d *ledger.Document) {
	about := d.Body.About()
	r.clinic = append(r.clinic, string(clinic))
	r.kind = append(r.kind, int16(about.Kind))
	r.id = append(r.id, about.ID)
	r.open = append(r.open, about.Open)
	r.location = append(r.location, string(about.Location))
	r.otherLocation = append(r.otherLocation, string(about.OtherLocation))
	r.openedSequence = append(r.openedSequence, int64(d.OpenedSequence))
	r.lastSequence = append(r.lastSequence, int64(d.LastSequence))
	r.document = append(r.document, ledger.AppendDocument(nil, d.Body))
	r.patient = append(r.patient, string(about.Patient))
	r.day = append(r.day, about.Day.Time())
	r.due = append(r.due, about.Due.Time())
}

func (r *documentRows) key(row int) []any { return []any{r.clinic[row], r.kind[row], r.id[row]} }

func (r *documentRows) columns() []any {
	return []any{
		r.clinic, r.kind, r.id, r.open, r.location, r.otherLocation, r.openedSequence, r.lastSequence, r.document,
		r.patient, r.day, r.due,
	}
}

// blindReads are what a blind group must know before it may tell rejections:
// the records of keys that were bound before, and the heads of clinics of which
// the group writes nothing, whose states the commit therefore does not prove.
type blindReads struct {
	keyClinics, keys []string
	headClinics      []string
	found            map[ledger.ClinicID]map[string]ledger.Record
	heads            map[ledger.ClinicID]ledger.Head
}

func (r *blindReads) add(p *plan) {
	for _, key := range p.lookups {
		r.keyClinics = append(r.keyClinics, string(p.home.clinic))
		r.keys = append(r.keys, key)
	}
	if len(p.records) == 0 {
		r.headClinics = append(r.headClinics, string(p.home.clinic))
	}
}

func (r *blindReads) queue(b *pgx.Batch, sql statements) {
	if len(r.keys) > 0 {
		b.Queue(sql.keys, r.keyClinics, r.keys)
	}
	if len(r.headClinics) > 0 {
		b.Queue(sql.headsOf, r.headClinics)
	}
}

func (r *blindReads) read(br pgx.BatchResults) error {
	r.found = make(map[ledger.ClinicID]map[string]ledger.Record)
	if len(r.keys) > 0 {
		if err := r.readKeys(br); err != nil {
			return err
		}
	}
	r.heads = make(map[ledger.ClinicID]ledger.Head)
	if len(r.headClinics) == 0 {
		return nil
	}
	rows, err := br.Query()
	if err != nil {
		return err
	}
	var clinic ledger.ClinicID
	var head ledger.Head
	var hash []byte
	_, err = pgx.ForEachRow(rows, []any{&clinic, &head.Epoch, &head.Sequence, &hash}, func() error {
		copy(head.Hash[:], hash)
		r.heads[clinic] = head
		return nil
	})
	return err
}

func (r *blindReads) readKeys(br pgx.BatchResults) error {
	rows, err := br.Query()
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var event, hash []byte
		if err := rows.Scan(&event, &hash); err != nil {
			return err
		}
		record, err := openRecord(event, hash)
		if err != nil {
			return err
		}
		clinic := record.Event.Clinic
		if r.found[clinic] == nil {
			r.found[clinic] = make(map[string]ledger.Record)
		}
		r.found[clinic][record.Event.IdempotencyKey] = record
	}
	return rows.Err()
}

// proves reports whether the head that was read is the one that the plan
// decided on.
func (r *blindReads) proves(p *plan) bool {
	head := r.heads[p.home.clinic]
	if p.base.Sequence == 0 {
		return head.Sequence == 0
	}
	return head.Sequence == p.base.Sequence && head.Epoch == p.base.Epoch && head.Hash == p.base.Hash
}

func openRecord(event, hash []byte) (ledger.Record, error) {
	if len(hash) != len(ledger.Hash{}) {
		return ledger.Record{}, fmt.Errorf("a journal row has a hash of %d bytes", len(hash))
	}
	record, err := ledger.OpenRecord(event, ledger.Hash(hash))
	if err != nil {
		return record, fmt.Errorf("read a journal row: %w", err)
	}
	return record, nil
}
