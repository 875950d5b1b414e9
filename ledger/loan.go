package ledger

import "fmt"

// Kinds of commands about stock lent between clinics of one owner.
const (
	KindLendStock        Kind = 47
	KindBorrowStock      Kind = 48
	KindRepayLoan        Kind = 49
	KindReceiveRepayment Kind = 50
)

// LoanDirection says on which side of a loan the clinic is. The numbers are
// stored.
type LoanDirection int16

// The sides of a loan.
const (
	LoanLent     LoanDirection = 1
	LoanBorrowed LoanDirection = 2
)

// Loan is stock lent to or borrowed from another clinic, in base units. Each of
// the two clinics has its own journal and its own loan, and both carry the same
// reference.
type Loan struct {
	Reference   string // shared by both clinics; unique for the clinic and side
	Direction   LoanDirection
	Partner     ClinicID
	Location    LocationID // where it went from, or to
	Medicine    MedicineID
	Quantity    int64
	Repaid      int64
	RepaidWhole bool
}

// About is for the index of documents.
func (l *Loan) About() About {
	return About{DocumentKey: DocumentKey{DocumentLoan, loanID(l.Direction, l.Reference)}, Open: !l.RepaidWhole, Location: l.Location}
}

func loanID(direction LoanDirection, reference string) string {
	return fmt.Sprintf("%d|%s", direction, reference)
}

func (l *Loan) fields(c *codec) {
	text(c, &l.Reference)
	number(c, &l.Direction)
	text(c, &l.Partner)
	text(c, &l.Location)
	text(c, &l.Medicine)
	number(c, &l.Quantity)
	number(c, &l.Repaid)
	c.flag(&l.RepaidWhole)
}

// LoanMove is what the four commands about loans have in common.
type LoanMove struct {
	Partner    ClinicID
	LocationID LocationID
	LotID      LotID
	Quantity   int64
	Pack       string
	Reference  string // chosen for the loan, and the same in both clinics
	ReasonCode string
}

// LendStock gives available units of a lot to another clinic.
type LendStock struct{ LoanMove }

// BorrowStock takes units in from another clinic, as a lot of this one.
type BorrowStock struct{ LoanMove }

// RepayLoan gives units of the borrowed medicine back, of whatever lot.
type RepayLoan struct{ LoanMove }

// ReceiveRepayment takes in what a borrower gives back.
type ReceiveRepayment struct{ LoanMove }

// Kind identifies the command.
func (*LendStock) Kind() Kind { return KindLendStock }

// Kind identifies the command.
func (*BorrowStock) Kind() Kind { return KindBorrowStock }

// Kind identifies the command.
func (*RepayLoan) Kind() Kind { return KindRepayLoan }

// Kind identifies the command.
func (*ReceiveRepayment) Kind() Kind { return KindReceiveRepayment }

func (b *LoanMove) fields(c *codec) {
	text(c, &b.Partner)
	text(c, &b.LocationID)
	text(c, &b.LotID)
	number(c, &b.Quantity)
	text(c, &b.Pack)
	text(c, &b.Reference)
	text(c, &b.ReasonCode)
}

func (b *LoanMove) check() *Rejection {
	return first(
		checkClinicID(b.Partner).of("partner_clinic_id"),
		checkReference("location_id", b.LocationID),
		checkReference("lot_id", b.LotID),
		checkQuantity(b.Quantity, false),
		checkPack(b.Pack),
		checkCode("reference", b.Reference, true),
		checkCode("reason_code", b.ReasonCode, false),
	)
}

func (b *LendStock) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	return b.begin(s, at, b.Kind(), LoanLent)
}

func (b *BorrowStock) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	return b.begin(s, at, b.Kind(), LoanBorrowed)
}

func (b *RepayLoan) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	return b.repay(s, at, b.Kind(), LoanBorrowed)
}

func (b *ReceiveRepayment) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	return b.repay(s, at, b.Kind(), LoanLent)
}

// begin opens a loan.
func (b *LoanMove) begin(s *State, at Instant, kind Kind, direction LoanDirection) (EventBody, *Rejection) {
	if b.Partner == s.id {
		return nil, reject(ReasonInvalidField, "partner_clinic_id", "A loan is between two clinics.")
	}
	if _, exists := s.documents[DocumentKey{DocumentLoan, loanID(direction, b.Reference)}]; exists {
		return nil, reject(ReasonLoanExists, "reference", "Loan %q is open.", b.Reference).with("reference", b.Reference)
	}
	event, found, quantity, r := b.move(s, at, kind, direction == LoanLent)
	if r != nil {
		return nil, r
	}
	event.Documents = []DocumentBody{&Loan{
		Reference: b.Reference, Direction: direction, Partner: b.Partner, Location: event.Moves[0].Location, Medicine: found.medicine.ID, Quantity: quantity,
	}}
	return event, nil
}

// repay gives back, or takes back, a part of a loan or all of it.
func (b *LoanMove) repay(s *State, at Instant, kind Kind, direction LoanDirection) (EventBody, *Rejection) {
	old := document[Loan](s, DocumentLoan, loanID(direction, b.Reference))
	if old == nil || old.Partner != b.Partner {
		return nil, reject(ReasonLoanNotFound, "reference", "No open loan %q is with clinic %q.", b.Reference, b.Partner).with("reference", b.Reference)
	}
	event, found, quantity, r := b.move(s, at, kind, direction == LoanBorrowed)
	if r != nil {
		return nil, r
	}
	if found.medicine.ID != old.Medicine {
		return nil, reject(ReasonLotOfOtherMedicine, "lot_id", "Lot %q belongs to medicine %q; the loan is of %q.", found.lot.ID, found.medicine.ID, old.Medicine).
			with("lot_id", found.lot.ID, "medicine_id", found.medicine.ID)
	}
	if left := old.Quantity - old.Repaid; quantity > left {
		return nil, reject(ReasonLoanTooSmall, "quantity", "%d units of loan %q are left to be repaid; %d were given.", left, b.Reference, quantity).
			with("reference", b.Reference, "left", left, "requested", quantity)
	}
	next := *old
	next.Repaid += quantity
	next.RepaidWhole = next.Repaid == next.Quantity
	event.Documents = []DocumentBody{&next}
	return event, nil
}

// move moves the units out of the clinic, or into it.
func (b *LoanMove) move(s *State, at Instant, kind Kind, out bool) (*Change, item, int64, *Rejection) {
	location, r := s.activeLocation(b.LocationID)
	if r != nil {
		return nil, item{}, 0, r
	}
	found, quantity, r := s.lotLine(LotLine{LotID: b.LotID, Quantity: b.Quantity, Pack: b.Pack}, at)
	if r != nil {
		return nil, item{}, 0, r
	}
	// What nobody may use is not handed on either.
	if r := s.usable(found.lot, at); r != nil {
		return nil, item{}, 0, r
	}
	if r := s.stockable(found); r != nil {
		return nil, item{}, 0, r
	}
	from, to := Supplier, Available
	if out {
		from, to = Available, Supplier
	}
	d := &draft{s: s}
	d.move(Shelf{location.ID, found.lot.Medicine}, found.lot, from, to, quantity)
	event := d.change(kind)
	event.Reference, event.ReasonCode, event.Party = b.Reference, b.ReasonCode, string(b.Partner)
	return event, found, quantity, d.refused
}
