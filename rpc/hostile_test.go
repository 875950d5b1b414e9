package rpc

import (
	"context"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// The tests here try every field of every message with values that nobody would
// send who means well. They know the messages by reflection, so what is added to
// the API is tried too.

var hostileTexts = []string{
	"", "\x00", "a\x00b", strings.Repeat("x", 65), strings.Repeat("ÿ", 5000), "|", "||", "x|y|z", "gs1|", "gs1|(01)", "gs1|(01)04006381333931(10)\x00",
	"gs1|010400638133393110\x1d", "gtin|1", "gtin|4006381333931", "x|\x00", "'; DROP TABLE journal; --", "..", "*", "\u202e\u200b", "🙂", "TR-1", "TR-99999999999999999999",
	"hold_0000000000000000", "-9223372036854775808", "store", "zinc", "L1",
}

var hostileNumbers = []int64{0, 1, -1, 2, 1 << 53, 1<<53 + 1, math.MaxInt32, math.MinInt32, math.MaxInt64, math.MinInt64}

// goodTexts let a request reach what lies behind its first check.
var goodTexts = map[protoreflect.Name]string{
	"location_id": "store", "from_location_id": "store", "to_location_id": "ward", "location_ids": "ward",
	"medicine_id": "zinc", "medicine_ids": "zinc", "lot_id": "L1", "command": "WriteOffStock", "partner_clinic_id": "other", "reason_code": "x", "report": "expiries",
	"patient_id": "pt_0123456789abcdefghjkmnpqrs", "currency": "KES",
	"etag": "", "time_zone": "UTC", "gtin": "", "page_token": "", "witness_token": "", "scan": "(01)04006381333931(10)Z",
}

func good(field protoreflect.FieldDescriptor) protoreflect.Value {
	if text, ok := goodTexts[field.Name()]; ok && field.Kind() == protoreflect.StringKind {
		return protoreflect.ValueOfString(text)
	}
	if field.Message() != nil && field.Message().FullName() == "google.protobuf.Timestamp" {
		return protoreflect.ValueOfMessage(inAnHour().ProtoReflect())
	}
	return sample(field, false)
}

// isLeaf tells fields that are tried as a whole from messages of our own.
func isLeaf(field protoreflect.FieldDescriptor) bool {
	return field.Message() == nil || field.Message().ParentFile().Package() != commandDescriptor.ParentFile().Package()
}

// plausible fills a message with values that mean well.
func plausible(message protoreflect.Message) {
	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		switch {
		case field.Message() != nil && field.Message().FullName() == "google.protobuf.FieldMask":
			message.Set(field, protoreflect.ValueOfMessage(maskOf(message.Descriptor()).ProtoReflect()))
		case field.Message() != nil && field.Message().FullName() == "google.protobuf.Duration":
		case field.Name() == "page" || field.Name() == "read":
		case field.IsMap():
			setMap(message, field, "location_id", "store")
		case isLeaf(field) && field.IsList():
			message.Mutable(field).List().Append(good(field))
		case isLeaf(field):
			message.Set(field, good(field))
		case field.IsList():
			plausible(message.Mutable(field).List().AppendMutable().Message())
		default:
			plausible(message.Mutable(field).Message())
		}
	}
}

// hostile calls try for a message once with each hostile value in each field.
func hostile(message protoreflect.Message, try func(path string)) {
	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		had, was := message.Has(field), message.Get(field)
		restore := func() {
			if message.Clear(field); had {
				message.Set(field, was)
			}
		}
		name := string(field.Name())
		message.Clear(field)
		try(name + " absent")
		switch {
		case field.IsMap():
			for _, text := range hostileTexts {
				for _, entry := range [][2]string{{text, text}, {"location_id", text}, {"within_days", text}} {
					setMap(message, field, entry[0], entry[1])
					try(name + "{}")
				}
			}
			setMap(message, field, "location_id", "store")
		case field.IsList():
			hostileList(message, field, was.List(), try)
			restore()
		case isLeaf(field):
			for _, value := range hostileValues(message, field) {
				message.Set(field, value)
				try(name)
			}
			restore()
		default:
			message.Mutable(field)
			try(name + " empty")
			restore()
			hostile(message.Mutable(field).Message(), func(path string) { try(name + "." + path) })
			if !had {
				message.Clear(field)
			}
		}
	}
}

