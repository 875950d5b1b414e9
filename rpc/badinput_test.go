package rpc

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/genproto/googleapis/type/date"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

const reserveProcedure = "/stockledger.v1.InventoryService/ReserveStock"

// answerOf reads an error as plain HTTP clients see it.
func answerOf(tb testing.TB, body []byte) (code, message string, reason ledger.Reason) {
	tb.Helper()
	var answer struct {
		Code, Message string
		Details       []struct{ Type, Value string }
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		tb.Fatalf("%q is not JSON: %v", body, err)
	}
	for _, d := range answer.Details {
		if d.Type != "google.rpc.ErrorInfo" {
			continue
		}
		value, err := connect.DecodeBinaryHeader(d.Value)
		if err != nil {
			tb.Fatal(err)
		}
		var info errdetails.ErrorInfo
		if err := proto.Unmarshal(value, &info); err != nil {
			tb.Fatal(err)
		}
		reason = ledger.Reason(info.GetReason())
	}
	return answer.Code, answer.Message, reason
}

func TestBytesThatAreNoRequest(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	token := n.token(t, pharmacist(c.id))
	valid, err := proto.Marshal(c.request(reserve("store", 1)))
	if err != nil {
		t.Fatal(err)
	}
	body := func(fields string) []byte {
		return fmt.Appendf(nil, `{"clinicId": %q, "command": {"idempotencyKey": %q, "reserveStock": {%s}}}`, c.id, key(), fields)
	}
	const rest = `"medicineId": "zinc", "reasonCode": "rx", "deadline": "2100-01-01T00:00:00Z"`
	badText := append([]byte{0x0a, 2}, 0xff, 0xfe) // field 1, a string
	for name, test := range map[string]struct {
		contentType string
		body        []byte
		status      int
		reason      ledger.Reason
		says        string
	}{
		"empty":                {"application/json", nil, 400, reasonMalformedRequest, ""},
		"half of JSON":         {"application/json", []byte(`{"clinicId":`), 400, reasonMalformedRequest, ""},
		"another shape":        {"application/json", []byte(`[1,2]`), 400, reasonMalformedRequest, ""},
		"JSON null":            {"application/json", []byte(`null`), 400, "", ""},
		"misspelt field":       {"application/json", body(`"locationId": "store", "amount": 1, ` + rest), 400, reasonMalformedRequest, "amount"},
		"text for a number":    {"application/json", body(`"locationId": "store", "quantity": "many", ` + rest), 400, reasonMalformedRequest, "quantity"},
		"number too large":     {"application/json", body(`"locationId": "store", "quantity": 9223372036854775808, ` + rest), 400, reasonMalformedRequest, ""},
		"fraction":             {"application/json", body(`"locationId": "store", "quantity": 1.5, ` + rest), 400, reasonMalformedRequest, ""},
		"NUL in an id":         {"application/json", body(`"locationId": "st\u0000re", "quantity": 1, ` + rest), 400, ledger.ReasonInvalidField, "location_id"},
		"invalid UTF-8 JSON":   {"application/json", body("\"locationId\": \"st\xffre\", \"quantity\": 1, " + rest), 400, reasonMalformedRequest, "UTF-8"},
		"invalid UTF-8 binary": {"application/proto", badText, 400, reasonMalformedRequest, "UTF-8"},
		"binary noise":         {"application/proto", bytes.Repeat([]byte{0xff}, 64), 400, reasonMalformedRequest, ""},
		"half of binary":       {"application/proto", valid[:len(valid)-3], 400, reasonMalformedRequest, ""},
		"deep nesting":         {"application/json", []byte(strings.Repeat(`{"command":`, 20_000)), 400, reasonMalformedRequest, ""},
		"two bodies":           {"application/json", fmt.Appendf(nil, `{"clinicId": %q, "command": {"idempotencyKey": "k", "releaseStock": {}, "reserveStock": {}}}`, c.id), 400, reasonMalformedRequest, ""},
		"unknown enum name":    {"application/json", fmt.Appendf(nil, `{"clinicId": %q, "command": {"idempotencyKey": "k", "createLocation": {"name": "x", "kind": "PALACE"}}}`, c.id), 400, reasonMalformedRequest, "PALACE"},
		"text":                 {"text/plain", []byte("hello"), 415, "", ""},
		"XML":                  {"application/xml", []byte("<a/>"), 415, "", ""},
		"form":                 {"application/x-www-form-urlencoded", []byte("a=b"), 415, "", ""},
		"no type":              {"", []byte("{}"), 415, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, answer := n.post(t, h1(), reserveProcedure, token, test.contentType, test.body)
			if status != test.status {
				t.Fatalf("status %d, want %d: %s", status, test.status, answer)
			}
			if test.reason == "" {
				return
			}
			code, message, reason := answerOf(t, answer)
			if code != "invalid_argument" || reason != test.reason || !strings.Contains(message, test.says) {
				t.Errorf("got %s, %s: %s", code, reason, message)
			}
		})
	}
}

func TestCommandsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	yesterday := time.Now().AddDate(0, 0, -1)
	day := func(t time.Time) *date.Date {
		return &date.Date{Year: int32(t.Year()), Month: int32(t.Month()), Day: int32(t.Day())}
	}
	c.must(t, receive("store", "L1", ledger.MaxQuantity/2))
	reserveWith := func(change func(*stockledgerv1.ReserveStock)) *stockledgerv1.Command {
		command := reserve("store", 1)
		change(command.GetReserveStock())
		return command
	}
	lot := func(change func(*stockledgerv1.RegisterLot)) *stockledgerv1.Command {
		body := &stockledgerv1.RegisterLot{MedicineId: "zinc", Manufacturer: "Acme", LotNumber: key(), Expiry: day(yesterday.AddDate(1, 0, 0))}
		change(body)
		return &stockledgerv1.Command{Body: &stockledgerv1.Command_RegisterLot{RegisterLot: body}}
	}
	expired := c.must(t, lot(func(b *stockledgerv1.RegisterLot) { b.Expiry = day(yesterday.AddDate(0, 0, -1)) }))[0].GetDocument().GetId()
	update := func(paths ...string) *stockledgerv1.Command {
		return &stockledgerv1.Command{Body: &stockledgerv1.Command_UpdateMedicine{UpdateMedicine: &stockledgerv1.UpdateMedicine{
			MedicineId: "zinc", Name: "Zinc", UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}, Etag: "1",
		}}}
	}
	at := func(when time.Time, command *stockledgerv1.Command) *stockledgerv1.Command {
		command.OccurredAt = timestamppb.New(when)
		return command
	}
	withKey := func(key string) *stockledgerv1.Command {
		command := reserve("store", 1)
		command.IdempotencyKey = key
		return command
	}
	adjust := func(direction stockledgerv1.AdjustmentDirection) *stockledgerv1.Command {
		return &stockledgerv1.Command{Body: &stockledgerv1.Command_AdjustStock{AdjustStock: &stockledgerv1.AdjustStock{
			LocationId: "store", LotId: "L1", Direction: direction, Quantity: 1, ReasonCode: "count",
		}}}
	}
	const invalid, missing, precondition = connect.CodeInvalidArgument, connect.CodeNotFound, connect.CodeFailedPrecondition
	for name, test := range map[string]struct {
		command *stockledgerv1.Command
		code    connect.Code
		reason  ledger.Reason
		field   string
	}{
		"unknown location":        {reserve("nowhere", 1), missing, ledger.ReasonLocationNotFound, "reserve_stock.location_id"},
		"unknown medicine":        {reserveWith(func(b *stockledgerv1.ReserveStock) { b.MedicineId = "gold" }), missing, ledger.ReasonMedicineNotFound, "reserve_stock.medicine_id"},
		"unknown lot":             {receive("store", "L99", 1), missing, ledger.ReasonLotNotFound, "receive_stock.lot_id"},
		"unknown hold":            {issueHold("hold_0000000000000000", 0), missing, ledger.ReasonHoldNotFound, "issue_stock.hold_id"},
		"quantity zero":           {reserve("store", 0), invalid, ledger.ReasonInvalidField, "reserve_stock.quantity"},
		"quantity negative":       {reserve("store", -5), invalid, ledger.ReasonInvalidField, "reserve_stock.quantity"},
		"quantity over 2^53":      {reserve("store", ledger.MaxQuantity+1), invalid, ledger.ReasonInvalidField, "reserve_stock.quantity"},
		"quantity of the largest": {reserve("store", math.MaxInt64), invalid, ledger.ReasonInvalidField, "reserve_stock.quantity"},
		"balance overflows":       {receive("store", "L1", ledger.MaxQuantity), precondition, ledger.ReasonBalanceOverflow, "receive_stock.quantity"},
		"lot after its expiry":    {receive("store", expired, 1), precondition, ledger.ReasonLotExpired, "receive_stock.lot_id"},
		"deadline in the past":    {reserveWith(func(b *stockledgerv1.ReserveStock) { b.Deadline = timestamppb.New(yesterday) }), invalid, ledger.ReasonDeadlinePassed, "reserve_stock.deadline"},
		"no deadline":             {reserveWith(func(b *stockledgerv1.ReserveStock) { b.Deadline = nil }), invalid, ledger.ReasonInvalidField, "reserve_stock.deadline"},
		"deadline of year 0":      {reserveWith(func(b *stockledgerv1.ReserveStock) { b.Deadline = &timestamppb.Timestamp{Seconds: math.MinInt64} }), invalid, ledger.ReasonInvalidField, "reserve_stock.deadline"},
		"deadline in 1970":        {reserveWith(func(b *stockledgerv1.ReserveStock) { b.Deadline = &timestamppb.Timestamp{} }), invalid, ledger.ReasonInvalidField, "reserve_stock.deadline"},
		"no such day":             {lot(func(b *stockledgerv1.RegisterLot) { b.Expiry = &date.Date{Year: 2027, Month: 2, Day: 30} }), invalid, ledger.ReasonInvalidField, "register_lot.expiry"},
		"half a day":              {lot(func(b *stockledgerv1.RegisterLot) { b.Expiry = &date.Date{Year: 2027} }), invalid, ledger.ReasonInvalidField, "register_lot.expiry"},
		"day out of range":        {lot(func(b *stockledgerv1.RegisterLot) { b.Expiry = &date.Date{Year: math.MaxInt32, Month: 1, Day: 1} }), invalid, ledger.ReasonInvalidField, "register_lot.expiry"},
		"occurred in the future":  {at(time.Now().Add(time.Hour), reserve("store", 1)), invalid, ledger.ReasonOccurredInFuture, "occurred_at"},
		"occurred long ago":       {at(yesterday, reserve("store", 1)), precondition, ledger.ReasonOccurredTooEarly, "occurred_at"},
		"occurred before 1970":    {at(time.Date(1960, 1, 1, 0, 0, 0, 0, time.UTC), reserve("store", 1)), invalid, ledger.ReasonInvalidField, "occurred_at"},
		"key too long":            {withKey(strings.Repeat("k", 65)), invalid, ledger.ReasonInvalidField, "idempotency_key"},
		"key with a NUL":          {withKey("a\x00b"), invalid, ledger.ReasonInvalidField, "idempotency_key"},
		"key of the ledger":       {withKey("sys:mine"), invalid, ledger.ReasonInvalidField, "idempotency_key"},
		"no direction":            {adjust(0), invalid, ledger.ReasonInvalidField, "adjust_stock.direction"},
		"unknown direction":       {adjust(65537), invalid, ledger.ReasonInvalidField, "adjust_stock.direction"},
		"unknown mask path":       {update("name", "colour"), invalid, ledger.ReasonInvalidField, "update_medicine.update_mask"},
		"empty mask":              {update(), invalid, ledger.ReasonInvalidField, "update_medicine.update_mask"},
		"old etag":                {update("name"), connect.CodeAborted, ledger.ReasonEtagMismatch, "update_medicine.etag"},
		"NUL in text":             {lot(func(b *stockledgerv1.RegisterLot) { b.Manufacturer = "Ac\x00me" }), invalid, ledger.ReasonInvalidField, "register_lot.manufacturer"},
		"wrong check digit":       {lot(func(b *stockledgerv1.RegisterLot) { b.Gtin = "4006381333932" }), invalid, ledger.ReasonInvalidField, "register_lot.gtin"},
		"name in a code":          {reserveWith(func(b *stockledgerv1.ReserveStock) { b.ReasonCode = "for Mrs Smith" }), invalid, ledger.ReasonInvalidField, "reserve_stock.reason_code"},
		"no body":                 {&stockledgerv1.Command{}, invalid, ledger.ReasonInvalidField, "body"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			request := &stockledgerv1.CommandRequest{ClinicId: c.id, Command: test.command}
			keyed(test.command)
			// Alone, over the method that it is meant for, and in a batch.
			err := c.admin.conn.CallUnary(t.Context(), connect.Spec{Procedure: procedureFor(test.command)}, request, &stockledgerv1.CommandResponse{})
			info := wantError(t, err, test.code, test.reason)
			if got := info.GetMetadata()["field"]; got != "command."+test.field {
				t.Errorf("field %q, want %q", got, "command."+test.field)
			}
			response, err := c.admin.ExecuteBatch(t.Context(), &stockledgerv1.ExecuteBatchRequest{ClinicId: c.id, Commands: []*stockledgerv1.Command{test.command}})
			if err != nil {
				t.Fatal(err)
			}
			rejected := response.GetResults()[0].GetRejected()
			if rejected.GetCode() != test.code.String() || rejected.GetReason() != string(test.reason) || rejected.GetField() != test.field || rejected.GetMessage() == "" {
				t.Errorf("in a batch: %v", rejected)
			}
		})
	}
}

