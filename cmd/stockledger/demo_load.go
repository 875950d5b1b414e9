package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/stockledger/stockledger/cmd/stockledger/demo"
	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn"
)

// demoActor gives the demo's commands.
const demoActor ledger.Actor = "demo"

var demoKinds = map[demo.LocationKind]ledger.LocationKind{
	demo.Store: ledger.Store, demo.Dispensary: ledger.Dispensary, demo.Ward: ledger.Ward,
}

// loadDemo gives the demo's commands. What an earlier start gave is there
// already and is not given twice. What no longer fits, because an earlier release
// had another demo or somebody changed the clinic, is left out: data that was
// kept must not keep anything from starting.
func loadDemo(ctx context.Context, executor txn.Submitter, today time.Time, out io.Writer) error {
	medicines, err := demo.Medicines()
	if err != nil {
		return err
	}
	for _, clinic := range demo.Clinics() {
		commands := demoCommands(clinic, medicines, today)
		added, leftOut, err := giveDemo(ctx, executor, ledger.ClinicID(clinic.ID), commands)
		if err != nil {
			return fmt.Errorf("load the demo clinic %s: %w", clinic.ID, err)
		}
		if added > 0 {
			fmt.Fprintf(out, "loaded %s: %d commands\n", clinic.Name, added)
		}
		if leftOut > 0 {
			fmt.Fprintf(out, "%s: %d commands of the demo do not fit the clinic's data and were left out\n", clinic.Name, leftOut)
		}
	}
	return nil
}

func demoCommands(c demo.Clinic, medicines []demo.Medicine, today time.Time) []ledger.Command {
	var commands []ledger.Command
	// Keys come from what a command is about, so that a later release may add
	// to the demo without giving the rest again.
	give := func(about string, body ledger.CommandBody) {
		sum := sha256.Sum256([]byte(about))
		key := "demo:" + hex.EncodeToString(sum[:16])
		commands = append(commands, ledger.Command{Clinic: ledger.ClinicID(c.ID), IdempotencyKey: key, Actor: demoActor, Body: body})
	}
	give("clinic", &ledger.CreateClinic{Name: c.Name, TimeZone: c.TimeZone, BackdatingDays: 7})
	for _, l := range c.Locations {
		give("location "+l.ID, &ledger.CreateLocation{LocationID: ledger.LocationID(l.ID), Name: l.Name, LocationKind: demoKinds[l.Kind]})
	}
	for _, m := range medicines {
		give("medicine "+m.ID, &ledger.AddMedicine{
			MedicineID: ledger.MedicineID(m.ID), Name: m.Name, BaseUnit: m.BaseUnit, Strength: m.Strength, Form: m.Form, ATCCode: m.ATCCode, Category: m.Category,
		})
	}
	for _, lot := range demo.Lots(c, medicines, today) {
		give("lot "+lot.ID, &ledger.RegisterLot{
			LotID: ledger.LotID(lot.ID), MedicineID: ledger.MedicineID(lot.MedicineID), Manufacturer: lot.Manufacturer,
			LotNumber: lot.LotNumber, Expiry: ledger.DateOf(lot.Expiry),
		})
		for _, stock := range lot.Stock {
			give("stock "+lot.ID+" "+stock.LocationID, &ledger.ReceiveStock{
				LocationID: ledger.LocationID(stock.LocationID), LotID: ledger.LotID(lot.ID), Quantity: stock.Quantity,
				Supplier: "National Medical Stores", Reference: "opening-stock",
			})
		}
	}
	return commands
}

// demoBatch is how many commands are given at a time.
const demoBatch = 500

// giveDemo counts the commands that were new, and those that were refused. Lots'
// expiry depends on the day of the first start, so on a later day their keys are
// bound to other bodies.
func giveDemo(ctx context.Context, executor txn.Submitter, clinic ledger.ClinicID, commands []ledger.Command) (added, leftOut int, err error) {
	for batch := range slices.Chunk(commands, demoBatch) {
		verdicts, err := executor.Submit(ctx, txn.Submission{Clinic: clinic, Commands: batch, Bulk: true})
		if err != nil {
			return added, leftOut, err
		}
		for i, v := range verdicts {
			var rejection *ledger.Rejection
			switch {
			case v.Err == nil && !v.Replayed:
				added++
			case v.Err == nil:
			case errors.As(v.Err, &rejection):
				if rejection.Reason != ledger.ReasonIdempotencyKeyReused {
					leftOut++
				}
			default:
				return added, leftOut, fmt.Errorf("%s %s: %w", batch[i].Body.Kind(), batch[i].IdempotencyKey, v.Err)
			}
		}
	}
	return added, leftOut, nil
}
