package ledger

// TopicKind says what a [Topic] is.
type TopicKind uint8

// The kinds of topics.
const (
	// TopicClinic is everything at once: its time zone and name, and what is
	// stored of any lot.
	TopicClinic TopicKind = iota
	TopicLocation
	TopicLocations // the list of a clinic's locations
	TopicMedicine  // its facts, and those of its lots
	TopicShelf     // what a location (ID) holds of a medicine (Of)
	TopicPrescription
	TopicPatient // what was prescribed for a patient, and dispensed to
	TopicTemplates
)

// Topic is something that can be read, and that commands change.
type Topic struct {
	Kind TopicKind
	ID   string
	Of   string
}

// ShelfTopic is the stock of a shelf.
func ShelfTopic(s Shelf) Topic {
	return Topic{TopicShelf, string(s.Location), string(s.Medicine)}
}

// Within are the wider topics that a topic is a part of. Whoever keeps what
// was read of it must forget it when one of those changes, too.
func (s Topic) Within() []Topic {
	within := []Topic{{Kind: TopicClinic}}
	if s.Kind == TopicShelf {
		within = append(within, Topic{Kind: TopicLocation, ID: s.ID}, Topic{Kind: TopicMedicine, ID: s.Of})
	}
	return within
}

// Changed calls note with each topic that an event changed, some of them more
// than once. What is read of any other is as it was before the event.
func (e Event) Changed(note func(Topic)) {
	if b, ok := e.Body.(mover); ok {
		for _, move := range b.moves() {
			note(ShelfTopic(move.Shelf))
		}
	}
	changedBy(e.Body, note)
}

func changedBy(body EventBody, note func(Topic)) {
	location := func(id LocationID) {
		note(Topic{Kind: TopicLocations})
		note(Topic{Kind: TopicLocation, ID: string(id)})
	}
	switch b := body.(type) {
	case *LocationCreated:
		location(b.LocationID)
	case *LocationUpdated:
		location(b.LocationID)
	case *LocationDeactivated:
		location(b.LocationID)
	case *MedicineAdded:
		note(Topic{Kind: TopicMedicine, ID: string(b.MedicineID)})
	case *MedicineUpdated:
		note(Topic{Kind: TopicMedicine, ID: string(b.MedicineID)})
	case *MedicineDeactivated:
		note(Topic{Kind: TopicMedicine, ID: string(b.MedicineID)})
	case *LotRegistered:
		note(Topic{Kind: TopicMedicine, ID: string(b.MedicineID)})
	case *ClinicCreated, *ClinicUpdated, *ClinicDeactivated, *LotUpdated, *LotDeactivated:
		// The events about lots do not say of which medicine they are.
		note(Topic{Kind: TopicClinic})
	case *Change:
		changedByChange(b, note)
	}
}

func changedByChange(b *Change, note func(Topic)) {
	for _, lot := range b.Lots {
		note(Topic{Kind: TopicMedicine, ID: string(lot.Medicine)})
	}
	for _, document := range b.Documents {
		about := document.About()
		if about.Patient != "" {
			note(Topic{Kind: TopicPatient, ID: string(about.Patient)})
		}
		switch about.Kind {
		case DocumentPrescription:
			note(Topic{Kind: TopicPrescription, ID: about.ID})
		case DocumentPrescriptionTemplate:
			note(Topic{Kind: TopicTemplates})
		case DocumentPatient:
			note(Topic{Kind: TopicPatient, ID: about.ID})
		}
	}
	if b.Approved != nil {
		changedBy(b.Approved, note)
	}
}
