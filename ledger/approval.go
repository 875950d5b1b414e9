package ledger

import (
	"errors"
	"fmt"
	"slices"
)

// ApprovalID names a request for a second person, and is what people call it:
// AP- and the sequence of the command that asked. It is unique in the clinic.
type ApprovalID string

// Kinds of commands of second persons. KindRequestApproval is the event of a
// command that waits for one.
const (
	KindApproveCommand  Kind = 51
	KindRejectCommand   Kind = 52
	KindLapseCommand    Kind = 53
	KindRequestApproval Kind = 54
)

// ApprovalStatus says what became of a request. The numbers are stored.
type ApprovalStatus int16

// The states of a request for a second person.
const (
	ApprovalOpen      ApprovalStatus = 1
	ApprovalApproved  ApprovalStatus = 2
	ApprovalRejected  ApprovalStatus = 3
	ApprovalWithdrawn ApprovalStatus = 4 // by who asked
	ApprovalLapsed    ApprovalStatus = 5
)

// Approval is a command that waits for a second person: before it is carried
// out, or, as a review, after.
type Approval struct {
	ApprovalID ApprovalID
	Status     ApprovalStatus
	Review     bool // the command was carried out; somebody is to look at it
	Command    Kind
	Requester  Actor
	Decider    Actor
	Deadline   Instant
	// Body is the command in the core's own encoding, with what was read for
	// it; empty for a review.
	Body []byte
	// Lines are the units that wait in pending.
	Lines []PendingLine
	Scope Scope
}

// PendingLine is units in pending that came from another bucket.
type PendingLine struct {
	Shelf
	Lot      LotID
	Bucket   Bucket // where they came from, and go back to
	Quantity int64
}

// About is for the index of documents.
func (a *Approval) About() About {
	about := About{DocumentKey: DocumentKey{DocumentApproval, string(a.ApprovalID)}, Open: a.Status == ApprovalOpen}
	locations := append(slices.Clone(a.Scope.All), a.Scope.Any...)
	if len(locations) > 0 {
		about.Location = locations[0]
	}
	if len(locations) > 1 {
		about.OtherLocation = locations[1]
	}
	return about
}

func (a *Approval) fields(c *codec) {
	text(c, &a.ApprovalID)
	number(c, &a.Status)
	c.flag(&a.Review)
	number(c, &a.Command)
	text(c, &a.Requester)
	text(c, &a.Decider)
	number(c, &a.Deadline)
	c.blob(&a.Body)
	list(c, &a.Lines, 5, func(c *codec, l *PendingLine) {
		shelfField(c, &l.Shelf)
		text(c, &l.Lot)
		number(c, &l.Bucket)
		number(c, &l.Quantity)
	})
	list(c, &a.Scope.All, 1, text[LocationID])
	list(c, &a.Scope.Any, 1, text[LocationID])
}

// close returns the approval as a second person, or time, left it.
func (a *Approval) close(status ApprovalStatus, decider Actor) *Approval {
	closed := *a
	closed.Status, closed.Decider, closed.Lines = status, decider, nil
	return &closed
}

// attaching is a command that needs facts which are read from the journal for
// it, and which no caller can give.
type attaching interface{ attached(c *codec) }

// appendBody encodes a command for later, with what was read for it.
func appendBody(body CommandBody) []byte {
	var c codec
	body.fields(&c)
	if b, ok := body.(attaching); ok {
		b.attached(&c)
	}
	return c.buf
}

func decodeBody(kind Kind, stored []byte) (CommandBody, error) {
	spec, ok := kinds[kind]
	if !ok || spec.command == nil {
		return nil, fmt.Errorf("command kind %d is unknown to this release", int16(kind))
	}
	body, c := spec.command(), codec{buf: stored, reading: true}
	body.fields(&c)
	if b, ok := body.(attaching); ok {
		b.attached(&c)
	}
	if c.err == nil && len(c.buf) > 0 {
		c.err = errors.New("bytes follow its end")
	}
	return body, c.err
}

