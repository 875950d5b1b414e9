package rpc

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// Role is a set of permissions with a name.
type Role string

// The roles.
const (
	RoleAdmin       Role = "admin"
	RoleManager     Role = "manager"
	RolePharmacist  Role = "pharmacist"
	RoleStorekeeper Role = "storekeeper"
	RoleNurse       Role = "nurse"
	RoleAuditor     Role = "auditor"
	RoleViewer      Role = "viewer"
)

// permission is what a method or a command needs, as its option in the schema
// says.
type permission string

// everyPermission in the table of roles stands for all of them.
const everyPermission permission = "*"

// roles is the table of who may do what. A permission that no method and no
// command names would be a mistake, which a test looks for.
var roles = map[Role][]permission{
	// Runs the installation.
	RoleAdmin: {everyPermission},
	// Runs a clinic.
	RoleManager: {
		"catalog.read", "stock.read", "movement.read",
		"clinic.write", "location.write", "medicine.write", "lot.write",
		"stock.receive", "stock.reserve", "stock.release", "stock.issue", "stock.adjust", "stock.write_off", "stock.return", "batch.execute",
	},
	// Answers for the medicines of a clinic.
	RolePharmacist: {
		"catalog.read", "stock.read", "movement.read",
		"medicine.write", "lot.write",
		"stock.receive", "stock.reserve", "stock.release", "stock.issue", "stock.adjust", "stock.write_off", "stock.return", "batch.execute",
	},
	// Keeps the shelves.
	RoleStorekeeper: {
		"catalog.read", "stock.read", "movement.read",
		"lot.write",
		"stock.receive", "stock.reserve", "stock.release", "stock.issue", "stock.adjust", "stock.write_off", "stock.return", "batch.execute",
	},
	// Uses what is on the ward.
	RoleNurse: {"catalog.read", "stock.read", "stock.reserve", "stock.release", "stock.issue"},
	// Reads everything and changes nothing.
	RoleAuditor: {"catalog.read", "stock.read", "movement.read"},
	// Looks up what there is.
	RoleViewer: {"catalog.read", "stock.read"},
}

// Roles returns the names of all roles, sorted.
func Roles() []Role {
	names := make([]Role, 0, len(roles))
	for role := range roles {
		names = append(names, role)
	}
	slices.Sort(names)
	return names
}

func joinRoles() string {
	names := Roles()
	text := make([]string, len(names))
	for i, name := range names {
		text[i] = string(name)
	}
	return strings.Join(text, ", ")
}

func (r Role) known() bool { return roles[r] != nil }

func (r Role) permits(needed permission) bool {
	granted := roles[r]
	return slices.Contains(granted, needed) || slices.Contains(granted, everyPermission)
}

// may reports whether one of the principal's roles permits something.
func (p *Principal) may(needed permission) bool {
	return slices.ContainsFunc(p.Roles, func(r Role) bool { return r.permits(needed) })
}

// addsOnly are the commands that a principal who is limited to some locations
// may give although they name neither a location nor a hold: they add a
// document, and neither move stock nor tell anything about it.
var addsOnly = map[protoreflect.FullName]bool{
	(&stockledgerv1.AddMedicine{}).ProtoReflect().Descriptor().FullName(): true,
	(&stockledgerv1.RegisterLot{}).ProtoReflect().Descriptor().FullName(): true,
}

// accessPlan says how to check one method's requests. It is worked out once,
// from the options in the schema.
type accessPlan struct {
	permission permission
	clinic     protoreflect.FieldDescriptor // nil where the token alone says which
	locations  []protoreflect.FieldDescriptor
	commands   protoreflect.FieldDescriptor // a Command or a list of them; nil in queries
	bodies     map[protoreflect.FieldNumber]*bodyPlan
}

// bodyPlan says how to check one command.
type bodyPlan struct {
	permission permission
	location   protoreflect.FieldDescriptor
	hold       protoreflect.FieldDescriptor
	addsOnly   bool
}

// accessPlans holds the plans of all methods, by procedure.
type accessPlans map[string]*accessPlan

func stockledgerServices() []protoreflect.ServiceDescriptor {
	var services []protoreflect.ServiceDescriptor
	for _, file := range []protoreflect.FileDescriptor{
		stockledgerv1.File_stockledger_v1_inventory_service_proto,
		stockledgerv1.File_stockledger_v1_catalog_service_proto,
		stockledgerv1.File_stockledger_v1_query_service_proto,
	} {
		for i := range file.Services().Len() {
			services = append(services, file.Services().Get(i))
		}
	}
	return services
}

