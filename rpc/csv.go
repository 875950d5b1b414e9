package rpc

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectinprocess"
	"google.golang.org/genproto/googleapis/type/date"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
)

// csvPrefix is the path of all reports as CSV; the clinic and the report follow
// it.
const csvPrefix = "/csv/"

// csvProcedure labels requests of CSV.
const csvProcedure = "csv"

// csvPage is how many rows are read at a time.
const csvPage = 1000

// asOfHeader tells which sequence the first page of a report shows.
const asOfHeader = "X-As-Of-Sequence"

// csvServices are the services that reports are read from: in process, through
// every interceptor, with the token of the caller.
type csvServices struct {
	catalog    stockledgerv1connect.CatalogServiceClient
	query      stockledgerv1connect.QueryServiceClient
	events     stockledgerv1connect.EventServiceClient
	pharmacy   stockledgerv1connect.PharmacyServiceClient
	operations stockledgerv1connect.OperationServiceClient
}

func newCSVServices(server *connect.Server) csvServices {
	conn := connect.NewClient(connectinprocess.New(server))
	return csvServices{
		stockledgerv1connect.NewCatalogServiceClient(conn), stockledgerv1connect.NewQueryServiceClient(conn), stockledgerv1connect.NewEventServiceClient(conn),
		stockledgerv1connect.NewPharmacyServiceClient(conn), stockledgerv1connect.NewOperationServiceClient(conn),
	}
}

// csvReport is a list of the services as a table.
type csvReport struct {
	columns []string
	// request is what a clinic's list begins with; parameters of the address are
	// the names of its fields.
	request func(clinic string) proto.Message
	// part is what it belongs to; empty: both.
	part Part
	// alsoShows is the permission that lets a reader see more of it; empty: all who
	// read it see the same.
	alsoShows permission
	// read reads a page of it.
	read func(context.Context, csvServices, proto.Message) (*csvRows, error)
	// shorten makes of the request one for as little as can be read.
	shorten func(req proto.Message)
	// goOn makes of the request the one for the page that a token names.
	goOn func(req proto.Message, token string) error
}

type csvRows struct {
	rows  [][]string
	total int64  // rows that the report will have; 0 where it is not known
	next  string // the token of the next page; empty at the end
	asOf  *stockledgerv1.AsOf
}

// listed is an answer with a part of a list.
type listed interface {
	GetNextPageToken() string
	GetAsOf() *stockledgerv1.AsOf
}

// reportOf makes a report of a paged list.
func reportOf[Request proto.Message, Response listed, Row any](
	columns []string, request func(clinic string, page *stockledgerv1.Page) Request,
	call func(csvServices) func(context.Context, Request) (Response, error), rows func(Response) []Row, line func(Row) []string,
) csvReport {
	return csvReport{
		columns: columns,
		request: func(clinic string) proto.Message { return request(clinic, &stockledgerv1.Page{PageSize: csvPage}) },
		read: func(ctx context.Context, services csvServices, req proto.Message) (*csvRows, error) {
			typed, ok := req.(Request)
			if !ok {
				return nil, fmt.Errorf("rpc: a report's request is a %T", req)
			}
			response, err := call(services)(ctx, typed)
			if err != nil {
				return nil, err
			}
			return &csvRows{rows: each(rows(response), line), next: response.GetNextPageToken(), asOf: response.GetAsOf()}, nil
		},
		shorten: func(req proto.Message) {
			if list, ok := req.(paged); ok {
				list.GetPage().PageSize = 1
			}
		},
		goOn: func(req proto.Message, token string) error {
			list, ok := req.(paged)
			if !ok {
				return fmt.Errorf("rpc: a %T has no pages", req)
			}
			list.GetPage().PageToken = token
			return nil
		},
	}
}

// encode writes a page as CSV, the first one with the names of the columns.
func (r *csvReport) encode(w io.Writer, page *csvRows, first bool) error {
	out := csv.NewWriter(w)
	out.UseCRLF = true // RFC 4180
	if first {
		_ = out.Write(r.columns) // its error comes again with the next line
	}
	return out.WriteAll(page.rows)
}

