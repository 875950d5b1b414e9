package ledger

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
)

// Kind identifies a command and the event it becomes. The numbers are part of
// the stored format and never change.
type Kind int16

// The kinds of commands.
const (
	KindCreateClinic     Kind = 1
	KindUpdateClinic     Kind = 2
	KindDeactivateClinic Kind = 3

	KindCreateLocation     Kind = 4
	KindUpdateLocation     Kind = 5
	KindDeactivateLocation Kind = 6

	KindAddMedicine        Kind = 7
	KindUpdateMedicine     Kind = 8
	KindDeactivateMedicine Kind = 9

	KindRegisterLot   Kind = 10
	KindUpdateLot     Kind = 11
	KindDeactivateLot Kind = 12

	KindReceiveStock      Kind = 20
	KindReserveStock      Kind = 21
	KindReleaseStock      Kind = 22
	KindExpireReservation Kind = 23
	KindIssueStock        Kind = 24
	KindAdjustStock       Kind = 25
	KindWriteOffStock     Kind = 26
	KindReturnToSupplier  Kind = 27
)

// String returns the command's name in the API.
func (k Kind) String() string {
	if spec, ok := kinds[k]; ok {
		return spec.name
	}
	return fmt.Sprintf("kind(%d)", int16(k))
}

type kindSpec struct {
	name    string
	command func() CommandBody // nil for what is no command
	event   func() EventBody
}

// KindByName returns the kind of the command with a name in the API.
func KindByName(name string) (Kind, bool) {
	for kind, spec := range kinds {
		if spec.name == name && spec.command != nil {
			return kind, true
		}
	}
	return 0, false
}

// Kinds returns the kinds of all commands, in their order.
func Kinds() []Kind {
	var all []Kind
	for kind, spec := range kinds {
		if spec.command != nil {
			all = append(all, kind)
		}
	}
	slices.Sort(all)
	return all
}

// changed makes the registry's entry of a command whose event is a Change.
func changed(kind Kind, name string, command func() CommandBody) kindSpec {
	return kindSpec{name, command, func() EventBody { return &Change{of: kind} }}
}

// kinds is the registry of everything that can stand in a journal.
var kinds map[Kind]kindSpec

