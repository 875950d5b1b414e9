package rpc

import (
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/genproto/googleapis/type/date"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// packed is a clinic where zinc comes in boxes of 10 and cases of 200, and lot
// Z1 was made with the box's GTIN.
func packed(t *testing.T) (*clinic, *person) {
	t.Helper()
	c := newClinic(t, shared(t))
	p := c.person(t, "asha", RolePharmacist)
	p.give(t, &stockledgerv1.SetPacks{MedicineId: "zinc", Etag: "0", Packs: []*stockledgerv1.Pack{
		{Name: "box", Factor: 10, Gtin: boxGTIN}, {Name: "case", Factor: 200, Gtin: caseGTIN},
	}})
	p.give(t, &stockledgerv1.RegisterLot{LotId: "Z1", MedicineId: "gtin|" + boxGTIN, Gtin: boxGTIN, LotNumber: "Z-1", Expiry: &date.Date{Year: 2049, Month: 2, Day: 28}})
	return c, p
}

const (
	boxGTIN  = "4006381333931"
	caseGTIN = "14006381333938"
)

func TestPacks(t *testing.T) {
	t.Parallel()
	c, p := packed(t)
	packs, err := p.catalog.GetPacks(t.Context(), &stockledgerv1.GetPacksRequest{ClinicId: c.id, MedicineId: "zinc"})
	if err != nil || packs.GetBaseUnit() != "tablet" || len(packs.GetPacks()) != 2 || packs.GetPacks()[1].GetFactor() != 200 {
		t.Errorf("packs: %v, %v", packs, err)
	}
	if got := p.give(t, &stockledgerv1.ReceiveStock{LocationId: "store", LotId: "Z1", Quantity: 3, Pack: "BOX"}).GetStock(); got.GetQuantity() != 30 {
		t.Errorf("three boxes: %v", got)
	}
	convert := func(quantity int64, from, to string) (*stockledgerv1.ConvertQuantityResponse, error) {
		return p.catalog.ConvertQuantity(t.Context(), &stockledgerv1.ConvertQuantityRequest{ClinicId: c.id, MedicineId: "zinc", Quantity: quantity, FromPack: from, ToPack: to})
	}
	for _, test := range []struct {
		quantity       int64
		from, to       string
		want, wantBase int64
	}{{7, "box", "", 7 * 10, 70}, {40, "", "box", 4, 40}, {3, "case", "Box", 60, 600}, {0, "case", "", 0, 0}} {
		got, err := convert(test.quantity, test.from, test.to)
		if err != nil || got.GetQuantity() != test.want || got.GetBaseUnits() != test.wantBase {
			t.Errorf("%+v: got %v, %v", test, got, err)
		}
	}
	_, err = convert(7, "box", "case")
	info := wantError(t, err, connect.CodeInvalidArgument, reasonNotExact)
	if m := info.GetMetadata(); m["rest"] != "70" || m["factor"] != "200" || m["base_units"] != "70" {
		t.Errorf("metadata: %v", m)
	}
	_, err = convert(ledger.MaxQuantity, "case", "")
	wantError(t, err, connect.CodeInvalidArgument, ledger.ReasonQuantityOutOfRange)
	_, err = convert(1, "pallet", "")
	wantError(t, err, connect.CodeNotFound, ledger.ReasonPackNotFound)
	_, err = p.catalog.GetPacks(t.Context(), &stockledgerv1.GetPacksRequest{ClinicId: c.id, MedicineId: "gold"})
	wantError(t, err, connect.CodeNotFound, ledger.ReasonMedicineNotFound)
}

func TestScans(t *testing.T) {
	t.Parallel()
	c, p := packed(t)
	parse := func(scan string) (*stockledgerv1.ParseScanResponse, error) {
		return p.catalog.ParseScan(t.Context(), &stockledgerv1.ParseScanRequest{ClinicId: c.id, Scan: scan})
	}
	box, err := parse("(01)0" + boxGTIN + "(17)490228(10)Z-1(21)77")
	if err != nil || box.GetMedicineId() != "zinc" || box.GetLotId() != "Z1" || box.GetPack() != "box" || box.GetBaseUnits() != 10 ||
		box.GetExpiry().GetYear() != 2049 || box.GetSerial() != "77" || box.GetContradictsLot() {
		t.Errorf("a box: %v, %v", box, err)
	}
	// The case carries the same lot under another GTIN, in the raw form.
	pallet, err := parse("]d201" + caseGTIN + "10Z-1\x1d3705")
	if err == nil {
		t.Errorf("a count of nothing: %v", pallet)
	}
	pallet, err = parse("02" + caseGTIN + "3705\x1d10Z-1")
	if err != nil || pallet.GetLotId() != "Z1" || pallet.GetPacks() != 5 || pallet.GetBaseUnits() != 1000 || pallet.GetPack() != "case" {
		t.Errorf("a pallet: %v, %v", pallet, err)
	}
	wrong, err := parse("(01)0" + boxGTIN + "(17)480131(10)Z-1")
	if err != nil || !wrong.GetContradictsLot() {
		t.Errorf("another expiry: %v, %v", wrong, err)
	}
	unknown, err := parse("(01)00012345678905(10)X")
	if err != nil || unknown.GetMedicineId() != "" || unknown.GetLotId() != "" || unknown.GetBaseUnits() != 0 || unknown.GetGtin() != "00012345678905" {
		t.Errorf("an unknown pack: %v, %v", unknown, err)
	}
	_, err = parse("(01)00012345678904")
	wantError(t, err, connect.CodeInvalidArgument, ledger.ReasonScanUnreadable)

	scan := "gs1|(01)0" + boxGTIN + "(17)490228(10)Z-1"
	if got := p.give(t, &stockledgerv1.ReceiveStock{LocationId: "store", LotId: scan, Quantity: 2}).GetStock(); got.GetQuantity() != 20 {
		t.Errorf("two scans: %v", got)
	}
	stock, err := p.query.GetStock(t.Context(), &stockledgerv1.GetStockRequest{ClinicId: c.id, LocationId: "store", MedicineId: scan})
	if err != nil || len(stock.GetRows()) != 3 {
		t.Errorf("stock of what was scanned: %v, %v", stock, err)
	}
	lot, err := p.catalog.GetLot(t.Context(), &stockledgerv1.GetLotRequest{ClinicId: c.id, LotId: scan})
	if err != nil || lot.GetLot().GetLotId() != "Z1" {
		t.Errorf("the lot that was scanned: %v, %v", lot, err)
	}
	_, err = p.catalog.GetLot(t.Context(), &stockledgerv1.GetLotRequest{ClinicId: c.id, LotId: "gs1|nonsense"})
	wantError(t, err, connect.CodeInvalidArgument, ledger.ReasonScanUnreadable)
	_, err = p.query.GetStock(t.Context(), &stockledgerv1.GetStockRequest{ClinicId: c.id, LocationId: scan, MedicineId: "zinc"})
	wantError(t, err, connect.CodeNotFound, ledger.ReasonLocationNotFound)
}

func TestALotIsFoundByItsPackWithoutPacks(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	p := c.person(t, "asha", RolePharmacist)
	p.give(t, &stockledgerv1.RegisterLot{LotId: "Z1", MedicineId: "zinc", Gtin: boxGTIN, LotNumber: "Z-1", Expiry: &date.Date{Year: 2049, Month: 2, Day: 28}})
	got, err := p.catalog.ParseScan(t.Context(), &stockledgerv1.ParseScanRequest{ClinicId: c.id, Scan: "(01)0" + boxGTIN + "(10)Z-1"})
	if err != nil || got.GetLotId() != "Z1" || got.GetMedicineId() != "zinc" || got.GetPack() != "" || got.GetBaseUnits() != 0 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestIdentifiersStandForIds(t *testing.T) {
	t.Parallel()
	c, p := packed(t)
	const location, medicine = stockledgerv1.IdentifierSubject_IDENTIFIER_SUBJECT_LOCATION, stockledgerv1.IdentifierSubject_IDENTIFIER_SUBJECT_MEDICINE
	p.give(t, &stockledgerv1.AddIdentifier{Subject: location, SubjectId: "store", System: "gln", Value: "4012345000009"})
	p.give(t, &stockledgerv1.AddIdentifier{Subject: medicine, SubjectId: "zinc", System: "rxnorm", Value: "11416"})
	p.give(t, &stockledgerv1.AddIdentifier{Subject: stockledgerv1.IdentifierSubject_IDENTIFIER_SUBJECT_SUPPLIER, SubjectId: "Acme Ltd", System: "gln", Value: "4099999000008"})
	p.refused(t, connect.CodeAlreadyExists, ledger.ReasonIdentifierExists, &stockledgerv1.AddIdentifier{Subject: location, SubjectId: "ward", System: "gln", Value: "4012345000009"})

	p.give(t, &stockledgerv1.ReceiveStock{LocationId: "gln|4012345000009", LotId: "L1", Quantity: 1, Supplier: "gln|4099999000008"})
	card, err := p.query.ListMovements(t.Context(), &stockledgerv1.ListMovementsRequest{ClinicId: c.id, LocationId: "gln|4012345000009", MedicineId: "rxnorm|11416", NewestFirst: true, Page: &stockledgerv1.Page{PageSize: 1}})
	if err != nil || card.GetMovements()[0].GetParty() != "Acme Ltd" || card.GetMovements()[0].GetLocationId() != "store" {
		t.Errorf("the stock card: %v, %v", card, err)
	}
	available, err := p.query.CheckAvailability(t.Context(), &stockledgerv1.CheckAvailabilityRequest{
		ClinicId: c.id, Demands: []*stockledgerv1.Demand{{MedicineId: "gtin|" + caseGTIN, Quantity: 1}}, LocationIds: []string{"ward", "gln|4012345000009"},
	})
	if err != nil || available.GetMedicines()[0].GetUsable() != 251 {
		t.Errorf("availability: %v, %v", available, err)
	}
	_, err = p.query.GetStock(t.Context(), &stockledgerv1.GetStockRequest{ClinicId: c.id, LocationId: "gln|1", MedicineId: "zinc"})
	wantError(t, err, connect.CodeNotFound, ledger.ReasonLocationNotFound)

	found, err := p.catalog.LookUpIdentifier(t.Context(), &stockledgerv1.LookUpIdentifierRequest{ClinicId: c.id, System: "gln", Value: "4012345000009"})
	if err != nil || found.GetIdentifier().GetSubject() != location || found.GetIdentifier().GetSubjectId() != "store" {
		t.Errorf("looked up: %v, %v", found, err)
	}
	pack, err := p.catalog.LookUpIdentifier(t.Context(), &stockledgerv1.LookUpIdentifierRequest{ClinicId: c.id, Subject: medicine, System: "gtin", Value: boxGTIN})
	if err != nil || pack.GetIdentifier().GetSubjectId() != "zinc" {
		t.Errorf("a pack: %v, %v", pack, err)
	}
	p.give(t, &stockledgerv1.RemoveIdentifier{Subject: medicine, System: "rxnorm", Value: "11416", ReasonCode: "wrong"})
	_, err = p.catalog.LookUpIdentifier(t.Context(), &stockledgerv1.LookUpIdentifierRequest{ClinicId: c.id, System: "rxnorm", Value: "11416"})
	wantError(t, err, connect.CodeNotFound, ledger.ReasonIdentifierNotFound)
	list, err := p.catalog.ListIdentifiers(t.Context(), &stockledgerv1.ListIdentifiersRequest{ClinicId: c.id})
	if err != nil || len(list.GetIdentifiers()) != 2 {
		t.Errorf("identifiers: %v, %v", list, err)
	}

	// Who is limited to other locations does not learn about this one by them.
	ward := c.person(t, "neema", RolePharmacist, "ward")
	_, err = ward.catalog.LookUpIdentifier(t.Context(), &stockledgerv1.LookUpIdentifierRequest{ClinicId: c.id, Subject: location, System: "gln", Value: "4012345000009"})
	wantError(t, err, connect.CodeNotFound, ledger.ReasonIdentifierNotFound)
	_, err = ward.query.GetStock(t.Context(), &stockledgerv1.GetStockRequest{ClinicId: c.id, LocationId: "gln|4012345000009", MedicineId: "zinc"})
	wantError(t, err, connect.CodePermissionDenied, ledger.ReasonLocationForbidden)
	_, err = ward.try(t, reserve("gln|4012345000009", 1_000_000))
	wantError(t, err, connect.CodePermissionDenied, ledger.ReasonLocationForbidden)
	batch, err := ward.ExecuteBatch(t.Context(), &stockledgerv1.ExecuteBatchRequest{ClinicId: c.id, Commands: keyed(reserve("ward", 1), reserve("gln|4012345000009", 1))})
	if info := wantError(t, err, connect.CodePermissionDenied, ledger.ReasonLocationForbidden); info.GetMetadata()["command_index"] != "1" {
		t.Errorf("in a batch: %v, %v", batch, info)
	}
	seen, err := ward.catalog.ListIdentifiers(t.Context(), &stockledgerv1.ListIdentifiersRequest{ClinicId: c.id})
	if err != nil || slices.ContainsFunc(seen.GetIdentifiers(), func(i *stockledgerv1.Identifier) bool { return i.GetSubject() == location }) {
		t.Errorf("identifiers for the ward: %v, %v", seen, err)
	}
}

func TestReferencesAreBounded(t *testing.T) {
	t.Parallel()
	c := newClinic(t, shared(t))
	p := c.person(t, "asha", RolePharmacist)
	p.refused(t, connect.CodeNotFound, ledger.ReasonLotNotFound, &stockledgerv1.ReceiveStock{LocationId: "store", LotId: "x|" + strings.Repeat("y", 298), Quantity: 1})
	p.refused(t, connect.CodeInvalidArgument, ledger.ReasonInvalidField, &stockledgerv1.ReceiveStock{LocationId: "store", LotId: "x|" + strings.Repeat("y", 299), Quantity: 1})
	p.refused(t, connect.CodeInvalidArgument, ledger.ReasonInvalidField, &stockledgerv1.RegisterLot{
		LotId: "a|b", MedicineId: "zinc", Manufacturer: "Acme", LotNumber: "9", Expiry: fromDate(ledger.DateOf(time.Now().AddDate(1, 0, 0))),
	})
}
