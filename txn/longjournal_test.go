package txn

import (
	"fmt"
	"io"
	"time"

	"github.com/stockledger/stockledger/ledger"
)

// journalAuthor makes up a clinic's journal without a database: what the rules
// decide, sealed and evolved.
type journalAuthor struct {
	state    *ledger.State
	out      *JournalWriter
	commands int
	entries  int
	at       ledger.Instant
	hold     ledger.HoldID // the last one
}

// writeLongJournal writes a journal file of so many commands, most of which have
// one entry: receipts, reservations, issues and losses of a hundred medicines at
// two locations. At most one hold is open at a time.
func writeLongJournal(w io.Writer, clinic ledger.ClinicID, commands int) error {
	out, err := NewJournalWriter(w, JournalHeader{Clinic: clinic})
	if err != nil {
		return err
	}
	a := &journalAuthor{
		state: ledger.NewState(clinic, time.LoadLocation), out: out,
		at: ledger.InstantOf(time.Date(2026, 1, 5, 8, 0, 0, 0, time.UTC)),
	}
	for script := a.script(); a.commands < commands; {
		if err := a.give(script()); err != nil {
			return err
		}
	}
	return out.Close(a.state.Head())
}

const authorMedicines = 100

// script returns what gives the next command's body.
func (a *journalAuthor) script() func() ledger.CommandBody {
	opening := []ledger.CommandBody{
		&ledger.CreateClinic{Name: "Long", TimeZone: "Africa/Nairobi"},
		&ledger.CreateLocation{LocationID: "store", Name: "Store", LocationKind: ledger.Store},
		&ledger.CreateLocation{LocationID: "ward", Name: "Ward", LocationKind: ledger.Ward},
	}
	for m := range authorMedicines {
		medicine, lot := ledger.MedicineID(fmt.Sprintf("m%02d", m)), ledger.LotID(fmt.Sprintf("lot-%02d", m))
		opening = append(opening,
			&ledger.AddMedicine{MedicineID: medicine, Name: "Medicine " + string(medicine), BaseUnit: "tablet"},
			&ledger.RegisterLot{LotID: lot, MedicineID: medicine, Manufacturer: "Acme", LotNumber: "1", Expiry: ledger.MaxDate})
	}
	n := -1
	return func() ledger.CommandBody {
		if a.commands < len(opening) {
			return opening[a.commands]
		}
		n++
		m, step := n/5%authorMedicines, n%5
		medicine, lot := ledger.MedicineID(fmt.Sprintf("m%02d", m)), ledger.LotID(fmt.Sprintf("lot-%02d", m))
		location := []ledger.LocationID{"store", "ward"}[n/5%2]
		switch step {
		case 0:
			return &ledger.ReceiveStock{LocationID: location, LotID: lot, Quantity: int64(100 + n%37), Supplier: "Central store", Reference: fmt.Sprintf("DN-%d", n)}
		case 1:
			return &ledger.ReserveStock{LocationID: location, MedicineID: medicine, Quantity: int64(10 + n%7), ReasonCode: "ward-round", Deadline: a.at + 3_600_000_000}
		case 2:
			return &ledger.IssueStock{HoldID: a.hold}
		case 3:
			return &ledger.IssueStock{LocationID: location, MedicineID: medicine, Quantity: int64(1 + n%5), Recipient: "ward-3", ReasonCode: "use"}
		}
		return &ledger.AdjustStock{LocationID: location, LotID: lot, Direction: ledger.Decrease, Quantity: 1, ReasonCode: "broken"}
	}
}

func (a *journalAuthor) give(body ledger.CommandBody) error {
	a.at += 1_000_000
	command := ledger.Command{
		Clinic: a.state.Clinic(), IdempotencyKey: fmt.Sprintf("0198c0de-0000-7000-8000-%012d", a.commands), Actor: "amina", Body: body,
	}
	event, rejection := ledger.Decide(a.state, command, a.at)
	if rejection != nil {
		return fmt.Errorf("command %d, %s: %w", a.commands, body.Kind(), rejection)
	}
	record := ledger.Seal(a.state, event)
	effects, err := ledger.Evolve(a.state, record)
	if err != nil {
		return err
	}
	a.state.Commit()
	a.commands++
	a.entries += len(effects.Entries)
	for _, hold := range effects.Holds {
		a.hold = hold.ID
	}
	return a.out.Write(&record)
}
