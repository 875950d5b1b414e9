package ledger

import (
	"strconv"
)

// Check judges a command by itself, without any state. What fails here can
// never have been accepted.
func Check(c Command) *Rejection { return checkCommand(&c) }

// Decide judges a command by the rules of today. It changes nothing. at is the
// time of recording; where it lies before the head's time, the head's counts,
// so that a journal's time never runs back.
func Decide(s *State, c Command, at Instant) (Event, *Rejection) {
	if r := checkCommand(&c); r != nil {
		return Event{}, r
	}
	at = max(at, s.head.At)
	if r := s.admits(&c, at); r != nil {
		return Event{}, r
	}
	mark := s.Mark()
	defer s.Rollback(mark)
	body, r := decideBody(s, &c, at)
	s.Rollback(mark)
	if r != nil {
		return Event{}, r
	}
	occurred := c.OccurredAt
	if occurred == 0 {
		occurred = at
	}
	event := Event{
		Clinic: s.id, Sequence: s.head.Sequence + 1, At: at, OccurredAt: occurred,
		Actor: c.Actor, IdempotencyKey: c.IdempotencyKey, RequestHash: c.RequestHash(),
		Body: body, Witness: c.Witness,
	}
	if s.clinic != nil && occurred < s.earliest(at) {
		event.LateReasonCode = c.LateReasonCode
	}
	if brokeRules(body) {
		event.ReviewBy = s.approvalDeadline(at)
	}
	return event, s.applyPolicy(&c, &event)
}

// applyPolicy holds a decided command against what the clinic demands. Where a
// second person must approve it first, its event becomes the request for one.
func (s *State) applyPolicy(c *Command, event *Event) *Rejection {
	if wasteful(event.Body) && c.Witness == "" {
		return reject(ReasonWitnessRequired, "witness_token", "Somebody must witness what is wasted.")
	}
	if c.Actor == SystemActor || s.clinic == nil {
		return nil
	}
	if r := s.reasonAllowed(c.Body.Kind(), event.Body); r != nil {
		return r
	}
	switch s.requirement(c.Body.Kind(), event.Body) {
	case RequireReview:
		event.ReviewBy = s.approvalDeadline(event.At)
	case RequireWitness:
		if c.Witness == "" {
			return reject(ReasonWitnessRequired, "witness_token", "The clinic's policy wants a witness for this %s.", c.Body.Kind())
		}
	case RequireApprovalBefore:
		request, r := s.request(c, event.Body, event.At)
		if r != nil {
			return r
		}
		event.Body = request
	}
	return nil
}

// admits judges what holds for every command: the clinic and the time.
func (s *State) admits(c *Command, at Instant) *Rejection {
	kind := c.Body.Kind()
	if s.clinic == nil {
		if kind == KindCreateClinic {
			return s.admitsTime(c, at, 0)
		}
		return reject(ReasonClinicNotFound, "clinic_id", "There is no clinic %q.", s.id).with("clinic_id", s.id)
	}
	if !s.clinic.Active && kind != KindUpdateClinic && kind != KindCreateClinic {
		return reject(ReasonClinicInactive, "clinic_id", "Clinic %q is inactive.", s.id).with("clinic_id", s.id)
	}
	return s.admitsTime(c, at, s.clinic.BackdatingDays)
}

func (s *State) admitsTime(c *Command, at Instant, backdatingDays int64) *Rejection {
	if c.OccurredAt == 0 {
		return nil
	}
	if c.OccurredAt > at {
		return reject(ReasonOccurredInFuture, "occurred_at", "occurred_at is %s, and it is %s now.", c.OccurredAt, at).
			with("occurred_at", c.OccurredAt, "now", at)
	}
	earliest := earliestFor(at, backdatingDays)
	if c.OccurredAt < earliest && c.LateReasonCode == "" {
		return reject(ReasonOccurredTooEarly, "occurred_at", "occurred_at is %s; this clinic records back to %s.", c.OccurredAt, earliest).
			with("occurred_at", c.OccurredAt, "earliest", earliest)
	}
	return nil
}

// earliestFor is how far back a clinic's window for backdating reaches.
func earliestFor(at Instant, backdatingDays int64) Instant {
	if backdatingDays == 0 {
		// Commands travel: one given now arrives a little later.
		return at - 60*60*1_000_000
	}
	return at - Instant(backdatingDays)*24*60*60*1_000_000
}

func (s *State) earliest(at Instant) Instant { return earliestFor(at, s.clinic.BackdatingDays) }

