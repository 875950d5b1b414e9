package rpc

import (
	"context"
	"fmt"
	"strings"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// referenceBar separates the parts of a reference that is no id; see
// stockledger.v1.Command.
const referenceBar = "|"

func isReference(text string) bool { return strings.Contains(text, referenceBar) }

// references looks up what stands for ids. In queries it puts the ids in their
// place. In commands it leaves that to the core, and only finds out where a
// command of a principal who is limited to some locations reaches: a rejection
// by the core would tell such a principal about stock of other locations.
type references struct {
	finder finder
	plans  accessPlans
}

func newReferences(queries *txn.Queries, plans accessPlans) *references {
	return &references{finder: finder{queries}, plans: plans}
}

// enforce handles each message that a stream receives, once it is known to be
// permitted otherwise and to keep the schema's rules.
func (r *references) enforce(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		plan, ok := r.plans[spec.Procedure]
		if !ok || plan.clinic == nil {
			return next(ctx, spec, stream)
		}
		return next(ctx, spec, &resolvedStream{ServerStream: stream, ctx: ctx, references: r, plan: plan})
	}
}

type resolvedStream struct {
	connect.ServerStream
	ctx        context.Context
	references *references
	plan       *accessPlan
}

// Receive reads the next message.
func (s *resolvedStream) Receive(msg any) error {
	if err := s.ServerStream.Receive(msg); err != nil {
		return err
	}
	message, principal := msg.(proto.Message).ProtoReflect(), principalOf(s.ctx)
	if s.plan.commands != nil && !principal.limited() {
		return nil
	}
	look := &lookup{
		finder: s.references.finder, ctx: s.ctx, principal: principal, clinic: ledger.ClinicID(message.Get(s.plan.clinic).String()),
	}
	if s.plan.commands == nil {
		return look.resolve(message)
	}
	look.locations = make(map[string]string)
	return look.confineAll(s.plan, message)
}

// lookup serves one message.
type lookup struct {
	finder
	ctx       context.Context
	principal *Principal
	clinic    ledger.ClinicID
	locations map[string]string // references that were found; empty: unknown
}

// referenceFields are the names of fields that take references, with what they
// refer to.
var referenceFields = map[protoreflect.Name]ledger.IdentifierSubject{
	"location_id": ledger.SubjectLocation, "location_ids": ledger.SubjectLocation,
	"medicine_id": ledger.SubjectMedicine, "lot_id": ledger.SubjectLot,
}

// absentReasons are what a query says where nothing has an identifier.
var absentReasons = map[ledger.IdentifierSubject]ledger.Reason{
	ledger.SubjectLocation: ledger.ReasonLocationNotFound, ledger.SubjectMedicine: ledger.ReasonMedicineNotFound,
	ledger.SubjectLot: ledger.ReasonLotNotFound,
}

// resolve puts ids in the place of other references.
func (l *lookup) resolve(message protoreflect.Message) error {
	var failed error
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		subject, takes := referenceFields[field.Name()]
		switch {
		case takes && field.IsList():
			failed = l.resolveList(field, subject, value.List())
		case takes && isReference(value.String()):
			var id string
			if id, failed = l.idOf(field.Name(), subject, value.String()); failed == nil {
				message.Set(field, protoreflect.ValueOfString(id))
			}
		case field.Message() != nil && field.IsList():
			for i := 0; i < value.List().Len() && failed == nil; i++ {
				failed = l.resolve(value.List().Get(i).Message())
			}
		}
		return failed == nil
	})
	return failed
}

func (l *lookup) resolveList(field protoreflect.FieldDescriptor, subject ledger.IdentifierSubject, list protoreflect.List) error {
	for i := range list.Len() {
		reference := list.Get(i).String()
		if !isReference(reference) {
			continue
		}
		id, err := l.idOf(field.Name(), subject, reference)
		if err != nil {
			return err
		}
		list.Set(i, protoreflect.ValueOfString(id))
	}
	return nil
}

func (l *lookup) idOf(field protoreflect.Name, subject ledger.IdentifierSubject, reference string) (string, error) {
	id, err := l.find(l.ctx, l.clinic, subject, string(field), reference)
	if err != nil {
		return "", err
	}
	if id == "" {
		return "", &ledger.Rejection{
			Reason: absentReasons[subject], Field: string(field),
			Message:  fmt.Sprintf("Clinic %q has no %s %q.", l.clinic, subject, reference),
			Metadata: map[string]string{string(field): reference},
		}
	}
	if subject == ledger.SubjectLocation {
		if err := l.principal.checkLocationAs(ledger.LocationID(id), reference); err != nil {
			return "", err
		}
	}
	return id, nil
}

// confineAll judges the commands of a request.
func (l *lookup) confineAll(plan *accessPlan, message protoreflect.Message) error {
	if !plan.commands.IsList() {
		return l.confine(plan, message.Get(plan.commands).Message())
	}
	commands := message.Get(plan.commands).List()
	for i := range commands.Len() {
		err := l.confine(plan, commands.Get(i).Message())
		if err != nil {
			return explain(err).with("command_index", fmt.Sprint(i))
		}
	}
	return nil
}

