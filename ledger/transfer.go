package ledger

import (
	"fmt"
	"slices"
)

// TransferID names a transfer, and is what people call it: TR- and the sequence
// of the command that asked for it. It is unique in the clinic.
type TransferID string

const transferPrefix = "TR-"

// Kinds of commands about transfers between two locations of a clinic.
const (
	KindTransferStock    Kind = 40
	KindApproveTransfer  Kind = 41
	KindRejectTransfer   Kind = 42
	KindCancelTransfer   Kind = 43
	KindDispatchTransfer Kind = 44
	KindReceiveTransfer  Kind = 45
	KindCompleteTransfer Kind = 46
)

// TransferStatus says how far a transfer has come. The numbers are stored.
type TransferStatus int16

// The states of a transfer.
const (
	TransferRequested TransferStatus = 1 // nothing is held
	TransferApproved  TransferStatus = 2 // the units are reserved at the source
	TransferInTransit TransferStatus = 3 // they left, and still belong to the source
	TransferReceived  TransferStatus = 4 // nothing is under way any more
	TransferCompleted TransferStatus = 5
	TransferRejected  TransferStatus = 6
	TransferCancelled TransferStatus = 7
)

// Limits of one transfer.
const (
	maxTransferLines   = 100
	maxTransferParcels = 500
)

// Transfer is stock on its way from one location of the clinic to another.
type Transfer struct {
	TransferID TransferID
	From, To   LocationID
	Status     TransferStatus
	Lines      []TransferLine
	Parcels    []Parcel // the lots that serve it, once it is approved
	HoldIDs    []HoldID // what reserves them until it is dispatched
	Requester  Actor
	ReasonCode string
	Reference  string
	DispatchBy Instant // after it, the transfer cannot set out, and its holds may be given up
	ReceiveBy  Instant // after it, the transfer counts as overdue; zero: never
}

// TransferLine is what was asked for, in base units.
type TransferLine struct {
	Medicine MedicineID
	Lot      LotID // empty: any, first expired first
	Quantity int64
}

// Parcel is one lot's part in a transfer, in base units.
type Parcel struct {
	Medicine   MedicineID
	Lot        LotID
	Approved   int64 // reserved when it was approved, less what a recall took out
	Dispatched int64
	Received   int64
	Returned   int64 // came back to the source
	Missing    int64 // never arrived: gone to variance
	Surplus    int64 // arrived without having been sent: come from variance
}

// InTransit is what left the source and has not been accounted for.
func (p Parcel) InTransit() int64 { return p.Dispatched - p.Received - p.Returned - p.Missing }

// Outstanding is what the transfer has yet to bring to its destination, in base
// units by medicine: what was asked for, once approved what was approved, and on
// its way what is in transit.
func (t *Transfer) Outstanding() map[MedicineID]int64 {
	units := make(map[MedicineID]int64)
	switch t.Status {
	case TransferRequested:
		for _, line := range t.Lines {
			units[line.Medicine] += line.Quantity
		}
	case TransferApproved:
		for _, p := range t.Parcels {
			units[p.Medicine] += p.Approved
		}
	case TransferInTransit:
		for _, p := range t.Parcels {
			units[p.Medicine] += p.InTransit()
		}
	}
	return units
}

// About is for the index of documents.
func (t *Transfer) About() About {
	return About{
		DocumentKey: DocumentKey{DocumentTransfer, string(t.TransferID)},
		Open:        t.Status < TransferCompleted,
		Location:    t.From, OtherLocation: t.To,
	}
}

func (t *Transfer) fields(c *codec) {
	text(c, &t.TransferID)
	text(c, &t.From)
	text(c, &t.To)
	number(c, &t.Status)
	transferLines(c, &t.Lines)
	list(c, &t.Parcels, 8, func(c *codec, p *Parcel) {
		text(c, &p.Medicine)
		text(c, &p.Lot)
		number(c, &p.Approved)
		number(c, &p.Dispatched)
		number(c, &p.Received)
		number(c, &p.Returned)
		number(c, &p.Missing)
		number(c, &p.Surplus)
	})
	list(c, &t.HoldIDs, 1, text[HoldID])
	text(c, &t.Requester)
	text(c, &t.ReasonCode)
	text(c, &t.Reference)
	number(c, &t.DispatchBy)
	number(c, &t.ReceiveBy)
}