func procedureFor(c *stockledgerv1.Command) string {
	field := c.ProtoReflect().WhichOneof(bodyOneof)
	if field == nil {
		return reserveProcedure
	}
	name := string(field.Message().Name())
	for _, service := range stockledgerServices() {
		if service.Methods().ByName(field.Message().Name()) != nil {
			return "/" + string(service.FullName()) + "/" + name
		}
	}
	return "/" + name
}

func TestRequestsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	_, err := c.admin.ReserveStock(t.Context(), &stockledgerv1.CommandRequest{ClinicId: "Not A Clinic", Command: keyed(reserve("store", 1))[0]})
	wantError(t, err, connect.CodeInvalidArgument, ledger.ReasonInvalidField)
	_, err = c.admin.ReserveStock(t.Context(), &stockledgerv1.CommandRequest{Command: keyed(reserve("store", 1))[0]})
	wantError(t, err, connect.CodeInvalidArgument, ledger.ReasonInvalidField)
	_, err = c.admin.ReserveStock(t.Context(), &stockledgerv1.CommandRequest{ClinicId: c.id})
	wantError(t, err, connect.CodeInvalidArgument, ledger.ReasonInvalidField)
	_, err = c.admin.ReserveStock(t.Context(), &stockledgerv1.CommandRequest{ClinicId: c.id, Command: reserve("store", 1)})
	info := wantError(t, err, connect.CodeInvalidArgument, ledger.ReasonInvalidField)
	if info.GetMetadata()["field"] != "command.idempotency_key" {
		t.Errorf("metadata: %v", info.GetMetadata())
	}
	_, err = c.admin.ExecuteBatch(t.Context(), &stockledgerv1.ExecuteBatchRequest{ClinicId: c.id})
	wantError(t, err, connect.CodeInvalidArgument, ledger.ReasonInvalidField)
	many := make([]*stockledgerv1.Command, maxBatch+1)
	for i := range many {
		many[i] = release("x")
	}
	_, err = c.admin.ExecuteBatch(t.Context(), &stockledgerv1.ExecuteBatchRequest{ClinicId: c.id, Commands: keyed(many...)})
	info = wantError(t, err, connect.CodeInvalidArgument, ledger.ReasonInvalidField)
	if info.GetMetadata()["field"] != "commands" {
		t.Errorf("metadata: %v", info.GetMetadata())
	}
}

