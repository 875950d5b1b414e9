package ledger

import (
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

// KindSetPolicy is the kind of SetPolicy.
const KindSetPolicy Kind = 16

// Requirement says what part a second person has in a command. The numbers are
// stored, and stricter ones are larger.
type Requirement int16

// The parts that a second person can have.
const (
	RequireNothing        Requirement = 0
	RequireReview         Requirement = 1 // approval afterwards
	RequireWitness        Requirement = 2 // somebody stands by now
	RequireApprovalBefore Requirement = 3 // nothing is posted until somebody approves
)

// AnyControlClass in a rule stands for every medicine, controlled or not.
const AnyControlClass = "*"

// Limits of a policy.
const (
	maxRules            = 500
	maxReasonCodes      = 200
	maxApprovalHours    = 24 * 365
	defaultApprovalTime = 72 // hours
)

// Rule says what a command on medicines of a control class requires.
type Rule struct {
	ControlClass string // empty: medicines that are not controlled; "*": all
	Command      Kind
	Above        int64 // only more than so many base units of one medicine; a tier
	Requires     Requirement
}

// ReasonCodes are the codes that a command's reason_code may be.
type ReasonCodes struct {
	Command Kind
	Codes   []string
}

// Policy is what a clinic demands of those who give commands.
type Policy struct {
	Rules []Rule
	// ApprovalHours is how long a request waits for a second person, 1 to 8760.
	ApprovalHours int64
	// A counted variance is within the tolerance where it is at most so many
	// base units, or at most so many hundredths of a per cent of the balance.
	ToleranceUnits       int64
	ToleranceBasisPoints int64
	// CountApproval: a variance beyond the tolerance needs approval before it
	// is posted.
	CountApproval bool
	// Recount: a variance beyond the tolerance must be counted twice in a
	// count session.
	Recount     bool
	ReasonCodes []ReasonCodes // commands that are not listed take any code
}

var noPolicy = &Policy{ApprovalHours: defaultApprovalTime}

const policyID = "policy"

// About is for the index of documents.
func (p *Policy) About() About {
	return About{DocumentKey: DocumentKey{DocumentPolicy, policyID}, Open: true}
}

func (p *Policy) fields(c *codec) {
	list(c, &p.Rules, 4, func(c *codec, r *Rule) {
		text(c, &r.ControlClass)
		number(c, &r.Command)
		number(c, &r.Above)
		number(c, &r.Requires)
	})
	number(c, &p.ApprovalHours)
	number(c, &p.ToleranceUnits)
	number(c, &p.ToleranceBasisPoints)
	c.flag(&p.CountApproval)
	c.flag(&p.Recount)
	list(c, &p.ReasonCodes, 2, func(c *codec, r *ReasonCodes) {
		number(c, &r.Command)
		list(c, &r.Codes, 1, text[string])
	})
}

// policy is the clinic's policy; one that was never set demands nothing.
func (s *State) policy() *Policy {
	if policy := document[Policy](s, DocumentPolicy, policyID); policy != nil {
		return policy
	}
	return noPolicy
}

func (p *Policy) exceedsTolerance(variance, booked int64) bool {
	if !p.CountApproval && !p.Recount {
		return false
	}
	variance = max(variance, -variance)
	if variance <= p.ToleranceUnits {
		return false
	}
	high, low := bits.Mul64(uint64(variance), 10_000)
	allowedHigh, allowedLow := bits.Mul64(uint64(booked), uint64(p.ToleranceBasisPoints))
	return high > allowedHigh || high == allowedHigh && low > allowedLow
}

// SetPolicy replaces the clinic's policy.
type SetPolicy struct {
	Policy
	Etag string
}

// Kind identifies the command.
func (*SetPolicy) Kind() Kind { return KindSetPolicy }

func (b *SetPolicy) fields(c *codec) {
	b.Policy.fields(c)
	text(c, &b.Etag)
}

// exempt are the commands that no rule can be about: they are the means by
// which second persons act, or the ledger gives them to itself.
var exempt = []Kind{
	KindCreateClinic, KindExpireReservation, KindContinueRecall, KindApproveCommand, KindRejectCommand, KindLapseCommand,
	KindRecordDowntime, // it has happened
}

// reasoned are the commands that carry a reason code.
var reasoned = []Kind{
	KindDeactivateClinic, KindDeactivateLocation, KindDeactivateMedicine, KindDeactivateLot, KindRemoveIdentifier,
	KindReserveStock, KindReleaseStock, KindIssueStock, KindAdjustStock, KindWriteOffStock, KindReturnToSupplier, KindReverseReceipt,
	KindRecordCount, KindCompleteCount, KindCancelCount, KindConvertStock, KindOpenContainer,
	KindQuarantineLot, KindReleaseLot, KindRecallLot, KindLiftRecall,
	KindTransferStock, KindRejectTransfer, KindCancelTransfer, KindReceiveTransfer, KindCompleteTransfer,
	KindLendStock, KindBorrowStock, KindRepayLoan, KindReceiveRepayment, KindRejectCommand,
	KindCancelPrescription, KindCancelDispensing, KindReturnFromPatient, KindErasePatient, KindPlaceLegalHold, KindLiftLegalHold,
}

func (b *SetPolicy) check() *Rejection {
	if len(b.Rules) > maxRules {
		return reject(ReasonInvalidField, "rules", "A policy has at most %d rules; there are %d.", maxRules, len(b.Rules))
	}
	for i, rule := range b.Rules {
		if r := rule.check(); r != nil {
			return r.of("rules[" + strconv.Itoa(i) + "]." + r.Field)
		}
	}
	listed := make(map[Kind]bool)
	for i, codes := range b.ReasonCodes {
		r := codes.check()
		if r == nil && listed[codes.Command] {
			r = reject(ReasonInvalidField, "command", "%s is listed twice.", codes.Command)
		}
		if r != nil {
			return r.of("reason_codes[" + strconv.Itoa(i) + "]." + r.Field)
		}
		listed[codes.Command] = true
	}
	switch {
	case b.ApprovalHours < 1 || b.ApprovalHours > maxApprovalHours:
		return reject(ReasonInvalidField, "approval_hours", "approval_hours must be 1 to %d.", maxApprovalHours)
	case b.ToleranceUnits < 0 || b.ToleranceUnits > MaxQuantity:
		return reject(ReasonQuantityOutOfRange, "tolerance_units", "The tolerance is %d units.", b.ToleranceUnits)
	case b.ToleranceBasisPoints < 0 || b.ToleranceBasisPoints > 10_000:
		return reject(ReasonInvalidField, "tolerance_basis_points", "tolerance_basis_points must be 0 to 10000.")
	}
	return checkEtag(b.Etag)
}

func (r Rule) check() *Rejection {
	if _, ok := kinds[r.Command]; !ok || r.Command == KindRequestApproval || slices.Contains(exempt, r.Command) {
		return reject(ReasonInvalidField, "command", "No rule can be about %s.", r.Command)
	}
	if r.Requires < RequireNothing || r.Requires > RequireApprovalBefore {
		return reject(ReasonInvalidField, "requires", "It must be nothing, a review, a witness, or approval before.")
	}
	if r.Above < 0 || r.Above > MaxQuantity {
		return reject(ReasonQuantityOutOfRange, "above", "The tier is %d.", r.Above)
	}
	if r.ControlClass == AnyControlClass {
		return nil
	}
	return checkCode("control_class", r.ControlClass, false)
}

func (r ReasonCodes) check() *Rejection {
	if !slices.Contains(reasoned, r.Command) {
		return reject(ReasonInvalidField, "command", "There is no reason code in %s.", r.Command)
	}
	if len(r.Codes) == 0 || len(r.Codes) > maxReasonCodes {
		return reject(ReasonInvalidField, "codes", "A command has 1 to %d reason codes; leave it out to take any.", maxReasonCodes)
	}
	for _, code := range r.Codes {
		if bad := checkCode("codes", code, true); bad != nil {
			return bad
		}
	}
	return nil
}

func (b *SetPolicy) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	policy := b.Policy
	policy.Rules, policy.ReasonCodes = slices.Clone(policy.Rules), slices.Clone(policy.ReasonCodes)
	if r := s.checkDocumentVersion(b.Etag, policy.About().DocumentKey); r != nil {
		return nil, r
	}
	return &Change{of: b.Kind(), Documents: []DocumentBody{&policy}}, nil
}

