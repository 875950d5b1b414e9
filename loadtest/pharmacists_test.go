package loadtest

import (
	"context"
	"encoding/csv"
	"fmt"
	"math/rand"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/genproto/googleapis/type/date"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stockledger/stockledger/loadtest/node"
	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
	"github.com/stockledger/stockledger/txn/txntest"
)

// order is a prescription with how often it is filled.
type order struct {
	clinic, patient, prescriber, code, medicine string
	priceMinor                                  int64
	fills                                       int
}

// units is how much one fill is.
func (o *order) units() int64 { return int64(1 + len(o.medicine)%5) }

// orders reads the prescriptions of a file, or makes some of the same shape.
func orders(t *testing.T) []order {
	t.Helper()
	if path := os.Getenv("PRESCRIPTIONS"); path != "" {
		return readOrders(t, path)
	}
	random := rand.New(rand.NewSource(7))
	list := make([]order, 100)
	for i := range list {
		medicine := random.Intn(12)
		list[i] = order{
			clinic: fmt.Sprintf("clinic %d", random.Intn(5)), patient: fmt.Sprintf("patient %d", random.Intn(25)), prescriber: "Dr. Hill",
			code: fmt.Sprint(856000 + medicine), medicine: fmt.Sprintf("medicine %d%s", medicine, strings.Repeat("x", medicine)),
			priceMinor: int64(100 + medicine), fills: 1 + random.Intn(5),
		}
	}
	return list
}

func readOrders(t *testing.T, path string) []order {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	rows, err := csv.NewReader(file).ReadAll()
	if err != nil || len(rows) < 2 {
		t.Fatalf("%s has %d rows: %v", path, len(rows), err)
	}
	at := make(map[string]int)
	for i, name := range rows[0] {
		at[name] = i
	}
	var list []order
	for _, row := range rows[1:] {
		get := func(name string) string { return row[at[name]] }
		price, err1 := strconv.ParseFloat(get("unit_cost"), 64)
		fills, err2 := strconv.Atoi(get("dispenses"))
		if err1 != nil || err2 != nil {
			t.Fatalf("%s: %v", path, row)
		}
		list = append(list, order{
			clinic: get("organization"), patient: get("patient_id"), prescriber: get("prescriber"), code: get("rxnorm"), medicine: get("medicine"),
			priceMinor: int64(price*100 + 0.5), fills: fills,
		})
	}
	return list
}

// hospital is two nodes on one database, of which one at a time is killed, and
// the people who use them.
type hospital struct {
	t           *testing.T
	binary, key string
	databaseURL string

	mu    sync.RWMutex
	nodes [2]*node.Node

	tokens  []string
	clinics map[string]string // ids by name
	tokenOf map[string]string // patients' tokens by clinic and patient

	clicks, doubles, stale, cancels, kills atomic.Int64
}

const pharmacists = 8

func openHospital(t *testing.T) *hospital {
	t.Helper()
	c := startCluster(t) // builds the server, and is the first node
	h := &hospital{t: t, binary: c.binary, key: c.key, databaseURL: c.databaseURL, clinics: make(map[string]string), tokenOf: make(map[string]string)}
	for i := range h.nodes {
		h.nodes[i] = h.start()
	}
	t.Cleanup(func() {
		for _, n := range h.nodes {
			if err := n.Stop(); err != nil {
				t.Errorf("stop a node: %v", err)
			}
		}
	})
	for i := range pharmacists {
		token, err := exec.Command(h.binary, "token", "--issuer-key", h.key, "--role", "admin", "--clinic", "*", "--subject", fmt.Sprintf("pharmacist-%d", i)).Output()
		if err != nil {
			t.Fatal(err)
		}
		h.tokens = append(h.tokens, strings.TrimSpace(string(token)))
	}
	return h
}

func (h *hospital) start() *node.Node {
	n, err := node.Start(context.Background(), h.binary, h.databaseURL, h.key)
	if err != nil {
		h.t.Fatal(err)
	}
	return n
}

// kill ends a node at once and starts another in its place. The pharmacists go
// over to the other node meanwhile.
func (h *hospital) kill(i int) {
	// Nobody else writes nodes.
	if err := h.nodes[i].Kill(); err != nil {
		h.t.Fatal(err)
	}
	n := h.start()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.nodes[i] = n
	h.kills.Add(1)
}

// person is somebody with a token at one of the nodes.
type person struct {
	pharmacy  stockledgerv1connect.PharmacyServiceClient
	inventory stockledgerv1connect.InventoryServiceClient
}

