package rpc

import (
	"fmt"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// reports reads everything that reports tell of a clinic, page by page of one
// row, as one line each.
func (c *clinic) reports(t *testing.T, caller *client, since int64, location string) map[string][]string {
	t.Helper()
	got := make(map[string][]string)
	read := &stockledgerv1.ReadOptions{MinSequence: since}
	note := func(list string, asOf *stockledgerv1.AsOf, err error, rows ...string) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", list, err)
		}
		if asOf.GetSequence() < since {
			t.Errorf("%s is as of %v, and %d was asked for", list, asOf, since)
		}
		got[list] = append(got[list], rows...)
	}
	pages := func(one func(*stockledgerv1.Page) string) {
		for token := ""; ; {
			if token = one(&stockledgerv1.Page{PageSize: 1, PageToken: token}); token == "" {
				return
			}
		}
	}
	summary := func(s *stockledgerv1.LocationStock) string {
		return fmt.Sprintf("%s %s %d/%d lots %d low %v out %v", s.GetLocationId(), s.GetMedicineId(), s.GetBalances().GetAvailable(), s.GetBalances().GetReserved(), s.GetLots(), s.GetLow(), s.GetOutSince() != nil)
	}
	ctx, q := t.Context(), caller.query
	pages(func(page *stockledgerv1.Page) string {
		r, err := q.ListLocationStock(ctx, &stockledgerv1.ListLocationStockRequest{ClinicId: c.id, LocationId: location, Page: page, Read: read})
		for _, row := range r.GetRows() {
			note("stock", r.GetAsOf(), err, summary(row))
		}
		note("stock", r.GetAsOf(), err)
		return r.GetNextPageToken()
	})
	pages(func(page *stockledgerv1.Page) string {
		r, err := q.ListLowStock(ctx, &stockledgerv1.ListLowStockRequest{ClinicId: c.id, LocationId: location, Page: page, Read: read})
		for _, row := range r.GetRows() {
			note("low", r.GetAsOf(), err, summary(row))
		}
		note("low", r.GetAsOf(), err)
		return r.GetNextPageToken()
	})
	pages(func(page *stockledgerv1.Page) string {
		r, err := q.ListClinicStock(ctx, &stockledgerv1.ListClinicStockRequest{ClinicId: c.id, Page: page, Read: read})
		for _, row := range r.GetRows() {
			note("clinic", r.GetAsOf(), err, fmt.Sprintf("%s %d at %d, low at %d", row.GetMedicineId(), row.GetBalances().GetAvailable(), row.GetLocations(), row.GetLowLocations()))
		}
		note("clinic", r.GetAsOf(), err)
		return r.GetNextPageToken()
	})
	pages(func(page *stockledgerv1.Page) string {
		days := int32(800)
		r, err := q.ListExpiringLots(ctx, &stockledgerv1.ListExpiringLotsRequest{ClinicId: c.id, LocationId: location, WithinDays: &days, Page: page, Read: read})
		for _, row := range r.GetRows() {
			note("expiring", r.GetAsOf(), err, fmt.Sprintf("%s %s %d", row.GetLotId(), row.GetLocationId(), row.GetBalances().GetAvailable()))
		}
		note("expiring", r.GetAsOf(), err)
		return r.GetNextPageToken()
	})
	pages(func(page *stockledgerv1.Page) string {
		r, err := q.ListConsumption(ctx, &stockledgerv1.ListConsumptionRequest{ClinicId: c.id, LocationId: location, Page: page, Read: read})
		for _, row := range r.GetRows() {
			note("consumption", r.GetAsOf(), err, fmt.Sprintf("%s %s %d months, now %d", row.GetLocationId(), row.GetMedicineId(), len(row.GetMonths()), row.GetCurrentMonth().GetUsed()))
		}
		note("consumption", r.GetAsOf(), err)
		return r.GetNextPageToken()
	})
	pages(func(page *stockledgerv1.Page) string {
		r, err := q.ListReorderSuggestions(ctx, &stockledgerv1.ListReorderSuggestionsRequest{ClinicId: c.id, LocationId: location, Page: page, Read: read})
		for _, row := range r.GetRows() {
			note("reorder", r.GetAsOf(), err, fmt.Sprintf("%s %s %d", row.GetStock().GetLocationId(), row.GetStock().GetMedicineId(), row.GetQuantity()))
		}
		note("reorder", r.GetAsOf(), err)
		return r.GetNextPageToken()
	})
	return got
}

func (c *clinic) wantReports(t *testing.T, got map[string][]string, want map[string]string) {
	t.Helper()
	for list, rows := range want {
		if found := strings.Join(got[list], "; "); found != rows {
			t.Errorf("%s: %q, want %q", list, found, rows)
		}
	}
}