func transferLines(c *codec, p *[]TransferLine) {
	list(c, p, 3, func(c *codec, l *TransferLine) {
		text(c, &l.Medicine)
		text(c, &l.Lot)
		number(c, &l.Quantity)
	})
}

func (t *Transfer) clone() *Transfer {
	next := *t
	next.Parcels = slices.Clone(t.Parcels)
	return &next
}

func (t *Transfer) underWay() int64 {
	var units int64
	for _, p := range t.Parcels {
		units += p.InTransit()
	}
	return units
}

// TransferStock asks for stock to be moved to another location. Nothing is held
// until it is approved.
type TransferStock struct {
	From, To   LocationID
	Lines      []RequestedLine
	DispatchBy Instant
	ReceiveBy  Instant // zero: no matter when
	ReasonCode string
	Reference  string
}

// RequestedLine asks for units of a medicine, or of one lot of it.
type RequestedLine struct {
	MedicineID MedicineID
	LotID      LotID // empty: any
	Quantity   int64
	Pack       string // what Quantity counts; empty: base units
}

// ApproveTransfer reserves the units at the source, first expired first.
type ApproveTransfer struct {
	TransferID TransferID
	Lines      []RequestedLine // empty: all that was asked for; else at most that
}

// RejectTransfer refuses a transfer that was asked for.
type RejectTransfer struct {
	TransferID TransferID
	ReasonCode string
}

// CancelTransfer gives a transfer up. What is reserved is released, and what is
// under way comes back to the source's shelf.
type CancelTransfer struct {
	TransferID TransferID
	ReasonCode string
}

// DispatchTransfer sends the units on their way. What is reserved and not sent
// is released.
type DispatchTransfer struct {
	TransferID TransferID
	Lines      []LotLine // empty: all that is reserved
	Reference  string
}

// ReceiveTransfer takes units in at the destination, all at once or in parts.
// More of a lot than is under way comes from variance, and needs a reason.
type ReceiveTransfer struct {
	TransferID TransferID
	Lines      []LotLine // empty: all that is under way
	ReasonCode string    // why more arrived than is under way
	Reference  string
}

// LotLine is a quantity of a lot.
type LotLine struct {
	LotID      LotID
	Quantity   int64
	Pack       string // what Quantity counts; empty: base units
	Quarantine bool   // it goes to quarantine, for example because it is damaged
}

// CompleteTransfer ends a transfer. What is still under way has been lost, goes
// to variance, and needs a reason.
type CompleteTransfer struct {
	TransferID TransferID
	ReasonCode string
}

// Kind identifies the command.
func (*TransferStock) Kind() Kind { return KindTransferStock }

// Kind identifies the command.
func (*ApproveTransfer) Kind() Kind { return KindApproveTransfer }

// Kind identifies the command.
func (*RejectTransfer) Kind() Kind { return KindRejectTransfer }

// Kind identifies the command.
func (*CancelTransfer) Kind() Kind { return KindCancelTransfer }

// Kind identifies the command.
func (*DispatchTransfer) Kind() Kind { return KindDispatchTransfer }

// Kind identifies the command.
func (*ReceiveTransfer) Kind() Kind { return KindReceiveTransfer }

// Kind identifies the command.
func (*CompleteTransfer) Kind() Kind { return KindCompleteTransfer }

func (b *TransferStock) fields(c *codec) {
	text(c, &b.From)
	text(c, &b.To)
	requestedLines(c, &b.Lines)
	number(c, &b.DispatchBy)
	number(c, &b.ReceiveBy)
	text(c, &b.ReasonCode)
	text(c, &b.Reference)
}

func requestedLines(c *codec, p *[]RequestedLine) {
	list(c, p, 4, func(c *codec, l *RequestedLine) {
		text(c, &l.MedicineID)
		text(c, &l.LotID)
		number(c, &l.Quantity)
		text(c, &l.Pack)
	})
}

func lotLines(c *codec, p *[]LotLine) {
	list(c, p, 4, func(c *codec, l *LotLine) {
		text(c, &l.LotID)
		number(c, &l.Quantity)
		text(c, &l.Pack)
		c.flag(&l.Quarantine)
	})
}

