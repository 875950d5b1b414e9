package rpc

import (
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/type/date"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// toCommand reads a command off the wire. What it refuses is only what the core
// has no words for: a date or a field mask that means nothing.
func toCommand(clinic ledger.ClinicID, actor ledger.Actor, c *stockledgerv1.Command, seconds *witnesses) (ledger.Command, *ledger.Rejection) {
	occurred, r := toInstant("occurred_at", c.GetOccurredAt())
	if r != nil {
		return ledger.Command{}, r
	}
	witness, r := seconds.of(c.GetWitnessToken())
	if r != nil {
		return ledger.Command{}, r
	}
	body, r := toBody(c)
	if r != nil {
		return ledger.Command{}, r
	}
	return ledger.Command{
		Clinic: clinic, IdempotencyKey: c.GetIdempotencyKey(), Actor: actor, OccurredAt: occurred, Body: body, Witness: witness,
		LateReasonCode: c.GetLateReasonCode(),
	}, nil
}

func toBody(c *stockledgerv1.Command) (ledger.CommandBody, *ledger.Rejection) {
	switch body := c.GetBody().(type) {
	case *stockledgerv1.Command_CreateClinic:
		return &ledger.CreateClinic{
			Name: body.CreateClinic.GetName(), TimeZone: body.CreateClinic.GetTimeZone(),
			BackdatingDays: body.CreateClinic.GetBackdatingDays(),
		}, nil
	case *stockledgerv1.Command_UpdateClinic:
		return toUpdateClinic(body.UpdateClinic)
	case *stockledgerv1.Command_DeactivateClinic:
		return &ledger.DeactivateClinic{
			Etag: body.DeactivateClinic.GetEtag(), ReasonCode: body.DeactivateClinic.GetReasonCode(),
		}, nil
	case *stockledgerv1.Command_CreateLocation:
		return &ledger.CreateLocation{
			LocationID: ledger.LocationID(body.CreateLocation.GetLocationId()),
			Name:       body.CreateLocation.GetName(), LocationKind: toLocationKind(body.CreateLocation.GetKind()),
		}, nil
	case *stockledgerv1.Command_UpdateLocation:
		return toUpdateLocation(body.UpdateLocation)
	case *stockledgerv1.Command_DeactivateLocation:
		return &ledger.DeactivateLocation{
			LocationID: ledger.LocationID(body.DeactivateLocation.GetLocationId()),
			Etag:       body.DeactivateLocation.GetEtag(), ReasonCode: body.DeactivateLocation.GetReasonCode(),
		}, nil
	case *stockledgerv1.Command_AddMedicine:
		return toAddMedicine(body.AddMedicine), nil
	case *stockledgerv1.Command_UpdateMedicine:
		return toUpdateMedicine(body.UpdateMedicine)
	case *stockledgerv1.Command_DeactivateMedicine:
		return &ledger.DeactivateMedicine{
			MedicineID: ledger.MedicineID(body.DeactivateMedicine.GetMedicineId()),
			Etag:       body.DeactivateMedicine.GetEtag(), ReasonCode: body.DeactivateMedicine.GetReasonCode(),
		}, nil
	case *stockledgerv1.Command_RegisterLot:
		return toRegisterLot(body.RegisterLot)
	case *stockledgerv1.Command_UpdateLot:
		return toUpdateLot(body.UpdateLot)
	case *stockledgerv1.Command_DeactivateLot:
		return &ledger.DeactivateLot{
			LotID: ledger.LotID(body.DeactivateLot.GetLotId()),
			Etag:  body.DeactivateLot.GetEtag(), ReasonCode: body.DeactivateLot.GetReasonCode(),
		}, nil
	}
	return toStockBody(c)
}

func toAddMedicine(b *stockledgerv1.AddMedicine) ledger.CommandBody {
	return &ledger.AddMedicine{
		MedicineID: ledger.MedicineID(b.GetMedicineId()), Name: b.GetName(), BaseUnit: b.GetBaseUnit(),
		Strength: b.GetStrength(), Form: b.GetForm(), ATCCode: b.GetAtcCode(), Category: b.GetCategory(),
		ControlClass: b.GetControlClass(),
	}
}

func toRegisterLot(b *stockledgerv1.RegisterLot) (ledger.CommandBody, *ledger.Rejection) {
	expiry, r := toDate("expiry", b.GetExpiry())
	if r != nil {
		return nil, r
	}
	return &ledger.RegisterLot{
		LotID: ledger.LotID(b.GetLotId()), MedicineID: ledger.MedicineID(b.GetMedicineId()),
		Manufacturer: b.GetManufacturer(), GTIN: b.GetGtin(), LotNumber: b.GetLotNumber(), Expiry: expiry,
	}, nil
}

// masked applies a field mask: each path it names sets one field of an update.
type masked map[string]func()

func (m masked) apply(mask *fieldmaskpb.FieldMask) *ledger.Rejection {
	if len(mask.GetPaths()) == 0 {
		return invalidField("update_mask", "update_mask names no field, so nothing would change.")
	}
	for _, path := range mask.GetPaths() {
		set, ok := m[path]
		if !ok {
			return invalidField("update_mask", "update_mask names %q, which can't be updated.", path)
		}
		set()
	}
	return nil
}

// given returns what sets a field of an update to a value.
func given[T any](field **T, value T) func() {
	return func() { *field = &value }
}

func toUpdateClinic(b *stockledgerv1.UpdateClinic) (ledger.CommandBody, *ledger.Rejection) {
	update := &ledger.UpdateClinic{Etag: b.GetEtag()}
	r := masked{
		"name":            given(&update.Name, b.GetName()),
		"time_zone":       given(&update.TimeZone, b.GetTimeZone()),
		"backdating_days": given(&update.BackdatingDays, b.GetBackdatingDays()),
		"active":          given(&update.Active, b.GetActive()),
	}.apply(b.GetUpdateMask())
	return update, r
}

func toUpdateLocation(b *stockledgerv1.UpdateLocation) (ledger.CommandBody, *ledger.Rejection) {
	update := &ledger.UpdateLocation{LocationID: ledger.LocationID(b.GetLocationId()), Etag: b.GetEtag()}
	r := masked{
		"name":   given(&update.Name, b.GetName()),
		"kind":   given(&update.LocationKind, toLocationKind(b.GetKind())),
		"active": given(&update.Active, b.GetActive()),
	}.apply(b.GetUpdateMask())
	return update, r
}

func toUpdateMedicine(b *stockledgerv1.UpdateMedicine) (ledger.CommandBody, *ledger.Rejection) {
	update := &ledger.UpdateMedicine{MedicineID: ledger.MedicineID(b.GetMedicineId()), Etag: b.GetEtag()}
	r := masked{
		"name":      given(&update.Name, b.GetName()),
		"base_unit": given(&update.BaseUnit, b.GetBaseUnit()),
		"strength":  given(&update.Strength, b.GetStrength()),
		"form":      given(&update.Form, b.GetForm()),
		"atc_code":  given(&update.ATCCode, b.GetAtcCode()),
		"category":  given(&update.Category, b.GetCategory()),
		"active":    given(&update.Active, b.GetActive()),

		"control_class": given(&update.ControlClass, b.GetControlClass()),
	}.apply(b.GetUpdateMask())
	return update, r
}

func toUpdateLot(b *stockledgerv1.UpdateLot) (ledger.CommandBody, *ledger.Rejection) {
	update := &ledger.UpdateLot{LotID: ledger.LotID(b.GetLotId()), Etag: b.GetEtag()}
	// Zero where the mask names no expiry; where it does, the core refuses it.
	expiry, r := toDate("expiry", b.GetExpiry())
	if r != nil {
		return nil, r
	}
	r = masked{
		"manufacturer": given(&update.Manufacturer, b.GetManufacturer()),
		"gtin":         given(&update.GTIN, b.GetGtin()),
		"lot_number":   given(&update.LotNumber, b.GetLotNumber()),
		"expiry":       given(&update.Expiry, expiry),
		"active":       given(&update.Active, b.GetActive()),
	}.apply(b.GetUpdateMask())
	return update, r
}

// toInstant reads an optional time, to the microsecond.
func toInstant(field string, t *timestamppb.Timestamp) (ledger.Instant, *ledger.Rejection) {
	if t == nil {
		return 0, nil
	}
	if err := t.CheckValid(); err != nil {
		return 0, invalidField(field, "%s is not a time between the years 1 and 9999.", field)
	}
	// 1970 begins with the instant that means "not given".
	instant := ledger.InstantOf(t.AsTime())
	if instant <= 0 || instant > ledger.MaxInstant {
		return 0, invalidField(field, "%s is %s; it must lie after the beginning of 1970.", field, t.AsTime().Format(time.RFC3339Nano))
	}
	return instant, nil
}

// toDate reads an optional day.
func toDate(field string, d *date.Date) (ledger.Date, *ledger.Rejection) {
	if d == nil {
		return 0, nil
	}
	day, err := ledger.NewDate(int(d.GetYear()), int(d.GetMonth()), int(d.GetDay()))
	if err != nil {
		return 0, invalidField(field, "%s: %s.", field, err)
	}
	return day, nil
}

// toLocationKind returns zero, which the core refuses, for what it does not
// know.
func toLocationKind(kind stockledgerv1.LocationKind) ledger.LocationKind {
	switch kind {
	case stockledgerv1.LocationKind_LOCATION_KIND_STORE:
		return ledger.Store
	case stockledgerv1.LocationKind_LOCATION_KIND_DISPENSARY:
		return ledger.Dispensary
	case stockledgerv1.LocationKind_LOCATION_KIND_WARD:
		return ledger.Ward
	}
	return 0
}

// toDirection returns zero, which the core refuses, for what it does not know.
func toDirection(direction stockledgerv1.AdjustmentDirection) ledger.Direction {
	switch direction {
	case stockledgerv1.AdjustmentDirection_ADJUSTMENT_DIRECTION_INCREASE:
		return ledger.Increase
	case stockledgerv1.AdjustmentDirection_ADJUSTMENT_DIRECTION_DECREASE:
		return ledger.Decrease
	}
	return 0
}

func fromInstant(i ledger.Instant) *timestamppb.Timestamp {
	if i == 0 {
		return nil
	}
	return timestamppb.New(i.Time())
}

func fromDate(d ledger.Date) *date.Date {
	if d == 0 {
		return nil
	}
	t := d.Time()
	return &date.Date{Year: int32(t.Year()), Month: int32(t.Month()), Day: int32(t.Day())}
}

func fromBalances(b ledger.Balances) *stockledgerv1.Balances {
	return &stockledgerv1.Balances{
		Available: b.Available, Reserved: b.Reserved, Pending: b.Pending,
		Quarantined: b.Quarantined, InTransit: b.InTransit,
	}
}

// bodyName is the name of a command's body on the wire, such as reserve_stock.
func bodyName(c *stockledgerv1.Command) string {
	field := c.ProtoReflect().WhichOneof(bodyOneof)
	if field == nil {
		return ""
	}
	return string(field.Name())
}

var bodyOneof protoreflect.OneofDescriptor = commandDescriptor.Oneofs().ByName("body")

// inCommand spells a field that a rejection names as a path from the command.
// The core names fields of a body without it; the schema's rules give paths.
func inCommand(c *stockledgerv1.Command, r *ledger.Rejection) *ledger.Rejection {
	switch r.Field {
	case "", "idempotency_key", "occurred_at", "witness_token", "clinic_id", "body":
		return r
	}
	name := bodyName(c)
	if name == "" || strings.HasPrefix(r.Field, name+".") {
		return r
	}
	qualified := *r
	qualified.Field = name + "." + r.Field
	if c.GetRecordDowntime() != nil && strings.HasSuffix(r.Field, ".location_id") {
		qualified.Field = name + ".location_id" // the core has one in each thing that was done
	}
	return &qualified
}

// stockShortage is the typed detail of INSUFFICIENT_STOCK. The core tells its
// facts as text.
func stockShortage(r *ledger.Rejection) *stockledgerv1.StockShortage {
	units := func(key string) int64 {
		n, err := strconv.ParseInt(r.Metadata[key], 10, 64)
		if err != nil {
			return 0
		}
		return n
	}
	return &stockledgerv1.StockShortage{
		LocationId: r.Metadata["location_id"], MedicineId: r.Metadata["medicine_id"], LotId: r.Metadata["lot_id"],
		Requested: units("requested"), Available: units("available"), Reserved: units("reserved"),
	}
}