// The registry is filled here because its constructors lead back to it.
func init() {
	kinds = map[Kind]kindSpec{
		KindCreateClinic:       {"CreateClinic", func() CommandBody { return new(CreateClinic) }, func() EventBody { return new(ClinicCreated) }},
		KindUpdateClinic:       {"UpdateClinic", func() CommandBody { return new(UpdateClinic) }, func() EventBody { return new(ClinicUpdated) }},
		KindDeactivateClinic:   {"DeactivateClinic", func() CommandBody { return new(DeactivateClinic) }, func() EventBody { return new(ClinicDeactivated) }},
		KindCreateLocation:     {"CreateLocation", func() CommandBody { return new(CreateLocation) }, func() EventBody { return new(LocationCreated) }},
		KindUpdateLocation:     {"UpdateLocation", func() CommandBody { return new(UpdateLocation) }, func() EventBody { return new(LocationUpdated) }},
		KindDeactivateLocation: {"DeactivateLocation", func() CommandBody { return new(DeactivateLocation) }, func() EventBody { return new(LocationDeactivated) }},
		KindAddMedicine:        {"AddMedicine", func() CommandBody { return new(AddMedicine) }, func() EventBody { return new(MedicineAdded) }},
		KindUpdateMedicine:     {"UpdateMedicine", func() CommandBody { return new(UpdateMedicine) }, func() EventBody { return new(MedicineUpdated) }},
		KindDeactivateMedicine: {"DeactivateMedicine", func() CommandBody { return new(DeactivateMedicine) }, func() EventBody { return new(MedicineDeactivated) }},
		KindRegisterLot:        {"RegisterLot", func() CommandBody { return new(RegisterLot) }, func() EventBody { return new(LotRegistered) }},
		KindUpdateLot:          {"UpdateLot", func() CommandBody { return new(UpdateLot) }, func() EventBody { return new(LotUpdated) }},
		KindDeactivateLot:      {"DeactivateLot", func() CommandBody { return new(DeactivateLot) }, func() EventBody { return new(LotDeactivated) }},
		KindReceiveStock:       {"ReceiveStock", func() CommandBody { return new(ReceiveStock) }, func() EventBody { return new(StockReceived) }},
		KindReserveStock:       {"ReserveStock", func() CommandBody { return new(ReserveStock) }, func() EventBody { return new(StockReserved) }},
		KindReleaseStock:       {"ReleaseStock", func() CommandBody { return new(ReleaseStock) }, func() EventBody { return new(StockReleased) }},
		KindExpireReservation:  {"ExpireReservation", func() CommandBody { return new(ExpireReservation) }, func() EventBody { return new(ReservationExpired) }},
		KindIssueStock:         {"IssueStock", func() CommandBody { return new(IssueStock) }, func() EventBody { return new(StockIssued) }},
		KindAdjustStock:        {"AdjustStock", func() CommandBody { return new(AdjustStock) }, func() EventBody { return new(StockAdjusted) }},
		KindWriteOffStock:      {"WriteOffStock", func() CommandBody { return new(WriteOffStock) }, func() EventBody { return new(StockWrittenOff) }},
		KindReturnToSupplier:   {"ReturnToSupplier", func() CommandBody { return new(ReturnToSupplier) }, func() EventBody { return new(StockReturnedToSupplier) }},
		KindSetPacks:           changed(KindSetPacks, "SetPacks", func() CommandBody { return new(SetPacks) }),
		KindAddIdentifier:      changed(KindAddIdentifier, "AddIdentifier", func() CommandBody { return new(AddIdentifier) }),
		KindRemoveIdentifier:   changed(KindRemoveIdentifier, "RemoveIdentifier", func() CommandBody { return new(RemoveIdentifier) }),
		KindSetPolicy:          changed(KindSetPolicy, "SetPolicy", func() CommandBody { return new(SetPolicy) }),
		KindUpdateStockLevels:  changed(KindUpdateStockLevels, "UpdateStockLevels", func() CommandBody { return new(UpdateStockLevels) }),
		KindReverseReceipt:     changed(KindReverseReceipt, "ReverseReceipt", func() CommandBody { return new(ReverseReceipt) }),
		KindStartCount:         changed(KindStartCount, "StartCount", func() CommandBody { return new(StartCount) }),
		KindRecordCount:        changed(KindRecordCount, "RecordCount", func() CommandBody { return new(RecordCount) }),
		KindCompleteCount:      changed(KindCompleteCount, "CompleteCount", func() CommandBody { return new(CompleteCount) }),
		KindCancelCount:        changed(KindCancelCount, "CancelCount", func() CommandBody { return new(CancelCount) }),
		KindConvertStock:       changed(KindConvertStock, "ConvertStock", func() CommandBody { return new(ConvertStock) }),
		KindOpenContainer:      changed(KindOpenContainer, "OpenContainer", func() CommandBody { return new(OpenContainer) }),
		KindQuarantineLot:      changed(KindQuarantineLot, "QuarantineLot", func() CommandBody { return new(QuarantineLot) }),
		KindReleaseLot:         changed(KindReleaseLot, "ReleaseLot", func() CommandBody { return new(ReleaseLot) }),
		KindRecallLot:          changed(KindRecallLot, "RecallLot", func() CommandBody { return new(RecallLot) }),
		KindContinueRecall:     changed(KindContinueRecall, "ContinueRecall", func() CommandBody { return new(ContinueRecall) }),
		KindLiftRecall:         changed(KindLiftRecall, "LiftRecall", func() CommandBody { return new(LiftRecall) }),
		KindTransferStock:      changed(KindTransferStock, "TransferStock", func() CommandBody { return new(TransferStock) }),
		KindApproveTransfer:    changed(KindApproveTransfer, "ApproveTransfer", func() CommandBody { return new(ApproveTransfer) }),
		KindRejectTransfer:     changed(KindRejectTransfer, "RejectTransfer", func() CommandBody { return new(RejectTransfer) }),
		KindCancelTransfer:     changed(KindCancelTransfer, "CancelTransfer", func() CommandBody { return new(CancelTransfer) }),
		KindDispatchTransfer:   changed(KindDispatchTransfer, "DispatchTransfer", func() CommandBody { return new(DispatchTransfer) }),
		KindReceiveTransfer:    changed(KindReceiveTransfer, "ReceiveTransfer", func() CommandBody { return new(ReceiveTransfer) }),
		KindCompleteTransfer:   changed(KindCompleteTransfer, "CompleteTransfer", func() CommandBody { return new(CompleteTransfer) }),
		KindLendStock:          changed(KindLendStock, "LendStock", func() CommandBody { return new(LendStock) }),
		KindBorrowStock:        changed(KindBorrowStock, "BorrowStock", func() CommandBody { return new(BorrowStock) }),
		KindRepayLoan:          changed(KindRepayLoan, "RepayLoan", func() CommandBody { return new(RepayLoan) }),
		KindReceiveRepayment:   changed(KindReceiveRepayment, "ReceiveRepayment", func() CommandBody { return new(ReceiveRepayment) }),
		KindApproveCommand:     changed(KindApproveCommand, "ApproveCommand", func() CommandBody { return new(ApproveCommand) }),
		KindRejectCommand:      changed(KindRejectCommand, "RejectCommand", func() CommandBody { return new(RejectCommand) }),
		KindLapseCommand:       changed(KindLapseCommand, "LapseCommand", func() CommandBody { return new(LapseCommand) }),
		KindRequestApproval:    {"RequestApproval", nil, func() EventBody { return &Change{of: KindRequestApproval} }},
	}
	maps.Copy(kinds, pharmacyKinds())
}