var csvReports = map[string]csvReport{
	"stock-card": reportOf(
		append([]string{"location_id", "medicine_id"}, movementColumns...),
		func(clinic string, page *stockledgerv1.Page) *stockledgerv1.ListMovementsRequest {
			return &stockledgerv1.ListMovementsRequest{ClinicId: clinic, Page: page}
		},
		func(s csvServices) func(context.Context, *stockledgerv1.ListMovementsRequest) (*stockledgerv1.ListMovementsResponse, error) {
			return s.query.ListMovements
		},
		(*stockledgerv1.ListMovementsResponse).GetMovements,
		func(m *stockledgerv1.Movement) []string {
			return append([]string{CSVText(m.GetLocationId()), CSVText(m.GetMedicineId())}, movementCells(m)...)
		}),
	"stock-on-hand": reportOf(stockColumns,
		func(clinic string, page *stockledgerv1.Page) *stockledgerv1.ListStockRequest {
			return &stockledgerv1.ListStockRequest{ClinicId: clinic, Page: page}
		},
		func(s csvServices) func(context.Context, *stockledgerv1.ListStockRequest) (*stockledgerv1.ListStockResponse, error) {
			return s.query.ListStock
		},
		(*stockledgerv1.ListStockResponse).GetRows, stockCells),
	"expiries": reportOf(stockColumns,
		func(clinic string, page *stockledgerv1.Page) *stockledgerv1.ListExpiringLotsRequest {
			return &stockledgerv1.ListExpiringLotsRequest{ClinicId: clinic, Page: page}
		},
		func(s csvServices) func(context.Context, *stockledgerv1.ListExpiringLotsRequest) (*stockledgerv1.ListExpiringLotsResponse, error) {
			return s.query.ListExpiringLots
		},
		(*stockledgerv1.ListExpiringLotsResponse).GetRows, stockCells),
	"controlled-register": reportOf(
		append([]string{"opening", "in", "out", "balance"}, movementColumns...),
		func(clinic string, page *stockledgerv1.Page) *stockledgerv1.ControlledRegisterRequest {
			return &stockledgerv1.ControlledRegisterRequest{ClinicId: clinic, Page: page}
		},
		func(s csvServices) func(context.Context, *stockledgerv1.ControlledRegisterRequest) (*stockledgerv1.ControlledRegisterResponse, error) {
			return s.query.ControlledRegister
		},
		(*stockledgerv1.ControlledRegisterResponse).GetLines,
		func(l *stockledgerv1.RegisterLine) []string {
			return append([]string{decimal(l.GetOpening()), decimal(l.GetIn()), decimal(l.GetOut()), decimal(l.GetBalance())}, movementCells(l.GetMovement())...)
		}),
	"low-stock": reportOf(
		[]string{"location_id", "medicine_id", "available", "min", "reorder", "max", "low_since", "out_since"},
		func(clinic string, page *stockledgerv1.Page) *stockledgerv1.ListLowStockRequest {
			return &stockledgerv1.ListLowStockRequest{ClinicId: clinic, Page: page}
		},
		func(s csvServices) func(context.Context, *stockledgerv1.ListLowStockRequest) (*stockledgerv1.ListLowStockResponse, error) {
			return s.query.ListLowStock
		},
		(*stockledgerv1.ListLowStockResponse).GetRows,
		func(s *stockledgerv1.LocationStock) []string {
			return []string{
				CSVText(s.GetLocationId()), CSVText(s.GetMedicineId()), decimal(s.GetBalances().GetAvailable()), decimal(s.GetMin()), decimal(s.GetReorder()), decimal(s.GetMax()),
				cellTime(s.GetLowSince()), cellTime(s.GetOutSince()),
			}
		}),
	"reorder-suggestions": reportOf(
		[]string{"location_id", "medicine_id", "quantity", "available", "incoming", "min", "reorder", "max", "adjusted_average_monthly"},
		func(clinic string, page *stockledgerv1.Page) *stockledgerv1.ListReorderSuggestionsRequest {
			return &stockledgerv1.ListReorderSuggestionsRequest{ClinicId: clinic, Page: page}
		},
		func(s csvServices) func(context.Context, *stockledgerv1.ListReorderSuggestionsRequest) (*stockledgerv1.ListReorderSuggestionsResponse, error) {
			return s.query.ListReorderSuggestions
		},
		(*stockledgerv1.ListReorderSuggestionsResponse).GetRows,
		func(r *stockledgerv1.ReorderSuggestion) []string {
			s := r.GetStock()
			return []string{
				CSVText(s.GetLocationId()), CSVText(s.GetMedicineId()), decimal(r.GetQuantity()), decimal(s.GetBalances().GetAvailable()), decimal(r.GetIncoming()),
				decimal(s.GetMin()), decimal(s.GetReorder()), decimal(s.GetMax()), strconv.FormatFloat(r.GetAdjustedAverageMonthly(), 'f', 1, 64),
			}
		}),
	"dispensing": dispensingReport,
	"journal":    journalReport,
}

