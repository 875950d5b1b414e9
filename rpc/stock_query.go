package rpc

import (
	"context"
	"fmt"
	"strconv"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
	"github.com/stockledger/stockledger/txn"
)

// queryService serves queries about stock.
type queryService struct{ *queryHandler }

var _ stockledgerv1connect.QueryServiceHandler = (*queryService)(nil)

// GetStock tells what one location holds of one medicine.
func (s *queryService) GetStock(ctx context.Context, req *stockledgerv1.GetStockRequest) (*stockledgerv1.GetStockResponse, error) {
	shelf := ledger.Shelf{Location: ledger.LocationID(req.GetLocationId()), Medicine: ledger.MedicineID(req.GetMedicineId())}
	stock, asOf, err := s.queries.Stock(ctx, ledger.ClinicID(req.GetClinicId()), shelf, readOptions(req.GetRead(), txn.Strong))
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.GetStockResponse{
		Rows: fromStockRows(stock.Rows), Totals: fromBalances(stock.Totals), Usable: stock.Usable, AsOf: fromAsOf(asOf),
	}, unchanged(ctx, asOf)
}

func fromStockRows(rows []txn.StockRow) []*stockledgerv1.StockRow {
	list := make([]*stockledgerv1.StockRow, len(rows))
	for i := range rows {
		row := &rows[i]
		list[i] = &stockledgerv1.StockRow{
			LocationId: string(row.Location), MedicineId: string(row.Medicine), LotId: string(row.Lot),
			Lot: &stockledgerv1.LotFacts{
				LotNumber: row.LotNumber, Expiry: fromDate(row.Expiry), Expired: row.Expired, Active: row.LotActive, Bar: fromBar(row.LotBar),
			},
			Balances: fromBalances(row.Balances), LastSequence: int64(row.LastSequence),
		}
	}
	return list
}

// ListStock lists what a clinic holds.
func (s *queryService) ListStock(ctx context.Context, req *stockledgerv1.ListStockRequest) (*stockledgerv1.ListStockResponse, error) {
	page, err := s.open(ctx, req, 3)
	if err != nil {
		return nil, err
	}
	filter := txn.StockFilter{
		Location: ledger.LocationID(req.GetLocationId()), Medicine: ledger.MedicineID(req.GetMedicineId()), Locations: only(ctx),
	}
	after := txn.StockKey{
		Shelf: ledger.Shelf{Location: ledger.LocationID(page.key[0]), Medicine: ledger.MedicineID(page.key[1])}, Lot: ledger.LotID(page.key[2]),
	}
	rows, more, asOf, err := s.queries.ListStock(ctx, ledger.ClinicID(req.GetClinicId()), filter, after, page.size, page.options(txn.Bounded))
	if err != nil {
		return nil, err
	}
	response := &stockledgerv1.ListStockResponse{Rows: fromStockRows(rows), AsOf: fromAsOf(asOf)}
	if more {
		last := rows[len(rows)-1]
		response.NextPageToken, err = s.seal(ctx, req, asOf, string(last.Location), string(last.Medicine), string(last.Lot))
		if err != nil {
			return nil, err
		}
	}
	return response, unchanged(ctx, asOf)
}

// CheckAvailability tells how much there is of many medicines.
func (s *queryService) CheckAvailability(ctx context.Context, req *stockledgerv1.CheckAvailabilityRequest) (*stockledgerv1.CheckAvailabilityResponse, error) {
	clinic, options := ledger.ClinicID(req.GetClinicId()), readOptions(req.GetRead(), txn.Cached)
	lastsUntil, r := toDate("lasts_until", req.GetLastsUntil())
	if r != nil {
		return nil, r
	}
	medicines := make([]ledger.MedicineID, len(req.GetDemands()))
	for i, demand := range req.GetDemands() {
		medicines[i] = ledger.MedicineID(demand.GetMedicineId())
	}
	locations := make([]ledger.LocationID, len(req.GetLocationIds()))
	for i, id := range req.GetLocationIds() {
		locations[i] = ledger.LocationID(id)
	}
	if limit := only(ctx); limit != nil && len(locations) == 0 {
		own, asOf, err := s.activeLocations(ctx, clinic, limit, options)
		if err != nil || len(own) == 0 {
			return &stockledgerv1.CheckAvailabilityResponse{Medicines: fromAvailability(req.GetDemands(), nil), AsOf: fromAsOf(asOf)}, err
		}
		locations = own
	}
	found, asOf, err := s.queries.Availability(ctx, clinic, medicines, locations, lastsUntil, options)
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.CheckAvailabilityResponse{
		Medicines: fromAvailability(req.GetDemands(), found), AsOf: fromAsOf(asOf),
	}, unchanged(ctx, asOf)
}