// ApproveCommand carries out a command that waits for a second person, as if
// it were given now; or confirms one that was carried out.
type ApproveCommand struct{ ApprovalID ApprovalID }

// RejectCommand refuses a command that waits for a second person, and puts the
// units that it holds back; who asked may withdraw it so. Of a command that was
// carried out, it says that a correction is needed.
type RejectCommand struct {
	ApprovalID ApprovalID
	ReasonCode string
}

// LapseCommand ends a request whose time has run out.
type LapseCommand struct{ ApprovalID ApprovalID }

// Kind identifies the command.
func (*ApproveCommand) Kind() Kind { return KindApproveCommand }

// Kind identifies the command.
func (*RejectCommand) Kind() Kind { return KindRejectCommand }

// Kind identifies the command.
func (*LapseCommand) Kind() Kind { return KindLapseCommand }

func (b *ApproveCommand) fields(c *codec) { text(c, &b.ApprovalID) }

func (b *RejectCommand) fields(c *codec) {
	text(c, &b.ApprovalID)
	text(c, &b.ReasonCode)
}

func (b *LapseCommand) fields(c *codec) { text(c, &b.ApprovalID) }

// ofApproval is a command on a request for a second person.
type ofApproval interface{ approval() ApprovalID }

func (b *ApproveCommand) approval() ApprovalID { return b.ApprovalID }
func (b *RejectCommand) approval() ApprovalID  { return b.ApprovalID }
func (b *LapseCommand) approval() ApprovalID   { return b.ApprovalID }

func (b *ApproveCommand) check() *Rejection { return checkID("approval_id", b.ApprovalID) }

func (b *RejectCommand) check() *Rejection {
	return first(checkID("approval_id", b.ApprovalID), checkCode("reason_code", b.ReasonCode, true))
}

func (b *LapseCommand) check() *Rejection { return checkID("approval_id", b.ApprovalID) }

// request makes the event of a command that must be approved before: the units
// that it would take wait in pending.
func (s *State) request(c *Command, decided EventBody, at Instant) (*Change, *Rejection) {
	body := c.Body
	if count, ok := body.(*RecordCount); ok {
		body = count.pinned(s, at)
	}
	approval := &Approval{
		ApprovalID: ApprovalID(s.numbered("AP")), Status: ApprovalOpen, Command: body.Kind(), Requester: c.Actor,
		Deadline: s.approvalDeadline(at), Body: appendBody(body), Scope: scopeOf(decided),
	}
	d := &draft{s: s}
	if m, ok := decided.(mover); ok {
		for _, move := range m.moves() {
			if move.From == Available || move.From == Quarantined {
				d.suspend(approval, move)
			}
		}
	}
	event := d.change(KindRequestApproval)
	event.Documents, event.ReasonCode = []DocumentBody{approval}, reasonCodeOf(decided)
	return event, d.refused
}

func (s *State) approvalDeadline(at Instant) Instant {
	const hour = 60 * 60 * 1_000_000
	return min(at+Instant(s.policy().ApprovalHours)*hour, MaxInstant)
}

// suspend moves what a command would take into pending.
func (d *draft) suspend(approval *Approval, m Move) {
	for _, line := range m.Lines {
		d.move(m.Shelf, d.s.lots[line.Lot], m.From, Pending, line.Quantity)
		approval.Lines = append(approval.Lines, PendingLine{m.Shelf, line.Lot, m.From, line.Quantity})
	}
}

// resume moves the pending units of a request back to where they came from;
// units of a lot that was recalled meanwhile go to quarantine.
func (d *draft) resume(approval *Approval) {
	for _, line := range approval.Lines {
		lot, target := d.s.lots[line.Lot], line.Bucket
		if lot.Bar == BarRecalled {
			target = Quarantined
		}
		d.move(line.Shelf, lot, Pending, target, line.Quantity)
	}
}