// reasonAllowed judges the reason code of a command by the clinic's list. Where
// the command may do without one, it still may.
func (s *State) reasonAllowed(command Kind, body EventBody) *Rejection {
	policy, code := s.policy(), reasonCodeOf(body)
	at := slices.IndexFunc(policy.ReasonCodes, func(r ReasonCodes) bool { return r.Command == command })
	if at < 0 || code == "" {
		return nil
	}
	codes := policy.ReasonCodes[at].Codes
	if slices.Contains(codes, code) {
		return nil
	}
	return reject(ReasonReasonCodeUnknown, "reason_code", "For %s this clinic knows the reason codes %s; %q is none of them.", command, strings.Join(codes, ", "), code).
		with("allowed", strings.Join(codes, ","))
}

// reasonCodeOf returns the reason code that an event carries.
func reasonCodeOf(body EventBody) string {
	switch b := body.(type) {
	case *Change:
		return b.ReasonCode
	case *StockReserved:
		return b.ReasonCode
	case *StockReleased:
		return b.ReasonCode
	case *StockIssued:
		return b.ReasonCode
	case *StockAdjusted:
		return b.ReasonCode
	case *StockWrittenOff:
		return b.ReasonCode
	case *StockReturnedToSupplier:
		return b.ReasonCode
	case *ClinicDeactivated:
		return b.ReasonCode
	case *LocationDeactivated:
		return b.ReasonCode
	case *MedicineDeactivated:
		return b.ReasonCode
	case *LotDeactivated:
		return b.ReasonCode
	}
	return ""
}