// Reports show a command as soon as its sequence is asked for, to those who may
// see it.
func TestReports(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	levels := func(location string, reorder, most int64) *stockledgerv1.Command {
		return &stockledgerv1.Command{Body: &stockledgerv1.Command_UpdateStockLevels{UpdateStockLevels: &stockledgerv1.UpdateStockLevels{
			LocationId: location, MedicineId: "zinc", Reorder: reorder, Max: most,
		}}}
	}
	accepted := c.must(t, levels("store", 150, 500), levels("ward", 60, 80), reserve("store", 60), issueWithout("ward", 50))
	since := accepted[len(accepted)-1].GetSequence()
	c.wantReports(t, c.reports(t, c.admin, since, ""), map[string]string{
		"stock":       "store zinc 140/60 lots 2 low true out false; ward zinc 0/0 lots 0 low true out true",
		"low":         "store zinc 140/60 lots 2 low true out false; ward zinc 0/0 lots 0 low true out true",
		"clinic":      "zinc 140 at 1, low at 2",
		"expiring":    "L1 store 40; L2 store 100",
		"consumption": "store zinc 3 months, now 0; ward zinc 3 months, now 50",
		"reorder":     "store zinc 360; ward zinc 80",
	})
	ward := n.client(n.token(t, Principal{Roles: []Role{RoleStorekeeper}, Clinics: []ledger.ClinicID{ledger.ClinicID(c.id)}, Locations: []ledger.LocationID{"ward"}}), h2c())
	c.wantReports(t, c.reports(t, ward, since, ""), map[string]string{
		"stock": "ward zinc 0/0 lots 0 low true out true", "clinic": "zinc 0 at 0, low at 1", "expiring": "", "reorder": "ward zinc 80",
		"consumption": "ward zinc 3 months, now 50",
	})
	_, err := ward.query.ListLowStock(t.Context(), &stockledgerv1.ListLowStockRequest{ClinicId: c.id, LocationId: "store"})
	wantError(t, err, connect.CodePermissionDenied, ledger.ReasonLocationForbidden)
	for name, call := range map[string]func(location, medicine string) error{
		"stock": func(l, m string) error {
			return failed(c.admin.query.ListLocationStock(t.Context(), &stockledgerv1.ListLocationStockRequest{ClinicId: c.id, LocationId: l, MedicineId: m}))
		},
		"expiring": func(l, m string) error {
			return failed(c.admin.query.ListExpiringLots(t.Context(), &stockledgerv1.ListExpiringLotsRequest{ClinicId: c.id, LocationId: l, MedicineId: m}))
		},
		"consumption": func(l, m string) error {
			return failed(c.admin.query.ListConsumption(t.Context(), &stockledgerv1.ListConsumptionRequest{ClinicId: c.id, LocationId: l, MedicineId: m}))
		},
		"reorder": func(l, m string) error {
			return failed(c.admin.query.ListReorderSuggestions(t.Context(), &stockledgerv1.ListReorderSuggestionsRequest{ClinicId: c.id, LocationId: l, MedicineId: m}))
		},
	} {
		if err := call("ward", "zinc"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		wantError(t, call("nowhere", ""), connect.CodeNotFound, ledger.ReasonLocationNotFound)
		wantError(t, call("", "gold"), connect.CodeNotFound, ledger.ReasonMedicineNotFound)
	}
	_, err = c.admin.query.ListLowStock(t.Context(), &stockledgerv1.ListLowStockRequest{ClinicId: c.id, Read: &stockledgerv1.ReadOptions{MinSequence: since + 1000}})
	wantError(t, err, connect.CodeFailedPrecondition, reasonSequenceNotReached)
}

// A clinic in which nothing happened yet has empty reports.
func TestReportsOfNothing(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	c.id += "-2"
	created := c.must(t, &stockledgerv1.Command{Body: &stockledgerv1.Command_CreateClinic{CreateClinic: &stockledgerv1.CreateClinic{Name: "Empty", TimeZone: "UTC"}}})
	for list, rows := range c.reports(t, c.admin, created[0].GetSequence(), "") {
		if len(rows) > 0 {
			t.Errorf("%s: %q", list, rows)
		}
	}
}

func failed[T any](_ T, err error) error { return err }

func issueWithout(location string, quantity int64) *stockledgerv1.Command {
	return &stockledgerv1.Command{Body: &stockledgerv1.Command_IssueStock{IssueStock: &stockledgerv1.IssueStock{LocationId: location, MedicineId: "zinc", Quantity: quantity}}}
}
