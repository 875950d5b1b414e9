package rpc

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect/v2"
	"connectrpc.com/grpcreflect/v2"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
)

// Part is a part of the API that a process can serve without the other.
type Part string

// The parts.
const (
	// PartInventory is stock and the catalogue, and executes every command.
	PartInventory Part = "inventory"
	// PartPharmacy is prescriptions, dispensings and patients, also as FHIR.
	PartPharmacy Part = "pharmacy"
)

// Parts returns all of them.
func Parts() []Part { return []Part{PartInventory, PartPharmacy} }

// ParseParts reads the names of parts; none: all of them.
func ParseParts(names []string) ([]Part, error) {
	if len(names) == 0 {
		return Parts(), nil
	}
	var parts []Part
	for _, name := range names {
		part := Part(strings.TrimSpace(name))
		if !slices.Contains(Parts(), part) {
			return nil, fmt.Errorf("there is no service %q; there are %s and %s", name, PartInventory, PartPharmacy)
		}
		if !slices.Contains(parts, part) {
			parts = append(parts, part)
		}
	}
	slices.Sort(parts)
	return parts, nil
}

// partOf tells which part a service belongs to; empty where both serve it. What
// only reads, and what operators ask, is read from the database by either.
func partOf(service string) Part {
	switch service {
	case stockledgerv1connect.InventoryServiceName, stockledgerv1connect.CatalogServiceName, stockledgerv1connect.OperationServiceName:
		return PartInventory
	case stockledgerv1connect.PharmacyServiceName:
		return PartPharmacy
	}
	return ""
}

// serves reports whether this process serves a part; the empty one it does.
func (c Config) serves(part Part) bool { return part == "" || slices.Contains(c.Parts, part) }

// servedServices are the services that this process serves.
func (c Config) servedServices() []protoreflect.ServiceDescriptor {
	return slices.DeleteFunc(stockledgerServices(), func(service protoreflect.ServiceDescriptor) bool {
		return !c.serves(partOf(string(service.FullName())))
	})
}

// handlers serve all services, by their names.
type handlers map[string]func(*connect.Server)

// onWire returns the server that callers reach, and one for what other processes
// serve: it says so.
func (s *Server) onWire(all handlers, interceptors []connect.ServerInterceptor) (served, others *connect.Server) {
	served = connect.NewServer(interceptors...)
	served.SetUnknownHandler(unknownMethod)
	others = connect.NewServer(s.watch, servedElsewhere)
	for name, register := range all {
		if s.cfg.serves(partOf(name)) {
			register(served)
		} else {
			register(others)
		}
	}
	registerHealth(served, s.readiness, s.cfg.servedServices())
	grpcreflect.Register(served)
	return served, others
}

// register registers all of them.
func (h handlers) register(to *connect.Server) {
	for _, register := range h {
		register(to)
	}
}

func unknownMethod(_ context.Context, spec connect.Spec, _ connect.ServerStream) error {
	return fail(reasonUnknownMethod, "There is no method %s.", spec.Procedure)
}

// servedElsewhere refuses every call.
func servedElsewhere(connect.ServerFunc) connect.ServerFunc {
	return func(_ context.Context, spec connect.Spec, _ connect.ServerStream) error {
		service, _, _ := strings.Cut(strings.TrimPrefix(spec.Procedure, "/"), "/")
		return elsewhere(service, partOf(service))
	}
}

// elsewhere says that another part's processes serve something.
func elsewhere(what string, part Part) *failure {
	return fail(reasonServedElsewhere, "This process does not serve %s; processes that were started with --services %s do.", what, part).
		with("services", string(part))
}