func TestHTTPThatIsNoCall(t *testing.T) {
	t.Parallel()
	n := shared(t)
	token := n.token(t, pharmacist("c"))
	for name, test := range map[string]struct {
		method, path string
		header       map[string]string
		status       int
	}{
		"unknown path":        {"POST", "/nowhere", nil, 404},
		"unknown service":     {"POST", "/stockledger.v1.CoffeeService/Brew", nil, 404},
		"unknown method":      {"POST", "/stockledger.v1.InventoryService/StealStock", nil, 404},
		"GET of a mutation":   {"GET", reserveProcedure, nil, 405},
		"PUT":                 {"PUT", reserveProcedure, nil, 405},
		"unknown compression": {"POST", reserveProcedure, map[string]string{"Content-Encoding": "lzma"}, 415},
		"broken gzip":         {"POST", reserveProcedure, map[string]string{"Content-Encoding": "gzip"}, 400},
		"bad timeout":         {"POST", reserveProcedure, map[string]string{"Connect-Timeout-Ms": "soon"}, 400},
		"negative timeout":    {"POST", reserveProcedure, map[string]string{"Connect-Timeout-Ms": "-1"}, 400},
		"unknown protocol":    {"POST", reserveProcedure, map[string]string{"Connect-Protocol-Version": "99"}, 400},
		"stream over HTTP/1":  {"POST", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", map[string]string{"Content-Type": "application/connect+json"}, 426},
		"huge header":         {"POST", reserveProcedure, map[string]string{"X-Junk": strings.Repeat("x", 1<<17)}, 431},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			request, err := http.NewRequestWithContext(t.Context(), test.method, n.url+test.path, strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Content-Type", "application/json")
			request.Header.Set("Authorization", "Bearer "+token)
			for name, value := range test.header {
				request.Header.Set(name, value)
			}
			response, err := h1().Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = response.Body.Close() }()
			if response.StatusCode != test.status {
				body, _ := io.ReadAll(response.Body)
				t.Errorf("%s, want %d: %s", response.Status, test.status, body)
			}
		})
	}
}

