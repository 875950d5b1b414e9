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

	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// pharmacy prescribes and dispenses through the API, one command a request.
type pharmacy struct {
	b                     *bench
	spread                spread
	patients              []string // a token of each clinic
	standing              [][]string
	prescribed, dispensed atomic.Int64 // of this round, without the set-up
}

const (
	pharmacyClinics   = 100
	pharmacyMedicines = 50
	// standingEach is how many prescriptions of each clinic there are to
	// dispense against; each can be filled a thousand times.
	standingEach    = 50
	pharmacyCallers = 256
)

func (b *bench) newPharmacy() *pharmacy { return &pharmacy{b: b} }

// prepare makes a round's clinics with a patient and standing prescriptions
// each, unless an earlier part of the round did.
func (p *pharmacy) prepare(round int) error {
	prefix := fmt.Sprintf("b%s-pharmacy-%d", p.b.run, round)
	if p.spread.prefix == prefix {
		return nil
	}
	p.spread = spread{b: p.b, prefix: prefix, clinics: pharmacyClinics, medicines: pharmacyMedicines}
	p.patients, p.standing = make([]string, pharmacyClinics), make([][]string, pharmacyClinics)
	p.prescribed.Store(0)
	p.dispensed.Store(0)
	p.b.progress("setting up %d clinics with %d prescriptions each\n", pharmacyClinics, standingEach)
	w, err := dial(p.b.node)
	if err != nil {
		return err
	}
	defer func() { _ = w.conn.Close() }()
	for i := range pharmacyClinics {
		if err := p.furnish(w, i); err != nil {
			return err
		}
	}
	return nil
}

func (p *pharmacy) furnish(w *wire, i int) error {
	clinic, setup := p.spread.clinic(i), p.spread.setupBatch(i)
	for m := range pharmacyMedicines {
		n := strconv.Itoa(m)
		setup.Commands = append(setup.Commands, &pb.Command{IdempotencyKey: "price-" + n, Body: &pb.Command_SetPrice{SetPrice: &pb.SetPrice{
			MedicineId: "m" + n, EffectiveFrom: &date.Date{Year: 2020, Month: 1, Day: 1}, AmountMinor: 125, PerQuantity: 1, Currency: "KES",
		}}})
	}
	if err := w.execute(setup); err != nil {
		return err
	}
	register := &pb.Command{IdempotencyKey: "patient", Body: &pb.Command_RegisterPatient{RegisterPatient: &pb.RegisterPatient{Identity: &pb.PatientIdentity{FamilyName: "Bench"}}}}
	registered, err := w.batch(clinic, []*pb.Command{register})
	if err != nil {
		return err
	}
	p.patients[i] = registered[0].GetChange().GetDocuments()[0].GetId()
	commands := make([]*pb.Command, standingEach)
	for n := range commands {
		commands[n] = p.prescription(i)
		commands[n].IdempotencyKey = "standing-" + strconv.Itoa(n)
	}
	made, err := w.batch(clinic, commands)
	for _, accepted := range made {
		p.standing[i] = append(p.standing[i], accepted.GetChange().GetDocuments()[0].GetId())
	}
	return err
}

// batch executes commands and returns what they came to.
func (w *wire) batch(clinic string, commands []*pb.Command) ([]*pb.Accepted, error) {
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
	accepted := make([]*pb.Accepted, 0, len(commands))
	for _, result := range res.GetResults() {
		if result.GetAccepted() == nil {
			return nil, fmt.Errorf("a command was rejected: %s", result.GetRejected().GetMessage())
		}
		accepted = append(accepted, result.GetAccepted())
	}
	return accepted, nil
}

func (p *pharmacy) prescription(clinic int) *pb.Command {
	return &pb.Command{Body: &pb.Command_CreatePrescription{CreatePrescription: &pb.CreatePrescription{
		PatientId: p.patients[clinic], LocationId: "store", Prescriber: "Dr. Hill", ValidUntil: &date.Date{Year: 2099, Month: 1, Day: 1},
		Lines: []*pb.PrescribedLine{{MedicineId: "m" + strconv.Itoa(rand.IntN(pharmacyMedicines)), Quantity: 1, Refills: 999}},
	}}}
}

func (p *pharmacy) dispensing(clinic int) *pb.Command {
	return &pb.Command{Body: &pb.Command_DispenseMedicine{DispenseMedicine: &pb.DispenseMedicine{
		LocationId: "store", PrescriptionId: p.standing[clinic][rand.IntN(standingEach)], Quantity: 1, Payer: "NHIF",
	}}}
}

// send sends one command by its unary method.
func (p *pharmacy) send(w *wire, clinic int, method, key string, command *pb.Command) error {
	command.IdempotencyKey = key
	body, err := proto.Marshal(&pb.CommandRequest{ClinicId: p.spread.clinic(clinic), Command: command})
	if err != nil {
		return err
	}
	_, err = w.post("PharmacyService/"+method, body)
	return err
}

// request is one prescription or one dispensing, of a caller's n-th clinic.
type request func(w *wire, caller, n int, key string) error

func (p *pharmacy) prescribe(w *wire, caller, n int, key string) error {
	clinic := (caller + n*pharmacyCallers) % pharmacyClinics
	err := p.send(w, clinic, "CreatePrescription", key, p.prescription(clinic))
	if err == nil {
		p.prescribed.Add(1)
	}
	return err
}

func (p *pharmacy) dispense(w *wire, caller, n int, key string) error {
	clinic := (caller + n*pharmacyCallers) % pharmacyClinics
	err := p.send(w, clinic, "DispenseMedicine", key, p.dispensing(clinic))
	if err == nil {
		p.dispensed.Add(1)
	}
	return err
}