func (s *State) knownLocation(id LocationID) (*Location, *Rejection) {
	found, ok := s.identified(SubjectLocation, string(id))
	location := s.locations[LocationID(found)]
	if !ok || location == nil {
		return nil, reject(ReasonLocationNotFound, "location_id", "Clinic %q has no location %q.", s.id, id).with("location_id", id)
	}
	return location, nil
}

func (s *State) activeLocation(id LocationID) (*Location, *Rejection) {
	location, r := s.knownLocation(id)
	if r == nil && !location.Active {
		return nil, reject(ReasonLocationInactive, "location_id", "Location %q is inactive.", id).with("location_id", id)
	}
	return location, r
}

func (s *State) knownMedicine(id MedicineID) (*Medicine, *Rejection) {
	found, ok := s.identified(SubjectMedicine, string(id))
	medicine := s.medicines[MedicineID(found)]
	if !ok || medicine == nil {
		return nil, reject(ReasonMedicineNotFound, "medicine_id", "Clinic %q has no medicine %q.", s.id, id).with("medicine_id", id)
	}
	return medicine, nil
}

func (s *State) activeMedicine(id MedicineID) (*Medicine, *Rejection) {
	medicine, r := s.knownMedicine(id)
	if r == nil && !medicine.Active {
		return nil, reject(ReasonMedicineInactive, "medicine_id", "Medicine %q is inactive.", id).with("medicine_id", id)
	}
	return medicine, r
}

func (s *State) knownLot(id LotID) (*Lot, *Rejection) {
	found, ok := s.identified(SubjectLot, string(id))
	lot := s.lots[LotID(found)]
	if !ok || lot == nil {
		return nil, reject(ReasonLotNotFound, "lot_id", "Clinic %q has no lot %q.", s.id, id).with("lot_id", id)
	}
	return lot, nil
}

func (s *State) activeLot(id LotID) (*Lot, *Rejection) {
	lot, r := s.knownLot(id)
	if r == nil && !lot.Active {
		return nil, reject(ReasonLotInactive, "lot_id", "Lot %q is inactive.", id).with("lot_id", id)
	}
	return lot, r
}

func checkVersion(etag string, last Sequence) *Rejection {
	if etag == "" || etag == Etag(last) {
		return nil
	}
	return reject(ReasonEtagMismatch, "etag", "The etag is %q, and the current one is %q.", etag, Etag(last)).with("current_etag", Etag(last))
}

// Etag is the version of a document: the sequence of its last change.
func Etag(last Sequence) string { return strconv.FormatInt(int64(last), 10) }

func or[T any](given *T, otherwise T) T {
	if given != nil {
		return *given
	}
	return otherwise
}

func (s *State) checkZone(zone string) *Rejection {
	return checkTimeZone(zone, func(name string) bool {
		_, err := s.zones(name)
		return err == nil && name != "Local"
	})
}

func (b *CreateClinic) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	if s.clinic != nil {
		return nil, reject(ReasonClinicExists, "clinic_id", "Clinic %q exists.", s.id).with("clinic_id", s.id)
	}
	if r := s.checkZone(b.TimeZone); r != nil {
		return nil, r
	}
	return &ClinicCreated{Name: b.Name, TimeZone: b.TimeZone, BackdatingDays: b.BackdatingDays}, nil
}

func (b *UpdateClinic) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	if r := checkVersion(b.Etag, s.clinic.LastSequence); r != nil {
		return nil, r
	}
	event := &ClinicUpdated{
		Name:           or(b.Name, s.clinic.Name),
		TimeZone:       or(b.TimeZone, s.clinic.TimeZone),
		BackdatingDays: or(b.BackdatingDays, s.clinic.BackdatingDays),
		Active:         or(b.Active, s.clinic.Active),
	}
	if r := s.checkZone(event.TimeZone); r != nil {
		return nil, r
	}
	if r := s.mayDeactivate(s.clinic.Active && !event.Active, ReasonClinicHoldsStock, func(*stockRow) bool { return true }); r != nil {
		return nil, r
	}
	return event, nil
}

func (b *DeactivateClinic) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	r := first(
		checkVersion(b.Etag, s.clinic.LastSequence),
		s.mayDeactivate(true, ReasonClinicHoldsStock, func(*stockRow) bool { return true }),
	)
	return &ClinicDeactivated{ReasonCode: b.ReasonCode}, r
}