func (b *ApproveTransfer) fields(c *codec) {
	text(c, &b.TransferID)
	requestedLines(c, &b.Lines)
}

func (b *RejectTransfer) fields(c *codec) {
	text(c, &b.TransferID)
	text(c, &b.ReasonCode)
}

func (b *CancelTransfer) fields(c *codec) {
	text(c, &b.TransferID)
	text(c, &b.ReasonCode)
}

func (b *DispatchTransfer) fields(c *codec) {
	text(c, &b.TransferID)
	lotLines(c, &b.Lines)
	text(c, &b.Reference)
}

func (b *ReceiveTransfer) fields(c *codec) {
	text(c, &b.TransferID)
	lotLines(c, &b.Lines)
	text(c, &b.ReasonCode)
	text(c, &b.Reference)
}

func (b *CompleteTransfer) fields(c *codec) {
	text(c, &b.TransferID)
	text(c, &b.ReasonCode)
}

func (b *TransferStock) check() *Rejection {
	if b.From == b.To {
		return reject(ReasonInvalidField, "to_location_id", "A transfer goes from one location to another one.")
	}
	if b.DispatchBy <= 0 || b.DispatchBy > MaxInstant {
		return reject(ReasonInvalidField, "dispatch_by", "A transfer needs a dispatch_by after the present and before the year 10000.")
	}
	if b.ReceiveBy != 0 && (b.ReceiveBy < b.DispatchBy || b.ReceiveBy > MaxInstant) {
		return reject(ReasonInvalidField, "receive_by", "receive_by must not lie before dispatch_by.")
	}
	return first(
		checkReference("from_location_id", b.From),
		checkReference("to_location_id", b.To),
		checkRequested(b.Lines, true),
		checkCode("reason_code", b.ReasonCode, true),
		checkCode("reference", b.Reference, false),
	)
}

func checkRequested(lines []RequestedLine, required bool) *Rejection {
	if required && len(lines) == 0 || len(lines) > maxTransferLines {
		return reject(ReasonInvalidField, "lines", "There must be 1 to %d lines; there are %d.", maxTransferLines, len(lines))
	}
	for i, line := range lines {
		r := first(
			checkReference("medicine_id", line.MedicineID),
			checkOptionalReference("lot_id", line.LotID),
			checkQuantity(line.Quantity, false),
			checkPack(line.Pack),
		)
		if r != nil {
			return r.inLine(i)
		}
	}
	return nil
}

func checkLotLines(lines []LotLine) *Rejection {
	if len(lines) > maxTransferParcels {
		return reject(ReasonInvalidField, "lines", "There may be at most %d lines; there are %d.", maxTransferParcels, len(lines))
	}
	for i, line := range lines {
		r := first(
			checkReference("lot_id", line.LotID),
			checkQuantity(line.Quantity, false),
			checkPack(line.Pack),
		)
		if r != nil {
			return r.inLine(i)
		}
	}
	return nil
}

// inLine says in which line of a command the field stands.
func (r *Rejection) inLine(i int) *Rejection {
	if r != nil {
		r.Field = fmt.Sprintf("lines[%d].%s", i, r.Field)
	}
	return r
}

// inTransfer says which line is at fault: one of the command's where lines are
// given, else one of the transfer's.
func (r *Rejection) inTransfer(i int, given bool) *Rejection {
	if given && r.Field != "location_id" {
		return r.inLine(i)
	}
	return r.of("transfer_id")
}

func (b *ApproveTransfer) check() *Rejection {
	return first(checkID("transfer_id", b.TransferID), checkRequested(b.Lines, false))
}

func (b *RejectTransfer) check() *Rejection {
	return first(checkID("transfer_id", b.TransferID), checkCode("reason_code", b.ReasonCode, true))
}

func (b *CancelTransfer) check() *Rejection {
	return first(checkID("transfer_id", b.TransferID), checkCode("reason_code", b.ReasonCode, true))
}

func (b *DispatchTransfer) check() *Rejection {
	return first(checkID("transfer_id", b.TransferID), checkLotLines(b.Lines), checkCode("reference", b.Reference, false))
}

func (b *ReceiveTransfer) check() *Rejection {
	return first(
		checkID("transfer_id", b.TransferID),
		checkLotLines(b.Lines),
		checkCode("reason_code", b.ReasonCode, false),
		checkCode("reference", b.Reference, false),
	)
}

