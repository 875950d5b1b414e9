package txn

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stockledger/stockledger/ledger"
)

// The ways to break a clinic's documents, and all that must be found then. $1 is
// the clinic, OPEN and DONE are its transfers, with their last sequences.
var documentCorruptions = map[string]struct {
	sql  string
	want []string
}{
	"an open document is missing": {
		sql: `DELETE FROM documents WHERE clinic_id = $1 AND document_id = 'OPEN'`,
		want: []string{
			"17 transfer OPEN: projection-follows-journal",
		},
	},
	"a closed document is missing": {
		sql:  `DELETE FROM documents WHERE clinic_id = $1 AND document_id = 'DONE'`,
		want: []string{"15 transfer DONE: closed-documents-follow-journal"},
	},
	"a closed document's columns say that it is open": {
		sql: `UPDATE documents SET is_open = true WHERE clinic_id = $1 AND document_id = 'DONE'`,
		want: []string{
			"15 transfer DONE: closed-documents-follow-journal",
			"15 transfer DONE: projection-follows-journal",
			"15 transfer DONE: projection-follows-journal",
		},
	},
	"a document stands under another location": {
		sql:  `UPDATE documents SET location_id = 'ward' WHERE clinic_id = $1 AND document_id = 'OPEN'`,
		want: []string{"17 transfer OPEN: projection-follows-journal"},
	},
	"a closed document has another sequence": {
		sql:  `UPDATE documents SET last_sequence = 14 WHERE clinic_id = $1 AND document_id = 'DONE'`,
		want: []string{"15 transfer DONE: closed-documents-follow-journal"},
	},
	"a document is another one's": {
		sql: `UPDATE documents SET document = (SELECT document FROM documents WHERE clinic_id = $1 AND document_id = 'DONE')
			WHERE clinic_id = $1 AND document_id = 'OPEN'`,
		want: []string{
			"17 transfer DONE: projection-follows-journal",
			"17 transfer OPEN: projection-follows-journal",
			"17 transfer OPEN: projection-follows-journal",
		},
	},
	"a document cannot be read": {
		sql:  `UPDATE documents SET document = 'x' WHERE clinic_id = $1 AND document_id = 'DONE'`,
		want: []string{"15 transfer DONE: readable"},
	},
	"an open document cannot be read": {
		sql:  `UPDATE documents SET document = 'x' WHERE clinic_id = $1 AND document_id = 'OPEN'`,
		want: []string{"0 documents: readable", "17 transfer OPEN: readable"},
	},
	"a lot's bar is lifted by hand": {
		sql:  `UPDATE lots SET bar = 0 WHERE clinic_id = $1 AND lot_id = 'L2'`,
		want: []string{"19 medicine zinc, lot L2: projection-follows-journal"},
	},
	"a medicine's control class is wrong": {
		sql:  `UPDATE medicines SET control_class = 'none' WHERE clinic_id = $1 AND medicine_id = 'zinc'`,
		want: []string{"4 medicine zinc: projection-follows-journal"},
	},
}

func TestVerifyFindsEveryBrokenDocument(t *testing.T) {
	t.Parallel()
	for name, test := range documentCorruptions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newTransferred(t)
			t.Cleanup(func() { wipe(t, p.e.db, p.id) })
			names := strings.NewReplacer("OPEN", string(p.open), "DONE", string(p.done))
			tag, err := p.e.db.write.Exec(t.Context(), names.Replace(test.sql), p.id)
			if err != nil || tag.RowsAffected() == 0 {
				t.Fatalf("corrupt: %v, %v", tag, err)
			}
			want := slices.Clone(test.want)
			for i := range want {
				want[i] = names.Replace(want[i])
			}
			if diff := cmp.Diff(want, violations(t, p.e.db, p.id)); diff != "" {
				t.Errorf("violations (-want +got):\n%s", diff)
			}
		})
	}
}

// transferred is a clinic with a transfer that was completed by command 15, one
// that was approved by 17, and a lot that was quarantined by 19.
type transferred struct {
	*testClinic
	open, done ledger.TransferID
}

func newTransferred(tb testing.TB) *transferred {
	tb.Helper()
	p := &transferred{testClinic: newTestClinic(tb, testExecutor(tb, ExecutorConfig{}))}
	for p.keys < 10 {
		p.receive(10)
	}
	request := func() ledger.TransferID {
		return ledger.TransferID(documentOf(tb, p.must(&ledger.TransferStock{
			From: "store", To: "ward", Lines: []ledger.RequestedLine{{MedicineID: "zinc", Quantity: 4}}, DispatchBy: ledger.MaxInstant, ReasonCode: "restock",
		})))
	}
	p.done = request()
	p.mustAll(
		&ledger.ApproveTransfer{TransferID: p.done}, &ledger.DispatchTransfer{TransferID: p.done},
		&ledger.ReceiveTransfer{TransferID: p.done}, &ledger.CompleteTransfer{TransferID: p.done},
	)
	p.open = request()
	p.mustAll(
		&ledger.ApproveTransfer{TransferID: p.open},
		&ledger.RegisterLot{LotID: "L2", MedicineID: "zinc", Manufacturer: "Acme", LotNumber: "2", Expiry: ledger.MaxDate},
		&ledger.QuarantineLot{LotID: "L2", ReasonCode: "complaint"},
	)
	if p.done != "TR-11" || p.open != "TR-16" {
		tb.Fatal(fmt.Sprint("the transfers are ", p.done, " and ", p.open))
	}
	return p
}
