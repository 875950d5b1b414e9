package rpc

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/type/date"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// command wraps a body, whichever it is.
func command(body proto.Message) *stockledgerv1.Command {
	c := &stockledgerv1.Command{}
	fields := bodyOneof.Fields()
	for i := range fields.Len() {
		if fields.Get(i).Message().FullName() == body.ProtoReflect().Descriptor().FullName() {
			c.ProtoReflect().Set(fields.Get(i), protoreflect.ValueOfMessage(body.ProtoReflect()))
			return c
		}
	}
	panic("no command: " + string(body.ProtoReflect().Descriptor().FullName()))
}

// commandFields are the bodies that a command can have.
func commandFields() []protoreflect.FieldDescriptor {
	fields := make([]protoreflect.FieldDescriptor, bodyOneof.Fields().Len())
	for i := range fields {
		fields[i] = bodyOneof.Fields().Get(i)
	}
	return fields
}

func TestEveryCommandOfTheLedgerIsInTheAPI(t *testing.T) {
	t.Parallel()
	names := make([]string, 0, len(commandFields()))
	for _, field := range commandFields() {
		name := string(field.Message().Name())
		names = append(names, name)
		if kind, ok := ledger.KindByName(name); !ok || kind.String() != name {
			t.Errorf("the ledger has no command %s", name)
		}
		if procedure := procedureFor(command(filled(field.Message(), "", nil).Interface())); !strings.HasPrefix(procedure, "/stockledger.v1.") {
			t.Errorf("no service has a method %s", name)
		}
	}
	for _, kind := range ledger.Kinds() {
		if !slices.Contains(names, kind.String()) {
			t.Errorf("the API has no command %s", kind)
		}
	}
}

// TestEveryFieldOfACommandCounts changes each field of each command by itself:
// a field that is forgotten on the way to the core changes nothing there.
func TestEveryFieldOfACommandCounts(t *testing.T) {
	t.Parallel()
	for _, field := range commandFields() {
		hash := func(changed string, paths *[]string) ledger.RequestHash {
			message := filled(field.Message(), changed, paths)
			body, r := toBody(command(message.Interface()))
			if r != nil {
				t.Fatalf("%s: %v", field.Name(), r)
			}
			if body.Kind().String() != string(field.Message().Name()) {
				t.Fatalf("%s became a %s", field.Name(), body.Kind())
			}
			return ledger.Command{Body: body}.RequestHash()
		}
		var paths []string
		hash("", &paths)
		for _, path := range paths {
			// The same without the change: of several things that can be given,
			// the one that the field belongs to.
			plain := path[:strings.LastIndex(path, ".")+1]
			if hash(path, nil) == hash(plain, nil) {
				t.Errorf("%s%s does not count", field.Name(), path)
			}
		}
	}
}

// filled makes a message all of whose fields are given. The field at the path
// changed has another value than it would have else. The paths of all fields are
// added to paths.
func filled(descriptor protoreflect.MessageDescriptor, changed string, paths *[]string) protoreflect.Message {
	message := (&stockledgerv1.Command{}).ProtoReflect().NewField(fieldOf(descriptor)).Message()
	fill(message, "", changed, paths)
	return message
}

func fieldOf(descriptor protoreflect.MessageDescriptor) protoreflect.FieldDescriptor {
	fields := commandFields()
	return fields[slices.IndexFunc(fields, func(f protoreflect.FieldDescriptor) bool { return f.Message() == descriptor })]
}