func (b *CompleteTransfer) check() *Rejection {
	return first(checkID("transfer_id", b.TransferID), checkCode("reason_code", b.ReasonCode, false))
}

// numbered makes the id of the document that the next command opens.
func (s *State) numbered(prefix string) string {
	return fmt.Sprintf("%s-%d", prefix, s.head.Sequence+1)
}

func (b *TransferStock) decide(s *State, by Actor, at Instant) (EventBody, *Rejection) {
	if b.DispatchBy <= at {
		return nil, reject(ReasonDeadlinePassed, "dispatch_by", "dispatch_by is %s, and it is %s now.", b.DispatchBy, at).
			with("deadline", b.DispatchBy, "now", at)
	}
	from, r := s.activeLocation(b.From)
	if r != nil {
		return nil, r.of("from_location_id")
	}
	to, r := s.activeLocation(b.To)
	if r != nil {
		return nil, r.of("to_location_id")
	}
	if from.ID == to.ID {
		return nil, reject(ReasonInvalidField, "to_location_id", "A transfer goes from one location to another one.")
	}
	transfer := &Transfer{
		TransferID: TransferID(s.numbered("TR")), From: from.ID, To: to.ID, Status: TransferRequested, Requester: by,
		ReasonCode: b.ReasonCode, Reference: b.Reference, DispatchBy: b.DispatchBy, ReceiveBy: b.ReceiveBy,
	}
	transfer.Lines, r = s.transferLines(b.Lines, at)
	return &Change{of: b.Kind(), Documents: []DocumentBody{transfer}, ReasonCode: b.ReasonCode, Reference: b.Reference}, r
}

// transferLines resolves what lines name and count.
func (s *State) transferLines(lines []RequestedLine, at Instant) ([]TransferLine, *Rejection) {
	resolved := make([]TransferLine, 0, len(lines))
	for i, line := range lines {
		item, r := s.requestedItem(line.MedicineID, line.LotID, at)
		if r != nil {
			return nil, r.inLine(i)
		}
		quantity, r := item.units(s, line.Quantity, line.Pack)
		if r != nil {
			return nil, r.inLine(i)
		}
		next := TransferLine{Medicine: item.medicine.ID, Lot: item.lotID(), Quantity: quantity}
		// Two references may be to one lot.
		if slices.ContainsFunc(resolved, next.sameItem) {
			return nil, reject(ReasonInvalidField, "lot_id", "It is asked for twice.").inLine(i)
		}
		resolved = append(resolved, next)
	}
	return resolved, nil
}

func (l TransferLine) sameItem(other TransferLine) bool {
	return l.Medicine == other.Medicine && l.Lot == other.Lot
}

// knownTransfer finds an open transfer in one of the given states.
func (s *State) knownTransfer(id TransferID, states ...TransferStatus) (*Transfer, *Rejection) {
	transfer := document[Transfer](s, DocumentTransfer, string(id))
	if transfer == nil {
		return nil, reject(ReasonTransferNotFound, "transfer_id", "Clinic %q has no open transfer %q.", s.id, id).with("transfer_id", id)
	}
	if !slices.Contains(states, transfer.Status) {
		return nil, reject(ReasonTransferState, "transfer_id", "Transfer %q is %s.", id, transfer.Status).
			with("transfer_id", id, "status", transfer.Status)
	}
	return transfer, nil
}

var transferStatusNames = map[TransferStatus]string{
	TransferRequested: "requested", TransferApproved: "approved", TransferInTransit: "in transit", TransferReceived: "received",
	TransferCompleted: "completed", TransferRejected: "rejected", TransferCancelled: "cancelled",
}

// String returns the status for people.
func (t TransferStatus) String() string {
	if name, ok := transferStatusNames[t]; ok {
		return name
	}
	return fmt.Sprintf("transfer status(%d)", int16(t))
}