func (p *pharmacy) wires() ([]*wire, func(), error) {
	wires := make([]*wire, 0, pharmacyCallers)
	closeAll := func() {
		for _, w := range wires {
			_ = w.conn.Close()
		}
	}
	for range pharmacyCallers {
		w, err := dial(p.b.node)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		wires = append(wires, w)
	}
	return wires, closeAll, nil
}

// most sends as much as the node takes: each caller waits for its answer.
func (p *pharmacy) most(do request) func(context.Context, int) (sample, error) {
	return func(ctx context.Context, _ int) (sample, error) {
		wires, closeAll, err := p.wires()
		if err != nil {
			return sample{}, err
		}
		defer closeAll()
		run := rand.Uint32()
		return drive(ctx, pharmacyCallers, func(_ context.Context, caller, n int) (int, error) {
			return 1, do(wires[caller], caller, n, fmt.Sprintf("%08x-%d-%d", run, caller, n))
		})
	}
}

// half sends at half the rate that another part has just reached, evenly, and
// whether or not the answers come: a request's time runs from when it was due.
func (p *pharmacy) half(of *part, do request) func(context.Context, int) (sample, error) {
	return func(ctx context.Context, _ int) (sample, error) {
		wires, closeAll, err := p.wires()
		if err != nil {
			return sample{}, err
		}
		defer closeAll()
		rate := of.samples[len(of.samples)-1].perSecond() / 2
		period := time.Duration(float64(pharmacyCallers) / rate * float64(time.Second))
		return paced(ctx, pharmacyCallers, period, func(caller, n int, key string) error { return do(wires[caller], caller, n, key) })
	}
}

// paced has each caller send a request every period, one after the other.
func paced(ctx context.Context, callers int, period time.Duration, do func(caller, n int, key string) error) (sample, error) {
	run, began := rand.Uint32(), time.Now()
	var mu sync.Mutex
	var all sync.WaitGroup
	var total sample
	var failed error
	for caller := range callers {
		all.Go(func() {
			var mine []time.Duration
			var err error
			for n := 0; err == nil; n++ {
				due := began.Add(period*time.Duration(n) + period*time.Duration(caller)/time.Duration(callers))
				if !wait(ctx, time.Until(due)) {
					break
				}
				if err = do(caller, n, fmt.Sprintf("%08x-%d-%d", run, caller, n)); err == nil {
					mine = append(mine, time.Since(due))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			total.commands += int64(len(mine))
			total.latencies = append(total.latencies, mine...)
			failed = errors.Join(failed, err)
		})
	}
	all.Wait()
	total.elapsed = time.Since(began)
	slices.Sort(total.latencies)
	return total, failed
}

// wait waits, and tells whether ctx is still going on.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(max(d, 0))
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// agree proves that every acknowledged prescription is there once, and every
// dispensing, with its charge and its units.
func (p *pharmacy) agree(ctx context.Context, _ int64) error {
	var prescriptions, dispensings, charges, available int64
	from, to := p.spread.prefix+"-", p.spread.prefix+"."
	err := p.b.pool.QueryRow(ctx, `SELECT
		(SELECT count(*) FROM documents WHERE clinic_id >= $1 AND clinic_id < $2 AND kind = 20),
		(SELECT count(*) FROM documents WHERE clinic_id >= $1 AND clinic_id < $2 AND kind = 21 AND NOT is_open),
		(SELECT count(*) FROM documents WHERE clinic_id >= $1 AND clinic_id < $2 AND kind = 24),
		(SELECT COALESCE(sum(available), 0)::int8 FROM stock WHERE clinic_id >= $1 AND clinic_id < $2)`, from, to).
		Scan(&prescriptions, &dispensings, &charges, &available)
	if err != nil {
		return err
	}
	prescribed, dispensed := p.prescribed.Load()+pharmacyClinics*standingEach, p.dispensed.Load()
	units := int64(pharmacyClinics*pharmacyMedicines) * setupUnits
	if prescriptions != prescribed || dispensings != dispensed || charges != dispensed || available != units-dispensed {
		return fmt.Errorf("%d prescribed, %d dispensed: %d prescriptions, %d dispensings, %d charges, %d of %d units available",
			prescribed, dispensed, prescriptions, dispensings, charges, available, units)
	}
	return nil
}

// pharmacyParts are compared with hand-written SQL of the same work.
func (b *bench) pharmacyParts() []*part {
	p := b.newPharmacy()
	prescribed := &part{key: "sql_prescriptions", name: "prescriptions, SQL, one transaction", load: b.sqlPharmacy.prescribe, agree: b.sqlPharmacy.agreePrescribed, tables: pharmacyTables}
	dispensed := &part{key: "sql_dispensings", name: "dispensings, SQL, one transaction", load: b.sqlPharmacy.dispense, agree: b.sqlPharmacy.agreeDispensed, tables: pharmacyTables}
	api := func(key, name string, load func(context.Context, int) (sample, error), against *part) *part {
		return &part{key: key, name: name, prepare: p.prepare, load: load, agree: p.agree, tables: ledgerTables, against: against}
	}
	prescribe := api("unary_prescriptions", "prescriptions, unary, 256 connections", p.most(p.prescribe), prescribed)
	dispense := api("unary_dispensings", "dispensings, unary, 256 connections", p.most(p.dispense), dispensed)
	halfPrescribed := api("half_prescriptions", "prescriptions, at half of that", p.half(prescribe, p.prescribe), prescribe)
	halfDispensed := api("half_dispensings", "dispensings, at half of that", p.half(dispense, p.dispense), dispense)
	halfPrescribed.after, halfDispensed.after = prescribe, dispense
	return []*part{prescribed, prescribe, halfPrescribed, dispensed, dispense, halfDispensed}
}
