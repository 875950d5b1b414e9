package rpc

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// How old the answers of reports may be where the caller does not say.
const (
	lowStockStaleness      = time.Minute
	locationStockStaleness = 5 * time.Minute
	clinicStockStaleness   = 15 * time.Minute
)

// within says how fresh a page of a report must be: as its caller says, or not
// staler than what is promised.
func (o *opened) within(promised time.Duration) txn.ReadOptions {
	options := o.options(txn.Bounded)
	if o.read.GetMaxStaleness() == nil {
		options.MaxStaleness = promised
	}
	return options
}

// filtered is a request that may be limited to a location and a medicine.
type filtered interface {
	GetLocationId() string
	GetMedicineId() string
}

func stockFilter(ctx context.Context, req filtered) txn.StockFilter {
	return txn.StockFilter{
		Location: ledger.LocationID(req.GetLocationId()), Medicine: ledger.MedicineID(req.GetMedicineId()), Locations: only(ctx),
	}
}

// toShelf reads the shelf after which a page begins.
func toShelf(key []string) ledger.Shelf {
	return ledger.Shelf{Location: ledger.LocationID(key[0]), Medicine: ledger.MedicineID(key[1])}
}

// ListLocationStock lists what locations hold.
func (s *queryService) ListLocationStock(ctx context.Context, req *stockledgerv1.ListLocationStockRequest) (*stockledgerv1.ListLocationStockResponse, error) {
	list, err := s.summaries(ctx, req, req.GetClinicId(), txn.SummaryFilter{StockFilter: stockFilter(ctx, req)}, locationStockStaleness)
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.ListLocationStockResponse{Rows: list.rows, NextPageToken: list.token, AsOf: fromAsOf(list.asOf)}, unchanged(ctx, list.asOf)
}

// ListLowStock lists where there is too little.
func (s *queryService) ListLowStock(ctx context.Context, req *stockledgerv1.ListLowStockRequest) (*stockledgerv1.ListLowStockResponse, error) {
	list, err := s.summaries(ctx, req, req.GetClinicId(), txn.SummaryFilter{StockFilter: stockFilter(ctx, req), LowOnly: true}, lowStockStaleness)
	if err != nil {
		return nil, err
	}
	return &stockledgerv1.ListLowStockResponse{Rows: list.rows, NextPageToken: list.token, AsOf: fromAsOf(list.asOf)}, unchanged(ctx, list.asOf)
}

type summaryPage struct {
	rows  []*stockledgerv1.LocationStock
	token string
	asOf  txn.AsOf
}

func (s *queryService) summaries(ctx context.Context, req paged, clinic string, filter txn.SummaryFilter, promised time.Duration) (*summaryPage, error) {
	asked, err := s.open(ctx, req, 2)
	if err != nil {
		return nil, err
	}
	rows, more, asOf, err := s.queries.StockSummaries(ctx, ledger.ClinicID(clinic), filter, toShelf(asked.key), asked.size, asked.within(promised))
	if err != nil {
		return nil, err
	}
	list := &summaryPage{rows: make([]*stockledgerv1.LocationStock, len(rows)), asOf: asOf}
	for i := range rows {
		list.rows[i] = fromSummary(&rows[i])
	}
	if more {
		last := rows[len(rows)-1]
		list.token, err = s.seal(ctx, req, asOf, string(last.Location), string(last.Medicine))
	}
	return list, err
}

func fromSummary(s *txn.StockSummary) *stockledgerv1.LocationStock {
	return &stockledgerv1.LocationStock{
		LocationId: string(s.Location), MedicineId: string(s.Medicine), Balances: fromBalances(s.Balances), Lots: s.Lots,
		MovedAt: fromInstant(s.MovedAt), OutSince: fromInstant(s.OutSince),
		Low: s.LowSequence > 0, LowSince: fromInstant(s.LowSince), LowSequence: int64(s.LowSequence),
		Min: s.Min, Max: s.Max, Reorder: s.Reorder,
	}
}

// ListClinicStock lists what the clinic holds.
func (s *queryService) ListClinicStock(ctx context.Context, req *stockledgerv1.ListClinicStockRequest) (*stockledgerv1.ListClinicStockResponse, error) {
	asked, err := s.open(ctx, req, 1)
	if err != nil {
		return nil, err
	}
	filter := txn.StockFilter{Medicine: ledger.MedicineID(req.GetMedicineId()), Locations: only(ctx)}
	rows, more, asOf, err := s.queries.MedicineSummaries(ctx, ledger.ClinicID(req.GetClinicId()), filter, ledger.MedicineID(asked.key[0]), asked.size, asked.within(clinicStockStaleness))
	if err != nil {
		return nil, err
	}
	response := &stockledgerv1.ListClinicStockResponse{Rows: make([]*stockledgerv1.ClinicStock, len(rows)), AsOf: fromAsOf(asOf)}
	for i := range rows {
		row := &rows[i]
		response.Rows[i] = &stockledgerv1.ClinicStock{
			MedicineId: string(row.Medicine), Balances: fromBalances(row.Balances), Locations: row.Locations, Lots: row.Lots, LowLocations: row.Low,
		}
	}
	if more {
		if response.NextPageToken, err = s.seal(ctx, req, asOf, string(rows[len(rows)-1].Medicine)); err != nil {
			return nil, err
		}
	}
	return response, unchanged(ctx, asOf)
}