func fill(message protoreflect.Message, prefix, changed string, paths *[]string) {
	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		path := prefix + "." + string(field.Name())
		if options, ok := field.Options().(*descriptorpb.FieldOptions); ok && options.GetDebugRedact() {
			continue // private text, which does not go to the core
		}
		if choice := field.ContainingOneof(); choice != nil && field != chosen(choice, prefix, changed) {
			if paths != nil {
				fill(message.NewField(field).Message(), path, changed, paths)
			}
			continue
		}
		if field.Message() != nil && field.Message().FullName() == "google.protobuf.FieldMask" {
			message.Set(field, protoreflect.ValueOfMessage(maskOf(message.Descriptor()).ProtoReflect()))
			continue
		}
		if own(field) && !field.IsList() {
			fill(message.Mutable(field).Message(), path, changed, paths)
			continue
		}
		if field.IsList() && field.Message() != nil {
			fill(message.Mutable(field).List().AppendMutable().Message(), path, changed, paths)
			continue
		}
		value := sample(field, path == changed)
		if paths != nil {
			*paths = append(*paths, path)
		}
		if field.IsList() {
			message.Mutable(field).List().Append(value)
			continue
		}
		message.Set(field, value)
	}
}

// own reports whether a field holds a message of this API.
func own(field protoreflect.FieldDescriptor) bool {
	return field.Message() != nil && field.Message().ParentFile().Package() == commandDescriptor.ParentFile().Package()
}

// chosen is the one of several fields that is given: that which holds the changed
// one, or the first.
func chosen(choice protoreflect.OneofDescriptor, prefix, changed string) protoreflect.FieldDescriptor {
	for i := range choice.Fields().Len() {
		field := choice.Fields().Get(i)
		if strings.HasPrefix(changed, prefix+"."+string(field.Name())+".") {
			return field
		}
	}
	return choice.Fields().Get(0)
}

// maskOf names every field that an update can change.
func maskOf(update protoreflect.MessageDescriptor) *fieldmaskpb.FieldMask {
	mask := &fieldmaskpb.FieldMask{}
	for i := range update.Fields().Len() {
		name := string(update.Fields().Get(i).Name())
		if name != "update_mask" && name != "etag" && !strings.HasSuffix(name, "_id") {
			mask.Paths = append(mask.Paths, name)
		}
	}
	return mask
}

// sample is a value for a field, or another one.
func sample(field protoreflect.FieldDescriptor, other bool) protoreflect.Value {
	pick := func(a, b any) protoreflect.Value {
		if other {
			return protoreflect.ValueOf(b)
		}
		return protoreflect.ValueOf(a)
	}
	switch {
	case field.Enum() != nil:
		return pick(protoreflect.EnumNumber(1), protoreflect.EnumNumber(2))
	case field.Kind() == protoreflect.BoolKind:
		return pick(true, false)
	case field.Kind() == protoreflect.Int64Kind:
		return pick(int64(3), int64(4))
	case field.Kind() == protoreflect.Int32Kind:
		return pick(int32(3), int32(4))
	case field.Kind() == protoreflect.BytesKind:
		return pick([]byte("a"), []byte("b"))
	case field.Name() == "command":
		return pick("WriteOffStock", "AdjustStock")
	case field.Kind() == protoreflect.StringKind:
		return pick("a", "b")
	case field.Message().FullName() == "google.type.Date":
		return pick((&date.Date{Year: 2030, Month: 1, Day: 1}).ProtoReflect(), (&date.Date{Year: 2030, Month: 1, Day: 2}).ProtoReflect())
	}
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	return pick(timestamppb.New(at).ProtoReflect(), timestamppb.New(at.Add(time.Microsecond)).ProtoReflect())
}