func (b *ApproveTransfer) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	old, r := s.knownTransfer(b.TransferID, TransferRequested)
	if r != nil {
		return nil, r
	}
	if r := old.overdue(at); r != nil {
		return nil, r
	}
	if _, r := s.activeLocation(old.To); r != nil {
		return nil, r.of("transfer_id")
	}
	transfer := old.clone()
	lines, r := s.approvedLines(transfer, b.Lines, at)
	if r != nil {
		return nil, r
	}
	d := &draft{s: s}
	var openings []HoldOpening
	for i, line := range lines {
		shelf := Shelf{transfer.From, line.Medicine}
		taken := d.reserveFor(shelf, line, at)
		if d.refused != nil {
			return nil, d.refused.inTransfer(i, len(b.Lines) > 0)
		}
		openings = reserved(openings, shelf, taken)
		for _, parcel := range taken {
			transfer.parcel(line.Medicine, parcel.Lot).Approved += parcel.Quantity
		}
	}
	if len(transfer.Parcels) > maxTransferParcels {
		return nil, reject(ReasonInvalidField, "lines", "The transfer needs units of %d lots; at most %d are allowed: split it.", len(transfer.Parcels), maxTransferParcels)
	}
	for i := range openings {
		o := &openings[i]
		o.HoldID = HoldID(deriveID(holdPrefix, s.tag, s.head.Sequence+1, i))
		o.ReasonCode, o.Deadline, o.Owner = transferReason, transfer.DispatchBy, string(transfer.TransferID)
		transfer.HoldIDs = append(transfer.HoldIDs, o.HoldID)
	}
	transfer.Status = TransferApproved
	event := d.change(b.Kind())
	event.Openings, event.Documents = openings, []DocumentBody{transfer}
	return event, nil
}

// transferReason is the reason code of the holds of transfers.
const transferReason = "TRANSFER"

// approvedLines are the lines to serve: all of the transfer's, or at most as
// much of each as was asked for.
func (s *State) approvedLines(t *Transfer, wanted []RequestedLine, at Instant) ([]TransferLine, *Rejection) {
	if len(wanted) == 0 {
		return t.Lines, nil
	}
	lines, r := s.transferLines(wanted, at)
	for i, line := range lines {
		at := slices.IndexFunc(t.Lines, line.sameItem)
		if at < 0 {
			return nil, reject(ReasonInvalidField, "medicine_id", "Transfer %q does not ask for it.", t.TransferID).inLine(i)
		}
		if line.Quantity > t.Lines[at].Quantity {
			return nil, reject(ReasonQuantityOutOfRange, "quantity", "Transfer %q asks for %d units, not for %d.", t.TransferID, t.Lines[at].Quantity, line.Quantity).inLine(i)
		}
	}
	return lines, r
}

// reserveFor reserves what a line asks for. A line that names its lot gets it as
// it is, expired or barred: it may have to be moved for that very reason.
func (d *draft) reserveFor(shelf Shelf, line TransferLine, at Instant) []Line {
	if line.Lot == "" {
		return d.allocate(demand{shelf: shelf, quantity: line.Quantity}, Reserved, at)
	}
	lot, r := d.s.activeLot(line.Lot)
	if r != nil {
		d.refuse(r)
		return nil
	}
	d.move(shelf, lot, Available, Reserved, line.Quantity)
	return []Line{{Lot: lot.ID, Quantity: line.Quantity}}
}

// reserved adds lines to the hold of their shelf, a lot once.
func reserved(openings []HoldOpening, shelf Shelf, lines []Line) []HoldOpening {
	at := slices.IndexFunc(openings, func(o HoldOpening) bool { return o.Shelf == shelf })
	if at < 0 {
		at = len(openings)
		openings = append(openings, HoldOpening{Shelf: shelf})
	}
	for _, line := range lines {
		hold := &openings[at]
		if i := slices.IndexFunc(hold.Lines, func(l Line) bool { return l.Lot == line.Lot }); i >= 0 {
			hold.Lines[i].Quantity += line.Quantity
			continue
		}
		hold.Lines = append(hold.Lines, Line{Lot: line.Lot, Quantity: line.Quantity})
	}
	return openings
}

// parcel returns the transfer's part of a lot, making it where it is missing.
func (t *Transfer) parcel(medicine MedicineID, lot LotID) *Parcel {
	at := slices.IndexFunc(t.Parcels, func(p Parcel) bool { return p.Lot == lot })
	if at < 0 {
		at = len(t.Parcels)
		t.Parcels = append(t.Parcels, Parcel{Medicine: medicine, Lot: lot})
	}
	return &t.Parcels[at]
}