// defaultExpiryDays is how far ahead expiring lots are listed.
const defaultExpiryDays = 90

// ListExpiringLots lists what expires.
func (s *queryService) ListExpiringLots(ctx context.Context, req *stockledgerv1.ListExpiringLotsRequest) (*stockledgerv1.ListExpiringLotsResponse, error) {
	asked, err := s.open(ctx, req, 3)
	if err != nil {
		return nil, err
	}
	after, err := toExpiringPlace(asked.key)
	if err != nil {
		return nil, err
	}
	days := ledger.Date(defaultExpiryDays)
	if req.WithinDays != nil {
		days = ledger.Date(req.GetWithinDays())
	}
	window := func(today ledger.Date) (from, to ledger.Date) {
		if req.GetIncludeExpired() {
			return 0, today + days
		}
		return today, today + days
	}
	rows, next, asOf, err := s.queries.Expiring(ctx, ledger.ClinicID(req.GetClinicId()), stockFilter(ctx, req), window, after, asked.size, asked.options(txn.Bounded))
	if err != nil {
		return nil, err
	}
	response := &stockledgerv1.ListExpiringLotsResponse{Rows: fromStockRows(rows), AsOf: fromAsOf(asOf)}
	if next != nil {
		if response.NextPageToken, err = s.seal(ctx, req, asOf, decimal(int64(next.Expiry)), string(next.Lot), string(next.Location)); err != nil {
			return nil, err
		}
	}
	return response, unchanged(ctx, asOf)
}

func toExpiringPlace(key []string) (*txn.ExpiringPlace, error) {
	if key[0] == "" {
		return nil, nil
	}
	expiry, err := strconv.ParseInt(key[0], 10, 32)
	if err != nil {
		return nil, fmt.Errorf("rpc: a sealed cursor: %w", err)
	}
	return &txn.ExpiringPlace{Expiry: ledger.Date(expiry), Lot: ledger.LotID(key[1]), Location: ledger.LocationID(key[2])}, nil
}

// defaultMonths is over how many months consumption is listed.
const defaultMonths = 3

// ListConsumption lists what is used.
func (s *queryService) ListConsumption(ctx context.Context, req *stockledgerv1.ListConsumptionRequest) (*stockledgerv1.ListConsumptionResponse, error) {
	asked, err := s.open(ctx, req, 2)
	if err != nil {
		return nil, err
	}
	months := int(req.GetMonths())
	if months == 0 {
		months = defaultMonths
	}
	rows, more, asOf, err := s.queries.Consumptions(ctx, ledger.ClinicID(req.GetClinicId()), stockFilter(ctx, req), months, toShelf(asked.key), asked.size, asked.within(clinicStockStaleness))
	if err != nil {
		return nil, err
	}
	response := &stockledgerv1.ListConsumptionResponse{Rows: make([]*stockledgerv1.Consumption, len(rows)), AsOf: fromAsOf(asOf)}
	for i := range rows {
		row := &rows[i]
		response.Rows[i] = &stockledgerv1.Consumption{
			LocationId: string(row.Location), MedicineId: string(row.Medicine), Months: each(row.Months, fromMonth), CurrentMonth: fromMonth(row.Current),
			AverageMonthly: row.Average(), AdjustedAverageMonthly: row.Adjusted(),
		}
	}
	if more {
		last := rows[len(rows)-1]
		if response.NextPageToken, err = s.seal(ctx, req, asOf, string(last.Location), string(last.Medicine)); err != nil {
			return nil, err
		}
	}
	// The time without stock grows with every moment, so this answer has no etag.
	return response, nil
}

func fromMonth(m txn.MonthConsumption) *stockledgerv1.MonthConsumption {
	return &stockledgerv1.MonthConsumption{Month: fromDate(m.First), Used: m.Used, Wasted: m.Wasted, DaysOutOfStock: m.DaysOut}
}

// ListReorderSuggestions lists what to order.
func (s *queryService) ListReorderSuggestions(ctx context.Context, req *stockledgerv1.ListReorderSuggestionsRequest) (*stockledgerv1.ListReorderSuggestionsResponse, error) {
	asked, err := s.open(ctx, req, 2)
	if err != nil {
		return nil, err
	}
	rows, next, asOf, err := s.queries.ReorderSuggestions(ctx, ledger.ClinicID(req.GetClinicId()), stockFilter(ctx, req), toShelf(asked.key), asked.size, asked.within(lowStockStaleness))
	if err != nil {
		return nil, err
	}
	response := &stockledgerv1.ListReorderSuggestionsResponse{Rows: make([]*stockledgerv1.ReorderSuggestion, len(rows)), AsOf: fromAsOf(asOf)}
	for i := range rows {
		row := &rows[i]
		response.Rows[i] = &stockledgerv1.ReorderSuggestion{
			Stock: fromSummary(&row.StockSummary), Incoming: row.Incoming, Quantity: row.Quantity, AdjustedAverageMonthly: row.Usage.Adjusted(),
		}
	}
	if next != nil {
		if response.NextPageToken, err = s.seal(ctx, req, asOf, string(next.Location), string(next.Medicine)); err != nil {
			return nil, err
		}
	}
	return response, nil
}