func (h *hospital) person(who, at int) person {
	h.mu.RLock()
	address := h.nodes[at%len(h.nodes)].Address
	h.mu.RUnlock()
	authorize := func(next connect.ClientFunc) connect.ClientFunc {
		return func(ctx context.Context, spec connect.Spec) (connect.ClientStream, error) {
			if info, ok := connect.CallInfoForClientContext(ctx); ok {
				info.RequestHeader().Set("Authorization", "Bearer "+h.tokens[who%pharmacists])
			}
			return next(ctx, spec)
		}
	}
	conn := connect.NewClient(connecthttp.NewTransport(http.DefaultClient, "http://"+address), authorize)
	return person{stockledgerv1connect.NewPharmacyServiceClient(conn), stockledgerv1connect.NewInventoryServiceClient(conn)}
}

// give sends a command until it is answered, wherever a node is up.
func (h *hospital) give(who int, clinic string, command *pb.Command) (*pb.Accepted, *pb.Rejected) {
	return h.giveFrom(who, who, clinic, command)
}

// giveFrom sends a command to a node, and to the other where that is away.
func (h *hospital) giveFrom(at, who int, clinic string, command *pb.Command) (*pb.Accepted, *pb.Rejected) {
	for ; ; at++ {
		response, err := h.person(who, at).inventory.ExecuteBatch(context.Background(), &pb.ExecuteBatchRequest{ClinicId: clinic, Commands: []*pb.Command{command}})
		if err == nil {
			result := response.GetResults()[0]
			switch result.GetRejected().GetReason() {
			case "UNAVAILABLE", "OUTCOME_UNKNOWN", "SHUTTING_DOWN", "NOT_ATTEMPTED", "BUSY":
				continue
			}
			return result.GetAccepted(), result.GetRejected()
		}
		if code := connect.CodeOf(err); code != connect.CodeUnavailable && code != connect.CodeUnknown && code != connect.CodeCanceled {
			h.t.Errorf("a pharmacist was told: %v", err)
			return nil, nil
		}
	}
}

// must gives a command that is accepted, now and then with a second click at
// either node.
func (h *hospital) must(random *rand.Rand, who int, clinic string, command *pb.Command) *pb.Accepted {
	h.clicks.Add(1)
	var second *pb.Accepted
	var click sync.WaitGroup
	if random.Intn(3) == 0 {
		h.doubles.Add(1)
		at := random.Intn(len(h.nodes))
		click.Go(func() { second, _ = h.giveFrom(at, who, clinic, command) })
	}
	accepted, rejected := h.give(who, clinic, command)
	click.Wait()
	if accepted == nil {
		h.t.Errorf("%s of %s was refused: %s", command.GetIdempotencyKey(), clinic, rejected.GetMessage())
		return nil
	}
	if second != nil && second.GetSequence() != accepted.GetSequence() {
		h.t.Errorf("two clicks on %s were recorded at %d and %d", command.GetIdempotencyKey(), accepted.GetSequence(), second.GetSequence())
	}
	return accepted
}

func documentID(a *pb.Accepted, kind pb.DocumentKind) string {
	for _, d := range a.GetChange().GetDocuments() {
		if d.GetKind() == kind {
			return d.GetId()
		}
	}
	return ""
}