// overdue refuses to go on with a transfer that should have set out before.
func (t *Transfer) overdue(at Instant) *Rejection {
	if t.DispatchBy >= at {
		return nil
	}
	return reject(ReasonTransferOverdue, "transfer_id", "Transfer %q was to set out by %s; it is %s now.", t.TransferID, t.DispatchBy, at).
		with("transfer_id", t.TransferID, "deadline", t.DispatchBy, "now", at)
}

func (b *RejectTransfer) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	old, r := s.knownTransfer(b.TransferID, TransferRequested)
	if r != nil {
		return nil, r
	}
	transfer := old.clone()
	transfer.Status = TransferRejected
	return &Change{of: b.Kind(), Documents: []DocumentBody{transfer}, ReasonCode: b.ReasonCode}, nil
}

func (b *CancelTransfer) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	old, r := s.knownTransfer(b.TransferID, TransferRequested, TransferApproved, TransferInTransit)
	if r != nil {
		return nil, r
	}
	transfer := old.clone()
	d := &draft{s: s}
	draws := d.unreserve(transfer, Available, nil)
	for i := range transfer.Parcels {
		p := &transfer.Parcels[i]
		if units := p.InTransit(); units > 0 {
			lot := s.lots[p.Lot]
			d.move(Shelf{transfer.From, p.Medicine}, lot, InTransit, availableOr(lot.Bar != BarNone), units)
			p.Returned += units
		}
	}
	transfer.Status = TransferCancelled
	if slices.ContainsFunc(transfer.Parcels, func(p Parcel) bool { return p.Received > 0 }) {
		transfer.Status = TransferCompleted
	}
	event := d.change(b.Kind())
	event.Draws, event.Documents, event.ReasonCode = draws, []DocumentBody{transfer}, b.ReasonCode
	return event, d.refused
}

// unreserve empties the transfer's holds, but for what is dispatched of each
// lot, which goes on its way.
func (d *draft) unreserve(t *Transfer, rest Bucket, dispatched map[LotID]int64) []HoldDraw {
	var draws []HoldDraw
	for _, id := range t.HoldIDs {
		_, hold := d.s.openHold(id)
		if hold == nil {
			continue // a recall voided it
		}
		draw := HoldDraw{HoldID: id, Closes: HoldReleased}
		for _, line := range hold.lines {
			if line.quantity == 0 {
				continue
			}
			sent := min(dispatched[line.row.Lot], line.quantity)
			if sent > 0 {
				d.move(hold.shelf.Shelf, line.row.lot, Reserved, InTransit, sent)
				draw.Closes = HoldDispatched
			}
			if left := line.quantity - sent; left > 0 {
				d.move(hold.shelf.Shelf, line.row.lot, Reserved, rest, left)
			}
			draw.Lines = append(draw.Lines, Line{Lot: line.row.Lot, Quantity: line.quantity})
		}
		draws = append(draws, draw)
	}
	t.HoldIDs = nil
	return draws
}

func (b *DispatchTransfer) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	old, r := s.knownTransfer(b.TransferID, TransferApproved)
	if r != nil {
		return nil, r
	}
	if r := old.overdue(at); r != nil {
		return nil, r
	}
	transfer := old.clone()
	sent := make(map[LotID]int64)
	if r := s.sent(transfer, b.Lines, sent, at); r != nil {
		return nil, r
	}
	for i := range transfer.Parcels {
		p := &transfer.Parcels[i]
		p.Dispatched = sent[p.Lot]
	}
	if transfer.underWay() == 0 {
		return nil, reject(ReasonTransferEmpty, "transfer_id", "Nothing is reserved for transfer %q any more.", transfer.TransferID).
			with("transfer_id", transfer.TransferID)
	}
	d := &draft{s: s}
	draws := d.unreserve(transfer, Available, sent)
	transfer.Status = TransferInTransit
	event := d.change(b.Kind())
	event.Draws, event.Documents, event.Reference = draws, []DocumentBody{transfer}, b.Reference
	return event, d.refused
}