// pharmacyKinds are the commands of the pharmacy.
func pharmacyKinds() map[Kind]kindSpec {
	return map[Kind]kindSpec{
		KindSetPrice:                   changed(KindSetPrice, "SetPrice", func() CommandBody { return new(SetPrice) }),
		KindSetControlLimit:            changed(KindSetControlLimit, "SetControlLimit", func() CommandBody { return new(SetControlLimit) }),
		KindCreatePrescription:         changed(KindCreatePrescription, "CreatePrescription", func() CommandBody { return new(CreatePrescription) }),
		KindCancelPrescription:         changed(KindCancelPrescription, "CancelPrescription", func() CommandBody { return new(CancelPrescription) }),
		KindDispenseMedicine:           changed(KindDispenseMedicine, "DispenseMedicine", func() CommandBody { return new(DispenseMedicine) }),
		KindPrepareDispensing:          changed(KindPrepareDispensing, "PrepareDispensing", func() CommandBody { return new(PrepareDispensing) }),
		KindCheckDispensing:            changed(KindCheckDispensing, "CheckDispensing", func() CommandBody { return new(CheckDispensing) }),
		KindHandOver:                   changed(KindHandOver, "HandOver", func() CommandBody { return new(HandOver) }),
		KindCancelDispensing:           changed(KindCancelDispensing, "CancelDispensing", func() CommandBody { return new(CancelDispensing) }),
		KindReturnFromPatient:          changed(KindReturnFromPatient, "ReturnFromPatient", func() CommandBody { return new(ReturnFromPatient) }),
		KindRecordDowntime:             changed(KindRecordDowntime, "RecordDowntime", func() CommandBody { return new(RecordDowntime) }),
		KindSetPrescriptionTemplate:    changed(KindSetPrescriptionTemplate, "SetPrescriptionTemplate", func() CommandBody { return new(SetPrescriptionTemplate) }),
		KindRemovePrescriptionTemplate: changed(KindRemovePrescriptionTemplate, "RemovePrescriptionTemplate", func() CommandBody { return new(RemovePrescriptionTemplate) }),
		KindRegisterPatient:            changed(KindRegisterPatient, "RegisterPatient", func() CommandBody { return new(RegisterPatient) }),
		KindUpdatePatient:              changed(KindUpdatePatient, "UpdatePatient", func() CommandBody { return new(UpdatePatient) }),
		KindErasePatient:               changed(KindErasePatient, "ErasePatient", func() CommandBody { return new(ErasePatient) }),
		KindPlaceLegalHold:             changed(KindPlaceLegalHold, "PlaceLegalHold", func() CommandBody { return new(PlaceLegalHold) }),
		KindLiftLegalHold:              changed(KindLiftLegalHold, "LiftLegalHold", func() CommandBody { return new(LiftLegalHold) }),
	}
}

