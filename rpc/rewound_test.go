package rpc

import (
	"bytes"
	"context"
	"strconv"
	"testing"

	"connectrpc.com/connect/v2"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/txntest"
)

// restored is a node on another database, into which a clinic's export was
// imported. Its tokens are those of the first node.
func restored(t *testing.T, n *node, file []byte) *node {
	t.Helper()
	server := txntest.PrivateServer(t)
	db, err := txn.Open(t.Context(), txn.Config{DatabaseURL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	if _, err := txn.ImportJournal(t.Context(), txn.NewDirectory(db), bytes.NewReader(file), txn.ImportJournalOptions{}); err != nil {
		t.Fatal(err)
	}
	return startNode(t, Config{}, Deps{
		Issuer: n.issuer, Executor: txn.NewExecutor(db, txn.ExecutorConfig{Log: quietLog()}), Database: db, Queries: txn.NewQueries(txn.NewDirectory(db)),
	})
}

// What callers have seen of a clinic goes on to hold after a restore, or they
// are told that it does not.
func TestWhatARestoreTookBackIsNotServed(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	var file bytes.Buffer
	exported, err := txn.ExportJournal(t.Context(), txntest.Open(t), ledger.ClinicID(c.id), &file, nil)
	if err != nil {
		t.Fatal(err)
	}
	last := int64(exported.Head.Sequence)
	list := func(caller *client, token string, read *stockledgerv1.ReadOptions) (*stockledgerv1.ListStockResponse, error) {
		return caller.query.ListStock(context.Background(), &stockledgerv1.ListStockRequest{
			ClinicId: c.id, Page: &stockledgerv1.Page{PageSize: 1, PageToken: token}, Read: read,
		})
	}
	before, err := list(c.admin, "", nil)
	if err != nil || before.GetNextPageToken() == "" {
		t.Fatalf("the first page: %v, %v", before, err)
	}
	lost := c.must(t, receive("store", "L1", 1))[0].GetSequence()
	after, err := list(c.admin, "", &stockledgerv1.ReadOptions{MinSequence: lost, MinEpoch: 1})
	if err != nil || after.GetAsOf().GetEpoch() != 1 {
		t.Fatalf("the first page after the export: %v, %v", after, err)
	}

	caller := restored(t, n, file.Bytes()).client(n.token(t, Principal{
		Subject: "admin", Roles: []Role{RoleAdmin}, Clinics: []ledger.ClinicID{AllClinics},
	}), h2c())
	rewound := func(what string, err error) {
		t.Helper()
		info := wantError(t, err, connect.CodeFailedPrecondition, reasonJournalRewound)
		if m := info.GetMetadata(); m["last_common_sequence"] != strconv.FormatInt(last, 10) || m["epoch"] != "2" {
			t.Errorf("%s: the metadata is %v", what, m)
		}
	}
	second, err := list(caller, before.GetNextPageToken(), nil)
	if err != nil || second.GetAsOf().GetEpoch() != 2 || len(second.GetRows()) != 1 {
		t.Errorf("the page after one of before the export: %v, %v", second, err)
	}
	_, err = list(caller, after.GetNextPageToken(), nil)
	rewound("the page after one of after the export", err)
	if third, err := list(caller, second.GetNextPageToken(), nil); err != nil || len(third.GetRows()) != 1 {
		t.Errorf("the page after one of the present epoch: %v, %v", third, err)
	}

	_, err = list(caller, "", &stockledgerv1.ReadOptions{MinSequence: lost, MinEpoch: 1})
	rewound("a sequence that was lost", err)
	if _, err := list(caller, "", &stockledgerv1.ReadOptions{MinSequence: last, MinEpoch: 1}); err != nil {
		t.Errorf("a sequence that was not: %v", err)
	}
	_, err = list(caller, "", &stockledgerv1.ReadOptions{MinSequence: lost})
	wantError(t, err, connect.CodeFailedPrecondition, reasonSequenceNotReached)
	_, err = caller.query.GetStock(t.Context(), &stockledgerv1.GetStockRequest{
		ClinicId: c.id, LocationId: "store", MedicineId: "zinc", Read: &stockledgerv1.ReadOptions{MinSequence: lost, MinEpoch: 1},
	})
	rewound("a single document", err)
}

func TestARestoringClinicIsUnavailable(t *testing.T) {
	t.Parallel()
	f := explain(txn.ErrRestoring)
	if f.code != connect.CodeUnavailable || f.reason != reasonClinicRestoring || len(f.details) != 1 {
		t.Errorf("a clinic that is being restored gives %v, %s", f.code, f.reason)
	}
}
