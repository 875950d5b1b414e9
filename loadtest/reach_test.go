package loadtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"testing"
	"time"

	"connectrpc.com/connect/v2"

	"github.com/stockledger/stockledger/ledger"
	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// How many dispensings the recall reaches; RECALL_REACH makes them more: 100000
// is what the ledger is built for.
const (
	defaultReach  = 2000
	reachPlaces   = 4
	reachPatients = 500
	reachPage     = 1000
	// reachGrowth is more than one part of the list takes with all its garbage,
	// and less than a long list would if it were kept.
	reachGrowth = 64 // MiB
)

// reached is a recalled lot with what it was dispensed in, in the order of the
// journal.
type reached struct {
	*recalledClinic
	servers  *cluster
	recallID string
	patients []ledger.PatientID
	want     []reachedOne
}

type reachedOne struct {
	sequence           int64
	patient            ledger.PatientID
	quantity, returned int64
}

// prescribe gives so many patients of L1, and half as many of L2, which nobody
// recalls. Some of L1 comes back.
func (r *reached) prescribe(reach int) {
	r.tb.Helper()
	for i := range reachPatients {
		r.patients = append(r.patients, ledger.PatientID(fmt.Sprintf("%s%0*d", ledger.PatientPrefix, ledger.PatientDigits, i)))
	}
	setup := make([]ledger.CommandBody, 0, reachPatients+2*reachPlaces)
	for _, patient := range r.patients {
		setup = append(setup, &ledger.RegisterPatient{PatientID: patient})
	}
	for i := range reachPlaces {
		setup = append(setup,
			&ledger.ReceiveStock{LocationID: place(i), LotID: "L1", Quantity: int64(3 * reach)},
			&ledger.ReceiveStock{LocationID: place(i), LotID: "L2", Quantity: int64(3 * reach)})
	}
	r.must(setup...)
	for len(r.want) < reach {
		r.dispense(min(300, reach-len(r.want)))
	}
}

// dispense gives so many patients of L1 and takes some of it back.
func (r *reached) dispense(n int) {
	r.tb.Helper()
	var bodies []ledger.CommandBody
	var ones []reachedOne // as bodies; of L2: without a quantity
	for i := range n {
		one := reachedOne{patient: r.patients[(len(r.want)+i)%reachPatients], quantity: int64(1 + i%3)}
		give := ledger.Dispense{LocationID: place(i % reachPlaces), PatientID: one.patient, MedicineID: "zinc", LotID: "L1", Quantity: one.quantity}
		bodies, ones = append(bodies, &ledger.DispenseMedicine{Dispense: give}), append(ones, one)
		if i%2 == 0 {
			give.LotID = "L2"
			bodies, ones = append(bodies, &ledger.DispenseMedicine{Dispense: give}), append(ones, reachedOne{})
		}
	}
	var back []ledger.CommandBody
	for i, v := range r.submit(bodies...) {
		if v.Err != nil {
			r.tb.Fatalf("dispense: %v", v.Err)
		}
		one := ones[i]
		if one.quantity == 0 {
			continue
		}
		one.sequence = int64(v.Record.Event.Sequence)
		id := ledger.DispensingID(fmt.Sprintf("DN-%d", one.sequence))
		switch i % 50 {
		case 3:
			one.returned = one.quantity
			back = append(back, &ledger.CancelDispensing{DispensingID: id, ReasonCode: "mistake"})
		case 30:
			one.returned = 1
			back = append(back, &ledger.ReturnFromPatient{DispensingID: id, Lines: []ledger.LotLine{{LotID: "L1", Quantity: 1}}, ReasonCode: "left-over"})
		}
		r.want = append(r.want, one)
	}
	if len(back) > 0 {
		r.must(back...)
	}
}

// read streams the list from a page token, and gives each message until told to
// stop.
func (r *reached) read(token string, give func(*pb.ListRecalledPatientsResponse) bool) error {
	stream, err := r.servers.pharmacy().ListRecalledPatients(context.Background(), &pb.ListRecalledPatientsRequest{
		ClinicId: string(r.id), RecallId: r.recallID, Page: &pb.Page{PageSize: reachPage, PageToken: token},
	})
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	for {
		response, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil || !give(response) {
			return err
		}
	}
}