// requirement is the strictest that the clinic's rules demand of a command
// which has been decided.
func (s *State) requirement(command Kind, body EventBody) Requirement {
	policy := s.policy()
	strictest := RequireNothing
	if command == KindCheckDispensing {
		// Rules about it say that there must be one, by another person.
		return strictest
	}
	change, _ := body.(*Change)
	if command == KindRecordCount && policy.CountApproval && change.beyondTolerance {
		strictest = RequireApprovalBefore
	}
	var units map[MedicineID]int64
	for _, rule := range policy.Rules {
		if command == KindDispenseMedicine && rule.Command == KindCheckDispensing {
			// In one step there is nothing to check: somebody stands by.
			rule = Rule{rule.ControlClass, KindDispenseMedicine, rule.Above, min(rule.Requires, RequireWitness)}
			if rule.Requires > RequireNothing {
				rule.Requires = RequireWitness
			}
		}
		if rule.Command != command || rule.Requires <= strictest {
			continue
		}
		if units == nil {
			units = s.concerned(body)
		}
		for medicine, quantity := range units {
			if s.ruleApplies(rule, body, medicine, quantity) {
				strictest = rule.Requires
				break
			}
		}
	}
	return strictest
}

func (s *State) ruleApplies(rule Rule, body EventBody, medicine MedicineID, quantity int64) bool {
	if rule.Above > 0 && quantity <= rule.Above {
		return false
	}
	return rule.ControlClass == AnyControlClass || slices.Contains(s.controlClasses(body, medicine), rule.ControlClass)
}

// controlClasses are those of a medicine that an event is about: what it is in
// now, and what the event puts it in.
func (s *State) controlClasses(body EventBody, medicine MedicineID) []string {
	var classes []string
	if m, ok := s.medicines[medicine]; ok {
		classes = append(classes, m.ControlClass)
	}
	switch b := body.(type) {
	case *MedicineAdded:
		classes = append(classes, b.ControlClass)
	case *MedicineUpdated:
		classes = append(classes, b.ControlClass)
	}
	return classes
}

// concerned returns the medicines that an event is about with the base units
// that it moves of each; the empty medicine where it is about none.
func (s *State) concerned(body EventBody) map[MedicineID]int64 {
	units := make(map[MedicineID]int64)
	if m, ok := body.(mover); ok {
		countMoved(units, m.moves())
	}
	switch b := body.(type) {
	case *Change:
		s.concernedBy(b, units)
	case *MedicineAdded:
		units[b.MedicineID] += 0
	case *MedicineUpdated:
		units[b.MedicineID] += 0
	case *MedicineDeactivated:
		units[b.MedicineID] += 0
	case *LotRegistered:
		units[b.MedicineID] += 0
	case *LotUpdated:
		units[s.lots[b.LotID].Medicine] += 0
	case *LotDeactivated:
		units[s.lots[b.LotID].Medicine] += 0
	}
	if len(units) == 0 {
		units[""] = 0
	}
	return units
}

// countMoved adds up what moves of an event move of each medicine. What comes
// out of clearing went into it before, and what is made of a medicine out of
// itself is not moved twice.
func countMoved(units map[MedicineID]int64, moves []Move) {
	made := make(map[MedicineID]int64)
	for _, move := range moves {
		for _, line := range move.Lines {
			switch move.From {
			case Clearing:
			case Converted:
				made[move.Medicine] += line.Quantity
			default:
				units[move.Medicine] += line.Quantity
			}
		}
	}
	for medicine, quantity := range made {
		units[medicine] = max(units[medicine], quantity)
	}
}

// concernedBy adds what a change is about beside what it moves.
func (s *State) concernedBy(b *Change, units map[MedicineID]int64) {
	for _, lot := range b.Lots {
		units[lot.Medicine] += 0
	}
	for _, medicine := range b.counted {
		units[medicine] += 0
	}
	asked := make(map[MedicineID]int64)
	for _, document := range b.Documents {
		switch d := document.(type) {
		case *Transfer:
			for _, line := range d.Lines {
				asked[line.Medicine] += line.Quantity
			}
		case *Count:
			for _, line := range d.Lines {
				if b.of != KindRecordCount {
					units[line.Medicine] += 0
				}
			}
		case *Level:
			units[d.Medicine] += 0
		case *Packs:
			units[d.MedicineID] += 0
		case *Prices:
			units[d.MedicineID] += 0
		case *Dispensing:
			units[d.Medicine] += 0
		case *Prescription:
			if b.of == KindCreatePrescription {
				for _, line := range d.Lines {
					asked[line.Medicine] += line.Quantity
				}
			}
		case *Identifier:
			s.concernedByIdentifier(d, units)
		}
	}
	for medicine, quantity := range asked {
		units[medicine] = max(units[medicine], quantity)
	}
}

func (s *State) concernedByIdentifier(i *Identifier, units map[MedicineID]int64) {
	switch i.Subject {
	case SubjectMedicine:
		units[MedicineID(i.SubjectID)] += 0
	case SubjectLot:
		if lot, ok := s.lots[LotID(i.SubjectID)]; ok {
			units[lot.Medicine] += 0
		}
	}
}
