package ledger

import (
	"cmp"
	"maps"
	"slices"
)

// RecallID names a recall, and is what people call it: RC- and the sequence of
// the command that began it. It is unique in the clinic.
type RecallID string

// Kinds of commands that bar lots.
const (
	KindQuarantineLot  Kind = 35
	KindReleaseLot     Kind = 36
	KindRecallLot      Kind = 37
	KindContinueRecall Kind = 38
	KindLiftRecall     Kind = 39
)

// recallStep is how many holds and stock rows one ContinueRecall touches at
// most, which bounds its transaction.
const recallStep = 250

// Recall is a maker's or authority's order to stop using lots.
type Recall struct {
	RecallID   RecallID
	LotIDs     []LotID // that were known when it began, and what was made from them
	ReasonCode string
	Reference  string
	// What the order names, where it names more than one lot by its id; lots
	// that are registered later fall under it too.
	GTIN, Manufacturer, LotNumber string

	Step        int64 // ContinueRecall commands so far
	HoldsVoided int64
	Quarantined int64 // base units that were moved to quarantine
	// FollowedUp tells that nothing was left to move after the last step.
	FollowedUp bool
	Lifted     bool
}

// About is for the index of documents.
func (r *Recall) About() About {
	return About{DocumentKey: DocumentKey{DocumentRecall, string(r.RecallID)}, Open: !r.Lifted}
}

// follows reports whether lots that are registered later fall under the recall.
func (r *Recall) follows() bool { return r.LotNumber != "" }

func (r *Recall) fields(c *codec) {
	text(c, &r.RecallID)
	list(c, &r.LotIDs, 1, text[LotID])
	text(c, &r.ReasonCode)
	text(c, &r.Reference)
	text(c, &r.GTIN)
	text(c, &r.Manufacturer)
	text(c, &r.LotNumber)
	number(c, &r.Step)
	number(c, &r.HoldsVoided)
	number(c, &r.Quarantined)
	c.flag(&r.FollowedUp)
	c.flag(&r.Lifted)
}

// QuarantineLot bars a lot everywhere in the clinic until it is released; or,
// with a location and a quantity, moves that many of its units to quarantine.
type QuarantineLot struct {
	LotID      LotID
	LocationID LocationID // empty: the whole lot
	Quantity   int64      // zero at a location: all that is available
	Pack       string
	ReasonCode string
	Reference  string
}

// ReleaseLot lifts what QuarantineLot did: the bar on the whole lot, or the
// quarantine of units at a location.
type ReleaseLot struct {
	LotID      LotID
	LocationID LocationID
	Quantity   int64 // zero at a location: all that is in quarantine there
	Pack       string
	ReasonCode string
	Reference  string
}

// RecallLot bars one lot by its id, or every lot with a lot number of a GTIN
// or manufacturer, those registered later too. It bars them at once; holds are
// voided and stock is moved to quarantine by ContinueRecall.
type RecallLot struct {
	LotID        LotID
	GTIN         string
	Manufacturer string
	LotNumber    string
	ReasonCode   string
	Reference    string // the maker's or authority's notice
}

// ContinueRecall voids the next holds of a recall's lots and moves their next
// units to quarantine, at most 250 in one command. Step counts from 0.
type ContinueRecall struct {
	RecallID RecallID
	Step     int64
}

// LiftRecall ends a recall. Units in quarantine stay there until they are
// released.
type LiftRecall struct {
	RecallID   RecallID
	ReasonCode string
	Reference  string
}

// Kind identifies the command.
func (*QuarantineLot) Kind() Kind { return KindQuarantineLot }

// Kind identifies the command.
func (*ReleaseLot) Kind() Kind { return KindReleaseLot }

// Kind identifies the command.
func (*RecallLot) Kind() Kind { return KindRecallLot }

// Kind identifies the command.
func (*ContinueRecall) Kind() Kind { return KindContinueRecall }

// Kind identifies the command.
func (*LiftRecall) Kind() Kind { return KindLiftRecall }

func (b *QuarantineLot) fields(c *codec) {
	text(c, &b.LotID)
	text(c, &b.LocationID)
	number(c, &b.Quantity)
	text(c, &b.Pack)
	text(c, &b.ReasonCode)
	text(c, &b.Reference)
}

func (b *ReleaseLot) fields(c *codec) { (*QuarantineLot)(b).fields(c) }

