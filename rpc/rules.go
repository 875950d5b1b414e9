package rpc

import (
	"context"
	"fmt"
	"strings"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// maxBatch is the largest number of commands in a batch.
const maxBatch = 10_000

// rules enforces what the schema says about fields. In a batch each command is
// judged by itself, so that one mistake costs the others nothing.
type rules struct {
	validator protovalidate.Validator
	envelope  protovalidate.ValidationOption
}

func newRules() (*rules, error) {
	var inputs []protoreflect.MessageDescriptor
	for _, service := range stockledgerServices() {
		for i := range service.Methods().Len() {
			inputs = append(inputs, service.Methods().Get(i).Input())
		}
	}
	// Everything is compiled now, so that validating takes no lock.
	validator, err := protovalidate.New(
		protovalidate.WithMessageDescriptors(inputs...),
		protovalidate.WithDisableLazy(),
		protovalidate.WithFailFast(),
	)
	if err != nil {
		return nil, fmt.Errorf("rpc: compile the schema's rules: %w", err)
	}
	return &rules{validator: validator, envelope: protovalidate.WithFilter(protovalidate.FilterFunc(outsideCommands))}, nil
}

// outsideCommands leaves out what is inside a Command.
func outsideCommands(_ protoreflect.Message, d protoreflect.Descriptor) bool {
	return d.FullName() != commandDescriptor.FullName() && d.Parent().FullName() != commandDescriptor.FullName()
}

// enforce validates each message that a stream receives.
func (r *rules) enforce(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		if isOpen(spec.Procedure) {
			return next(ctx, spec, stream)
		}
		return next(ctx, spec, &validatedStream{ServerStream: stream, rules: r})
	}
}

type validatedStream struct {
	connect.ServerStream
	rules *rules
}

// Receive reads the next message and refuses it where it breaks a rule.
func (s *validatedStream) Receive(msg any) error {
	if err := s.ServerStream.Receive(msg); err != nil {
		return err
	}
	return s.rules.check(msg.(proto.Message))
}

func (r *rules) check(msg proto.Message) error {
	var options []protovalidate.ValidationOption
	if batch, ok := msg.(*stockledgerv1.ExecuteBatchRequest); ok {
		if n := len(batch.GetCommands()); n > maxBatch {
			return invalidField("commands", "The batch has %d commands; at most %d are allowed. Split it.", n, maxBatch)
		}
		options = append(options, r.envelope)
	}
	if _, ok := msg.(*stockledgerv1.SubmitRequest); ok {
		options = append(options, r.envelope)
	}
	if err := r.validator.Validate(msg, options...); err != nil {
		return validationError(err)
	}
	switch msg.(type) {
	case *stockledgerv1.CommandRequest, *stockledgerv1.ExecuteBatchRequest, *stockledgerv1.SubmitRequest:
		return nil // the core judges the texts of commands
	}
	if path := findNUL(msg.ProtoReflect()); path != "" {
		return invalidField(path, "%s holds a NUL character, which no text of the ledger does.", path)
	}
	return nil
}

// findNUL returns the path of a text that the databases can't even compare
// with theirs.
func findNUL(msg protoreflect.Message) (path string) {
	msg.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.IsMap():
		case field.IsList():
			list := value.List()
			for i := 0; i < list.Len() && path == ""; i++ {
				path = findNULIn(field, list.Get(i))
			}
		default:
			path = findNULIn(field, value)
		}
		return path == ""
	})
	return path
}

// findNULIn is findNUL for one value of a field.
func findNULIn(field protoreflect.FieldDescriptor, value protoreflect.Value) string {
	switch {
	case field.Kind() == protoreflect.StringKind && strings.IndexByte(value.String(), 0) >= 0:
		return string(field.Name())
	case field.Message() != nil:
		if inner := findNUL(value.Message()); inner != "" {
			return string(field.Name()) + "." + inner
		}
	}
	return ""
}

// command judges one command of a batch.
func (r *rules) command(c *stockledgerv1.Command) *ledger.Rejection {
	err := r.validator.Validate(c)
	if err == nil {
		return nil
	}
	f := explain(validationError(err))
	return &ledger.Rejection{Reason: f.reason, Field: f.field, Message: f.message}
}