func setMap(message protoreflect.Message, field protoreflect.FieldDescriptor, key, value string) {
	message.Clear(field)
	message.Mutable(field).Map().Set(protoreflect.ValueOfString(key).MapKey(), protoreflect.ValueOfString(value))
}

func hostileList(message protoreflect.Message, field protoreflect.FieldDescriptor, was protoreflect.List, try func(path string)) {
	name := string(field.Name())
	if isLeaf(field) {
		for _, value := range hostileValues(message, field) {
			message.Clear(field)
			message.Mutable(field).List().Append(value)
			message.Mutable(field).List().Append(value)
			try(name + "[]")
		}
		return
	}
	message.Clear(field)
	list := message.Mutable(field).List()
	list.AppendMutable()
	try(name + "[0] empty")
	list.AppendMutable()
	try(name + "[1] empty")
	message.Clear(field)
	first := message.Mutable(field).List().AppendMutable().Message()
	if was.Len() > 0 {
		proto.Merge(first.Interface(), was.Get(0).Message().Interface())
	}
	hostile(first, func(path string) { try(name + "[0]." + path) })
	for range 1100 {
		proto.Merge(message.Mutable(field).List().AppendMutable().Message().Interface(), first.Interface())
	}
	try(name + " long")
}

func hostileValues(message protoreflect.Message, field protoreflect.FieldDescriptor) (values []protoreflect.Value) {
	add := func(list ...any) {
		for _, value := range list {
			values = append(values, protoreflect.ValueOf(value))
		}
	}
	switch {
	case field.Enum() != nil:
		add(protoreflect.EnumNumber(0), protoreflect.EnumNumber(-1), protoreflect.EnumNumber(2), protoreflect.EnumNumber(65537))
	case field.Kind() == protoreflect.BoolKind:
		add(false, true)
	case field.Kind() == protoreflect.StringKind:
		for _, text := range hostileTexts {
			add(text)
		}
	case field.Kind() == protoreflect.BytesKind:
		add([]byte{}, []byte{0}, make([]byte, 32), make([]byte, 5000))
	case field.Kind() == protoreflect.Int32Kind:
		for _, number := range hostileNumbers {
			add(int32(number))
		}
	case field.Kind() == protoreflect.Int64Kind:
		for _, number := range hostileNumbers {
			add(number)
		}
	case field.Message().FullName() == "google.protobuf.FieldMask":
		add((&fieldmaskpb.FieldMask{}).ProtoReflect(), (&fieldmaskpb.FieldMask{Paths: []string{"", "\x00", "name.x", "*"}}).ProtoReflect())
	case field.Message().FullName() == "google.protobuf.Timestamp":
		for _, seconds := range hostileNumbers {
			add((&timestamppb.Timestamp{Seconds: seconds, Nanos: -1}).ProtoReflect(), (&timestamppb.Timestamp{Seconds: seconds}).ProtoReflect())
		}
	default: // a date or a duration: whatever its fields hold
		for _, number := range hostileNumbers {
			value := message.NewField(field)
			if field.IsList() {
				value = message.NewField(field).List().NewElement()
			}
			inner := value.Message()
			for i := range inner.Descriptor().Fields().Len() {
				part := inner.Descriptor().Fields().Get(i)
				if part.Kind() == protoreflect.Int64Kind {
					inner.Set(part, protoreflect.ValueOfInt64(number))
				} else {
					inner.Set(part, protoreflect.ValueOfInt32(int32(number)))
				}
			}
			values = append(values, value)
		}
	}
	return values
}

