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
	RolePrescriber  Role = "prescriber"
	RoleStorekeeper Role = "storekeeper"
	RoleCounter     Role = "counter"
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
	RoleManager: slices.Concat(readsStock, readsPharmacy, keepsStock, answersForStock, dispenses, []permission{
		"clinic.write", "location.write", "policy.write", "limit.write", "patient.erase", "patient.hold",
		permissionManageWebhooks, "webhook.read",
	}),
	// Answers for the medicines of a clinic, and gives them to patients.
	RolePharmacist: slices.Concat(readsStock, readsPharmacy, keepsStock, answersForStock, dispenses),
	// Orders medicines for patients.
	RolePrescriber: {
		"catalog.read", "stock.read", "prescription.read", "dispensing.read", "patient.read",
		"prescription.create", "prescription.cancel", "patient.write", "command.withdraw",
		"operation.submit", "operation.cancel", "operation.read", "report_operation.read",
	},
	// Keeps the shelves, and knows no patients.
	RoleStorekeeper: slices.Concat(readsStock, keepsStock),
	// Counts what is on the shelves, without seeing what the books say.
	RoleCounter: {"catalog.read", "count.read", "count.record"},
	// Uses what is on the ward.
	RoleNurse: {
		"catalog.read", "stock.read", "transfer.read", "approval.read",
		"stock.reserve", "stock.release", "stock.issue", "stock.open", "transfer.request", "transfer.receive",
		"command.witness", "command.withdraw", "operation.submit", "operation.cancel", "operation.read", "report_operation.read",
	},
	// Reads everything and changes nothing.
	RoleAuditor: slices.Concat(readsStock, readsPharmacy, []permission{"cluster.read", "job.read", "operation.read", permissionAllOperations, "webhook.read"}),
	// Looks up what there is.
	RoleViewer: {"catalog.read", "stock.read", "report_operation.read", "operation.read", "operation.cancel"},
}

// What several roles have in common.
var (
	readsStock = []permission{
		"catalog.read", "stock.read", "movement.read", "register.read",
		"transfer.read", "count.read", "recall.read", "approval.read", "loan.read", "event.read", "finding.read", "report_operation.read",
	}
	readsPharmacy = []permission{
		"prescription.read", "dispensing.read", "patient.read", "billing.read", "report.read", "downtime.read",
	}
	keepsStock = []permission{
		"lot.write", "lot.quarantine",
		"stock.receive", "stock.reverse", "stock.reserve", "stock.release", "stock.issue", "stock.adjust", "stock.write_off", "stock.return", "stock.open",
		"transfer.request", "transfer.approve", "transfer.cancel", "transfer.dispatch", "transfer.receive", "transfer.complete",
		"count.record", "command.witness", "command.withdraw", "batch.execute", "operation.submit", "operation.cancel", "operation.read",
	}
	answersForStock = []permission{
		"medicine.write", "pack.write", "price.write", "identifier.write", "level.write",
		"lot.release", "lot.recall", "stock.convert", "stock.lend", permissionManageCounts, permissionApprove, permissionBackdate,
		"operation.resubmit", permissionAllOperations,
	}
	dispenses = []permission{
		"prescription.create", "prescription.cancel", "template.write", "patient.write",
		"medicine.dispense", "dispensing.check", "dispensing.cancel", "dispensing.return", "downtime.record",
	}
)

// Permissions that this package asks for beside those of methods and commands.
const (
	permissionApprove      permission = "command.approve"
	permissionWitness      permission = "command.witness"
	permissionManageCounts permission = "count.manage"
	permissionBackdate     permission = "command.backdate"
	// To see the whole of a webhook's URL.
	permissionManageWebhooks permission = "webhook.manage"
	// To see and change what others submitted.
	permissionAllOperations permission = "all_operations.read"
)

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

	(&stockledgerv1.RegisterPatient{}).ProtoReflect().Descriptor().FullName(): true,
}

// accessPlan says how to check one method's requests. It is worked out once,
// from the options in the schema.
type accessPlan struct {
	permission permission
	request    protoreflect.FullName        // the message
	clinic     protoreflect.FieldDescriptor // nil where the token alone says which
	locations  []protoreflect.FieldDescriptor
	commands   protoreflect.FieldDescriptor // a Command or a list of them; nil in queries
	bodies     map[protoreflect.FieldNumber]*bodyPlan
}

// bodyPlan says how to check one command.
type bodyPlan struct {
	permission permission
	// locations are the fields of which one must name a location that the
	// principal reaches. Only a transfer has two, and either end may ask for it.
	locations []protoreflect.FieldDescriptor
	// subjects are the fields that name something whose location is not known
	// before the command runs.
	subjects []protoreflect.FieldDescriptor
	addsOnly bool
}