// dispensingReport is no paged list. Where both days are given it is read by
// parts of them, so that no number of days is too large.
var dispensingReport = csvReport{
	columns: []string{"day", "location_id", "medicine_id", "pharmacist", "dispensings", "quantity", "wasted_quantity", "amounts_minor"},
	part:    PartPharmacy,
	request: func(clinic string) proto.Message { return &stockledgerv1.DispensingReportRequest{ClinicId: clinic} },
	read: func(ctx context.Context, services csvServices, req proto.Message) (*csvRows, error) {
		whole, ok := req.(*stockledgerv1.DispensingReportRequest)
		if !ok {
			return nil, fmt.Errorf("rpc: a report's request is a %T", req)
		}
		part, rest := splitDays(whole)
		response, err := services.pharmacy.DispensingReport(ctx, part)
		if err != nil {
			return nil, err
		}
		return &csvRows{rows: each(response.GetRows(), dispensingCells), next: cellDate(rest), asOf: response.GetAsOf()}, nil
	},
	goOn: func(req proto.Message, token string) error {
		whole, ok := req.(*stockledgerv1.DispensingReportRequest)
		if !ok {
			return fmt.Errorf("rpc: a report's request is a %T", req)
		}
		day, err := ledger.ParseDate(token)
		whole.From = fromDate(day)
		return err
	},
}

// daysAtATime is how many days of dispensings are read at a time.
const daysAtATime = 31

// splitDays returns a request for the first days of another one, and the day
// that the rest begins with; nil where there is none.
func splitDays(whole *stockledgerv1.DispensingReportRequest) (*stockledgerv1.DispensingReportRequest, *date.Date) {
	from, noFrom := toDate("from", whole.GetFrom())
	to, noTo := toDate("to", whole.GetTo())
	if noFrom != nil || noTo != nil || from == 0 || to-from < daysAtATime {
		return whole, nil
	}
	part, ok := proto.Clone(whole).(*stockledgerv1.DispensingReportRequest)
	if !ok {
		return whole, nil
	}
	part.To = fromDate(from + daysAtATime - 1)
	return part, fromDate(from + daysAtATime)
}

func dispensingCells(r *stockledgerv1.DispensingReportRow) []string {
	var amounts []string
	for _, currency := range slices.Sorted(maps.Keys(r.GetAmountsMinor())) {
		amounts = append(amounts, currency+" "+decimal(r.GetAmountsMinor()[currency]))
	}
	return []string{
		cellDate(r.GetDay()), CSVText(r.GetLocationId()), CSVText(r.GetMedicineId()), CSVText(r.GetPharmacist()),
		decimal(r.GetDispensings()), decimal(r.GetQuantity()), decimal(r.GetWastedQuantity()), CSVText(strings.Join(amounts, "; ")),
	}
}

var movementColumns = []string{
	"sequence", "line", "recorded_at", "occurred_at", "actor", "command", "lot_id", "debit", "credit", "quantity",
	"available", "reserved", "pending", "quarantined", "in_transit", "reason_code", "reference", "hold_id", "party", "witness", "requester",
	"corrects_sequence", "document_id",
}

func movementCells(m *stockledgerv1.Movement) []string {
	cells := []string{
		decimal(m.GetSequence()), strconv.Itoa(int(m.GetLine())), cellTime(m.GetRecordedAt()), cellTime(m.GetOccurredAt()), CSVText(m.GetActor()), m.GetCommand(),
		CSVText(m.GetLotId()), enumWord("BUCKET_", m.GetDebit().String()), enumWord("BUCKET_", m.GetCredit().String()), decimal(m.GetQuantity()),
	}
	cells = append(cells, balanceCells(m.GetBalances())...)
	corrects := ""
	if m.GetCorrectsSequence() != 0 {
		corrects = decimal(m.GetCorrectsSequence())
	}
	return append(cells, CSVText(m.GetReasonCode()), CSVText(m.GetReference()), CSVText(m.GetHoldId()), CSVText(m.GetParty()), CSVText(m.GetWitness()),
		CSVText(m.GetRequester()), corrects, CSVText(m.GetDocumentId()))
}

var stockColumns = []string{
	"location_id", "medicine_id", "lot_id", "lot_number", "expiry", "expired", "active", "bar",
	"available", "reserved", "pending", "quarantined", "in_transit", "last_sequence",
}

func stockCells(r *stockledgerv1.StockRow) []string {
	lot := r.GetLot()
	cells := []string{
		CSVText(r.GetLocationId()), CSVText(r.GetMedicineId()), CSVText(r.GetLotId()), CSVText(lot.GetLotNumber()), cellDate(lot.GetExpiry()),
		strconv.FormatBool(lot.GetExpired()), strconv.FormatBool(lot.GetActive()), enumWord("LOT_BAR_", lot.GetBar().String()),
	}
	return append(append(cells, balanceCells(r.GetBalances())...), decimal(r.GetLastSequence()))
}