// newAccessPlans works out the plan of each method. A method or command that
// forgot to name its permission keeps the server from starting.
func newAccessPlans(services ...protoreflect.ServiceDescriptor) (accessPlans, error) {
	bodies, err := newBodyPlans()
	if err != nil {
		return nil, err
	}
	plans := make(accessPlans)
	for _, service := range services {
		for i := range service.Methods().Len() {
			method := service.Methods().Get(i)
			plan, err := newAccessPlan(method, bodies)
			if err != nil {
				return nil, err
			}
			plans[fmt.Sprintf("/%s/%s", service.FullName(), method.Name())] = plan
		}
	}
	return plans, nil
}

var commandDescriptor = (&stockledgerv1.Command{}).ProtoReflect().Descriptor()

func newAccessPlan(method protoreflect.MethodDescriptor, bodies map[protoreflect.FieldNumber]*bodyPlan) (*accessPlan, error) {
	needed, _ := proto.GetExtension(method.Options(), stockledgerv1.E_Permission).(string)
	if needed == "" {
		return nil, fmt.Errorf("rpc: method %s names no permission", method.FullName())
	}
	plan := &accessPlan{permission: permission(needed)}
	fields := method.Input().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		switch {
		case scopeOf(field) == stockledgerv1.Scope_SCOPE_CLINIC:
			plan.clinic = field
		case scopeOf(field) == stockledgerv1.Scope_SCOPE_LOCATION:
			plan.locations = append(plan.locations, field)
		case field.Message() != nil && field.Message().FullName() == commandDescriptor.FullName():
			plan.commands, plan.bodies = field, bodies
		}
	}
	if plan.commands != nil && plan.clinic == nil {
		return nil, fmt.Errorf("rpc: method %s takes commands without a clinic", method.FullName())
	}
	if plan.clinic == nil && fields.ByName("clinic_id") != nil {
		return nil, fmt.Errorf("rpc: method %s has a clinic_id without a scope", method.FullName())
	}
	return plan, nil
}

func newBodyPlans() (map[protoreflect.FieldNumber]*bodyPlan, error) {
	plans := make(map[protoreflect.FieldNumber]*bodyPlan)
	bodies := commandDescriptor.Oneofs().ByName("body").Fields()
	for i := range bodies.Len() {
		message := bodies.Get(i).Message()
		needed, _ := proto.GetExtension(message.Options(), stockledgerv1.E_CommandPermission).(string)
		if needed == "" {
			return nil, fmt.Errorf("rpc: command %s names no permission", message.FullName())
		}
		plan := &bodyPlan{
			permission: permission(needed),
			hold:       message.Fields().ByName("hold_id"),
			addsOnly:   addsOnly[message.FullName()],
		}
		for j := range message.Fields().Len() {
			if field := message.Fields().Get(j); scopeOf(field) == stockledgerv1.Scope_SCOPE_LOCATION {
				plan.location = field
			}
		}
		plans[bodies.Get(i).Number()] = plan
	}
	return plans, nil
}

func scopeOf(field protoreflect.FieldDescriptor) stockledgerv1.Scope {
	scope, _ := proto.GetExtension(field.Options(), stockledgerv1.E_Scope).(stockledgerv1.Scope)
	return scope
}

// enforce is the one check of who may do what: the method before anything is
// decoded, and then every clinic, location and command in the request.
func (plans accessPlans) enforce(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		plan, ok := plans[spec.Procedure]
		if !ok {
			if spec.Schema != nil && !isOpen(spec.Procedure) {
				return fail(reasonInternal, "Something went wrong inside the ledger.").because(fmt.Errorf("no access plan for %s", spec.Procedure))
			}
			return next(ctx, spec, stream)
		}
		principal := principalOf(ctx)
		if principal == nil {
			return unauthenticated(fmt.Errorf("the request names nobody"))
		}
		if !principal.may(plan.permission) {
			return denied(principal, plan.permission)
		}
		return next(ctx, spec, &checkedStream{ServerStream: stream, ctx: ctx, plan: plan, principal: principal})
	}
}