func (b *RecallLot) fields(c *codec) {
	text(c, &b.LotID)
	text(c, &b.GTIN)
	text(c, &b.Manufacturer)
	text(c, &b.LotNumber)
	text(c, &b.ReasonCode)
	text(c, &b.Reference)
}

func (b *ContinueRecall) fields(c *codec) {
	text(c, &b.RecallID)
	number(c, &b.Step)
}

func (b *LiftRecall) fields(c *codec) {
	text(c, &b.RecallID)
	text(c, &b.ReasonCode)
	text(c, &b.Reference)
}

func (b *QuarantineLot) check() *Rejection {
	if b.LocationID == "" && (b.Quantity != 0 || b.Pack != "") {
		return reject(ReasonInvalidField, "location_id", "A quantity goes with the location that it lies at; without both, the command is about the whole lot.")
	}
	return first(
		checkReference("lot_id", b.LotID),
		checkOptionalReference("location_id", b.LocationID),
		checkQuantity(b.Quantity, true),
		checkPack(b.Pack),
		checkCode("reason_code", b.ReasonCode, true),
		checkCode("reference", b.Reference, false),
	)
}

func (b *ReleaseLot) check() *Rejection { return (*QuarantineLot)(b).check() }

func (b *RecallLot) check() *Rejection {
	byMaker := b.GTIN != "" || b.Manufacturer != ""
	switch {
	case b.LotID != "" && (byMaker || b.LotNumber != ""):
		return reject(ReasonInvalidField, "lot_id", "Name either a lot, or a lot number with its GTIN or manufacturer.")
	case b.LotID == "" && (!byMaker || b.LotNumber == "" || b.GTIN != "" && b.Manufacturer != ""):
		return reject(ReasonInvalidField, "lot_number", "A recall names a lot by lot_id, or by lot_number with either gtin or manufacturer.")
	}
	return first(
		checkOptionalReference("lot_id", b.LotID),
		checkGTIN(b.GTIN),
		name("manufacturer", false)(b.Manufacturer),
		word("lot_number", false)(b.LotNumber),
		checkCode("reason_code", b.ReasonCode, true),
		checkCode("reference", b.Reference, false),
	)
}

func (b *ContinueRecall) check() *Rejection {
	if b.Step < 0 {
		return reject(ReasonInvalidField, "step", "Steps count from 0.")
	}
	return checkID("recall_id", b.RecallID)
}

func (b *LiftRecall) check() *Rejection {
	return first(
		checkID("recall_id", b.RecallID),
		checkCode("reason_code", b.ReasonCode, true),
		checkCode("reference", b.Reference, false),
	)
}

func (b *QuarantineLot) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	found, r := s.lotItem(b.LotID, at)
	if r != nil {
		return nil, r
	}
	event := &Change{of: KindQuarantineLot, ReasonCode: b.ReasonCode, Reference: b.Reference}
	if b.LocationID != "" {
		event.Moves, r = s.moveQuarantine(b, found, Available, Quarantined)
		return event, r
	}
	if found.lot.Bar != BarNone {
		return nil, s.barred(found.lot)
	}
	event.Lots = s.quarantined(found.lot)
	return event, nil
}

// quarantined returns a lot and what was made from it, as far as nothing bars
// them yet, in quarantine.
func (s *State) quarantined(lot *Lot) []Lot {
	var lots []Lot
	for _, l := range s.descendants([]*Lot{lot}) {
		if l.Bar == BarNone {
			lots = append(lots, asStored(l, BarQuarantined))
		}
	}
	return lots
}

// released returns a lot and what was made from it as they are out of
// quarantine. What was made from another lot too that is in quarantine stays
// there.
func (s *State) released(lot *Lot) []Lot {
	free := make(map[LotID]*Lot)
	for _, l := range s.descendants([]*Lot{lot}) {
		if l.Bar == BarQuarantined {
			stored := asStored(l, BarNone)
			free[l.ID] = &stored
		}
	}
	return slices.DeleteFunc(s.inherited(free, lot.ID), func(l Lot) bool { return l.Bar != BarNone })
}

func (b *ReleaseLot) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	found, r := s.lotItem(b.LotID, at)
	if r != nil {
		return nil, r
	}
	if found.lot.Bar == BarRecalled {
		return nil, s.barred(found.lot)
	}
	event := &Change{of: KindReleaseLot, ReasonCode: b.ReasonCode, Reference: b.Reference}
	if b.LocationID != "" {
		event.Moves, r = s.moveQuarantine((*QuarantineLot)(b), found, Quarantined, Available)
		return event, r
	}
	if found.lot.Bar == BarNone {
		return nil, reject(ReasonLotNotBarred, "lot_id", "Lot %q is not in quarantine as a whole.", found.lot.ID).with("lot_id", found.lot.ID)
	}
	event.Lots = s.released(found.lot)
	return event, nil
}