func balanceCells(b *stockledgerv1.Balances) []string {
	return []string{decimal(b.GetAvailable()), decimal(b.GetReserved()), decimal(b.GetPending()), decimal(b.GetQuarantined()), decimal(b.GetInTransit())}
}

// CSVText writes a text so that no spreadsheet takes it for a formula: one that
// begins like one gets an apostrophe before it, as OWASP advises against CSV
// injection.
func CSVText(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r\n", rune(s[0])) {
		return "'" + s
	}
	return s
}

func cellTime(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Format(time.RFC3339Nano)
}

func cellDate(d *date.Date) string {
	if d == nil {
		return ""
	}
	return fmt.Sprintf("%04d-%02d-%02d", d.GetYear(), d.GetMonth(), d.GetDay())
}

// enumWord is an enum's value without what all of them begin with; empty where
// it says nothing.
func enumWord(prefix, name string) string {
	word := strings.ToLower(strings.TrimPrefix(name, prefix))
	if word == "unspecified" {
		return ""
	}
	return word
}

// csvRoutes serves reports as CSV.
func (s *Server) csvRoutes() http.Handler {
	return s.observed(csvProcedure, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := w.(*answerWriter)
		answer.record.note(func(known *requestFacts) { known.protocol = csvProcedure })
		w.Header().Set("Cache-Control", "no-store")
		if r.Method != http.MethodGet {
			w.Header().Set("Allow", http.MethodGet)
			refuse(answer, http.StatusMethodNotAllowed, fail(reasonUnknownMethod, "Reports are read with GET."))
			return
		}
		if err := s.serveCSV(answer, r); err != nil {
			refuseCSV(answer, err)
		}
	}))
}

// refuseCSV answers with an error as Connect's unary protocol does. Where a part
// of the report has been sent, the connection is cut, so that it does not look
// whole.
func refuseCSV(w *answerWriter, err error) {
	if w.record.facts().status != 0 {
		panic(http.ErrAbortHandler)
	}
	var remote *connect.Error
	if !errors.As(err, &remote) {
		f := explain(err)
		refuse(w, httpStatus(ReasonDoc{Code: f.code}), f)
		return
	}
	if remote.Code() == connect.CodeUnauthenticated {
		w.Header().Set("WWW-Authenticate", `Bearer realm="stockledger"`)
	}
	writeJSON(w, httpStatus(ReasonDoc{Code: remote.Code()}), map[string]any{
		"code": remote.Code().String(), "message": remote.Message(), "details": wireDetails(remote),
	})
}

// serveCSV writes one report, page by page, or the result of one that was
// submitted.
func (s *Server) serveCSV(w *answerWriter, r *http.Request) error {
	clinic, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, csvPrefix), "/")
	ctx, info := connect.NewClientContext(r.Context())
	if token := r.Header.Get("Authorization"); token != "" {
		info.RequestHeader().Set("Authorization", token)
	}
	if key, ok := strings.CutPrefix(name, resultsPath); ok {
		return s.serveResult(ctx, w, clinic, key)
	}
	report, ok := csvReports[name]
	if !ok {
		return fail(reasonUnknownMethod, "There is no report %q. There are: %s.", plain(name), strings.Join(slices.Sorted(maps.Keys(csvReports)), ", "))
	}
	if !s.cfg.serves(report.part) {
		return elsewhere("the report "+name, report.part)
	}
	req := report.request(clinic)
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return fail(reasonMalformedRequest, "The query of the address is malformed.")
	}
	if err := setParameters(req.ProtoReflect(), query); err != nil {
		return err
	}
	control := http.NewResponseController(w.ResponseWriter)
	for begun := false; ; begun = true {
		page, err := report.read(ctx, s.services, req)
		if err != nil {
			return err
		}
		_ = control.SetWriteDeadline(time.Now().Add(s.cfg.WriteTimeout))
		if !begun {
			csvHeader(w.Header(), name, clinic, page.asOf.GetSequence())
		}
		if err := report.encode(w, page, !begun); err != nil {
			return err
		}
		w.Flush()
		if page.next == "" {
			return nil
		}
		if hasEnded(s.ending) {
			return fail(reasonShuttingDown, "This node is shutting down.")
		}
		if err := report.goOn(req, page.next); err != nil {
			return err
		}
	}
}

// csvContentType is what a report's file is.
const csvContentType = "text/csv; charset=utf-8; header=present"