// mayDeactivate refuses to close what still holds stock: the units would be
// out of sight.
func (s *State) mayDeactivate(closes bool, reason Reason, match func(*stockRow) bool) *Rejection {
	if !closes {
		return nil
	}
	row := s.heldBy(match)
	if row == nil {
		return nil
	}
	return reject(reason, "", "%d units of lot %q of medicine %q remain at location %q.", row.OnHand(), row.Lot, row.Medicine, row.Location).
		with("location_id", row.Location, "medicine_id", row.Medicine, "lot_id", row.Lot, "on_hand", row.OnHand())
}

// newID returns the caller's id where there is one, else makes one.
func newID[T ~string](s *State, chosen T, prefix string) T {
	if chosen != "" {
		return chosen
	}
	return T(deriveID(prefix, s.tag, s.head.Sequence+1, 0))
}

// unique refuses a second document with the same id or identity.
func unique[K ~string, V any](s *State, reason Reason, field string, documents map[K]V, id K, identity string) *Rejection {
	taken := string(id)
	_, exists := documents[id]
	if !exists {
		taken, exists = s.byIdentity[identity]
	}
	if !exists {
		return nil
	}
	return reject(reason, field, "It exists as %q.", taken).with(field, taken)
}

// identityFree refuses to rename a document onto another one.
func (s *State) identityFree(reason Reason, field, from, to string) *Rejection {
	if from == to {
		return nil
	}
	if taken, exists := s.byIdentity[to]; exists {
		return reject(reason, field, "It exists as %q.", taken).with(field, taken)
	}
	return nil
}

func (b *CreateLocation) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	id := newID(s, b.LocationID, locationPrefix)
	if r := unique(s, ReasonLocationExists, "location_id", s.locations, id, locationIdentity(b.Name)); r != nil {
		return nil, r
	}
	return &LocationCreated{LocationID: id, Name: b.Name, LocationKind: b.LocationKind}, nil
}

func (b *UpdateLocation) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	location, r := s.knownLocation(b.LocationID)
	if r != nil {
		return nil, r
	}
	event := &LocationUpdated{
		LocationID:   location.ID,
		Name:         or(b.Name, location.Name),
		LocationKind: or(b.LocationKind, location.Kind),
		Active:       or(b.Active, location.Active),
	}
	r = first(
		checkVersion(b.Etag, location.LastSequence),
		s.identityFree(ReasonLocationExists, "location_id", locationIdentity(location.Name), locationIdentity(event.Name)),
		s.mayDeactivate(location.Active && !event.Active, ReasonLocationHoldsStock, atLocation(location.ID)),
	)
	return event, r
}

func atLocation(id LocationID) func(*stockRow) bool {
	return func(row *stockRow) bool { return row.Location == id }
}

func ofMedicine(id MedicineID) func(*stockRow) bool {
	return func(row *stockRow) bool { return row.Medicine == id }
}

func ofLot(id LotID) func(*stockRow) bool {
	return func(row *stockRow) bool { return row.Lot == id }
}

func (b *DeactivateLocation) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	location, r := s.activeLocation(b.LocationID)
	if r != nil {
		return nil, r
	}
	r = first(
		checkVersion(b.Etag, location.LastSequence),
		s.mayDeactivate(true, ReasonLocationHoldsStock, atLocation(location.ID)),
	)
	return &LocationDeactivated{LocationID: location.ID, ReasonCode: b.ReasonCode}, r
}

func (b *AddMedicine) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	id := newID(s, b.MedicineID, medicinePrefix)
	facts := MedicineFacts{Name: b.Name, BaseUnit: b.BaseUnit, Strength: b.Strength, Form: b.Form, ATCCode: b.ATCCode, Category: b.Category, ControlClass: b.ControlClass}
	if r := unique(s, ReasonMedicineExists, "medicine_id", s.medicines, id, medicineIdentity(facts)); r != nil {
		return nil, r
	}
	return &MedicineAdded{MedicineID: id, MedicineFacts: facts}, nil
}

func (b *UpdateMedicine) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	medicine, r := s.knownMedicine(b.MedicineID)
	if r != nil {
		return nil, r
	}
	event := &MedicineUpdated{
		MedicineID: medicine.ID,
		MedicineFacts: MedicineFacts{
			Name: or(b.Name, medicine.Name), BaseUnit: or(b.BaseUnit, medicine.BaseUnit),
			Strength: or(b.Strength, medicine.Strength), Form: or(b.Form, medicine.Form),
			ATCCode: or(b.ATCCode, medicine.ATCCode), Category: or(b.Category, medicine.Category),
			ControlClass: or(b.ControlClass, medicine.ControlClass),
		},
		Active: or(b.Active, medicine.Active),
	}
	r = first(
		checkVersion(b.Etag, medicine.LastSequence),
		s.identityFree(ReasonMedicineExists, "medicine_id", medicineIdentity(medicine.MedicineFacts), medicineIdentity(event.MedicineFacts)),
		s.baseUnitFree(medicine, event.BaseUnit),
		s.mayDeactivate(medicine.Active && !event.Active, ReasonMedicineHoldsStock, ofMedicine(medicine.ID)),
	)
	return event, r
}