// confine refuses a command that reaches beyond the principal's locations, as
// far as that can be known before it runs.
func (l *lookup) confine(plan *accessPlan, command protoreflect.Message) error {
	field := command.WhichOneof(bodyOneof)
	if field == nil {
		return nil
	}
	body, message := plan.bodies[field.Number()], command.Get(field).Message()
	if body.addsOnly {
		return nil
	}
	if err := l.confineLocations(body, message); err != nil {
		return err
	}
	switch b := message.Interface().(type) {
	case *stockledgerv1.ReverseReceipt:
		return l.confineReceipt(ledger.Sequence(b.GetSequence()))
	case *stockledgerv1.ApproveTransfer:
		return l.confineTransfer(b.GetTransferId(), source)
	case *stockledgerv1.DispatchTransfer:
		return l.confineTransfer(b.GetTransferId(), source)
	case *stockledgerv1.ReceiveTransfer:
		return l.confineTransfer(b.GetTransferId(), destination)
	case interface{ GetApprovalId() string }:
		return l.confineApproval(b.GetApprovalId())
	}
	return nil
}

// confineLocations judges references to locations. One that is unknown is left
// for the core to refuse.
func (l *lookup) confineLocations(body *bodyPlan, message protoreflect.Message) error {
	var forbidden error
	for _, field := range body.locations {
		reference := message.Get(field).String()
		location := reference
		if isReference(reference) {
			id, err := l.location(reference)
			if err != nil {
				return err
			}
			if id == "" {
				return nil
			}
			location = id
		}
		if location == "" {
			continue
		}
		err := l.principal.checkLocationAs(ledger.LocationID(location), reference)
		if err == nil {
			return nil
		}
		forbidden = err
	}
	return forbidden
}

// location finds a location's id, once for each request.
func (l *lookup) location(reference string) (string, error) {
	if id, ok := l.locations[reference]; ok || !searchable(reference) {
		return id, nil
	}
	id, err := l.find(l.ctx, l.clinic, ledger.SubjectLocation, "location_id", reference)
	if err == nil {
		l.locations[reference] = id
	}
	return id, err
}

// searchable reports whether a text of a command that the core has not judged
// yet can be looked for in the database.
func searchable(text string) bool {
	const longest = 300
	return len(text) <= longest && !strings.ContainsRune(text, 0)
}

// confineReceipt judges a receipt, which is known by its sequence alone.
func (l *lookup) confineReceipt(sequence ledger.Sequence) error {
	if sequence <= 0 {
		return nil // refused later
	}
	const enough = 1000
	movements, _, _, err := l.queries.Movements(l.ctx, l.clinic, txn.MovementFilter{From: sequence, To: sequence}, nil, enough, txn.ReadOptions{})
	if err != nil {
		return err
	}
	for i := range movements {
		if !l.principal.reachesLocation(movements[i].Location) {
			return subjectForbidden("sequence", decimal(sequence))
		}
	}
	return nil
}

// subjectForbidden refuses something by its name, without a word about where it
// is.
func subjectForbidden(field, name string) error {
	return &ledger.Rejection{
		Reason: ledger.ReasonLocationForbidden, Field: field,
		Message: fmt.Sprintf("%s concerns a location that the token does not name.", name), Metadata: map[string]string{field: name},
	}
}

// confineTransfer refuses a step of a transfer that is taken at an end which the
// principal does not reach.
func (l *lookup) confineTransfer(id string, end func(*ledger.Transfer) ledger.LocationID) error {
	if !searchable(id) {
		return nil // refused later
	}
	document, _, err := l.queries.Document(l.ctx, l.clinic, ledger.DocumentKey{Kind: ledger.DocumentTransfer, ID: id}, txn.ReadOptions{})
	if err != nil || document == nil {
		return err
	}
	if transfer, ok := document.Body.(*ledger.Transfer); ok && !l.principal.reachesLocation(end(transfer)) {
		return subjectForbidden("transfer_id", id)
	}
	return nil
}

func source(t *ledger.Transfer) ledger.LocationID { return t.From }

func destination(t *ledger.Transfer) ledger.LocationID { return t.To }

// confineApproval refuses a decision on a command that concerns the clinic as a
// whole, which the principal could not give either.
func (l *lookup) confineApproval(id string) error {
	if !searchable(id) {
		return nil // refused later
	}
	document, _, err := l.queries.Document(l.ctx, l.clinic, ledger.DocumentKey{Kind: ledger.DocumentApproval, ID: id}, txn.ReadOptions{})
	if err != nil || document == nil {
		return err
	}
	approval, ok := document.Body.(*ledger.Approval)
	if !ok || len(approval.Scope.All)+len(approval.Scope.Any) > 0 {
		return nil
	}
	name := commandDescriptor.ParentFile().Package().Append(protoreflect.Name(approval.Command.String()))
	if addsOnly[name] {
		return nil
	}
	return locationRequired(l.principal)
}
