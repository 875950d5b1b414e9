package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"

	"github.com/stockledger/stockledger/ledger"
	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
	"github.com/stockledger/stockledger/rpc"
)

const stockHeader = "location,medicine,lot_number,expiry,quantity\n"

// stocked is an import job whose clinic has the medicine Zinc.
func stocked(t *testing.T) *importJob {
	t.Helper()
	j := newImportJob(t)
	out, err := j.medicines("name\nZinc\n")
	expect(t, out, err, false, "1 rows imported")
	return j
}

// A row that is mended into one that was imported is another delivery.
func TestImportMendsARowIntoARepetition(t *testing.T) {
	j := stocked(t)
	out, err := j.stock("s.csv", stockHeader+"Shelf,Zinc,Z1,2031-01-31,100\nShelf,Zink,Z1,2031-01-31,100\n", "")
	expect(t, out, err, true, "1 rows imported", "1 refused", "mend them in")
	mended := stockHeader + "Shelf,Zinc,Z1,2031-01-31,100\nShelf,Zinc,Z1,2031-01-31,100\n"
	out, err = j.stock("s.csv", mended, "")
	expect(t, out, err, false, "1 rows imported, 1 were there already, 0 refused")
	if got := j.onHand(); got != 200 {
		t.Errorf("%d units are on hand, want 200", got)
	}
}

// Nobody can tell which of two expiries is right, so neither row is received.
func TestImportRefusesALotWithTwoExpiries(t *testing.T) {
	j := stocked(t)
	out, err := j.stock("s.csv", stockHeader+"Shelf,Zinc,Z1,2031-01-31,100\nShelf,Zinc,Z1,2030-01-31,50\nShelf,Zinc,Z2,2031-01-31,7\n", "")
	expect(t, out, err, true, "1 rows imported", "2 refused", "line 2: lot \"Z1\" expires on 2031-01-31 in line 2 and on 2030-01-31 in line 3")
	if got := j.onHand(); got != 7 {
		t.Errorf("%d units are on hand, want 7", got)
	}
	out, err = j.stock("later.csv", stockHeader+"Shelf,Zinc,Z2,2032-01-31,9\nShelf,Zinc,Z3,2032-01-31,1\n", "")
	expect(t, out, err, true, "1 rows imported", "1 refused", "line 2", "expires on 2031-01-31, and the file says 2032-01-31")
	if got := j.onHand(); got != 8 {
		t.Errorf("%d units are on hand, want 8", got)
	}
	j.node.verify(t, j.clinic)
}

// One mistake in a row is one refusal, though it stands in two steps' way.
func TestImportRefusesARowOnce(t *testing.T) {
	j := stocked(t)
	out, err := j.stock("s.csv", stockHeader+strings.Repeat("x", 300)+",Zinc,Z1,2031-01-31,100\n", "")
	expect(t, out, err, true, "0 rows imported, 0 were there already, 1 refused", "line 2", "at most 200")
}

// patchyInventory breaks off the first batches, as a node does whose database
// goes away: before it judged any command, and in the middle.
type patchyInventory struct {
	stockledgerv1connect.InventoryServiceClient
	calls int
}

func (p *patchyInventory) ExecuteBatch(ctx context.Context, req *pb.ExecuteBatchRequest) (*pb.ExecuteBatchResponse, error) {
	p.calls++
	switch p.calls {
	case 1:
		return nil, connect.NewError(connect.CodeUnavailable, "away")
	case 2:
		last := len(req.GetCommands()) - 1
		response, err := p.InventoryServiceClient.ExecuteBatch(ctx, &pb.ExecuteBatchRequest{ClinicId: req.GetClinicId(), Commands: req.GetCommands()[:last]})
		if err == nil {
			lost := &pb.Rejected{Code: "unavailable", Reason: "NOT_ATTEMPTED", Message: "The batch ended before this command."}
			response.Results = append(response.Results, &pb.CommandResult{Verdict: &pb.CommandResult_Rejected{Rejected: lost}})
		}
		return response, err
	}
	return p.InventoryServiceClient.ExecuteBatch(ctx, req)
}

func TestImportOutlastsAServerThatIsAwayForAWhile(t *testing.T) {
	for _, c := range []struct {
		patience time.Duration
		fails    bool
	}{{time.Minute, false}, {0, true}} {
		j := newImportJob(t)
		flags := j.flags("m.csv", "name\nZinc\nIron\nSalt\n", "")
		flags.Batch, flags.RetryFor = 10, c.patience
		var out bytes.Buffer
		im := flags.open(&out)
		if err := im.prepare(context.Background()); err != nil {
			t.Fatal(err)
		}
		im.client.inventory = &patchyInventory{InventoryServiceClient: im.client.inventory}
		var tasks []task
		for _, name := range []string{"Zinc", "Iron", "Salt"} {
			tasks = append(tasks, task{command: &pb.Command{
				IdempotencyKey: name, Body: &pb.Command_AddMedicine{AddMedicine: &pb.AddMedicine{Name: name, BaseUnit: "each"}},
			}})
		}
		err := im.run(context.Background(), "medicines", tasks, true)
		if c.fails {
			if err == nil || !strings.Contains(err.Error(), "start it again to go on") {
				t.Errorf("without patience: %v", err)
			}
			continue
		}
		if err != nil || im.imported != 3 || im.repeated != 0 || len(im.refused) != 0 {
			t.Errorf("%v; %d imported, %d repeated, refused %v", err, im.imported, im.repeated, im.refused)
		}
	}
}

// An import is resumed by whoever is on duty.
func TestImportIsResumedBySomebodyElse(t *testing.T) {
	j := stocked(t)
	stock := stockHeader + "Shelf,Zinc,Z1,2031-01-31,100\nShelf,Zinc,Z2,2031-01-31,7\n"
	out, err := j.stock("s.csv", stock, "")
	expect(t, out, err, false, "2 rows imported")
	j.node.token, err = j.node.issuer.Issue(rpc.Principal{Subject: "colleague", Roles: []rpc.Role{rpc.RoleAdmin}, Clinics: []ledger.ClinicID{rpc.AllClinics}}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	out, err = j.stock("s.csv", stock+"Shelf,Zinc,Z2,2031-01-31,1\n", "")
	expect(t, out, err, false, "1 rows imported, 2 were there already, 0 refused")
	out, err = j.medicines("name\nZinc\n")
	expect(t, out, err, false, "0 rows imported, 1 were there already, 0 refused")
	if got := j.onHand(); got != 108 {
		t.Errorf("%d units are on hand, want 108", got)
	}
}