// moveQuarantine moves units of a lot at one location into quarantine or out.
func (s *State) moveQuarantine(b *QuarantineLot, found item, from, to Bucket) ([]Move, *Rejection) {
	location, r := s.activeLocation(b.LocationID)
	if r != nil {
		return nil, r
	}
	quantity, r := found.units(s, b.Quantity, b.Pack)
	if r != nil {
		return nil, r
	}
	shelf := Shelf{location.ID, found.lot.Medicine}
	if quantity == 0 {
		quantity = s.balance(shelf, found.lot.ID).Of(from)
	}
	if quantity == 0 {
		return nil, reject(ReasonInsufficientStock, "quantity", "Location %q has no %s units of lot %q.", location.ID, from, found.lot.ID).
			with("location_id", location.ID, "lot_id", found.lot.ID, "available", 0)
	}
	d := &draft{s: s}
	d.move(shelf, found.lot, from, to, quantity)
	return d.moves, d.refused
}

// balance is what a shelf holds of a lot.
func (s *State) balance(shelf Shelf, lot LotID) Balances {
	if f, ok := s.shelves[shelf]; ok {
		if row := f.find(lot); row != nil {
			return row.Balances
		}
	}
	return Balances{}
}

// barred refuses the use of a lot that is barred, or returns nil.
func (s *State) barred(lot *Lot) *Rejection {
	switch lot.Bar {
	case BarQuarantined:
		return reject(ReasonLotQuarantined, "lot_id", "Lot %q (%s) is in quarantine.", lot.ID, lot.LotNumber).with("lot_id", lot.ID)
	case BarRecalled:
		return reject(ReasonLotRecalled, "lot_id", "Lot %q (%s) is recalled by %s.", lot.ID, lot.LotNumber, lot.RecallID).
			with("lot_id", lot.ID, "recall_id", lot.RecallID)
	}
	return nil
}

func (b *RecallLot) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	recall := &Recall{
		RecallID: RecallID(s.numbered("RC")), ReasonCode: b.ReasonCode, Reference: b.Reference,
		GTIN: b.GTIN, Manufacturer: b.Manufacturer, LotNumber: b.LotNumber,
	}
	var lots []*Lot
	if b.LotID != "" {
		found, r := s.lotItem(b.LotID, at)
		if r != nil {
			return nil, r
		}
		if found.lot.Bar == BarRecalled {
			return nil, s.barred(found.lot)
		}
		lots = []*Lot{found.lot}
	} else {
		if id, ok := s.byIdentity[recallIdentity(recall)]; ok {
			return nil, reject(ReasonRecallExists, "lot_number", "Recall %q names it already.", id).with("recall_id", id)
		}
		lots = s.named(recall)
	}
	event := &Change{of: b.Kind(), ReasonCode: b.ReasonCode, Reference: b.Reference}
	for _, lot := range s.descendants(lots) {
		if lot.Bar == BarRecalled {
			continue // by another recall, which has it in hand
		}
		recalled := asStored(lot, BarRecalled)
		recalled.RecallID = recall.RecallID
		event.Lots = append(event.Lots, recalled)
		recall.LotIDs = append(recall.LotIDs, lot.ID)
	}
	event.Documents = []DocumentBody{recall}
	return event, nil
}

// named returns the lots that a recall by maker and lot number names.
func (s *State) named(recall *Recall) []*Lot {
	var lots []*Lot
	for _, lot := range s.lots {
		if recall.names(lot.LotFacts) {
			lots = append(lots, lot)
		}
	}
	return lots
}

func (r *Recall) names(f LotFacts) bool {
	identity := makerIdentity("", f.Manufacturer, f.LotNumber)
	if r.GTIN != "" {
		identity = makerIdentity(f.GTIN, "", f.LotNumber)
	}
	return r.follows() && identity == recallIdentity(r)
}

// recallOf returns the open recall that a lot falls under by its maker and
// number, or nil. The one with the id except does not count.
func (s *State) recallOf(f LotFacts, except RecallID) *Recall {
	for _, identity := range []string{makerIdentity(f.GTIN, "", f.LotNumber), makerIdentity("", f.Manufacturer, f.LotNumber)} {
		if id, ok := s.byIdentity[identity]; ok {
			recall := document[Recall](s, DocumentRecall, id)
			if recall != nil && recall.RecallID != except && recall.names(f) {
				return recall
			}
		}
	}
	return nil
}