// sent works out how much of each lot a dispatch sends.
func (s *State) sent(t *Transfer, lines []LotLine, sent map[LotID]int64, at Instant) *Rejection {
	for _, p := range t.Parcels {
		if len(lines) == 0 {
			sent[p.Lot] = p.Approved
		}
	}
	for i, line := range lines {
		item, quantity, r := s.lotLine(line, at)
		if r != nil {
			return r.inLine(i)
		}
		at := slices.IndexFunc(t.Parcels, func(p Parcel) bool { return p.Lot == item.lot.ID })
		var approved int64
		if at >= 0 {
			approved = t.Parcels[at].Approved
		}
		if sent[item.lot.ID] += quantity; sent[item.lot.ID] > approved {
			return reject(ReasonHoldTooSmall, "quantity", "%d units of lot %q are reserved for transfer %q; %d were to be sent.", approved, item.lot.ID, t.TransferID, sent[item.lot.ID]).
				with("lot_id", item.lot.ID, "held", approved, "requested", sent[item.lot.ID]).inLine(i)
		}
	}
	return nil
}

func (b *ReceiveTransfer) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	old, r := s.knownTransfer(b.TransferID, TransferInTransit)
	if r != nil {
		return nil, r
	}
	if _, r := s.activeLocation(old.To); r != nil {
		return nil, r.of("transfer_id")
	}
	transfer, d := old.clone(), &draft{s: s}
	lines := b.Lines
	for _, p := range old.Parcels {
		if len(b.Lines) == 0 && p.InTransit() > 0 {
			lines = append(lines, LotLine{LotID: p.Lot, Quantity: p.InTransit()})
		}
	}
	for i, line := range lines {
		if r := d.receive(transfer, line, b.ReasonCode, at); r != nil {
			return nil, r.inTransfer(i, len(b.Lines) > 0)
		}
	}
	if transfer.underWay() == 0 {
		transfer.Status = TransferReceived
	}
	event := d.change(b.Kind())
	event.Documents, event.ReasonCode, event.Reference = []DocumentBody{transfer}, b.ReasonCode, b.Reference
	return event, nil
}

// receive takes one line in: what is under way through clearing, and what is
// beyond that out of variance.
func (d *draft) receive(t *Transfer, line LotLine, reasonCode string, at Instant) *Rejection {
	item, quantity, r := d.s.lotLine(line, at)
	if r != nil {
		return r
	}
	lot := item.lot
	p := t.parcel(lot.Medicine, lot.ID)
	arrived := min(quantity, p.InTransit())
	surplus := quantity - arrived
	if surplus > 0 && reasonCode == "" {
		return reject(ReasonTransferSurplus, "quantity", "%d units of lot %q are under way in transfer %q; %d arrived. More than was sent needs a reason_code.", arrived, lot.ID, t.TransferID, quantity).
			with("lot_id", lot.ID, "in_transit", arrived, "received", quantity)
	}
	if surplus > 0 {
		if r := d.s.stockable(item); r != nil {
			return r
		}
	}
	from, to := Shelf{t.From, lot.Medicine}, Shelf{t.To, lot.Medicine}
	target := availableOr(line.Quarantine || lot.Bar != BarNone)
	if arrived > 0 {
		d.carry(from, to, lot, InTransit, target, arrived)
	}
	if surplus > 0 {
		d.move(to, lot, Variance, target, surplus)
	}
	p.Received += arrived
	p.Surplus += surplus
	return d.refused
}

func (b *CompleteTransfer) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	old, r := s.knownTransfer(b.TransferID, TransferInTransit, TransferReceived)
	if r != nil {
		return nil, r
	}
	missing := old.underWay()
	if missing > 0 && b.ReasonCode == "" {
		return nil, reject(ReasonTransferShort, "reason_code", "%d units of transfer %q are still under way. To write them off as lost, give a reason_code.", missing, old.TransferID).
			with("transfer_id", old.TransferID, "in_transit", missing)
	}
	transfer, d := old.clone(), &draft{s: s}
	for i := range transfer.Parcels {
		p := &transfer.Parcels[i]
		if units := p.InTransit(); units > 0 {
			d.move(Shelf{transfer.From, p.Medicine}, s.lots[p.Lot], InTransit, Variance, units)
			p.Missing += units
		}
	}
	transfer.Status = TransferCompleted
	event := d.change(b.Kind())
	event.Documents, event.ReasonCode = []DocumentBody{transfer}, b.ReasonCode
	return event, d.refused
}