// check holds a message against what must come after so many dispensings, and
// returns how many there are with it.
func (r *reached) check(before int, message *pb.ListRecalledPatientsResponse) int {
	r.tb.Helper()
	for i, d := range message.GetDispensings() {
		if before+i >= len(r.want) {
			r.tb.Fatalf("more than %d dispensings are listed: %v", len(r.want), d)
		}
		got := reachedOne{d.GetSequence(), ledger.PatientID(d.GetPatientId()), d.GetQuantity(), d.GetReturned()}
		if got != r.want[before+i] || d.GetLotId() != "L1" || d.GetDispensing().GetDispensingId() != fmt.Sprintf("DN-%d", got.sequence) {
			r.tb.Fatalf("dispensing %d of the list is %v, want %+v", before+i, d, r.want[before+i])
		}
	}
	return before + len(message.GetDispensings())
}

// highWater is how much memory is held after the first messages, and at most
// after those.
type highWater struct{ first, peak float64 }

func (h *highWater) see(mebibytes float64, warm bool) {
	if warm {
		h.peak = max(h.peak, mebibytes)
	} else {
		h.first = max(h.first, mebibytes)
		h.peak = h.first
	}
}

func heapMiB() float64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapInuse) / (1 << 20)
}

// TestRecallReach lists whom a recalled lot reached: all, once and in order,
// with what came back since; and again with a node that is killed in the middle
// of the list. It measures how long the first page takes, and how much memory
// node and reader hold meanwhile. It is not parallel: other tests' memory would
// count as the reader's.
func TestRecallReach(t *testing.T) {
	reach := sizeFrom(t, "RECALL_REACH", defaultReach)
	r := &reached{recalledClinic: newRecalledClinic(t, reachPlaces, 0)}
	began := time.Now()
	r.prescribe(reach)
	t.Logf("%d dispensings of the lot made in %s", reach, time.Since(began).Round(time.Millisecond))
	r.must(&ledger.RecallLot{LotID: "L1", ReasonCode: "contaminated"})
	r.servers = startCluster(t)
	recall := r.awaitRecall(func(recall *ledger.Recall) bool { return recall.FollowedUp })
	r.recallID = string(recall.RecallID)
	r.measure(t)
	r.readThroughCrash(t)
	r.servers.verify(string(r.id))
}

// measure reads the whole list once.
func (r *reached) measure(t *testing.T) {
	var first time.Duration
	var atNode, here highWater
	seen := 0
	began := time.Now()
	err := r.read("", func(message *pb.ListRecalledPatientsResponse) bool {
		if first == 0 {
			first = time.Since(began)
		}
		warm := seen > len(r.want)/10
		seen = r.check(seen, message)
		atNode.see(r.servers.node.MemoryMiB(), warm)
		here.see(heapMiB(), warm)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen != len(r.want) {
		t.Errorf("%d dispensings were listed of %d", seen, len(r.want))
	}
	t.Logf("%d dispensings: the first %d after %s, all after %s; node from %.0f to %.0f MiB, reader's heap from %.0f to %.0f MiB",
		seen, min(seen, reachPage), first.Round(time.Millisecond), time.Since(began).Round(time.Millisecond), atNode.first, atNode.peak, here.first, here.peak)
	for who, memory := range map[string]highWater{"node": atNode, "reader": here} {
		if memory.peak > memory.first+reachGrowth {
			t.Errorf("the %s's memory grows with the list: %.0f MiB after a tenth of it, %.0f MiB at most", who, memory.first, memory.peak)
		}
	}
}

// readThroughCrash reads the list again, kills the node on the way, and goes on
// where the list broke off.
func (r *reached) readThroughCrash(t *testing.T) {
	seen, token, crashed := 0, "", false
	for range 10 {
		err := r.read(token, func(message *pb.ListRecalledPatientsResponse) bool {
			seen, token = r.check(seen, message), message.GetNextPageToken()
			if !crashed {
				crashed = true
				r.servers.crash()
			}
			return true
		})
		if err != nil && !brokeOff(err) {
			t.Fatal(err)
		}
		if seen > 0 && token == "" {
			break
		}
	}
	if seen != len(r.want) {
		t.Errorf("%d dispensings were listed of %d, through a crash", seen, len(r.want))
	}
}

// brokeOff tells that the connection ended in the middle of a stream, which
// Connect's client tells in several ways.
func brokeOff(err error) bool {
	code := connect.CodeOf(err)
	return code == connect.CodeUnavailable || code == connect.CodeUnknown || errors.Is(err, io.ErrUnexpectedEOF)
}