// blameless reports whether an error is the caller's mistake, or none.
func blameless(err error) bool {
	var wire *connect.Error
	if err == nil {
		return true
	}
	if !errors.As(err, &wire) {
		return false
	}
	switch wire.Code() {
	case connect.CodeInternal, connect.CodeUnknown, connect.CodeUnavailable, connect.CodeDataLoss, connect.CodeDeadlineExceeded:
		return false
	}
	return true
}

func TestHostileQueries(t *testing.T) {
	t.Parallel()
	n := shared(t)
	for _, service := range stockledgerServices() {
		for i := range service.Methods().Len() {
			method := service.Methods().Get(i)
			if method.Input().FullName() == "stockledger.v1.CommandRequest" || method.Input().FullName() == "stockledger.v1.ExecuteBatchRequest" {
				continue
			}
			t.Run(string(method.Name()), func(t *testing.T) {
				t.Parallel()
				c := newClinic(t, n)
				all, ward := c.person(t, "mwana", RoleManager), c.person(t, "neema", RoleManager, "ward")
				request, answer := newMessage(t, method.Input()), newMessage(t, method.Output())
				plausible(request)
				if field := request.Descriptor().Fields().ByName("clinic_id"); field != nil {
					request.Set(field, protoreflect.ValueOfString(c.id))
				}
				procedure := "/" + string(service.FullName()) + "/" + string(method.Name())
				hostile(request, func(path string) {
					for _, p := range []*person{all, ward} {
						err := p.ask(t, method, procedure, request.Interface(), answer.Interface())
						if !blameless(err) {
							t.Errorf("%s: %v: %.500s", path, err, request.Interface())
						}
					}
				})
			})
		}
	}
}

// patience is how long a stream may say nothing; one that watches does so where
// nothing happens.
const patience = 100 * time.Millisecond

// ask calls a method that answers once, or reads the beginning of a stream.
func (p *person) ask(tb testing.TB, method protoreflect.MethodDescriptor, procedure string, request, answer proto.Message) error {
	tb.Helper()
	if !method.IsStreamingServer() {
		return p.conn.CallUnary(tb.Context(), connect.Spec{Procedure: procedure}, request, answer)
	}
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	stream, err := p.conn.CallServerStream(ctx, connect.Spec{StreamType: connect.StreamTypeServer, Procedure: procedure}, request)
	if err == nil {
		err = stream.Receive(answer)
	}
	if errors.Is(err, io.EOF) || ctx.Err() != nil {
		return nil
	}
	return err
}

func newMessage(tb testing.TB, d protoreflect.MessageDescriptor) protoreflect.Message {
	tb.Helper()
	kind, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		tb.Fatal(err)
	}
	return kind.New()
}

func TestHostileCommands(t *testing.T) {
	t.Parallel()
	n := shared(t)
	for _, field := range commandFields() {
		t.Run(string(field.Name()), func(t *testing.T) {
			t.Parallel()
			c := newClinic(t, n)
			body := newMessage(t, field.Message())
			plausible(body)
			given := command(body.Interface())
			var batch []*stockledgerv1.Command
			var paths []string
			hostile(given.ProtoReflect().Mutable(field).Message(), func(path string) {
				batch, paths = append(batch, proto.Clone(given).(*stockledgerv1.Command)), append(paths, path)
			})
			response, err := c.admin.ExecuteBatch(t.Context(), &stockledgerv1.ExecuteBatchRequest{ClinicId: c.id, Commands: keyed(batch...)})
			if err != nil {
				t.Fatal(err)
			}
			for i, result := range response.GetResults() {
				switch code := result.GetRejected().GetCode(); code {
				case "internal", "unknown", "unavailable", "data_loss":
					t.Errorf("%s: %v: %.500s", paths[i], result, batch[i])
				}
			}
			// Who is limited to a location takes another way to the same end.
			ward := c.person(t, "neema", RoleManager, "ward")
			for i, hostile := range batch {
				hostile.IdempotencyKey = key()
				if _, err := ward.try(t, hostile); !blameless(err) {
					t.Errorf("%s: %v: %.500s", paths[i], err, hostile)
				}
			}
		})
	}
}