// SystemKeyPrefix begins the idempotency keys of the commands that the ledger
// gives itself. Callers' keys must not begin with it.
const SystemKeyPrefix = "sys:"

// SystemActor gives the commands that no person gave.
const SystemActor Actor = "system"

// Command is a request to change one clinic's stock or formulary.
type Command struct {
	Clinic ClinicID
	// IdempotencyKey is 1 to 64 printable ASCII characters, chosen by the
	// caller and bound for ever once the command is accepted.
	IdempotencyKey string
	Actor          Actor
	// OccurredAt is when it happened in the world; zero means when it is
	// recorded.
	OccurredAt Instant
	Body       CommandBody
	// Witness is the second person who stands by, where there is one: the
	// subject of a verified token, and never the actor.
	Witness Actor
	// LateReasonCode says why OccurredAt lies before the clinic's window for
	// backdating; without it, such a command is rejected.
	LateReasonCode string
}

// RequestHash is what tells a repeated command from another one under the same
// idempotency key.
type RequestHash [16]byte

// RequestHash covers clinic, actor, occurred_at and body in the core's own
// encoding. It is the first half of a SHA-256.
func (c Command) RequestHash() RequestHash {
	var scratch [256]byte
	w := codec{buf: scratch[:0]}
	kind := c.Body.Kind()
	number(&w, &kind)
	c.fields(&w)
	sum := sha256.Sum256(w.buf)
	return RequestHash(sum[:16])
}

func (c *Command) fields(w *codec) {
	text(w, &c.Clinic)
	text(w, &c.Actor)
	number(w, &c.OccurredAt)
	c.Body.fields(w)
	extraText(w, extraWitness, &c.Witness)
	extraText(w, extraLateReasonCode, &c.LateReasonCode)
}

// commandVersion is the format of [AppendCommand].
const commandVersion = 1

// AppendCommand appends to dst what [DecodeCommand] reads, for a command that
// waits or travels. Only a command that passes [Check] can be read again.
func AppendCommand(dst []byte, c Command) []byte {
	w := codec{buf: dst}
	version, kind := commandVersion, c.Body.Kind()
	number(&w, &version)
	number(&w, &kind)
	text(&w, &c.IdempotencyKey)
	c.fields(&w)
	return w.buf
}

// DecodeCommand reads what [AppendCommand] wrote, in this release or an earlier
// one. A kind or a field that a later release added is an error.
func DecodeCommand(stored []byte) (Command, error) {
	r := codec{buf: stored, reading: true}
	var version int
	var kind Kind
	number(&r, &version)
	number(&r, &kind)
	if r.err != nil {
		return Command{}, fmt.Errorf("command header: %w", r.err)
	}
	if version != commandVersion {
		return Command{}, fmt.Errorf("command format version %d is unknown to this release, which reads version %d", version, commandVersion)
	}
	spec, ok := kinds[kind]
	if !ok || spec.command == nil {
		return Command{}, fmt.Errorf("command kind %d is unknown to this release", int16(kind))
	}
	c := Command{Body: spec.command()}
	text(&r, &c.IdempotencyKey)
	c.fields(&r)
	if r.err != nil {
		return Command{}, fmt.Errorf("%s command: %w", spec.name, r.err)
	}
	if len(r.buf) != 0 {
		return Command{}, fmt.Errorf("%s command: %d bytes follow its end", spec.name, len(r.buf))
	}
	return c, nil
}

// CommandBody is one of the command types of this package.
type CommandBody interface {
	Kind() Kind
	fields(*codec)
	// check judges the body by itself, without state.
	check() *Rejection
	// decide judges it against the state and resolves every fact.
	decide(s *State, by Actor, at Instant) (EventBody, *Rejection)
}

// LocationKind says what a location is for.
type LocationKind int16

// The kinds of locations.
const (
	Store      LocationKind = 1
	Dispensary LocationKind = 2
	Ward       LocationKind = 3
)

// Direction says whether an adjustment adds or removes units.
type Direction int16

// The directions of an adjustment.
const (
	Increase Direction = 1
	Decrease Direction = 2
)

// CreateClinic begins a clinic's journal.
type CreateClinic struct {
	Name     string
	TimeZone string // IANA name, e.g. Africa/Nairobi; expiry days end by it
	// BackdatingDays is how many days before the present occurred_at may lie,
	// 0 to 3650.
	BackdatingDays int64
}

