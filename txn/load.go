package txn

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// The statements that read clinics' states. Each is a prefix scan of a primary
// key or, for open holds, of their index.
const (
	loadHeads     = `SELECT clinic_id, epoch, sequence, hash, recorded_at FROM heads WHERE clinic_id = ANY($1)`
	loadClinics   = `SELECT clinic_id, name, time_zone, backdating_days, active, last_sequence FROM clinics WHERE clinic_id = ANY($1)`
	loadLocations = `SELECT clinic_id, location_id, name, kind, active, last_sequence FROM locations WHERE clinic_id = ANY($1)`
	loadMedicines = `SELECT clinic_id, medicine_id, name, base_unit, strength, form, atc_code, category, active, last_sequence, control_class FROM medicines WHERE clinic_id = ANY($1)`
	loadLots      = `SELECT clinic_id, lot_id, medicine_id, manufacturer, gtin, lot_number, expiry, active, registered_sequence, last_sequence, bar, recall_id, parents FROM lots WHERE clinic_id = ANY($1)`
	loadStock     = `SELECT clinic_id, location_id, medicine_id, lot_id, available, reserved, pending, quarantined, in_transit, first_sequence, last_sequence FROM stock WHERE clinic_id = ANY($1)`
	loadHolds     = `SELECT clinic_id, location_id, medicine_id, hold_id, lot_id, quantity, reserved_quantity, reason_code, deadline, actor, opened_sequence, last_sequence, owner
		FROM holds WHERE clinic_id = ANY($1) AND status = 1 ORDER BY clinic_id, location_id, medicine_id, hold_id, line`
	// Documents from kind 20 on are read when a command names them.
	loadDocuments = `SELECT clinic_id, kind, opened_sequence, last_sequence, document FROM documents WHERE clinic_id = ANY($1) AND is_open AND kind < 20`
)

const (
	selectJournalAfter = `SELECT event, hash FROM journal WHERE clinic_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3`
)

// catchUpChunk is how many journal rows are read at a time.
const catchUpChunk = 2000

// loadStates reads the states of many clinics at one moment. A clinic whose
// journal is empty gets an empty state.
func (db *DB) loadStates(ctx context.Context, clinics []ledger.ClinicID) (map[ledger.ClinicID]*ledger.State, error) {
	var states map[ledger.ClinicID]*ledger.State
	err := db.readTx(ctx, func(tx pgx.Tx) (err error) {
		states, err = loadStatesTx(ctx, tx, clinics)
		return err
	})
	return states, err
}

func loadStateTx(ctx context.Context, tx pgx.Tx, clinic ledger.ClinicID) (*ledger.State, error) {
	states, err := loadStatesTx(ctx, tx, []ledger.ClinicID{clinic})
	if err != nil {
		return nil, err
	}
	return states[clinic], nil
}

func loadStatesTx(ctx context.Context, tx pgx.Tx, clinics []ledger.ClinicID) (map[ledger.ClinicID]*ledger.State, error) {
	snapshots, err := loadSnapshots(ctx, tx, clinics)
	if err != nil {
		return nil, err
	}
	states := make(map[ledger.ClinicID]*ledger.State, len(clinics))
	for clinic, snapshot := range snapshots {
		if snapshot.Head.Epoch < 0 && snapshot.Head.Sequence == 0 { // the rest is what a purge has yet to delete
			*snapshot = ledger.Snapshot{Head: snapshot.Head}
		}
		state, err := ledger.Restore(clinic, time.LoadLocation, *snapshot)
		if err != nil {
			return nil, fmt.Errorf("load clinics: %w", err)
		}
		states[clinic] = state
	}
	return states, nil
}

