package txn

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/stockledger/stockledger/ledger"
)

// families say how answers are kept. A topic without a name in Redis is only
// ever changed, and no answer is kept about it.
var families = [...]*family{
	ledger.TopicClinic: {}, ledger.TopicLocation: {},
	ledger.TopicMedicine: {
		name: "medicine", memory: time.Hour, shared: time.Hour,
		key: func(clinic ledger.ClinicID, t ledger.Topic) string {
			return "catalog:medicine:" + string(clinic) + ":" + t.ID
		},
		encode: json.Marshal, decode: decodeAs[ledger.Medicine],
	},
	ledger.TopicTemplates: {
		name: "templates", memory: time.Hour, shared: time.Hour,
		key:    func(clinic ledger.ClinicID, _ ledger.Topic) string { return "pharmacy:templates:" + string(clinic) },
		encode: encodeDocuments, decode: decodeDocuments(ledger.DocumentPrescriptionTemplate),
	},
	ledger.TopicShelf: {
		name: "stock", memory: 5 * time.Minute, shared: time.Minute,
		key: func(clinic ledger.ClinicID, t ledger.Topic) string {
			return "inventory:stock:" + string(clinic) + ":" + t.ID + ":" + t.Of
		},
		encode: json.Marshal, decode: decodeAs[[]StockRow],
	},
	ledger.TopicLocations: {
		name: "locations", memory: 4 * time.Hour, shared: time.Hour,
		key: func(clinic ledger.ClinicID, _ ledger.Topic) string {
			return "catalog:locations:" + string(clinic)
		},
		encode: json.Marshal, decode: decodeAs[[]ledger.LocationID],
	},
	ledger.TopicPrescription: {
		name: "prescription", memory: 5 * time.Minute, shared: 30 * time.Minute,
		key:    func(_ ledger.ClinicID, t ledger.Topic) string { return "pharmacy:prescription:" + t.ID },
		encode: encodeDocuments, decode: decodeDocuments(ledger.DocumentPrescription),
	},
	ledger.TopicPatient: {
		name: "patient_medications", memory: 5 * time.Minute, shared: 30 * time.Minute,
		key:    func(_ ledger.ClinicID, t ledger.Topic) string { return "pharmacy:patient:" + t.ID + ":medications" },
		encode: encodeDocuments, decode: decodeDocuments(ledger.DocumentPrescription),
	},
}

func decodeAs[T any](text []byte) (any, error) {
	var value T
	err := json.Unmarshal(text, &value)
	return value, err
}

// wireDocument is a document as Redis keeps it: what the journal says, and so
// nothing that is private.
type wireDocument struct {
	Opened, Last ledger.Sequence
	Body         []byte
}

func encodeDocuments(value any) ([]byte, error) {
	documents := value.([]ledger.Document)
	wire := make([]wireDocument, len(documents))
	for i, d := range documents {
		wire[i] = wireDocument{d.OpenedSequence, d.LastSequence, ledger.AppendDocument(nil, d.Body)}
	}
	return json.Marshal(wire)
}

func decodeDocuments(kind ledger.DocumentKind) func([]byte) (any, error) {
	return func(text []byte) (any, error) {
		var wire []wireDocument
		if err := json.Unmarshal(text, &wire); err != nil {
			return nil, err
		}
		documents := make([]ledger.Document, len(wire))
		for i, w := range wire {
			body, err := ledger.DecodeDocument(kind, w.Body)
			if err != nil {
				return nil, fmt.Errorf("txn: a cached %s: %w", kind, err)
			}
			documents[i] = ledger.Document{Body: body, OpenedSequence: w.Opened, LastSequence: w.Last}
		}
		return documents, nil
	}
}

// UseCache lets reads with [Cached] be answered from a cache. It must be called
// before the first query.
func (q *Queries) UseCache(c *Cache) { q.cache = c }

// cached reports whether a read may be answered from a cache.
func (q *Queries) cached(o ReadOptions) bool {
	return q.cache != nil && o.Consistency == Cached && o.Continues == Place{}
}

// cachedShelves returns the rows of some shelves, sorted as they are given, and
// within each first expired first.
func (q *Queries) cachedShelves(ctx context.Context, clinic ledger.ClinicID, shelves []ledger.Shelf, o ReadOptions) ([]StockRow, AsOf, error) {
	keys := make([]cacheKey, len(shelves))
	for i, shelf := range shelves {
		keys[i] = cacheKey{clinic, ledger.ShelfTopic(shelf)}
	}
	found, asOf, err := q.cache.getAll(ctx, keys, o, q.loadShelves)
	if err != nil {
		return nil, AsOf{}, err
	}
	if len(found) == 1 {
		return found[0].value.([]StockRow), asOf, nil
	}
	var rows []StockRow
	for _, v := range found {
		rows = append(rows, v.value.([]StockRow)...)
	}
	return rows, asOf, nil
}

