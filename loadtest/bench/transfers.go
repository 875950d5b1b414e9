package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// transfers moves units between two locations of clinics through the API, each
// transfer in its five steps from the request to the completion.
type transfers struct {
	b         *bench
	prefix    string // of this round's clinics
	clinics   int
	medicines int
	done      atomic.Int64
}

const (
	transferClinics   = 100
	transferMedicines = 50
	transferBatch     = 40
	shelfUnits        = 1_000_000_000
)

func (b *bench) newTransfers() *transfers {
	return &transfers{b: b, clinics: transferClinics, medicines: transferMedicines}
}

// prepare makes a round's clinics with stock at both locations, unless an
// earlier part of the round did.
func (t *transfers) prepare(round int) error {
	prefix := fmt.Sprintf("b%s-transfers-%d", t.b.run, round)
	if t.prefix == prefix {
		return nil
	}
	t.prefix = prefix
	t.done.Store(0)
	s := spread{b: t.b, prefix: prefix, clinics: t.clinics, medicines: t.medicines}
	w, err := dial(t.b.node)
	if err != nil {
		return err
	}
	defer func() { _ = w.conn.Close() }()
	t.b.progress("setting up %d clinics with two locations each\n", t.clinics)
	for i := range t.clinics {
		batch := s.setupBatch(i)
		batch.Commands = append(batch.Commands, &pb.Command{IdempotencyKey: "ward", Body: &pb.Command_CreateLocation{CreateLocation: &pb.CreateLocation{
			LocationId: "ward", Name: "Ward", Kind: pb.LocationKind_LOCATION_KIND_WARD,
		}}})
		for m := range t.medicines {
			n := strconv.Itoa(m)
			batch.Commands = append(batch.Commands, &pb.Command{IdempotencyKey: "ward-stock-" + n, Body: &pb.Command_ReceiveStock{ReceiveStock: &pb.ReceiveStock{
				LocationId: "ward", LotId: "l" + n, Quantity: shelfUnits,
			}}})
		}
		if err := w.execute(batch); err != nil {
			return err
		}
	}
	return nil
}

// steps are what comes after the request, in their order.
var transferSteps = []struct {
	name string
	body func(id string) *pb.Command
}{
	{"ApproveTransfer", func(id string) *pb.Command {
		return &pb.Command{Body: &pb.Command_ApproveTransfer{ApproveTransfer: &pb.ApproveTransfer{TransferId: id}}}
	}},
	{"DispatchTransfer", func(id string) *pb.Command {
		return &pb.Command{Body: &pb.Command_DispatchTransfer{DispatchTransfer: &pb.DispatchTransfer{TransferId: id}}}
	}},
	{"ReceiveTransfer", func(id string) *pb.Command {
		return &pb.Command{Body: &pb.Command_ReceiveTransfer{ReceiveTransfer: &pb.ReceiveTransfer{TransferId: id}}}
	}},
	{"CompleteTransfer", func(id string) *pb.Command {
		return &pb.Command{Body: &pb.Command_CompleteTransfer{CompleteTransfer: &pb.CompleteTransfer{TransferId: id}}}
	}},
}

func (t *transfers) request() *pb.Command {
	from, to := "store", "ward"
	if rand.IntN(2) == 0 {
		from, to = to, from
	}
	return &pb.Command{Body: &pb.Command_TransferStock{TransferStock: &pb.TransferStock{
		FromLocationId: from, ToLocationId: to, DispatchBy: benchDeadline, ReasonCode: "bench",
		Lines: []*pb.RequestedLine{{MedicineId: "m" + strconv.Itoa(rand.IntN(t.medicines)), Quantity: 1}},
	}}}
}

// load drives the clinics from callers with a connection each; size is how many
// transfers a request advances, 1 for the unary methods.
func (t *transfers) load(callers, size int) func(context.Context, int) (sample, error) {
	return func(ctx context.Context, _ int) (sample, error) {
		wires := make([]*wire, callers)
		for i := range wires {
			w, err := dial(t.b.node)
			if err != nil {
				return sample{}, err
			}
			defer func() { _ = w.conn.Close() }()
			wires[i] = w
		}
		run := rand.Uint32()
		return drive(ctx, callers, func(_ context.Context, caller, n int) (int, error) {
			clinic := t.prefix + "-" + strconv.Itoa((caller+n*callers)%t.clinics)
			err := t.transfer(wires[caller], clinic, fmt.Sprintf("%08x-%d-%d", run, caller, n), size)
			t.done.Add(int64(size))
			return size, err
		})
	}
}