func (s *State) knownApproval(id ApprovalID) (*Approval, *Rejection) {
	approval := document[Approval](s, DocumentApproval, string(id))
	if approval == nil {
		return nil, reject(ReasonApprovalNotFound, "approval_id", "Clinic %q has no open request %q.", s.id, id).with("approval_id", id)
	}
	return approval, nil
}

func samePerson(field string, who Actor) *Rejection {
	return reject(ReasonSamePerson, field, "%q gave the command and cannot be its second person.", who).with("actor", who)
}

func (b *ApproveCommand) decide(s *State, by Actor, at Instant) (EventBody, *Rejection) {
	approval, r := s.knownApproval(b.ApprovalID)
	if r != nil {
		return nil, r
	}
	if by == approval.Requester {
		return nil, samePerson("approval_id", by)
	}
	if approval.Deadline < at {
		return nil, reject(ReasonApprovalLapsed, "approval_id", "Request %q waited until %s; it is %s now.", b.ApprovalID, approval.Deadline, at).
			with("approval_id", b.ApprovalID, "deadline", approval.Deadline, "now", at)
	}
	d := &draft{s: s}
	d.resume(approval)
	event := &Change{of: b.Kind()}
	if !approval.Review {
		event.Requester = approval.Requester
		event.Approved, r = s.afresh(approval, at)
		if r != nil {
			return nil, r
		}
	}
	event.Moves, event.Documents = d.moves, []DocumentBody{approval.close(ApprovalApproved, by)}
	event.ReasonCode = reasonCodeOf(event.Approved)
	return event, d.refused
}

// afresh decides a command that waited, as if it were given now. Everything may
// have changed since it was asked for.
func (s *State) afresh(approval *Approval, at Instant) (EventBody, *Rejection) {
	body, err := decodeBody(approval.Command, approval.Body)
	if err != nil {
		// Only a document that this release did not write can be unreadable.
		return nil, reject(ReasonApprovalNotFound, "approval_id", "Request %q cannot be read by this release.", approval.ApprovalID)
	}
	decided, r := body.decide(s, approval.Requester, at)
	if r != nil {
		return nil, r
	}
	return decided, s.reasonAllowed(approval.Command, decided)
}

func (b *RejectCommand) decide(s *State, by Actor, _ Instant) (EventBody, *Rejection) {
	approval, r := s.knownApproval(b.ApprovalID)
	if r != nil {
		return nil, r
	}
	status := ApprovalRejected
	if by == approval.Requester {
		if approval.Review {
			return nil, samePerson("approval_id", by)
		}
		status = ApprovalWithdrawn
	}
	return s.giveBack(b.Kind(), approval, status, by, b.ReasonCode)
}

func (b *LapseCommand) decide(s *State, by Actor, at Instant) (EventBody, *Rejection) {
	approval, r := s.knownApproval(b.ApprovalID)
	if r != nil {
		return nil, r
	}
	if approval.Deadline >= at {
		return nil, reject(ReasonApprovalNotDue, "approval_id", "Request %q waits until %s; it is %s now.", b.ApprovalID, approval.Deadline, at).
			with("approval_id", b.ApprovalID, "deadline", approval.Deadline, "now", at)
	}
	return s.giveBack(b.Kind(), approval, ApprovalLapsed, by, "")
}

// giveBack ends a request without what it asked for.
func (s *State) giveBack(kind Kind, approval *Approval, status ApprovalStatus, by Actor, reasonCode string) (EventBody, *Rejection) {
	d := &draft{s: s}
	d.resume(approval)
	event := d.change(kind)
	event.Documents, event.ReasonCode = []DocumentBody{approval.close(status, by)}, reasonCode
	return event, d.refused
}

// openReview asks for a second person to look at what was just carried out.
func (s *State) openReview(e *Event, effects *Effects) error {
	return s.putDocument(e, &Approval{
		ApprovalID: ApprovalID(fmt.Sprintf("AP-%d", e.Sequence)), Status: ApprovalOpen, Review: true,
		Command: e.Kind(), Requester: e.Actor, Deadline: e.ReviewBy, Scope: scopeOf(e.Body),
	}, effects)
}