// loadShelves reads shelves, each of which the clinic must have.
func (q *Queries) loadShelves(ctx context.Context, o ReadOptions, keys []cacheKey) ([]*kept, error) {
	var locations []ledger.LocationID
	var medicines []ledger.MedicineID
	for _, k := range keys {
		locations = append(locations, ledger.LocationID(k.topic.ID))
		medicines = append(medicines, ledger.MedicineID(k.topic.Of))
	}
	slices.Sort(locations)
	slices.Sort(medicines)
	asked := existing{locations: slices.Compact(locations), medicines: slices.Compact(medicines)}
	var rows []StockRow
	var midnight func(ledger.Date) time.Time
	filled := q.cache.cfg.Clock()
	first := func(v *view) []question {
		s := v.selectStock().add(` AND s.location_id = ANY(?) AND s.medicine_id = ANY(?)`, texts(asked.locations), texts(asked.medicines))
		return append(asked.questions(keys[0].clinic), ask(s, &rows, v.scanStock))
	}
	asOf, err := q.readFirst(ctx, keys[0].clinic, o, first, func(v *view) error {
		midnight = v.endOf
		return asked.check(keys[0].clinic)
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(rows, firstExpiredFirst)
	shelves := make(map[ledger.Topic][]StockRow)
	for _, row := range rows {
		topic := ledger.ShelfTopic(row.Shelf)
		shelves[topic] = append(shelves[topic], row)
	}
	found := make([]*kept, len(keys))
	for i, k := range keys {
		found[i] = &kept{asOf: asOf, filled: filled, value: shelves[k.topic]}
		for _, row := range shelves[k.topic] {
			if !row.Expired { // and none after it
				found[i].until = midnight(row.Expiry)
				break
			}
		}
	}
	return found, nil
}

// endOf is when a day ends at the clinic, and zero for the last day that there
// is: it never ends.
func (v *view) endOf(day ledger.Date) time.Time {
	if day == ledger.MaxDate {
		return time.Time{}
	}
	zone, err := time.LoadLocation(v.clinic.TimeZone)
	if err != nil {
		zone = time.UTC
	}
	year, month, date := day.Time().Date()
	return time.Date(year, month, date+1, 0, 0, 0, 0, zone)
}

// cachedAvailability is [Queries.Availability] from the cache.
func (q *Queries) cachedAvailability(ctx context.Context, clinic ledger.ClinicID, medicines []ledger.MedicineID, locations []ledger.LocationID, lastsUntil ledger.Date, o ReadOptions) ([]Availability, AsOf, error) {
	active := AsOf{}
	if len(locations) == 0 {
		found, asOf, err := q.cache.getAll(ctx, []cacheKey{{clinic, ledger.Topic{Kind: ledger.TopicLocations}}}, o, q.loadLocations)
		if err != nil {
			return nil, AsOf{}, err
		}
		locations, active = found[0].value.([]ledger.LocationID), asOf
	}
	locations, medicines = sortedIDs(locations), sortedIDs(medicines)
	shelves := make([]ledger.Shelf, 0, len(locations)*len(medicines))
	for _, location := range locations {
		for _, medicine := range medicines {
			shelves = append(shelves, ledger.Shelf{Location: location, Medicine: medicine})
		}
	}
	if len(shelves) == 0 {
		return nil, active, nil
	}
	rows, asOf, err := q.cachedShelves(ctx, clinic, shelves, o)
	if active != (AsOf{}) && active.place().before(asOf.place()) {
		asOf = active
	}
	return sumAvailability(rows, lastsUntil), asOf, err
}

// sortedIDs sorts ids and leaves out repetitions.
func sortedIDs[T ~string](ids []T) []T {
	if len(ids) < 2 {
		return ids
	}
	return slices.Compact(slices.Sorted(slices.Values(ids)))
}

// loadLocations reads which of a clinic's locations are in use.
func (q *Queries) loadLocations(ctx context.Context, o ReadOptions, keys []cacheKey) ([]*kept, error) {
	var active []ledger.LocationID
	filled := q.cache.cfg.Clock()
	asOf, err := q.read(ctx, keys[0].clinic, o, func(v *view) error {
		active = nil // of an attempt that failed
		rows, err := collect(ctx, v.tx, selectFrom(selectLocations).add(`? AND active`, v.id), scanLocation)
		for _, row := range rows {
			active = append(active, row.ID)
		}
		return err
	})
	return []*kept{{asOf: asOf, filled: filled, value: active}}, err
}

// cachedPrescription is [Queries.Document] of a prescription from the cache.
func (q *Queries) cachedPrescription(ctx context.Context, clinic ledger.ClinicID, id string, o ReadOptions) (*ledger.Document, AsOf, error) {
	key := cacheKey{clinic, ledger.Topic{Kind: ledger.TopicPrescription, ID: id}}
	found, asOf, err := q.cache.getAll(ctx, []cacheKey{key}, o, q.loadPrescription)
	if err != nil {
		return nil, AsOf{}, err
	}
	documents := found[0].value.([]ledger.Document)
	if len(documents) == 0 {
		return nil, asOf, nil
	}
	return &documents[0], asOf, nil
}

func (q *Queries) loadPrescription(ctx context.Context, o ReadOptions, keys []cacheKey) ([]*kept, error) {
	filled := q.cache.cfg.Clock()
	document, asOf, err := q.Document(ctx, keys[0].clinic, ledger.DocumentKey{Kind: ledger.DocumentPrescription, ID: keys[0].topic.ID}, o)
	documents := []ledger.Document{}
	if document != nil {
		documents = append(documents, *document)
	}
	return []*kept{{asOf: asOf, filled: filled, value: documents}}, err
}

// maxCachedMedications is how many of a patient's prescriptions are kept, the
// newest first.
const maxCachedMedications = 100

// cachedMedications are a patient's newest prescriptions from the cache, and
// whether there may be more.
func (q *Queries) cachedMedications(ctx context.Context, clinic ledger.ClinicID, patient ledger.PatientID, limit int, o ReadOptions) ([]ledger.Document, *DocumentPlace, AsOf, error) {
	key := cacheKey{clinic, ledger.Topic{Kind: ledger.TopicPatient, ID: string(patient)}}
	found, asOf, err := q.cache.getAll(ctx, []cacheKey{key}, o, q.loadMedications)
	if err != nil {
		return nil, nil, AsOf{}, err
	}
	documents, next := pageOfDocuments(found[0].value.([]ledger.Document), limit)
	return documents, next, asOf, nil
}

func (q *Queries) loadMedications(ctx context.Context, o ReadOptions, keys []cacheKey) ([]*kept, error) {
	filled := q.cache.cfg.Clock()
	filter := PrescriptionFilter{Patient: ledger.PatientID(keys[0].topic.ID), NewestFirst: true}
	documents, _, asOf, err := q.Prescriptions(ctx, keys[0].clinic, filter, nil, maxCachedMedications+1, o)
	return []*kept{{asOf: asOf, filled: filled, value: documents}}, err
}

// cachedMedicine is [Queries.Medicine] from the cache.
func (q *Queries) cachedMedicine(ctx context.Context, clinic ledger.ClinicID, id ledger.MedicineID, o ReadOptions) (ledger.Medicine, AsOf, error) {
	key := cacheKey{clinic, ledger.Topic{Kind: ledger.TopicMedicine, ID: string(id)}}
	found, asOf, err := q.cache.getAll(ctx, []cacheKey{key}, o, q.loadMedicine)
	if err != nil {
		return ledger.Medicine{}, AsOf{}, err
	}
	return found[0].value.(ledger.Medicine), asOf, nil
}

func (q *Queries) loadMedicine(ctx context.Context, o ReadOptions, keys []cacheKey) ([]*kept, error) {
	filled := q.cache.cfg.Clock()
	medicine, asOf, err := q.Medicine(ctx, keys[0].clinic, ledger.MedicineID(keys[0].topic.ID), o)
	return []*kept{{asOf: asOf, filled: filled, value: medicine}}, err
}

// maxCachedTemplates is how many of a clinic's templates are kept, the oldest
// first.
const maxCachedTemplates = 500

// templates reports whether the filter means all of a clinic's templates for
// prescriptions, which are of no location in particular.
func (f *DocumentFilter) templates() bool {
	return f.Kind == ledger.DocumentPrescriptionTemplate && f.OpenOnly && f.Location == "" && !f.NewestFirst
}

// cachedTemplates are a clinic's templates from the cache, and where they go on.
func (q *Queries) cachedTemplates(ctx context.Context, clinic ledger.ClinicID, limit int, o ReadOptions) ([]ledger.Document, *DocumentPlace, AsOf, error) {
	key := cacheKey{clinic, ledger.Topic{Kind: ledger.TopicTemplates}}
	found, asOf, err := q.cache.getAll(ctx, []cacheKey{key}, o, q.loadTemplates)
	if err != nil {
		return nil, nil, AsOf{}, err
	}
	documents, next := pageOfDocuments(found[0].value.([]ledger.Document), limit)
	return documents, next, asOf, nil
}

func (q *Queries) loadTemplates(ctx context.Context, o ReadOptions, keys []cacheKey) ([]*kept, error) {
	filled := q.cache.cfg.Clock()
	filter := DocumentFilter{Kind: ledger.DocumentPrescriptionTemplate, OpenOnly: true}
	documents, _, asOf, err := q.Documents(ctx, keys[0].clinic, filter, nil, maxCachedTemplates+1, o)
	return []*kept{{asOf: asOf, filled: filled, value: documents}}, err
}
