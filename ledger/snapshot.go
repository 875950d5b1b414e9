package ledger

import (
	"cmp"
	"container/heap"
	"fmt"
	"maps"
	"slices"
)

// Snapshot is a clinic's state as plain documents, each kind in the order of
// its ids. It is how a state leaves memory and comes back, and how a replayed
// journal is compared with stored projections.
type Snapshot struct {
	Head      Head
	Clinic    *Clinic
	Locations []Location
	Medicines []Medicine
	Lots      []Lot
	Stock     []Stock
	Holds     []Hold     // open ones
	Documents []Document `json:",omitempty"` // open ones
}

// Snapshot copies the state out.
func (s *State) Snapshot() Snapshot {
	snapshot := Snapshot{
		Head:      s.head,
		Locations: sorted(s.locations),
		Medicines: sorted(s.medicines),
		Lots:      sorted(s.lots),
	}
	if s.clinic != nil {
		clinic := *s.clinic
		snapshot.Clinic = &clinic
	}
	for _, shelf := range s.shelves {
		for _, row := range shelf.rows {
			snapshot.Stock = append(snapshot.Stock, row.Stock)
		}
	}
	slices.SortFunc(snapshot.Stock, compareStock)
	for key, hold := range s.holds {
		snapshot.Holds = append(snapshot.Holds, *s.holdDocument(key, hold))
	}
	slices.SortFunc(snapshot.Holds, func(a, b Hold) int { return cmp.Compare(a.ID, b.ID) })
	for _, document := range s.documents {
		snapshot.Documents = append(snapshot.Documents, *document)
	}
	slices.SortFunc(snapshot.Documents, compareDocuments)
	return snapshot
}

func sorted[K ~string, V any](documents map[K]*V) []V {
	list := make([]V, 0, len(documents))
	for _, id := range slices.Sorted(maps.Keys(documents)) {
		list = append(list, *documents[id])
	}
	return list
}

func compareStock(a, b Stock) int {
	return cmp.Or(
		cmp.Compare(a.Location, b.Location),
		cmp.Compare(a.Medicine, b.Medicine),
		cmp.Compare(a.Lot, b.Lot),
	)
}

// Restore makes a state from a snapshot, in any order of its documents. It
// fails where a document names one that is missing.
func Restore(clinic ClinicID, zones Zones, snapshot Snapshot) (*State, error) {
	s := NewState(clinic, zones)
	s.head = snapshot.Head
	if snapshot.Clinic != nil {
		s.clinic = snapshot.Clinic
		s.setZone(snapshot.Clinic.TimeZone)
	}
	for _, location := range snapshot.Locations {
		s.locations[location.ID] = &location
		s.byIdentity[locationIdentity(location.Name)] = string(location.ID)
	}
	for _, medicine := range snapshot.Medicines {
		s.medicines[medicine.ID] = &medicine
		s.byIdentity[medicineIdentity(medicine.MedicineFacts)] = string(medicine.ID)
	}
	for _, lot := range snapshot.Lots {
		s.lots[lot.ID] = &lot
		s.nameLot(&lot)
	}
	if err := s.restoreStock(snapshot.Stock); err != nil {
		return nil, err
	}
	for _, hold := range snapshot.Holds {
		if err := s.restoreHold(hold); err != nil {
			return nil, err
		}
	}
	s.restoreDocuments(snapshot.Documents)
	s.forgotten = s.head.Sequence
	s.Commit()
	return s, nil
}

func (s *State) restoreStock(stock []Stock) error {
	for _, document := range stock {
		lot, ok := s.lots[document.Lot]
		if !ok {
			return fmt.Errorf("clinic %s: stock at location %s names lot %s, which is missing", s.id, document.Location, document.Lot)
		}
		shelf, ok := s.shelves[document.Shelf]
		if !ok {
			shelf = &shelfState{Shelf: document.Shelf}
			s.shelves[document.Shelf] = shelf
		}
		shelf.rows = append(shelf.rows, &stockRow{Stock: document, lot: lot})
		s.rows++
	}
	for _, shelf := range s.shelves {
		slices.SortFunc(shelf.rows, firstExpired)
	}
	return nil
}