// descendants returns the lots and everything that was made from them, in the
// order of their ids.
func (s *State) descendants(lots []*Lot) []*Lot {
	all := make(map[LotID]*Lot)
	for _, lot := range lots {
		all[lot.ID] = lot
	}
	for found := len(all) > 0; found; {
		found = false
		for _, lot := range s.lots {
			if all[lot.ID] == nil && slices.ContainsFunc(lot.Parents, func(id LotID) bool { return all[id] != nil }) {
				all[lot.ID], found = lot, true
			}
		}
	}
	return slices.SortedFunc(maps.Values(all), func(a, b *Lot) int { return cmp.Compare(a.ID, b.ID) })
}

// knownRecall finds a recall that was not lifted.
func (s *State) knownRecall(id RecallID) (*Recall, *Rejection) {
	recall := document[Recall](s, DocumentRecall, string(id))
	if recall == nil {
		return nil, reject(ReasonRecallNotFound, "recall_id", "Clinic %q has no open recall %q.", s.id, id).with("recall_id", id)
	}
	return recall, nil
}

func (b *ContinueRecall) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	old, r := s.knownRecall(b.RecallID)
	if r != nil {
		return nil, r
	}
	if b.Step != old.Step {
		return nil, reject(ReasonRecallStep, "step", "The next step of recall %q is %d.", b.RecallID, old.Step).
			with("recall_id", b.RecallID, "next_step", old.Step)
	}
	next := *old
	step := recallWork{draft: draft{s: s}, recall: &next, left: recallStep}
	for _, row := range s.rowsOf(next.RecallID) {
		step.bar(row)
	}
	if step.refused != nil {
		return nil, step.refused
	}
	next.Step++
	next.FollowedUp = step.left > 0
	event := step.change(b.Kind())
	event.Draws = step.draws
	event.Documents = []DocumentBody{&next}
	for _, transfer := range step.transfers {
		event.Documents = append(event.Documents, transfer)
	}
	return event, nil
}

// rowsOf returns the stock rows of a recall's lots with units to move, in the
// order of locations.
func (s *State) rowsOf(recall RecallID) []*stockRow {
	medicines := make(map[MedicineID]bool)
	for _, lot := range s.lots {
		if lot.RecallID == recall {
			medicines[lot.Medicine] = true
		}
	}
	var rows []*stockRow
	for key, shelf := range s.shelves {
		if !medicines[key.Medicine] {
			continue
		}
		for _, row := range shelf.rows {
			if row.lot.RecallID == recall && row.Available+row.Reserved > 0 {
				rows = append(rows, row)
			}
		}
	}
	slices.SortFunc(rows, func(a, b *stockRow) int { return compareStock(a.Stock, b.Stock) })
	return rows
}

// recallWork is one step of a recall's follow-up.
type recallWork struct {
	draft
	recall    *Recall
	left      int
	draws     []HoldDraw
	transfers []*Transfer
}

// bar moves a row's available units to quarantine and voids its holds, as far
// as the step goes.
func (w *recallWork) bar(row *stockRow) {
	if w.left > 0 && row.Available > 0 {
		w.quarantine(row, Available, row.Available)
		w.left--
	}
	if w.left == 0 || row.Reserved == 0 {
		return
	}
	shelf := w.s.shelves[row.Shelf]
	for _, key := range w.s.holdsOf(shelf, row) {
		if w.left == 0 {
			return
		}
		w.void(key, row)
		w.left--
	}
}

func (w *recallWork) quarantine(row *stockRow, from Bucket, quantity int64) {
	w.move(row.Shelf, row.lot, from, Quarantined, quantity)
	w.recall.Quarantined += quantity
}

// void takes a recalled lot out of a hold. What the hold has of other lots
// stays held.
func (w *recallWork) void(key holdKey, row *stockRow) {
	hold := w.s.holds[key]
	for _, line := range hold.lines {
		if line.row != row || line.quantity == 0 {
			continue
		}
		w.quarantine(row, Reserved, line.quantity)
		w.recall.HoldsVoided++
		w.draws = append(w.draws, HoldDraw{
			HoldID: key.id(w.s.tag), Closes: HoldVoided, Lines: []Line{{Lot: row.Lot, Quantity: line.quantity}},
		})
		if hold.transfer != "" {
			w.shorten(hold.transfer, row.Lot, line.quantity)
		}
	}
}