func csvHeader(header http.Header, report, clinic string, asOf int64) {
	header.Set("Content-Type", csvContentType)
	header.Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", report+"-"+clinic+".csv"))
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set(asOfHeader, decimal(asOf))
}

// setParameters sets fields of a request that the address names.
func setParameters(req protoreflect.Message, query url.Values) error {
	for _, name := range slices.Sorted(maps.Keys(query)) {
		in, field := parameter(req, name)
		if field == nil {
			return invalidField(plain(name), "The report has no parameter %q. It has: %s.", plain(name), strings.Join(parametersOf(req.Descriptor()), ", "))
		}
		if len(query[name]) > 1 {
			return invalidField(name, "%s is given more than once.", name)
		}
		value, err := parameterValue(field, query.Get(name))
		if err != nil {
			return invalidField(name, "%s: %s.", name, err)
		}
		if field.IsList() {
			value = listOf(in.NewField(field), query.Get(name))
		}
		in.Set(field, value)
	}
	return nil
}

// listOf is a list of texts, which have commas between them.
func listOf(empty protoreflect.Value, text string) protoreflect.Value {
	for item := range strings.SplitSeq(text, ",") {
		empty.List().Append(protoreflect.ValueOfString(item))
	}
	return empty
}

// parameter finds the field that an address names, and the message that it is
// in: after.sequence is one of the message after. Nil: there is none.
func parameter(req protoreflect.Message, name string) (protoreflect.Message, protoreflect.FieldDescriptor) {
	outer, inner, nested := strings.Cut(name, ".")
	field := req.Descriptor().Fields().ByName(protoreflect.Name(outer))
	switch {
	case field == nil:
		return nil, nil
	case nested && hasParameters(field):
		return parameter(req.Mutable(field).Message(), inner)
	case nested || !isParameter(field):
		return nil, nil
	}
	return req, field
}

// isParameter tells what an address can say from what it says elsewhere or
// cannot say.
func isParameter(field protoreflect.FieldDescriptor) bool {
	switch {
	case isSaidElsewhere(field) || field.IsMap():
		return false
	case field.IsList():
		return field.Kind() == protoreflect.StringKind
	case field.Message() != nil:
		return isDateOrTime(field.Message())
	}
	return field.Enum() == nil
}

// hasParameters tells a message whose fields are parameters.
func hasParameters(field protoreflect.FieldDescriptor) bool {
	return field.Message() != nil && !field.IsList() && !field.IsMap() && !isSaidElsewhere(field) && !isDateOrTime(field.Message())
}

func isSaidElsewhere(field protoreflect.FieldDescriptor) bool {
	return field.Name() == "clinic_id" || field.Name() == "page" || field.Name() == "read"
}

func isDateOrTime(message protoreflect.MessageDescriptor) bool {
	return message.FullName() == "google.type.Date" || message.FullName() == "google.protobuf.Timestamp"
}

func parametersOf(message protoreflect.MessageDescriptor) []string {
	var names []string
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		switch {
		case isParameter(field):
			names = append(names, string(field.Name()))
		case hasParameters(field):
			for _, inner := range parametersOf(field.Message()) {
				names = append(names, string(field.Name())+"."+inner)
			}
		}
	}
	return names
}

func parameterValue(field protoreflect.FieldDescriptor, text string) (protoreflect.Value, error) {
	switch field.Kind() {
	case protoreflect.BoolKind:
		value, err := strconv.ParseBool(text)
		if err != nil {
			return protoreflect.Value{}, errors.New("write true or false")
		}
		return protoreflect.ValueOfBool(value), nil
	case protoreflect.Int32Kind:
		value, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return protoreflect.Value{}, fmt.Errorf("%q is not a number that it can be", plain(text))
		}
		return protoreflect.ValueOfInt32(int32(value)), nil
	case protoreflect.Int64Kind:
		value, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return protoreflect.Value{}, fmt.Errorf("%q is not a number that it can be", plain(text))
		}
		return protoreflect.ValueOfInt64(value), nil
	case protoreflect.MessageKind:
		if field.Message().FullName() == "google.type.Date" {
			day, err := ledger.ParseDate(plain(text))
			if err != nil {
				return protoreflect.Value{}, err
			}
			return protoreflect.ValueOfMessage(fromDate(day).ProtoReflect()), nil
		}
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return protoreflect.Value{}, fmt.Errorf("%q is not a time: write it as 2027-03-31T14:00:00Z", plain(text))
		}
		return protoreflect.ValueOfMessage(timestamppb.New(at).ProtoReflect()), nil
	}
	return protoreflect.ValueOfString(text), nil
}