// activeLocations returns those of some locations that the clinic has and uses.
func (s *queryService) activeLocations(ctx context.Context, clinic ledger.ClinicID, ids []ledger.LocationID, o txn.ReadOptions) ([]ledger.LocationID, txn.AsOf, error) {
	rows, _, asOf, err := s.queries.ListLocations(ctx, clinic, ids, "", len(ids), o)
	var active []ledger.LocationID
	for _, row := range rows {
		if row.Active {
			active = append(active, row.ID)
		}
	}
	return active, asOf, err
}

// fromAvailability answers each demand out of what was found.
func fromAvailability(demands []*stockledgerv1.Demand, found []txn.Availability) []*stockledgerv1.MedicineAvailability {
	byMedicine := make(map[ledger.MedicineID][]txn.Availability)
	for _, a := range found {
		byMedicine[a.Medicine] = append(byMedicine[a.Medicine], a)
	}
	answers := make([]*stockledgerv1.MedicineAvailability, len(demands))
	for i, demand := range demands {
		answer := &stockledgerv1.MedicineAvailability{MedicineId: demand.GetMedicineId()}
		var best int64
		for _, a := range byMedicine[ledger.MedicineID(demand.GetMedicineId())] {
			answer.Usable += a.Usable
			best = max(best, a.Usable)
			answer.Locations = append(answer.Locations, &stockledgerv1.LocationAvailability{
				LocationId: string(a.Location), Usable: a.Usable, Reserved: a.Reserved, OnHand: a.OnHand,
				EarliestExpiry: fromDate(a.EarliestExpiry),
			})
		}
		answer.Sufficient = best >= demand.GetQuantity()
		answers[i] = answer
	}
	return answers
}

// ListMovements lists the entries of a stock card, or of the whole clinic.
func (s *queryService) ListMovements(ctx context.Context, req *stockledgerv1.ListMovementsRequest) (*stockledgerv1.ListMovementsResponse, error) {
	page, err := s.open(ctx, req, 2)
	if err != nil {
		return nil, err
	}
	after, err := toMovementKey(page.key)
	if err != nil {
		return nil, err
	}
	filter := txn.MovementFilter{
		Shelf: ledger.Shelf{Location: ledger.LocationID(req.GetLocationId()), Medicine: ledger.MedicineID(req.GetMedicineId())},
		Lot:   ledger.LotID(req.GetLotId()), From: ledger.Sequence(req.GetFromSequence()), To: ledger.Sequence(req.GetToSequence()),
		NewestFirst: req.GetNewestFirst(), Locations: only(ctx),
	}
	movements, next, asOf, err := s.queries.Movements(ctx, ledger.ClinicID(req.GetClinicId()), filter, after, page.size, page.options(txn.Bounded))
	if err != nil {
		return nil, err
	}
	response := &stockledgerv1.ListMovementsResponse{Movements: make([]*stockledgerv1.Movement, len(movements)), AsOf: fromAsOf(asOf)}
	for i := range movements {
		response.Movements[i] = fromMovement(&movements[i])
	}
	if next != nil {
		if response.NextPageToken, err = s.seal(ctx, req, asOf, decimal(next.Sequence), decimal(next.Line)); err != nil {
			return nil, err
		}
	}
	return response, unchanged(ctx, asOf)
}

func toMovementKey(key []string) (*txn.MovementKey, error) {
	if key[0] == "" {
		return nil, nil
	}
	sequence, err := strconv.ParseInt(key[0], 10, 64)
	if err != nil {
		return nil, fmt.Errorf("rpc: a sealed cursor: %w", err)
	}
	line, err := strconv.Atoi(key[1])
	if err != nil {
		return nil, fmt.Errorf("rpc: a sealed cursor: %w", err)
	}
	return &txn.MovementKey{Sequence: ledger.Sequence(sequence), Line: line}, nil
}