// UpdateClinic changes the given fields.
type UpdateClinic struct {
	Etag           string
	Name           *string
	TimeZone       *string
	BackdatingDays *int64
	Active         *bool
}

// DeactivateClinic ends a clinic that holds no stock. It can be reactivated.
type DeactivateClinic struct {
	Etag       string
	ReasonCode string
}

// CreateLocation adds a place that holds stock.
type CreateLocation struct {
	LocationID   LocationID // empty: the server makes one
	Name         string     // unique in the clinic
	LocationKind LocationKind
}

// UpdateLocation changes the given fields.
type UpdateLocation struct {
	LocationID   LocationID
	Etag         string
	Name         *string
	LocationKind *LocationKind
	Active       *bool
}

// DeactivateLocation ends a location that holds no stock.
type DeactivateLocation struct {
	LocationID LocationID
	Etag       string
	ReasonCode string
}

// AddMedicine adds an item to the formulary. Name, strength and form together
// are unique in the clinic, without regard to case.
type AddMedicine struct {
	MedicineID MedicineID // empty: the server makes one
	Name       string
	BaseUnit   string // what one unit of quantity is: tablet, ml, IU
	Strength   string
	Form       string
	ATCCode    string
	Category   string
	// ControlClass groups the medicines that the law controls alike; empty
	// for the others.
	ControlClass string
}

// UpdateMedicine changes the given fields. The base unit is fixed once a lot
// is registered.
type UpdateMedicine struct {
	MedicineID MedicineID
	Etag       string
	Name       *string
	BaseUnit   *string
	Strength   *string
	Form       *string
	ATCCode    *string
	Category   *string
	Active     *bool

	ControlClass *string
}

// DeactivateMedicine ends a medicine of which no stock remains.
type DeactivateMedicine struct {
	MedicineID MedicineID
	Etag       string
	ReasonCode string
}

// RegisterLot makes a lot known. Medicine, GTIN (or where there is none,
// manufacturer) and lot number together are unique in the clinic.
type RegisterLot struct {
	LotID        LotID // empty: the server makes one
	MedicineID   MedicineID
	Manufacturer string
	GTIN         string // 8, 12, 13 or 14 digits with a valid check digit
	LotNumber    string
	Expiry       Date // the last usable day, in the clinic's time zone
}

// UpdateLot changes the given fields, for example an expiry entered wrong.
type UpdateLot struct {
	LotID        LotID
	Etag         string
	Manufacturer *string
	GTIN         *string
	LotNumber    *string
	Expiry       *Date
	Active       *bool
}

// DeactivateLot ends a lot of which no stock remains.
type DeactivateLot struct {
	LotID      LotID
	Etag       string
	ReasonCode string
}

// ReceiveStock takes units in from a supplier.
type ReceiveStock struct {
	LocationID LocationID
	LotID      LotID
	Quantity   int64
	Supplier   string
	Reference  string // delivery note or order
	Pack       string // what Quantity counts; empty: base units
}

// ReserveStock holds units for a reason until a deadline, first expired first,
// over as many lots as it takes.
type ReserveStock struct {
	LocationID LocationID
	MedicineID MedicineID
	LotID      LotID // empty: any lot
	Quantity   int64
	ReasonCode string
	Deadline   Instant
	LastsUntil Date   // zero: any; else only lots usable until this day
	Pack       string // what Quantity counts; empty: base units
}

// ReleaseStock gives up a hold, or a part of it.
type ReleaseStock struct {
	HoldID     HoldID
	Quantity   int64 // zero: all that is left
	ReasonCode string
}

// ExpireReservation gives up a hold whose deadline has passed.
type ExpireReservation struct {
	HoldID HoldID
}

// IssueStock uses units without a patient: from a hold, or straight from the
// shelf, first expired first.
type IssueStock struct {
	HoldID     HoldID
	LocationID LocationID // with MedicineID, where there is no hold
	MedicineID MedicineID
	LotID      LotID // empty: any lot
	Quantity   int64 // with a hold, zero means all that is left
	Recipient  string
	ReasonCode string
	Pack       string // what Quantity counts; empty: base units
}

