package main

import (
	"context"
	"encoding/csv"
	"strings"
	"testing"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn"
	"github.com/stockledger/stockledger/txn/txntest"
)

func TestRegisterForAnInspector(t *testing.T) {
	t.Parallel()
	db := txntest.Open(t)
	executor := txn.NewExecutor(db, txn.ExecutorConfig{})
	defer func() { _ = executor.Close(context.Background()) }()
	clinic := ledger.ClinicID(txntest.NewClinicID(t))
	give := func(actor ledger.Actor, key string, body ledger.CommandBody) ledger.Record {
		t.Helper()
		verdicts, err := executor.Submit(t.Context(), txn.Submission{Clinic: clinic, Commands: []ledger.Command{
			{Clinic: clinic, Actor: actor, IdempotencyKey: key, Body: body},
		}})
		if err != nil || verdicts[0].Err != nil {
			t.Fatalf("%s: %v, %v", body.Kind(), err, verdicts)
		}
		return verdicts[0].Record
	}
	give("amina", "1", &ledger.CreateClinic{Name: "Hillside", TimeZone: "Africa/Nairobi"})
	give("amina", "2", &ledger.CreateLocation{LocationID: "store", Name: "Store", LocationKind: ledger.Store})
	give("amina", "3", &ledger.AddMedicine{MedicineID: "morphine", Name: "Morphine", BaseUnit: "ampoule", ControlClass: "schedule-2"})
	give("amina", "4", &ledger.RegisterLot{LotID: "M1", MedicineID: "morphine", Manufacturer: "Acme", LotNumber: "1", Expiry: ledger.MaxDate})
	give("amina", "5", &ledger.SetPolicy{Policy: ledger.Policy{ApprovalHours: 24, Rules: []ledger.Rule{
		{ControlClass: "schedule-2", Command: ledger.KindWriteOffStock, Requires: ledger.RequireApprovalBefore},
	}}})
	receipt := give("amina", "6", &ledger.ReceiveStock{LocationID: "store", LotID: "M1", Quantity: 50, Supplier: "Central store"}).Event.Sequence
	give("amina", "7", &ledger.IssueStock{LocationID: "store", MedicineID: "morphine", Quantity: 2, Recipient: "ward-3"})
	give("amina", "8", &ledger.WriteOffStock{LocationID: "store", LotID: "M1", Quantity: 1, ReasonCode: "broken"})
	give("joseph", "9", &ledger.ApproveCommand{ApprovalID: "AP-8"})
	give("amina", "10", &ledger.ReverseReceipt{Sequence: receipt, Quantity: 10, ReasonCode: "miscounted"})

	var out strings.Builder
	register := registerCmd{Clinic: string(clinic), Location: "store", Medicine: "morphine", From: "2020-01-01", To: "2999-12-31"}
	lines, err := register.write(t.Context(), txn.NewQueries(txn.NewDirectory(db)), &out)
	if err != nil || lines != 4 {
		t.Fatalf("%d lines, %v:\n%s", lines, err, out.String())
	}
	rows, err := csv.NewReader(strings.NewReader(out.String())).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	// party, opening, in, out, balance, requested_by, actor … corrects
	for i, want := range []string{
		"ReceiveStock,M1,Central store,0,50,0,50,,amina,,,,,,,,",
		"IssueStock,M1,ward-3,50,0,2,48,,amina,,,ward-3,,,,,",
		"WriteOffStock,M1,,48,0,1,47,amina,joseph,,broken,,AP-8,,,,",
		"ReverseReceipt,M1,Central store,47,0,10,37,,amina,,miscounted,,,6,,,",
	} {
		if got := strings.Join(rows[i+1][4:], ","); got != want {
			t.Errorf("line %d is %s, want %s", i+1, got, want)
		}
	}
	register.From = "soon"
	if _, err := register.write(t.Context(), txn.NewQueries(txn.NewDirectory(db)), &out); err == nil || !strings.Contains(err.Error(), "--from") {
		t.Errorf("a day that is none: %v", err)
	}
}