func (s *State) restoreHold(document Hold) error {
	key, ok := parseHoldID(document.ID, s.tag)
	if !ok {
		return fmt.Errorf("clinic %s: hold id %s was not made by this clinic", s.id, document.ID)
	}
	shelf, ok := s.shelves[document.Shelf]
	if !ok {
		return fmt.Errorf("clinic %s: hold %s is at location %s, which has no stock of medicine %s", s.id, document.ID, document.Location, document.Medicine)
	}
	hold := &openHold{shelf: shelf, reasonCode: document.ReasonCode, actor: document.Actor, deadline: document.Deadline, last: document.LastSequence, owner: document.Owner}
	for _, line := range document.Lines {
		row := shelf.find(line.Lot)
		if row == nil {
			return fmt.Errorf("clinic %s: hold %s holds lot %s, which is not at location %s", s.id, document.ID, line.Lot, document.Location)
		}
		hold.lines = append(hold.lines, openLine{row: row, quantity: line.Quantity, reserved: line.Reserved})
	}
	s.holds[key] = hold
	heap.Push(&shelf.deadlines, deadlineItem{deadline: document.Deadline, key: key})
	return nil
}

func (s *State) restoreDocuments(documents []Document) {
	for _, document := range documents {
		s.documents[document.Body.About().DocumentKey] = &document
		s.indexDocument(document.Body)
		transfer, ok := document.Body.(*Transfer)
		if !ok {
			continue
		}
		for _, id := range transfer.HoldIDs {
			// A recall may have voided one of the transfer's holds.
			if _, hold := s.openHold(id); hold != nil {
				hold.transfer = transfer.TransferID
			}
		}
	}
}

// CheckInvariants returns every way in which the documents of a snapshot
// contradict each other: DESIGN's invariants 2 and 3 as far as one state shows
// them.
func (snapshot Snapshot) CheckInvariants() []error {
	var broken []error
	type rowKey struct {
		Shelf
		lot LotID
	}
	// What the documents say should lie in each of these buckets.
	due := map[Bucket]map[rowKey]int64{Reserved: {}, Pending: {}, InTransit: {}}
	for _, hold := range snapshot.Holds {
		for _, line := range hold.Lines {
			due[Reserved][rowKey{hold.Shelf, line.Lot}] += line.Quantity
		}
	}
	for _, document := range snapshot.Documents {
		switch body := document.Body.(type) {
		case *Approval:
			for _, line := range body.Lines {
				due[Pending][rowKey{line.Shelf, line.Lot}] += line.Quantity
			}
		case *Transfer:
			for _, parcel := range body.Parcels {
				due[InTransit][rowKey{Shelf{body.From, parcel.Medicine}, parcel.Lot}] += parcel.InTransit()
			}
		}
	}
	for _, stock := range snapshot.Stock {
		b := stock.Balances
		account := fmt.Sprintf("location %s, medicine %s, lot %s", stock.Location, stock.Medicine, stock.Lot)
		if min(b.Available, b.Reserved, b.Pending, b.Quarantined, b.InTransit) < 0 {
			broken = append(broken, fmt.Errorf("%s: a held balance is negative: %+v", account, b))
		}
		for bucket, source := range dueSources {
			key := rowKey{stock.Shelf, stock.Lot}
			if want := due[bucket][key]; want != b.Of(bucket) {
				broken = append(broken, fmt.Errorf("%s: %d units are %s, and the open %s sum to %d", account, b.Of(bucket), bucket, source, want))
			}
			delete(due[bucket], key)
		}
	}
	for bucket, source := range dueSources {
		for key, want := range due[bucket] {
			if want != 0 {
				broken = append(broken, fmt.Errorf("location %s, medicine %s, lot %s: %s of %d units have no stock", key.Location, key.Medicine, key.lot, source, want))
			}
		}
	}
	return broken
}

// dueSources names the documents whose quantities sum up to a bucket's balance.
var dueSources = map[Bucket]string{Reserved: "holds", Pending: "approvals", InTransit: "transfers"}
