package ledger

// KindUpdateStockLevels is the kind of UpdateStockLevels.
const KindUpdateStockLevels Kind = 17

// Level is how much of a medicine a location is to have, in base units.
type Level struct {
	Shelf
	Min     int64
	Max     int64 // zero: no limit
	Reorder int64 // at or below it, more is to be ordered
}

// About is for the index of documents.
func (l *Level) About() About {
	return About{DocumentKey: levelKey(l.Shelf), Open: true, Location: l.Location}
}

func levelKey(shelf Shelf) DocumentKey {
	return DocumentKey{DocumentLevel, string(shelf.Location) + referenceBar + string(shelf.Medicine)}
}

func (l *Level) fields(c *codec) {
	l.Shelf.fields(c)
	number(c, &l.Min)
	number(c, &l.Max)
	number(c, &l.Reorder)
}

// UpdateStockLevels says how much of a medicine a location is to have. All
// three zero means that nobody minds.
type UpdateStockLevels struct {
	LocationID LocationID
	MedicineID MedicineID
	Min        int64
	Max        int64 // zero: no limit
	Reorder    int64
	Etag       string
}

// Kind identifies the command.
func (*UpdateStockLevels) Kind() Kind { return KindUpdateStockLevels }

func (b *UpdateStockLevels) fields(c *codec) {
	text(c, &b.LocationID)
	text(c, &b.MedicineID)
	number(c, &b.Min)
	number(c, &b.Max)
	number(c, &b.Reorder)
	text(c, &b.Etag)
}

func (b *UpdateStockLevels) check() *Rejection {
	for _, level := range []struct {
		field string
		value int64
	}{{"min", b.Min}, {"max", b.Max}, {"reorder", b.Reorder}} {
		if level.value < 0 || level.value > MaxQuantity {
			return reject(ReasonQuantityOutOfRange, level.field, "The level is %d.", level.value)
		}
	}
	switch {
	case b.Max != 0 && b.Max < b.Min:
		return reject(ReasonInvalidField, "max", "max must not be less than min.")
	case b.Reorder < b.Min:
		return reject(ReasonInvalidField, "reorder", "reorder must not be less than min: one orders before the minimum is reached.")
	case b.Max != 0 && b.Reorder > b.Max:
		return reject(ReasonInvalidField, "reorder", "reorder must not be more than max.")
	}
	return first(checkReference("location_id", b.LocationID), checkReference("medicine_id", b.MedicineID), checkEtag(b.Etag))
}

func (b *UpdateStockLevels) decide(s *State, _ Actor, at Instant) (EventBody, *Rejection) {
	location, r := s.activeLocation(b.LocationID)
	if r != nil {
		return nil, r
	}
	found, r := s.medicineItem(b.MedicineID, at)
	if r != nil {
		return nil, r
	}
	level := &Level{Shelf: Shelf{location.ID, found.medicine.ID}, Min: b.Min, Max: b.Max, Reorder: b.Reorder}
	if r := s.checkDocumentVersion(b.Etag, levelKey(level.Shelf)); r != nil {
		return nil, r
	}
	return &Change{of: b.Kind(), Documents: []DocumentBody{level}}, nil
}