// shorten takes recalled units out of a transfer that has not set out.
func (w *recallWork) shorten(id TransferID, lot LotID, quantity int64) {
	at := slices.IndexFunc(w.transfers, func(t *Transfer) bool { return t.TransferID == id })
	if at < 0 {
		transfer := document[Transfer](w.s, DocumentTransfer, string(id))
		if transfer == nil {
			return
		}
		at = len(w.transfers)
		w.transfers = append(w.transfers, transfer.clone())
	}
	w.transfers[at].parcel("", lot).Approved -= quantity
}

// holdsOf returns the holds on a shelf that hold units of a row, the oldest
// first.
func (s *State) holdsOf(shelf *shelfState, row *stockRow) []holdKey {
	seen := make(map[holdKey]bool, len(shelf.deadlines))
	var keys []holdKey
	for _, item := range shelf.deadlines {
		hold, open := s.holds[item.key]
		if !open || seen[item.key] {
			continue
		}
		seen[item.key] = true
		if slices.ContainsFunc(hold.lines, func(l openLine) bool { return l.row == row && l.quantity > 0 }) {
			keys = append(keys, item.key)
		}
	}
	slices.SortFunc(keys, compareHolds)
	return keys
}

func (b *LiftRecall) decide(s *State, _ Actor, _ Instant) (EventBody, *Rejection) {
	old, r := s.knownRecall(b.RecallID)
	if r != nil {
		return nil, r
	}
	next := *old
	next.Lifted = true
	event := &Change{
		of: b.Kind(), Lots: s.lifted(old), Documents: []DocumentBody{&next}, ReasonCode: b.ReasonCode, Reference: b.Reference,
	}
	event.Documents = append(event.Documents, s.taking(event.Lots)...)
	return event, nil
}

// taking returns the recalls that lots pass to, each once. They have to be
// followed up anew.
func (s *State) taking(lots []Lot) []DocumentBody {
	var recalls []DocumentBody
	seen := make(map[RecallID]bool)
	for _, lot := range lots {
		recall := document[Recall](s, DocumentRecall, string(lot.RecallID))
		if recall == nil || seen[lot.RecallID] {
			continue
		}
		seen[lot.RecallID] = true
		next := *recall
		next.FollowedUp = false
		recalls = append(recalls, &next)
	}
	return recalls
}

// lifted returns the lots of a recall as they are without it. What another open
// recall names too, by its maker or through what it was made from, passes to
// that one.
func (s *State) lifted(recall *Recall) []Lot {
	free := make(map[LotID]*Lot)
	for _, lot := range s.lots {
		if lot.RecallID != recall.RecallID {
			continue
		}
		stored := asStored(lot, BarNone)
		stored.RecallID = ""
		if other := s.recallOf(lot.LotFacts, recall.RecallID); other != nil {
			stored.Bar, stored.RecallID = BarRecalled, other.RecallID
		}
		free[lot.ID] = &stored
	}
	return s.inherited(free, "")
}

// inherited bars lots by what bars those that they were made from, all but the
// one that is excepted, and returns them in the order of their ids.
func (s *State) inherited(lots map[LotID]*Lot, except LotID) []Lot {
	// Which of several recalls a lot passes to depends on the order.
	ids := slices.Sorted(maps.Keys(lots))
	for again := true; again; {
		again = false
		for _, id := range ids {
			if id != except && s.inherit(lots[id], lots) {
				again = true
			}
		}
	}
	all := make([]Lot, len(ids))
	for i, id := range ids {
		all[i] = *lots[id]
	}
	return all
}

// inherit bars a lot by the strictest bar of its parents, and reports whether
// that is stricter than its own. Changed lots count before those of the state.
func (s *State) inherit(lot *Lot, changed map[LotID]*Lot) bool {
	before := lot.Bar
	for _, id := range lot.Parents {
		parent := s.lots[id]
		if c, ok := changed[id]; ok {
			parent = c
		}
		if parent != nil && parent.Bar > lot.Bar {
			lot.Bar, lot.RecallID = parent.Bar, parent.RecallID
		}
	}
	return lot.Bar > before
}

// asStored is a lot as an event carries it, with another bar. The sequences
// follow from the journal.
func asStored(lot *Lot, bar Bar) Lot {
	stored := *lot
	stored.Bar, stored.RegisteredSequence, stored.LastSequence = bar, 0, 0
	return stored
}
