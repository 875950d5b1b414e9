package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/type/date"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stockledger/stockledger/loadtest/node"
	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// spread is a set of clinics that a load is spread over. Each round has clinics
// of its own, so that none starts with the open reservations of the one before.
type spread struct {
	b         *bench
	at        *place // nil: the bench's own
	name      string
	prefix    string // of this round's clinics
	clinics   int
	medicines int // of each clinic, with one lot each
	done      atomic.Int64
	sequences int64 // of the set-up
}

const setupCallers = 8

// setupUnits is what each lot begins with.
const setupUnits = 1_000_000_000_000

func (b *bench) newSpread(name string, clinics, medicines int) *spread {
	return &spread{b: b, name: name, clinics: clinics, medicines: medicines}
}

func (s *spread) place() *place {
	if s.at != nil {
		return s.at
	}
	return &place{[]*node.Node{s.b.node}, s.b.pool}
}

func (s *spread) clinic(i int) string { return s.prefix + "-" + strconv.Itoa(i) }

// prepare creates a round's clinics and stocks them, through the API, unless an
// earlier part of the round did.
func (s *spread) prepare(round int) error {
	prefix := fmt.Sprintf("b%s-%s-%d", s.b.run, s.name, round)
	if s.prefix == prefix {
		return nil
	}
	s.b.progress("setting up %d clinics with %d lots each\n", s.clinics, s.medicines)
	s.prefix = prefix
	s.done.Store(0)
	s.sequences = int64(s.clinics) * int64(2+3*s.medicines)
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, setupCallers)
	for caller := range setupCallers {
		wg.Go(func() {
			w, err := dial(s.place().node(caller))
			for err == nil {
				i := int(next.Add(1)) - 1
				if i >= s.clinics {
					return
				}
				err = w.execute(s.setupBatch(i))
			}
			errs[caller] = err
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (s *spread) setupBatch(i int) *pb.ExecuteBatchRequest {
	commands := []*pb.Command{
		{IdempotencyKey: "clinic", Body: &pb.Command_CreateClinic{CreateClinic: &pb.CreateClinic{Name: "Bench", TimeZone: "UTC"}}},
		{IdempotencyKey: "location", Body: &pb.Command_CreateLocation{CreateLocation: &pb.CreateLocation{
			LocationId: "store", Name: "Store", Kind: pb.LocationKind_LOCATION_KIND_STORE,
		}}},
	}
	for m := range s.medicines {
		n := strconv.Itoa(m)
		commands = append(commands,
			&pb.Command{IdempotencyKey: "medicine-" + n, Body: &pb.Command_AddMedicine{AddMedicine: &pb.AddMedicine{
				MedicineId: "m" + n, Name: "Medicine " + n, BaseUnit: "tablet",
			}}},
			&pb.Command{IdempotencyKey: "lot-" + n, Body: &pb.Command_RegisterLot{RegisterLot: &pb.RegisterLot{
				LotId: "l" + n, MedicineId: "m" + n, Manufacturer: "Bench", LotNumber: "1", Expiry: &date.Date{Year: 9999, Month: 12, Day: 31},
			}}},
			&pb.Command{IdempotencyKey: "stock-" + n, Body: &pb.Command_ReceiveStock{ReceiveStock: &pb.ReceiveStock{
				LocationId: "store", LotId: "l" + n, Quantity: setupUnits,
			}}},
		)
	}
	return &pb.ExecuteBatchRequest{ClinicId: s.clinic(i), Commands: commands}
}

var benchDeadline = timestamppb.New(time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC))

// command makes a reservation of one unit.
func (s *spread) command(key string) *pb.Command {
	return &pb.Command{IdempotencyKey: key, Body: &pb.Command_ReserveStock{ReserveStock: &pb.ReserveStock{
		LocationId: "store", MedicineId: "m" + strconv.Itoa(rand.IntN(s.medicines)), Quantity: 1, ReasonCode: "bench", Deadline: benchDeadline,
	}}}
}

// load drives the spread's clinics from callers with a connection each; size is
// the number of commands in a request, 1 for the unary method.
func (s *spread) load(callers, size int) func(context.Context, int) (sample, error) {
	return func(ctx context.Context, round int) (sample, error) {
		wires := make([]*wire, callers)
		for i := range wires {
			w, err := dial(s.place().node(i))
			if err != nil {
				return sample{}, err
			}
			defer func() { _ = w.conn.Close() }()
			wires[i] = w
		}
		run := rand.Uint32()
		return drive(ctx, callers, func(_ context.Context, caller, n int) (int, error) {
			key := fmt.Sprintf("%08x-%d-%d", run, caller, n)
			clinic := s.clinic((caller + n*callers) % s.clinics)
			commands, err := s.request(wires[caller], clinic, key, size)
			s.done.Add(int64(commands))
			return commands, err
		})
	}
}

// request sends one command by the unary method, or many in a batch, in
// protobuf's own encoding, as Connect's and gRPC's clients do unless told
// otherwise.
func (s *spread) request(w *wire, clinic, key string, size int) (int, error) {
	if size == 1 {
		return 1, w.reserve(&pb.CommandRequest{ClinicId: clinic, Command: s.command(key)})
	}
	batch := &pb.ExecuteBatchRequest{ClinicId: clinic, Commands: make([]*pb.Command, size)}
	for i := range batch.Commands {
		batch.Commands[i] = s.command(key + "-" + strconv.Itoa(i))
	}
	return size, w.execute(batch)
}

// reserve sends one reservation. A rejected one is an HTTP error.
func (w *wire) reserve(req *pb.CommandRequest) error {
	body, err := proto.Marshal(req)
	if err != nil {
		return err
	}
	_, err = w.post("InventoryService/ReserveStock", body)
	return err
}

// execute sends a batch and checks that every command was accepted.
func (w *wire) execute(batch *pb.ExecuteBatchRequest) error {
	body, err := proto.Marshal(batch)
	if err != nil {
		return err
	}
	answer, err := w.post("InventoryService/ExecuteBatch", body)
	if err != nil {
		return err
	}
	var res pb.ExecuteBatchResponse
	if err := proto.Unmarshal(answer, &res); err != nil {
		return err
	}
	for i, result := range res.GetResults() {
		if result.GetAccepted() == nil {
			return fmt.Errorf("command %d was rejected: %v", i, result.GetRejected())
		}
	}
	if len(res.GetResults()) != len(batch.GetCommands()) {
		return fmt.Errorf("%d commands got %d verdicts", len(batch.GetCommands()), len(res.GetResults()))
	}
	return nil
}

// agreement compares what was acknowledged with every table of the ledger.
const agreement = `SELECT
	(SELECT COALESCE(sum(sequence), 0)::int8 FROM heads WHERE clinic_id >= $1 AND clinic_id < $2),
	(SELECT count(*) FROM journal WHERE clinic_id >= $1 AND clinic_id < $2),
	(SELECT count(*) FROM entries WHERE clinic_id >= $1 AND clinic_id < $2),
	(SELECT COALESCE(sum(reserved), 0)::int8 FROM stock WHERE clinic_id >= $1 AND clinic_id < $2),
	(SELECT COALESCE(sum(quantity), 0)::int8 FROM holds WHERE clinic_id >= $1 AND clinic_id < $2)`

// agree proves that nothing acknowledged is missing and nothing is there twice.
func (s *spread) agree(ctx context.Context, _ int64) error {
	var heads, journal, entries, reserved, holds int64
	from, to := s.prefix+"-", s.prefix+"."
	if err := s.place().pool.QueryRow(ctx, agreement, from, to).Scan(&heads, &journal, &entries, &reserved, &holds); err != nil {
		return err
	}
	done := s.done.Load()
	received := int64(s.clinics) * int64(s.medicines)
	if heads != done+s.sequences || journal != heads || entries != done+received || reserved != done || holds != done {
		return fmt.Errorf("%d commands acknowledged after %d of set-up: heads %d, journal %d, entries %d (%d of set-up), reserved %d, held %d",
			done, s.sequences, heads, journal, entries, received, reserved, holds)
	}
	return nil
}

const (
	batchCallers = 16
	batchSize    = 200
)

// parts lists what is measured, the baseline first.
func (b *bench) parts() []*part {
	hundred, many, hot := b.newSpread("hundred", 100, 50), b.newSpread("many", b.Many, 2), b.newSpread("hot", 1, 1)
	spreadShelf := func() int64 { return 1 + rand.Int64N(sqlShelves-1) }
	hotShelf := func() int64 { return 0 }
	parts := []*part{
		{key: "sql_spread", name: "SQL, a transaction a command, spread", load: b.sql.unary(spreadShelf), agree: b.sql.agree, tables: baselineTables},
		{key: "sql_hot", name: "SQL, a transaction a command, hot row", load: b.sql.unary(hotShelf), agree: b.sql.agree, tables: baselineTables},
		{key: "bulk_sql", name: "SQL, 500 commands a transaction", load: b.sql.bulk, agree: b.sql.agree, tables: baselineTables},
	}
	for _, over := range []struct {
		key, name string
		spread    *spread
	}{{"spread", "100 clinics", hundred}, {"many_clinics", fmt.Sprintf("%d clinics", b.Many), many}, {"hot", "one hot lot", hot}} {
		s := over.spread
		parts = append(parts,
			&part{key: "batch_" + over.key, name: "batch, " + over.name, prepare: s.prepare, load: s.load(batchCallers, batchSize), agree: s.agree, tables: ledgerTables},
			&part{key: "unary_" + over.key + "_64", name: "unary, 64 connections, " + over.name, prepare: s.prepare, load: s.load(64, 1), agree: s.agree, tables: ledgerTables},
			&part{key: "unary_" + over.key, name: "unary, 256 connections, " + over.name, prepare: s.prepare, load: s.load(256, 1), agree: s.agree, tables: ledgerTables},
		)
	}
	return slices.Concat(parts, b.transferParts(), b.pharmacyParts(), b.readParts(), b.modelParts(), b.clusterParts(), b.operationParts())
}

// transferParts are compared with hand-written SQL of the same five steps. They
// count transfers, not commands.
func (b *bench) transferParts() []*part {
	byHand := &part{
		key: "sql_transfers", name: "transfers, SQL, a transaction a step", load: b.sqlTransfers.load, agree: b.sqlTransfers.agree,
		tables: append([]string{"bench_transfers"}, baselineTables...),
	}
	t := b.newTransfers()
	return []*part{
		byHand,
		{key: "batch_transfers", name: "transfers, batches of 40", prepare: t.prepare, load: t.load(batchCallers, transferBatch), agree: t.agree, tables: ledgerTables, against: byHand},
		{key: "unary_transfers", name: "transfers, unary, 64 connections", prepare: t.prepare, load: t.load(64, 1), agree: t.agree, tables: ledgerTables, against: byHand},
	}
}