// furnish makes the clinics with what their prescriptions need.
func (h *hospital) furnish(list []order) {
	seen := make(map[string]bool)
	random := rand.New(rand.NewSource(1))
	once := func(clinic, key string, command *pb.Command) *pb.Accepted {
		if seen[clinic+"|"+key] {
			return nil
		}
		seen[clinic+"|"+key] = true
		command.IdempotencyKey = key
		return h.must(random, 0, clinic, command)
	}
	for i := range list {
		o := &list[i]
		if h.clinics[o.clinic] == "" {
			h.clinics[o.clinic] = txntest.NewClinicID(h.t)
		}
		clinic, lot := h.clinics[o.clinic], "lot-"+o.code
		medicine := "med-" + o.code
		once(clinic, "clinic", &pb.Command{Body: &pb.Command_CreateClinic{CreateClinic: &pb.CreateClinic{Name: o.clinic, TimeZone: "UTC"}}})
		once(clinic, "location", &pb.Command{Body: &pb.Command_CreateLocation{CreateLocation: &pb.CreateLocation{LocationId: "dispensary", Name: "Dispensary", Kind: pb.LocationKind_LOCATION_KIND_DISPENSARY}}})
		once(clinic, medicine, &pb.Command{Body: &pb.Command_AddMedicine{AddMedicine: &pb.AddMedicine{MedicineId: medicine, Name: o.medicine, BaseUnit: "unit"}}})
		once(clinic, "id-"+o.code, &pb.Command{Body: &pb.Command_AddIdentifier{AddIdentifier: &pb.AddIdentifier{
			Subject: pb.IdentifierSubject_IDENTIFIER_SUBJECT_MEDICINE, SubjectId: medicine, System: "rxnorm", Value: o.code,
		}}})
		once(clinic, lot, &pb.Command{Body: &pb.Command_RegisterLot{RegisterLot: &pb.RegisterLot{LotId: lot, MedicineId: medicine, Manufacturer: "Acme", LotNumber: "1", Expiry: &date.Date{Year: 9999, Month: 12, Day: 31}}}})
		once(clinic, "stock-"+o.code, &pb.Command{Body: &pb.Command_ReceiveStock{ReceiveStock: &pb.ReceiveStock{LocationId: "dispensary", LotId: lot, Quantity: 1_000_000}}})
		once(clinic, "price-"+o.code, &pb.Command{Body: &pb.Command_SetPrice{SetPrice: &pb.SetPrice{
			MedicineId: medicine, EffectiveFrom: &date.Date{Year: 2020, Month: 1, Day: 1}, AmountMinor: o.priceMinor, PerQuantity: 1, Currency: "USD",
		}}})
		registered := once(clinic, "p-"+o.patient, &pb.Command{Body: &pb.Command_RegisterPatient{RegisterPatient: &pb.RegisterPatient{Identity: &pb.PatientIdentity{FamilyName: o.patient}}}})
		if registered != nil {
			h.tokenOf[clinic+"|"+o.patient] = documentID(registered, pb.DocumentKind_DOCUMENT_KIND_PATIENT)
		}
	}
}

// work creates one prescription and fills it as often as it says.
func (h *hospital) work(random *rand.Rand, who, number int, o *order) {
	clinic := h.clinics[o.clinic]
	name := fmt.Sprintf("rx-%d", number)
	create := &pb.CreatePrescription{
		PatientId: h.tokenOf[clinic+"|"+o.patient], Prescriber: o.prescriber, ValidUntil: &date.Date{Year: 9999, Month: 1, Day: 1}, LocationId: "dispensary",
		Lines: []*pb.PrescribedLine{{MedicineId: "rxnorm|" + o.code, Quantity: o.units(), Refills: int64(max(o.fills-1, 0)), DosageText: "as before"}},
	}
	if random.Intn(3) == 0 {
		create.HoldUntil = timestamppb.New(time.Now().Add(time.Hour))
	}
	if h.must(random, who, clinic, &pb.Command{IdempotencyKey: name, Body: &pb.Command_CreatePrescription{CreatePrescription: create}}) == nil {
		return
	}
	prescription := documentID(h.again(who, clinic, name, create), pb.DocumentKind_DOCUMENT_KIND_PRESCRIPTION)
	for fill, attempt := 0, 0; fill < o.fills && !h.t.Failed(); attempt++ {
		key := fmt.Sprintf("%s-%d", name, attempt)
		if h.fill(random, who, clinic, key, prescription, o) {
			fill++
		}
	}
}

// again sends a command once more, as somebody does who lost the answer.
func (h *hospital) again(who int, clinic, key string, create *pb.CreatePrescription) *pb.Accepted {
	accepted, _ := h.give(who, clinic, &pb.Command{IdempotencyKey: key, Body: &pb.Command_CreatePrescription{CreatePrescription: create}})
	if !accepted.GetReplayed() {
		h.t.Errorf("%s was carried out twice", key)
	}
	return accepted
}

// fill fills a prescription once, in one step or three, and tells whether it
// stayed so: now and then it is cancelled.
func (h *hospital) fill(random *rand.Rand, who int, clinic, key, prescription string, o *order) bool {
	var dispensing string
	if random.Intn(2) == 0 {
		dispensing = h.oneStep(random, who, clinic, key, prescription, o)
	} else {
		dispensing = h.threeSteps(random, who, clinic, key, prescription, o)
	}
	if dispensing == "" || random.Intn(6) > 0 {
		return dispensing != ""
	}
	h.cancels.Add(1)
	h.must(random, who, clinic, &pb.Command{IdempotencyKey: key + "-undo", Body: &pb.Command_CancelDispensing{CancelDispensing: &pb.CancelDispensing{
		DispensingId: dispensing, ReasonCode: "MISTAKE", NeverLeftCustody: true,
	}}})
	return false
}