func TestHugeBodies(t *testing.T) {
	t.Parallel()
	n := shared(t)
	token := n.token(t, pharmacist("c"))
	const size = 64 << 20
	for name, test := range map[string]struct {
		client  *http.Client
		known   bool // whether Content-Length tells
		gzipped bool
	}{
		"HTTP/1.1":         {client: h1(), known: true},
		"HTTP/1.1 chunked": {client: h1()},
		"HTTP/2":           {client: h2c(), known: true},
		"HTTP/2 unknown":   {client: h2c()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			request := n.newPost(t, reserveProcedure, token, "application/json", io.LimitReader(spaces{}, size))
			if test.known {
				request.ContentLength = size
			}
			response, err := test.client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = response.Body.Close() }()
			body, err := io.ReadAll(response.Body)
			if err != nil {
				t.Fatal(err)
			}
			code, _, reason := answerOf(t, body)
			if response.StatusCode >= 500 || code != "resource_exhausted" || reason != reasonRequestTooLarge {
				t.Errorf("%s: %s", response.Status, body)
			}
		})
	}
}

// spaces is JSON's white space without end.
type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestASlowSenderIsCutOff(t *testing.T) {
	t.Parallel()
	n := startNode(t, Config{ReadTimeout: 200 * time.Millisecond}, Deps{})
	for name, client := range map[string]*http.Client{"HTTP/1.1": h1(), "HTTP/2": h2c()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reader, writer := io.Pipe()
			defer func() { _ = writer.Close() }()
			go func() { _, _ = writer.Write([]byte("{")) }()
			response, err := client.Do(n.newPost(t, reserveProcedure, n.token(t, pharmacist("c")), "application/json", reader))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = response.Body.Close() }()
			body, err := io.ReadAll(response.Body)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, reason := answerOf(t, body); response.StatusCode != http.StatusBadRequest || reason != reasonRequestIncomplete {
				t.Errorf("%s: %s", response.Status, body)
			}
		})
	}
}

func TestASlowHeaderIsCutOff(t *testing.T) {
	t.Parallel()
	n := startNode(t, Config{HeaderTimeout: 100 * time.Millisecond}, Deps{})
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", n.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost:"); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); err != nil {
		t.Errorf("the connection was not closed: %v", err)
	}
}

func TestAClientThatGoesAwayHarmsNobody(t *testing.T) {
	t.Parallel()
	n := shared(t)
	c := newClinic(t, n)
	request := c.request(reserve("store", 1))
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		_, _ = c.admin.ReserveStock(ctx, request)
	}
	// Whatever became of those, the key counts once.
	if _, err := c.admin.ReserveStock(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	all := c.must(t, reserve("store", 199))
	if got := all[0].GetStock().GetQuantity(); got != 199 {
		t.Errorf("reserved %d of the 199 units left", got)
	}
}

func TestGetWithABadQuery(t *testing.T) {
	t.Parallel()
	n := shared(t)
	token := n.token(t, pharmacist("c"))
	for name, query := range map[string]url.Values{
		"none":        {},
		"no message":  {"encoding": {"json"}},
		"bad message": {"encoding": {"json"}, "message": {"{"}},
		"bad base64":  {"encoding": {"proto"}, "base64": {"1"}, "message": {"%%%"}},
		"compression": {"encoding": {"json"}, "message": {"{}"}, "compression": {"lzma"}},
		"encoding":    {"encoding": {"xml"}, "message": {"{}"}},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.url+"/stockledger.v1.QueryService/GetStock?"+query.Encode(), nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+token)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode < 400 || response.StatusCode >= 500 {
			t.Errorf("%s: %s", name, response.Status)
		}
	}
}