func TestNumbersOfDocumentsOnTheWireAreTheCores(t *testing.T) {
	t.Parallel()
	words := func(name string) string {
		return strings.ToUpper(strings.NewReplacer(" ", "_", "-", "_").Replace(name))
	}
	for number, name := range stockledgerv1.DocumentKind_name {
		if want := "DOCUMENT_KIND_" + words(ledger.DocumentKind(number).String()); number != 0 && name != want {
			t.Errorf("document kind %d is %s on the wire and %s in the core", number, name, want)
		}
	}
	for number, name := range stockledgerv1.TransferStatus_name {
		if want := "TRANSFER_STATUS_" + words(ledger.TransferStatus(number).String()); number != 0 && name != want {
			t.Errorf("transfer status %d is %s on the wire and %s in the core", number, name, want)
		}
	}
	for number, name := range stockledgerv1.IdentifierSubject_name {
		if want := "IDENTIFIER_SUBJECT_" + words(ledger.IdentifierSubject(number).String()); number != 0 && name != want {
			t.Errorf("subject %d is %s on the wire and %s in the core", number, name, want)
		}
	}
	type number interface {
		Number() protoreflect.EnumNumber
	}
	for _, pair := range []struct {
		core int
		wire number
	}{
		{int(ledger.ApprovalOpen), stockledgerv1.ApprovalStatus_APPROVAL_STATUS_OPEN},
		{int(ledger.ApprovalApproved), stockledgerv1.ApprovalStatus_APPROVAL_STATUS_APPROVED},
		{int(ledger.ApprovalRejected), stockledgerv1.ApprovalStatus_APPROVAL_STATUS_REJECTED},
		{int(ledger.ApprovalWithdrawn), stockledgerv1.ApprovalStatus_APPROVAL_STATUS_WITHDRAWN},
		{int(ledger.ApprovalLapsed), stockledgerv1.ApprovalStatus_APPROVAL_STATUS_LAPSED},
		{int(ledger.LoanLent), stockledgerv1.LoanDirection_LOAN_DIRECTION_LENT},
		{int(ledger.LoanBorrowed), stockledgerv1.LoanDirection_LOAN_DIRECTION_BORROWED},
		{int(ledger.BarNone), stockledgerv1.LotBar_LOT_BAR_UNSPECIFIED},
		{int(ledger.BarQuarantined), stockledgerv1.LotBar_LOT_BAR_QUARANTINED},
		{int(ledger.BarRecalled), stockledgerv1.LotBar_LOT_BAR_RECALLED},
		{int(ledger.RequireReview), stockledgerv1.Requirement_REQUIREMENT_REVIEW},
		{int(ledger.RequireWitness), stockledgerv1.Requirement_REQUIREMENT_WITNESS},
		{int(ledger.RequireApprovalBefore), stockledgerv1.Requirement_REQUIREMENT_APPROVAL},
		{int(ledger.HoldVoided), stockledgerv1.HoldStatus_HOLD_STATUS_VOIDED},
		{int(ledger.HoldDispatched), stockledgerv1.HoldStatus_HOLD_STATUS_DISPATCHED},
		{int(ledger.HoldDispensed), stockledgerv1.HoldStatus_HOLD_STATUS_DISPENSED},
		{int(ledger.PrescriptionActive), stockledgerv1.PrescriptionStatus_PRESCRIPTION_STATUS_ACTIVE},
		{int(ledger.PrescriptionFilled), stockledgerv1.PrescriptionStatus_PRESCRIPTION_STATUS_FILLED},
		{int(ledger.PrescriptionCancelled), stockledgerv1.PrescriptionStatus_PRESCRIPTION_STATUS_CANCELLED},
		{int(ledger.DispensingPrepared), stockledgerv1.DispensingStatus_DISPENSING_STATUS_PREPARED},
		{int(ledger.DispensingChecked), stockledgerv1.DispensingStatus_DISPENSING_STATUS_CHECKED},
		{int(ledger.DispensingHandedOver), stockledgerv1.DispensingStatus_DISPENSING_STATUS_HANDED_OVER},
		{int(ledger.DispensingCancelled), stockledgerv1.DispensingStatus_DISPENSING_STATUS_CANCELLED},
		{int(fromCountLineStatus(ledger.CountOpen)), stockledgerv1.CountLineStatus_COUNT_LINE_STATUS_OPEN},
		{int(fromCountLineStatus(ledger.CountRecount)), stockledgerv1.CountLineStatus_COUNT_LINE_STATUS_RECOUNT},
		{int(fromCountLineStatus(ledger.CountDone)), stockledgerv1.CountLineStatus_COUNT_LINE_STATUS_COUNTED},
	} {
		if int(pair.wire.Number()) != pair.core {
			t.Errorf("%d in the core is %v on the wire", pair.core, pair.wire)
		}
	}
}
