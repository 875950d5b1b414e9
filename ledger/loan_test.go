package ledger

import (
	"fmt"
	"testing"
)

// A loan has two sides, each in a clinic of its own, that share a reference.
func TestLoanBetweenTwoClinics(t *testing.T) {
	lender, borrower := newBusyWorld(t), transferWorld(t)
	move := func(partner ClinicID, lot LotID, quantity int64) LoanMove {
		return LoanMove{Partner: partner, LocationID: "store", LotID: lot, Quantity: quantity, Reference: "LO-1"}
	}
	lender.must(t, &LendStock{move("riverside", "zinc-1", 20)})
	borrower.must(t, &BorrowStock{move("riverside", "zinc-2", 20)})
	same(t, "lender", lender.balances("store", "zinc-1").Available, 40)
	same(t, "borrower", borrower.balances("store", "zinc-2").Available, 50)
	loan := func(w *world) string {
		l := document[Loan](w.state, DocumentLoan, w.latest(DocumentLoan))
		if l == nil {
			return "closed"
		}
		return fmt.Sprintf("%d of %d", l.Repaid, l.Quantity)
	}
	// It is repaid in units of the medicine, of whatever lot.
	borrower.must(t, &RepayLoan{move("riverside", "zinc-1", 15)})
	lender.must(t, &ReceiveRepayment{move("riverside", "zinc-2", 15)})
	same(t, "borrower's side", loan(borrower), "15 of 20")
	same(t, "lender's side", loan(lender), "15 of 20")
	borrower.refused(t, "amina", &RepayLoan{move("riverside", "zinc-1", 6)}, ReasonLoanTooSmall)
	lender.refused(t, "amina", &LendStock{move("riverside", "zinc-1", 1)}, ReasonLoanExists)
	borrower.must(t, &RepayLoan{move("riverside", "zinc-2", 5)})
	lender.must(t, &ReceiveRepayment{move("riverside", "zinc-1", 5)})
	same(t, "borrower's side", loan(borrower), "closed")
	same(t, "lender's side", loan(lender), "closed")
	for _, w := range []*world{lender, borrower} {
		checkInvariants(t, w)
		checkReplay(t, w)
	}
}