// subjectFields are the names of the fields that name something with a location
// of its own: a hold, a document, or a receipt by its sequence. A patient is
// known at every location.
var subjectFields = []protoreflect.Name{
	"hold_id", "transfer_id", "count_id", "approval_id", "prescription_id", "dispensing_id", "patient_id", "sequence",
}

// commandPermissions are what each command needs.
type commandPermissions map[ledger.Kind]permission

// deciding tells which commands of others a principal may decide on.
func (needs commandPermissions) deciding(p *Principal) func(ledger.Kind) bool {
	return func(kind ledger.Kind) bool { return p.may(permissionApprove) && p.may(needs[kind]) }
}

func newCommandPermissions() (commandPermissions, error) {
	needs := make(commandPermissions)
	bodies := commandDescriptor.Oneofs().ByName("body").Fields()
	for i := range bodies.Len() {
		message := bodies.Get(i).Message()
		kind, ok := ledger.KindByName(string(message.Name()))
		if !ok {
			return nil, fmt.Errorf("rpc: the ledger has no command %s", message.Name())
		}
		needs[kind] = commandPermission(message)
	}
	return needs, nil
}

func commandPermission(message protoreflect.MessageDescriptor) permission {
	needed, _ := proto.GetExtension(message.Options(), stockledgerv1.E_CommandPermission).(string)
	return permission(needed)
}

// accessPlans holds the plans of all methods, by procedure.
type accessPlans map[string]*accessPlan

func stockledgerServices() []protoreflect.ServiceDescriptor {
	var services []protoreflect.ServiceDescriptor
	for _, file := range []protoreflect.FileDescriptor{
		stockledgerv1.File_stockledger_v1_inventory_service_proto,
		stockledgerv1.File_stockledger_v1_catalog_service_proto,
		stockledgerv1.File_stockledger_v1_query_service_proto,
		stockledgerv1.File_stockledger_v1_pharmacy_service_proto,
		stockledgerv1.File_stockledger_v1_event_service_proto,
		stockledgerv1.File_stockledger_v1_operation_service_proto,
		stockledgerv1.File_stockledger_v1_admin_service_proto,
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
	plan := &accessPlan{permission: permission(needed), request: method.Input().FullName()}
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
		plan := &bodyPlan{permission: commandPermission(message), addsOnly: addsOnly[message.FullName()]}
		if plan.permission == "" {
			return nil, fmt.Errorf("rpc: command %s names no permission", message.FullName())
		}
		for j := range message.Fields().Len() {
			field := message.Fields().Get(j)
			if scopeOf(field) == stockledgerv1.Scope_SCOPE_LOCATION {
				plan.locations = append(plan.locations, field)
			}
			if slices.Contains(subjectFields, field.Name()) {
				plan.subjects = append(plan.subjects, field)
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

// reading is the permission of the method that takes a request. A request that
// no method takes nobody may make.
func (plans accessPlans) reading(req proto.Message) permission {
	name := req.ProtoReflect().Descriptor().FullName()
	for _, plan := range plans {
		if plan.request == name {
			return plan.permission
		}
	}
	return ""
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
	locations := []string{}
	if field.IsList() {
		list := msg.Get(field).List()
		for i := range list.Len() {
			locations = append(locations, list.Get(i).String())
		}
	} else {
		locations = append(locations, msg.Get(field).String())
	}
	for _, location := range locations {
		if isReference(location) {
			continue // judged once it is resolved
		}
		if err := p.checkLocation(ledger.LocationID(location)); err != nil {
			return err
		}
	}
	return nil
}

func (p *Principal) checkLocation(location ledger.LocationID) *failure {
	return p.checkLocationAs(location, string(location))
}

// checkLocationAs judges a location of which the caller said only the reference.
func (p *Principal) checkLocationAs(location ledger.LocationID, reference string) *failure {
	if p.reachesLocation(location) {
		return nil
	}
	return explainRejection(&ledger.Rejection{
		Reason: ledger.ReasonLocationForbidden, Field: "location_id",
		Message:  fmt.Sprintf("The token does not name location %q.", reference),
		Metadata: map[string]string{"location_id": reference},
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

// checkCommand judges one command. Where it reaches is not known here of a hold,
// a document or an external identifier: [references] looks those up, and the
// executor refuses in the end what concerns a location that the principal does
// not reach.
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
	return body.checkReach(p, command.Get(field).Message())
}

// checkReach judges where a command reaches.
func (body *bodyPlan) checkReach(p *Principal, message protoreflect.Message) *failure {
	var forbidden *failure
	for _, field := range body.locations {
		location := message.Get(field).String()
		if location == "" {
			continue
		}
		err := p.checkLocation(ledger.LocationID(location))
		if err == nil || isReference(location) {
			return nil
		}
		if forbidden == nil {
			forbidden = err
		}
	}
	if forbidden != nil {
		return forbidden
	}
	for _, field := range body.subjects {
		if message.Has(field) {
			return nil
		}
	}
	return locationRequired(p)
}
