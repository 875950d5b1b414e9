package rpc

import (
	"context"
	"slices"
	"time"

	"connectrpc.com/connect/v2"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Procedures of the standard health service, which has no generated code for
// Connect here.
const (
	healthService = "/grpc.health.v1.Health/"
	healthCheck   = healthService + "Check"
	healthWatch   = healthService + "Watch"
	healthList    = healthService + "List"
)

// watchInterval is how soon a watcher learns of a change.
const watchInterval = time.Second

// health serves grpc.health.v1: every service of this node is as ready as the
// node.
type health struct {
	readiness *readiness
	services  []string // "" is the node
}

func registerHealth(server *connect.Server, readiness *readiness, served []protoreflect.ServiceDescriptor) {
	h := &health{readiness: readiness, services: []string{""}}
	for _, service := range served {
		h.services = append(h.services, string(service.FullName()))
	}
	methods := healthv1.File_grpc_health_v1_health_proto.Services().ByName("Health").Methods()
	method := func(procedure string, streamType connect.StreamType, handler connect.ServerFunc) connect.Method {
		name := protoreflect.Name(procedure[len(healthService):])
		return connect.Method{
			Spec:    connect.Spec{StreamType: streamType, Procedure: procedure, Schema: methods.ByName(name)},
			Handler: handler,
		}
	}
	server.Register(
		method(healthCheck, connect.StreamTypeUnary, h.check),
		method(healthWatch, connect.StreamTypeServer, h.watch),
		method(healthList, connect.StreamTypeUnary, h.list),
	)
}

func (h *health) status(ctx context.Context) healthv1.HealthCheckResponse_ServingStatus {
	if h.readiness.report(ctx).Ready {
		return healthv1.HealthCheckResponse_SERVING
	}
	return healthv1.HealthCheckResponse_NOT_SERVING
}

func (h *health) knows(service string) bool { return slices.Contains(h.services, service) }

func (h *health) check(ctx context.Context, _ connect.Spec, stream connect.ServerStream) error {
	var req healthv1.HealthCheckRequest
	if err := stream.Receive(&req); err != nil {
		return err
	}
	if !h.knows(req.GetService()) {
		return fail(reasonUnknownService, "There is no service %q.", req.GetService())
	}
	return stream.Send(&healthv1.HealthCheckResponse{Status: h.status(ctx)})
}

func (h *health) list(ctx context.Context, _ connect.Spec, stream connect.ServerStream) error {
	if err := stream.Receive(&healthv1.HealthListRequest{}); err != nil {
		return err
	}
	status := h.status(ctx)
	answer := &healthv1.HealthListResponse{Statuses: make(map[string]*healthv1.HealthCheckResponse)}
	for _, service := range h.services {
		answer.Statuses[service] = &healthv1.HealthCheckResponse{Status: status}
	}
	return stream.Send(answer)
}

// watch sends the status and then each change of it, until the caller leaves or
// the node shuts down.
func (h *health) watch(ctx context.Context, _ connect.Spec, stream connect.ServerStream) error {
	var req healthv1.HealthCheckRequest
	if err := stream.Receive(&req); err != nil {
		return err
	}
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	sent := healthv1.HealthCheckResponse_UNKNOWN
	for {
		status := healthv1.HealthCheckResponse_SERVICE_UNKNOWN
		if h.knows(req.GetService()) {
			status = h.status(ctx)
		}
		if status != sent {
			if err := stream.Send(&healthv1.HealthCheckResponse{Status: status}); err != nil {
				return err
			}
			sent = status
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-h.readiness.draining:
			if sent != healthv1.HealthCheckResponse_NOT_SERVING {
				if err := stream.Send(&healthv1.HealthCheckResponse{Status: healthv1.HealthCheckResponse_NOT_SERVING}); err != nil {
					return err
				}
			}
			return fail(reasonShuttingDown, "This node is shutting down.")
		}
	}
}