// AdjustStock corrects the available units of a lot at a location.
type AdjustStock struct {
	LocationID LocationID
	LotID      LotID
	Direction  Direction
	Quantity   int64
	ReasonCode string
	Pack       string // what Quantity counts; empty: base units
}

// WriteOffStock takes available units of a lot out as wasted: expired, broken,
// contaminated. Expired lots are its main business.
type WriteOffStock struct {
	LocationID LocationID
	LotID      LotID
	Quantity   int64
	ReasonCode string
	Reference  string // the certificate of destruction, for example
	// FromQuarantine takes the units out of quarantine.
	FromQuarantine bool
	Pack           string // what Quantity counts; empty: base units
}

// ReturnToSupplier gives available units of a lot back to who delivered them,
// expired or not.
type ReturnToSupplier struct {
	LocationID LocationID
	LotID      LotID
	Quantity   int64
	ReasonCode string
	Supplier   string
	Reference  string // the return note
	// FromQuarantine takes the units out of quarantine.
	FromQuarantine bool
	Pack           string // what Quantity counts; empty: base units
}

// Kind identifies the command.
func (*CreateClinic) Kind() Kind { return KindCreateClinic }

// Kind identifies the command.
func (*UpdateClinic) Kind() Kind { return KindUpdateClinic }

// Kind identifies the command.
func (*DeactivateClinic) Kind() Kind { return KindDeactivateClinic }

// Kind identifies the command.
func (*CreateLocation) Kind() Kind { return KindCreateLocation }

// Kind identifies the command.
func (*UpdateLocation) Kind() Kind { return KindUpdateLocation }

// Kind identifies the command.
func (*DeactivateLocation) Kind() Kind { return KindDeactivateLocation }

// Kind identifies the command.
func (*AddMedicine) Kind() Kind { return KindAddMedicine }

// Kind identifies the command.
func (*UpdateMedicine) Kind() Kind { return KindUpdateMedicine }

// Kind identifies the command.
func (*DeactivateMedicine) Kind() Kind { return KindDeactivateMedicine }

// Kind identifies the command.
func (*RegisterLot) Kind() Kind { return KindRegisterLot }

// Kind identifies the command.
func (*UpdateLot) Kind() Kind { return KindUpdateLot }

// Kind identifies the command.
func (*DeactivateLot) Kind() Kind { return KindDeactivateLot }

// Kind identifies the command.
func (*ReceiveStock) Kind() Kind { return KindReceiveStock }

// Kind identifies the command.
func (*ReserveStock) Kind() Kind { return KindReserveStock }

// Kind identifies the command.
func (*ReleaseStock) Kind() Kind { return KindReleaseStock }

// Kind identifies the command.
func (*ExpireReservation) Kind() Kind { return KindExpireReservation }

// Kind identifies the command.
func (*IssueStock) Kind() Kind { return KindIssueStock }

// Kind identifies the command.
func (*AdjustStock) Kind() Kind { return KindAdjustStock }

// Kind identifies the command.
func (*WriteOffStock) Kind() Kind { return KindWriteOffStock }

// Kind identifies the command.
func (*ReturnToSupplier) Kind() Kind { return KindReturnToSupplier }

func (b *CreateClinic) fields(c *codec) {
	text(c, &b.Name)
	text(c, &b.TimeZone)
	number(c, &b.BackdatingDays)
}

func (b *UpdateClinic) fields(c *codec) {
	text(c, &b.Etag)
	optional(c, &b.Name, text[string])
	optional(c, &b.TimeZone, text[string])
	optional(c, &b.BackdatingDays, number[int64])
	optional(c, &b.Active, flagField)
}

func (b *DeactivateClinic) fields(c *codec) {
	text(c, &b.Etag)
	text(c, &b.ReasonCode)
}

func (b *CreateLocation) fields(c *codec) {
	text(c, &b.LocationID)
	text(c, &b.Name)
	number(c, &b.LocationKind)
}

func (b *UpdateLocation) fields(c *codec) {
	text(c, &b.LocationID)
	text(c, &b.Etag)
	optional(c, &b.Name, text[string])
	optional(c, &b.LocationKind, number[LocationKind])
	optional(c, &b.Active, flagField)
}

func (b *DeactivateLocation) fields(c *codec) {
	text(c, &b.LocationID)
	text(c, &b.Etag)
	text(c, &b.ReasonCode)
}