// baseUnitFree refuses to change what every quantity of a medicine counts.
func (s *State) baseUnitFree(medicine *Medicine, unit string) *Rejection {
	if unit == medicine.BaseUnit {
		return nil
	}
	for _, lot := range s.lots {
		if lot.Medicine == medicine.ID {
			return reject(ReasonMedicineInUse, "base_unit", "Medicine %q is counted in %q, and lots of it are registered.", medicine.ID, medicine.BaseUnit).
				with("medicine_id", medicine.ID, "base_unit", medicine.BaseUnit)
		}
	}
	return nil
}

func (b *DeactivateMedicine) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	medicine, r := s.activeMedicine(b.MedicineID)
	if r != nil {
		return nil, r
	}
	r = first(
		checkVersion(b.Etag, medicine.LastSequence),
		s.mayDeactivate(true, ReasonMedicineHoldsStock, ofMedicine(medicine.ID)),
	)
	return &MedicineDeactivated{MedicineID: medicine.ID, ReasonCode: b.ReasonCode}, r
}

func (b *RegisterLot) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	found, r := s.medicineItem(b.MedicineID, at)
	if r != nil {
		return nil, r
	}
	lot := &Lot{
		ID: newID(s, b.LotID, lotPrefix), Medicine: found.medicine.ID,
		LotFacts: LotFacts{Manufacturer: b.Manufacturer, GTIN: b.GTIN, LotNumber: b.LotNumber, Expiry: b.Expiry},
	}
	if r := s.newLot(lot); r != nil {
		return nil, r
	}
	event := &LotRegistered{LotID: lot.ID, MedicineID: lot.Medicine, LotFacts: lot.LotFacts}
	if recall := s.recallOf(lot.LotFacts, ""); recall != nil {
		event.RecallID = recall.RecallID
	}
	return event, nil
}

func (b *UpdateLot) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	lot, r := s.knownLot(b.LotID)
	if r != nil {
		return nil, r
	}
	event := &LotUpdated{
		LotID: lot.ID,
		LotFacts: LotFacts{
			Manufacturer: or(b.Manufacturer, lot.Manufacturer), GTIN: or(b.GTIN, lot.GTIN),
			LotNumber: or(b.LotNumber, lot.LotNumber), Expiry: or(b.Expiry, lot.Expiry),
		},
		Active: or(b.Active, lot.Active),
	}
	if recall := s.recallOf(event.LotFacts, ""); recall != nil && lot.Bar != BarRecalled {
		event.RecallID = recall.RecallID
	}
	if event.Manufacturer == "" && event.GTIN == "" {
		return nil, reject(ReasonInvalidField, "manufacturer", "A lot needs a manufacturer or a GTIN: lot numbers alone are not unique.")
	}
	r = first(
		checkVersion(b.Etag, lot.LastSequence),
		s.identityFree(ReasonLotExists, "lot_id", lotIdentity(lot.Medicine, lot.LotFacts), lotIdentity(lot.Medicine, event.LotFacts)),
		s.packLotFree(lot.LotFacts, event.LotFacts),
		s.mayDeactivate(lot.Active && !event.Active, ReasonLotHoldsStock, ofLot(lot.ID)),
	)
	return event, r
}

// packLotFree refuses to give a lot the GTIN and lot number of another one: a
// scan would name both.
func (s *State) packLotFree(from, to LotFacts) *Rejection {
	if to.GTIN == "" {
		return nil
	}
	return s.identityFree(ReasonLotExists, "lot_id", gtinLotIdentity(from.GTIN, from.LotNumber), gtinLotIdentity(to.GTIN, to.LotNumber))
}

func (b *DeactivateLot) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	lot, r := s.activeLot(b.LotID)
	if r != nil {
		return nil, r
	}
	r = first(
		checkVersion(b.Etag, lot.LastSequence),
		s.mayDeactivate(true, ReasonLotHoldsStock, ofLot(lot.ID)),
	)
	return &LotDeactivated{LotID: lot.ID, ReasonCode: b.ReasonCode}, r
}