func (h *hospital) oneStep(random *rand.Rand, who int, clinic, key, prescription string, o *order) string {
	dispense := &pb.DispenseMedicine{LocationId: "dispensary", PrescriptionId: prescription, Quantity: o.units()}
	checks := random.Intn(4) == 0
	if checks {
		dispense.Etag = h.etag(who, clinic, prescription)
	}
	accepted := h.must(random, who, clinic, &pb.Command{IdempotencyKey: key, Body: &pb.Command_DispenseMedicine{DispenseMedicine: dispense}})
	if accepted != nil && checks {
		// A second click under a key of its own, on what was seen before.
		h.stale.Add(1)
		_, rejected := h.give(who, clinic, &pb.Command{IdempotencyKey: key + "-click", Body: &pb.Command_DispenseMedicine{DispenseMedicine: dispense}})
		if rejected.GetReason() != "ETAG_MISMATCH" {
			h.t.Errorf("a second click on what was seen before comes to %v", rejected)
		}
	}
	return documentID(accepted, pb.DocumentKind_DOCUMENT_KIND_DISPENSING)
}

func (h *hospital) etag(who int, clinic, prescription string) string {
	for at := who; ; at++ {
		response, err := h.person(who, at).pharmacy.GetPrescription(context.Background(), &pb.GetPrescriptionRequest{ClinicId: clinic, PrescriptionId: prescription})
		if err == nil {
			return response.GetPrescription().GetEtag()
		}
		if code := connect.CodeOf(err); code != connect.CodeUnavailable && code != connect.CodeUnknown && code != connect.CodeCanceled {
			h.t.Errorf("read a prescription: %v", err)
			return ""
		}
	}
}

// threeSteps prepares, has another pharmacist check, and hands over. Now and
// then what lies ready is cancelled instead.
func (h *hospital) threeSteps(random *rand.Rand, who int, clinic, key, prescription string, o *order) string {
	prepared := h.must(random, who, clinic, &pb.Command{IdempotencyKey: key, Body: &pb.Command_PrepareDispensing{PrepareDispensing: &pb.PrepareDispensing{
		LocationId: "dispensary", PrescriptionId: prescription, Quantity: o.units(), CollectBy: timestamppb.New(time.Now().Add(time.Hour)),
	}}})
	dispensing := documentID(prepared, pb.DocumentKind_DOCUMENT_KIND_DISPENSING)
	if dispensing == "" {
		return ""
	}
	if random.Intn(8) == 0 {
		h.cancels.Add(1)
		h.must(random, who, clinic, &pb.Command{IdempotencyKey: key + "-back", Body: &pb.Command_CancelDispensing{CancelDispensing: &pb.CancelDispensing{DispensingId: dispensing, ReasonCode: "CHANGED"}}})
		return ""
	}
	h.must(random, who+1, clinic, &pb.Command{IdempotencyKey: key + "-check", Body: &pb.Command_CheckDispensing{CheckDispensing: &pb.CheckDispensing{DispensingId: dispensing}}})
	h.must(random, who, clinic, &pb.Command{IdempotencyKey: key + "-hand", Body: &pb.Command_HandOver{HandOver: &pb.HandOver{DispensingId: dispensing}}})
	return dispensing
}

// TestEightPharmacists creates prescriptions and fills each as often as it says,
// with double clicks, cancelled dispensings and killed nodes, and holds what was
// dispensed and charged against what was asked for. With PRESCRIPTIONS=file.csv
// it takes the prescriptions of a file.
func TestEightPharmacists(t *testing.T) {
	t.Parallel()
	h, list := openHospital(t), orders(t)
	h.furnish(list)
	jobs := make(chan int)
	var done atomic.Int64
	var staff sync.WaitGroup
	for who := range pharmacists {
		random := rand.New(rand.NewSource(int64(who)))
		staff.Go(func() {
			for number := range jobs {
				h.work(random, who, number, &list[number])
				done.Add(1)
			}
		})
	}
	// A node is killed whenever so many more prescriptions were filled.
	const deaths = 6
	for number := range list {
		jobs <- number
		if number > 0 && number%max(len(list)/deaths, 1) == 0 {
			h.kill(number % len(h.nodes))
		}
	}
	close(jobs)
	staff.Wait()
	if t.Failed() {
		return
	}
	h.checkTotals(list)
	fills := 0
	for i := range list {
		fills += list[i].fills
	}
	t.Logf("%d prescriptions, %d fills; %d clicks, %d of them double, %d second ones on an old version, %d cancelled, %d nodes killed",
		len(list), fills, h.clicks.Load(), h.doubles.Load(), h.stale.Load(), h.cancels.Load(), h.kills.Load())
}