func denied(p *Principal, needed permission) *failure {
	return fail(reasonPermissionDenied, "This needs the permission %s, which none of the token's roles has.", needed).
		with("permission", string(needed)).with("subject", string(p.Subject))
}

// checkedStream checks each message that it receives.
type checkedStream struct {
	connect.ServerStream
	ctx       context.Context
	plan      *accessPlan
	principal *Principal
}

// Receive reads the next message and refuses it where the principal may not
// send it.
func (s *checkedStream) Receive(msg any) error {
	if err := s.ServerStream.Receive(msg); err != nil {
		return err
	}
	if err := s.plan.check(s.ctx, s.principal, msg.(proto.Message).ProtoReflect()); err != nil {
		return err
	}
	return nil
}

// check judges a request.
func (plan *accessPlan) check(ctx context.Context, p *Principal, msg protoreflect.Message) error {
	if plan.clinic != nil {
		if err := checkClinic(ctx, p, msg.Get(plan.clinic).String()); err != nil {
			return err
		}
	}
	if p.limited() {
		for _, field := range plan.locations {
			if err := checkLocations(p, msg, field); err != nil {
				return err
			}
		}
	}
	switch {
	case plan.commands == nil:
		return nil
	case !plan.commands.IsList():
		return plan.checkCommand(p, msg.Get(plan.commands).Message()).orNil()
	}
	commands := msg.Get(plan.commands).List()
	for i := range commands.Len() {
		if err := plan.checkCommand(p, commands.Get(i).Message()); err != nil {
			return err.with("command_index", fmt.Sprint(i))
		}
	}
	return nil
}

// checkClinic gives the same answer for a clinic of somebody else and for one
// that does not exist.
func checkClinic(ctx context.Context, p *Principal, clinic string) error {
	if clinic == "" {
		return invalidField("clinic_id", "clinic_id is missing.")
	}
	if !p.reaches(ledger.ClinicID(clinic)) {
		return fail(reasonClinicForbidden, "The token does not name clinic %q.", clinic).with("clinic_id", clinic)
	}
	clinicOf(ctx, clinic)
	return nil
}

// checkLocations judges the locations that a query names. One that names none
// is answered for the principal's own: see only.
func checkLocations(p *Principal, msg protoreflect.Message, field protoreflect.FieldDescriptor) error {
	if !msg.Has(field) {
		return nil
	}
	if !field.IsList() {
		return p.checkLocation(ledger.LocationID(msg.Get(field).String())).orNil()
	}
	list := msg.Get(field).List()
	for i := range list.Len() {
		if err := p.checkLocation(ledger.LocationID(list.Get(i).String())); err != nil {
			return err
		}
	}
	return nil
}

func (p *Principal) checkLocation(location ledger.LocationID) *failure {
	if p.reachesLocation(location) {
		return nil
	}
	return explainRejection(&ledger.Rejection{
		Reason: ledger.ReasonLocationForbidden, Field: "location_id",
		Message:  fmt.Sprintf("The token does not name location %q.", location),
		Metadata: map[string]string{"location_id": string(location)},
	})
}

func locationRequired(p *Principal) *failure {
	names := make([]string, len(p.Locations))
	for i, location := range p.Locations {
		names[i] = string(location)
	}
	return fail(reasonLocationRequired, "The token is limited to the locations %s.", strings.Join(names, ", "))
}

// orNil keeps a nil *failure from becoming an error that is not nil.
func (f *failure) orNil() error {
	if f == nil {
		return nil
	}
	return f
}

// checkCommand judges one command. A hold's location is not known here: the
// executor refuses commands that move stock of a location that the principal
// does not reach.
func (plan *accessPlan) checkCommand(p *Principal, command protoreflect.Message) *failure {
	field := command.WhichOneof(commandDescriptor.Oneofs().ByName("body"))
	if field == nil {
		return nil // refused as an empty command later
	}
	body := plan.bodies[field.Number()]
	if !p.may(body.permission) {
		return denied(p, body.permission)
	}
	if !p.limited() || body.addsOnly {
		return nil
	}
	message := command.Get(field).Message()
	if body.location != nil {
		if location := message.Get(body.location).String(); location != "" {
			return p.checkLocation(ledger.LocationID(location))
		}
	}
	if body.hold != nil && message.Get(body.hold).String() != "" {
		return nil
	}
	return locationRequired(p)
}