// loadSnapshots reads the documents of many clinics in one round trip.
func loadSnapshots(ctx context.Context, tx pgx.Tx, clinics []ledger.ClinicID) (map[ledger.ClinicID]*ledger.Snapshot, error) {
	l := loader{snapshots: make(map[ledger.ClinicID]*ledger.Snapshot, len(clinics))}
	ids := make([]string, len(clinics))
	for i, clinic := range clinics {
		ids[i] = string(clinic)
		l.snapshots[clinic] = &ledger.Snapshot{Head: ledger.NewState(clinic, time.LoadLocation).Head()}
	}
	batch := &pgx.Batch{}
	steps := l.steps()
	for _, step := range steps {
		batch.Queue(step.sql, ids)
	}
	results := tx.SendBatch(ctx, batch)
	for _, step := range steps {
		if err := l.read(results, step); err != nil {
			_ = results.Close()
			return nil, fmt.Errorf("load clinics: %w", err)
		}
	}
	if err := results.Close(); err != nil {
		return nil, fmt.Errorf("load clinics: %w", err)
	}
	return l.snapshots, nil
}

// loader sorts rows into their clinics' snapshots.
type loader struct {
	snapshots map[ledger.ClinicID]*ledger.Snapshot
}

// loadStep is one statement with what to do with each of its rows.
type loadStep struct {
	sql string
	row func(pgx.Rows) error
}