func fromMovement(m *txn.Movement) *stockledgerv1.Movement {
	document := m.DocumentID
	switch m.Kind {
	case ledger.KindLendStock, ledger.KindBorrowStock, ledger.KindRepayLoan, ledger.KindReceiveRepayment:
		document = loanReference(document)
	}
	return &stockledgerv1.Movement{
		Sequence: int64(m.Sequence), Line: int32(m.Line),
		RecordedAt: fromInstant(m.RecordedAt), OccurredAt: fromInstant(m.OccurredAt),
		Actor: string(m.Actor), Command: m.Kind.String(),
		LocationId: string(m.Location), MedicineId: string(m.Medicine), LotId: string(m.Lot),
		Debit: fromBucket(m.Debit), Credit: fromBucket(m.Credit), Quantity: m.Quantity, Balances: fromBalances(m.After),
		ReasonCode: m.ReasonCode, Reference: m.Reference, HoldId: string(m.HoldID),
		Party: m.Party, Witness: string(m.Witness), Requester: string(m.Requester), CorrectsSequence: int64(m.Corrects), DocumentId: document,
	}
}

// ListHolds lists reservations.
func (s *queryService) ListHolds(ctx context.Context, req *stockledgerv1.ListHoldsRequest) (*stockledgerv1.ListHoldsResponse, error) {
	page, err := s.open(ctx, req, 3)
	if err != nil {
		return nil, err
	}
	filter := txn.HoldFilter{
		Shelf:         ledger.Shelf{Location: ledger.LocationID(req.GetLocationId()), Medicine: ledger.MedicineID(req.GetMedicineId())},
		IncludeClosed: req.GetIncludeClosed(), Locations: only(ctx),
	}
	after := txn.HoldKey{
		Shelf: ledger.Shelf{Location: ledger.LocationID(page.key[0]), Medicine: ledger.MedicineID(page.key[1])}, Hold: ledger.HoldID(page.key[2]),
	}
	holds, more, asOf, err := s.queries.Holds(ctx, ledger.ClinicID(req.GetClinicId()), filter, after, page.size, page.options(txn.Bounded))
	if err != nil {
		return nil, err
	}
	response := &stockledgerv1.ListHoldsResponse{Holds: make([]*stockledgerv1.Hold, len(holds)), AsOf: fromAsOf(asOf)}
	for i := range holds {
		response.Holds[i] = fromHold(&holds[i])
	}
	if more {
		last := holds[len(holds)-1]
		if response.NextPageToken, err = s.seal(ctx, req, asOf, string(last.Location), string(last.Medicine), string(last.ID)); err != nil {
			return nil, err
		}
	}
	// Whether a hold is overdue changes with every moment, so this answer has
	// no etag.
	return response, nil
}

func fromHold(h *txn.HoldRow) *stockledgerv1.Hold {
	hold := &stockledgerv1.Hold{
		HoldId: string(h.ID), LocationId: string(h.Location), MedicineId: string(h.Medicine), ReasonCode: h.ReasonCode,
		Deadline: fromInstant(h.Deadline), Overdue: h.Overdue, Status: fromHoldStatus(h.Status), Actor: string(h.Actor),
		OpenedSequence: int64(h.OpenedSequence), LastSequence: int64(h.LastSequence),
		Lines: make([]*stockledgerv1.HoldLine, len(h.Lines)),
	}
	for i, line := range h.Lines {
		hold.Lines[i] = &stockledgerv1.HoldLine{LotId: string(line.Lot), Quantity: line.Quantity, ReservedQuantity: line.Reserved}
	}
	return hold
}

// The wire gives buckets, bars and states of holds the numbers that the core
// stores, which a test makes sure of.

func fromBucket(b ledger.Bucket) stockledgerv1.Bucket { return stockledgerv1.Bucket(b) }

func fromBar(b ledger.Bar) stockledgerv1.LotBar { return stockledgerv1.LotBar(b) }

func fromHoldStatus(s ledger.HoldStatus) stockledgerv1.HoldStatus {
	return stockledgerv1.HoldStatus(s)
}