// transfer takes transfers from the request to the completion.
func (t *transfers) transfer(w *wire, clinic, key string, size int) error {
	commands := make([]*pb.Command, size)
	for i := range commands {
		commands[i] = t.request()
	}
	sequences, err := w.give(clinic, "TransferStock", key+"-0", commands)
	if err != nil {
		return err
	}
	for step, s := range transferSteps {
		for i, sequence := range sequences {
			commands[i] = s.body("TR-" + strconv.FormatInt(sequence, 10))
		}
		if _, err := w.give(clinic, s.name, fmt.Sprintf("%s-%d", key, step+1), commands); err != nil {
			return err
		}
	}
	return nil
}

// give sends one command by its unary method, or many in a batch, and returns
// their sequences.
func (w *wire) give(clinic, method, key string, commands []*pb.Command) ([]int64, error) {
	for i, c := range commands {
		c.IdempotencyKey = key + "-" + strconv.Itoa(i)
	}
	if len(commands) == 1 {
		return w.giveOne(clinic, method, commands[0])
	}
	body, err := proto.Marshal(&pb.ExecuteBatchRequest{ClinicId: clinic, Commands: commands})
	if err != nil {
		return nil, err
	}
	answer, err := w.post("InventoryService/ExecuteBatch", body)
	if err != nil {
		return nil, err
	}
	var res pb.ExecuteBatchResponse
	if err := proto.Unmarshal(answer, &res); err != nil {
		return nil, err
	}
	sequences := make([]int64, 0, len(commands))
	for _, result := range res.GetResults() {
		if r := result.GetRejected(); r != nil {
			return nil, fmt.Errorf("%s was rejected: %s", method, r.GetMessage())
		}
		sequences = append(sequences, result.GetAccepted().GetSequence())
	}
	return sequences, nil
}

func (w *wire) giveOne(clinic, method string, command *pb.Command) ([]int64, error) {
	body, err := proto.Marshal(&pb.CommandRequest{ClinicId: clinic, Command: command})
	if err != nil {
		return nil, err
	}
	answer, err := w.post("InventoryService/"+method, body)
	if err != nil {
		return nil, err
	}
	var res pb.CommandResponse
	if err := proto.Unmarshal(answer, &res); err != nil {
		return nil, err
	}
	if res.GetAccepted() == nil {
		return nil, errors.New(method + " has no answer")
	}
	return []int64{res.GetAccepted().GetSequence()}, nil
}

// agree proves that every acknowledged transfer is complete, and that no unit
// is gone or stuck.
func (t *transfers) agree(ctx context.Context, _ int64) error {
	var complete, open, available, stuck int64
	from, to := t.prefix+"-", t.prefix+"."
	err := t.b.pool.QueryRow(ctx, `SELECT
		(SELECT count(*) FROM documents WHERE clinic_id >= $1 AND clinic_id < $2 AND kind = 1 AND NOT is_open),
		(SELECT count(*) FROM documents WHERE clinic_id >= $1 AND clinic_id < $2 AND is_open),
		(SELECT COALESCE(sum(available), 0)::int8 FROM stock WHERE clinic_id >= $1 AND clinic_id < $2),
		(SELECT COALESCE(sum(reserved + pending + quarantined + in_transit), 0)::int8 FROM stock WHERE clinic_id >= $1 AND clinic_id < $2)`,
		from, to).Scan(&complete, &open, &available, &stuck)
	if err != nil {
		return err
	}
	units := int64(t.clinics) * int64(t.medicines) * (setupUnits + shelfUnits)
	if done := t.done.Load(); complete != done || open != 0 || available != units || stuck != 0 {
		return fmt.Errorf("%d transfers: %d complete, %d open, %d of %d units available, %d stuck", done, complete, open, available, units, stuck)
	}
	return nil
}