func (b *AddMedicine) fields(c *codec) {
	text(c, &b.MedicineID)
	text(c, &b.Name)
	text(c, &b.BaseUnit)
	text(c, &b.Strength)
	text(c, &b.Form)
	text(c, &b.ATCCode)
	text(c, &b.Category)
	extraText(c, extraControlClass, &b.ControlClass)
}

func (b *UpdateMedicine) fields(c *codec) {
	text(c, &b.MedicineID)
	text(c, &b.Etag)
	optional(c, &b.Name, text[string])
	optional(c, &b.BaseUnit, text[string])
	optional(c, &b.Strength, text[string])
	optional(c, &b.Form, text[string])
	optional(c, &b.ATCCode, text[string])
	optional(c, &b.Category, text[string])
	optional(c, &b.Active, flagField)
	extraOptional(c, extraControlClass, &b.ControlClass)
}

func (b *DeactivateMedicine) fields(c *codec) {
	text(c, &b.MedicineID)
	text(c, &b.Etag)
	text(c, &b.ReasonCode)
}

func (b *RegisterLot) fields(c *codec) {
	text(c, &b.LotID)
	text(c, &b.MedicineID)
	text(c, &b.Manufacturer)
	text(c, &b.GTIN)
	text(c, &b.LotNumber)
	number(c, &b.Expiry)
}

func (b *UpdateLot) fields(c *codec) {
	text(c, &b.LotID)
	text(c, &b.Etag)
	optional(c, &b.Manufacturer, text[string])
	optional(c, &b.GTIN, text[string])
	optional(c, &b.LotNumber, text[string])
	optional(c, &b.Expiry, number[Date])
	optional(c, &b.Active, flagField)
}

func (b *DeactivateLot) fields(c *codec) {
	text(c, &b.LotID)
	text(c, &b.Etag)
	text(c, &b.ReasonCode)
}

func (b *ReceiveStock) fields(c *codec) {
	text(c, &b.LocationID)
	text(c, &b.LotID)
	number(c, &b.Quantity)
	text(c, &b.Supplier)
	text(c, &b.Reference)
	extraText(c, extraPack, &b.Pack)
}

func (b *ReserveStock) fields(c *codec) {
	text(c, &b.LocationID)
	text(c, &b.MedicineID)
	text(c, &b.LotID)
	number(c, &b.Quantity)
	text(c, &b.ReasonCode)
	number(c, &b.Deadline)
	number(c, &b.LastsUntil)
	extraText(c, extraPack, &b.Pack)
}

func (b *ReleaseStock) fields(c *codec) {
	text(c, &b.HoldID)
	number(c, &b.Quantity)
	text(c, &b.ReasonCode)
}

func (b *ExpireReservation) fields(c *codec) { text(c, &b.HoldID) }

func (b *IssueStock) fields(c *codec) {
	text(c, &b.HoldID)
	text(c, &b.LocationID)
	text(c, &b.MedicineID)
	text(c, &b.LotID)
	number(c, &b.Quantity)
	text(c, &b.Recipient)
	text(c, &b.ReasonCode)
	extraText(c, extraPack, &b.Pack)
}

func (b *AdjustStock) fields(c *codec) {
	text(c, &b.LocationID)
	text(c, &b.LotID)
	number(c, &b.Direction)
	number(c, &b.Quantity)
	text(c, &b.ReasonCode)
	extraText(c, extraPack, &b.Pack)
}

func (b *WriteOffStock) fields(c *codec) {
	text(c, &b.LocationID)
	text(c, &b.LotID)
	number(c, &b.Quantity)
	text(c, &b.ReasonCode)
	text(c, &b.Reference)
	extraFlag(c, extraFromQuarantine, &b.FromQuarantine)
	extraText(c, extraPack, &b.Pack)
}

func (b *ReturnToSupplier) fields(c *codec) {
	text(c, &b.LocationID)
	text(c, &b.LotID)
	number(c, &b.Quantity)
	text(c, &b.ReasonCode)
	text(c, &b.Supplier)
	text(c, &b.Reference)
	extraFlag(c, extraFromQuarantine, &b.FromQuarantine)
	extraText(c, extraPack, &b.Pack)
}