func (l *loader) read(results pgx.BatchResults, step loadStep) error {
	rows, err := results.Query()
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := step.row(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (l *loader) steps() []loadStep {
	return []loadStep{
		{loadHeads, l.head}, {loadClinics, l.clinic}, {loadLocations, l.location}, {loadMedicines, l.medicine},
		{loadLots, l.lot}, {loadStock, l.stock}, {loadHolds, l.hold}, {loadDocuments, l.document},
	}
}

func (l *loader) head(rows pgx.Rows) error {
	var clinic ledger.ClinicID
	var head ledger.Head
	var hash []byte
	var at time.Time
	if err := rows.Scan(&clinic, &head.Epoch, &head.Sequence, &hash, &at); err != nil {
		return err
	}
	if len(hash) != len(head.Hash) {
		return fmt.Errorf("the head of clinic %s has a hash of %d bytes", clinic, len(hash))
	}
	head.Hash, head.At = ledger.Hash(hash), ledger.InstantOf(at)
	l.snapshots[clinic].Head = head
	return nil
}

func (l *loader) clinic(rows pgx.Rows) error {
	var id ledger.ClinicID
	var c ledger.Clinic
	if err := rows.Scan(&id, &c.Name, &c.TimeZone, &c.BackdatingDays, &c.Active, &c.LastSequence); err != nil {
		return err
	}
	l.snapshots[id].Clinic = &c
	return nil
}

func (l *loader) location(rows pgx.Rows) error {
	var clinic ledger.ClinicID
	var d ledger.Location
	if err := rows.Scan(&clinic, &d.ID, &d.Name, &d.Kind, &d.Active, &d.LastSequence); err != nil {
		return err
	}
	s := l.snapshots[clinic]
	s.Locations = append(s.Locations, d)
	return nil
}

func (l *loader) medicine(rows pgx.Rows) error {
	var clinic ledger.ClinicID
	var d ledger.Medicine
	if err := rows.Scan(&clinic, &d.ID, &d.Name, &d.BaseUnit, &d.Strength, &d.Form, &d.ATCCode, &d.Category, &d.Active, &d.LastSequence, &d.ControlClass); err != nil {
		return err
	}
	s := l.snapshots[clinic]
	s.Medicines = append(s.Medicines, d)
	return nil
}

func (l *loader) lot(rows pgx.Rows) error {
	var clinic ledger.ClinicID
	var d ledger.Lot
	var expiry time.Time
	var parents string
	err := rows.Scan(&clinic, &d.ID, &d.Medicine, &d.Manufacturer, &d.GTIN, &d.LotNumber, &expiry, &d.Active, &d.RegisteredSequence, &d.LastSequence,
		&d.Bar, &d.RecallID, &parents)
	if err != nil {
		return err
	}
	d.Expiry, d.Parents = ledger.DateOf(expiry), parentsOf(parents)
	s := l.snapshots[clinic]
	s.Lots = append(s.Lots, d)
	return nil
}

func (l *loader) stock(rows pgx.Rows) error {
	var clinic ledger.ClinicID
	var d ledger.Stock
	err := rows.Scan(&clinic, &d.Location, &d.Medicine, &d.Lot, &d.Available, &d.Reserved, &d.Pending, &d.Quarantined, &d.InTransit, &d.FirstSequence, &d.LastSequence)
	if err != nil {
		return err
	}
	s := l.snapshots[clinic]
	s.Stock = append(s.Stock, d)
	return nil
}

// hold adds a line to the hold that it belongs to; the rows come in the order
// of holds and lines.
func (l *loader) hold(rows pgx.Rows) error {
	var clinic ledger.ClinicID
	var d ledger.Hold
	var line ledger.HoldLine
	var deadline time.Time
	err := rows.Scan(&clinic, &d.Location, &d.Medicine, &d.ID, &line.Lot, &line.Quantity, &line.Reserved, &d.ReasonCode, &deadline, &d.Actor, &d.OpenedSequence, &d.LastSequence, &d.Owner)
	if err != nil {
		return err
	}
	s := l.snapshots[clinic]
	if n := len(s.Holds); n > 0 && s.Holds[n-1].ID == d.ID {
		s.Holds[n-1].Lines = append(s.Holds[n-1].Lines, line)
		return nil
	}
	d.Deadline, d.Status, d.Lines = ledger.InstantOf(deadline), ledger.HoldOpen, []ledger.HoldLine{line}
	s.Holds = append(s.Holds, d)
	return nil
}

// errUnreadable means that stored bytes are not what this program writes.
var errUnreadable = errors.New("a document cannot be read")

func (l *loader) document(rows pgx.Rows) error {
	var clinic ledger.ClinicID
	var kind ledger.DocumentKind
	var d ledger.Document
	var stored []byte
	err := rows.Scan(&clinic, &kind, &d.OpenedSequence, &d.LastSequence, &stored)
	if err != nil {
		return err
	}
	if d.Body, err = ledger.DecodeDocument(kind, stored); err != nil {
		return fmt.Errorf("clinic %s: %w: %w", clinic, errUnreadable, err)
	}
	s := l.snapshots[clinic]
	s.Documents = append(s.Documents, d)
	return nil
}

// catchUp applies the journal's rows after the state's head to the state.
func catchUp(ctx context.Context, tx pgx.Tx, state *ledger.State) error {
	for {
		rows, err := tx.Query(ctx, selectJournalAfter, state.Clinic(), state.Head().Sequence, catchUpChunk)
		if err != nil {
			return fmt.Errorf("catch up: %w", err)
		}
		records, err := readRecords(rows)
		if err != nil {
			return fmt.Errorf("catch up: %w", err)
		}
		for _, record := range records {
			if _, err := ledger.Evolve(state, record); err != nil {
				return fmt.Errorf("catch up: %w", err)
			}
		}
		state.Commit()
		if len(records) < catchUpChunk {
			return nil
		}
	}
}

// readRecordsByKey returns the records of those keys that are bound.
func readRecordsByKey(ctx context.Context, tx pgx.Tx, sql statements, clinic ledger.ClinicID, keys []string) (map[string]ledger.Record, error) {
	clinics := slices.Repeat([]string{string(clinic)}, len(keys))
	rows, err := tx.Query(ctx, sql.keys, clinics, keys)
	if err != nil {
		return nil, fmt.Errorf("look up keys: %w", err)
	}
	records, err := readRecords(rows)
	if err != nil {
		return nil, fmt.Errorf("look up keys: %w", err)
	}
	byKey := make(map[string]ledger.Record, len(records))
	for _, record := range records {
		byKey[record.Event.IdempotencyKey] = record
	}
	return byKey, nil
}

func readRecords(rows pgx.Rows) ([]ledger.Record, error) {
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (ledger.Record, error) {
		var event, hash []byte
		if err := row.Scan(&event, &hash); err != nil {
			return ledger.Record{}, err
		}
		return openRecord(event, hash)
	})
}