// checkTotals holds reports, dispensings and billing events against the orders,
// and has the journals verified.
func (h *hospital) checkTotals(list []order) {
	want, due, prices := make(map[string]int64), make(map[string]int64), make(map[string]int64)
	for i := range list {
		o := &list[i]
		clinic, units := h.clinics[o.clinic], int64(o.fills)*o.units()
		account := clinic + "|med-" + o.code
		want[account] += units
		if _, known := prices[account]; !known {
			prices[account] = o.priceMinor // as furnish sets it
		}
		due[clinic] += units * prices[account]
	}
	got := make(map[string]int64)
	args := []string{"verify", "--database-url", h.databaseURL}
	for _, clinic := range h.clinics {
		args = append(args, "--clinic", clinic)
		report, err := h.person(0, 0).pharmacy.DispensingReport(context.Background(), &pb.DispensingReportRequest{ClinicId: clinic, Read: strong})
		if err != nil {
			h.t.Fatal(err)
		}
		for _, row := range report.GetRows() {
			got[clinic+"|"+row.GetMedicineId()] += row.GetQuantity()
		}
		h.checkCharges(clinic, due[clinic])
	}
	for account, units := range want {
		if got[account] != units {
			h.t.Errorf("%s: %d units were dispensed, want %d", account, got[account], units)
		}
		delete(got, account)
	}
	for account, units := range got {
		if units != 0 {
			h.t.Errorf("%s: %d units were dispensed, want none", account, units)
		}
	}
	if out, err := exec.Command(h.binary, args...).CombinedOutput(); err != nil {
		h.t.Errorf("verify: %v\n%s", err, out)
	}
}

var strong = &pb.ReadOptions{Consistency: pb.Consistency_CONSISTENCY_STRONG}

// checkCharges: each dispensing that was handed over has one billing event, each
// that was cancelled after that has one and its reversal, and together they come
// to what is due.
func (h *hospital) checkCharges(clinic string, due int64) {
	ctx, p := context.Background(), h.person(0, 0).pharmacy
	charges := make(map[string][]*pb.Charge)
	var sum int64
	for page := (&pb.Page{PageSize: 1000}); ; {
		response, err := p.ListCharges(ctx, &pb.ListChargesRequest{ClinicId: clinic, Page: page, Read: strong})
		if err != nil {
			h.t.Fatal(err)
		}
		for _, charge := range response.GetCharges() {
			charges[charge.GetDispensingId()] = append(charges[charge.GetDispensingId()], charge)
			sum += charge.GetAmountMinor()
		}
		if page = (&pb.Page{PageSize: 1000, PageToken: response.GetNextPageToken()}); page.PageToken == "" {
			break
		}
	}
	for page := (&pb.Page{PageSize: 1000}); ; {
		response, err := p.ListDispensings(ctx, &pb.ListDispensingsRequest{ClinicId: clinic, Page: page, Read: strong})
		if err != nil {
			h.t.Fatal(err)
		}
		for _, d := range response.GetDispensings() {
			checkCharged(h.t, d, charges[d.GetDispensingId()])
			delete(charges, d.GetDispensingId())
		}
		if page = (&pb.Page{PageSize: 1000, PageToken: response.GetNextPageToken()}); page.PageToken == "" {
			break
		}
	}
	if len(charges) > 0 {
		h.t.Errorf("clinic %s: %d billing events are of no dispensing", clinic, len(charges))
	}
	if sum != due {
		h.t.Errorf("clinic %s: the billing events come to %d, want %d", clinic, sum, due)
	}
}

func checkCharged(t *testing.T, d *pb.Dispensing, charges []*pb.Charge) {
	t.Helper()
	var sum int64
	for _, charge := range charges {
		sum += charge.GetAmountMinor()
	}
	handed := d.GetStatus() == pb.DispensingStatus_DISPENSING_STATUS_HANDED_OVER
	undone := d.GetStatus() == pb.DispensingStatus_DISPENSING_STATUS_CANCELLED && d.GetChargeId() != ""
	switch {
	case handed && len(charges) == 1 && sum == d.GetAmountMinor() && sum > 0:
	case undone && len(charges) == 2 && sum == 0 && charges[1].GetReversesChargeId() == charges[0].GetChargeId():
	case !handed && !undone && len(charges) == 0:
	default:
		t.Errorf("dispensing %v has the billing events %v", d, charges)
	}
}
