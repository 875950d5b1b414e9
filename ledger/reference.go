package ledger

import (
	"errors"
	"strings"

	"github.com/stockledger/stockledger/ledger/gs1"
)

// A reference stands wherever a location, medicine, lot or supplier is asked
// for. It is the id itself, or an external identifier written system|value, or
// what a scanner read off a pack, written gs1|…; ids hold no vertical bar.
const referenceBar = "|"

// Systems with rules of their own.
const (
	systemGS1  = "gs1"
	systemGTIN = "gtin"
)

// maxReference bounds a reference: a scan may be long.
const maxReference = 300

func checkReference[T ~string](field string, reference T) *Rejection {
	s := string(reference)
	if s == "" {
		return reject(ReasonInvalidField, field, "%s is missing.", field)
	}
	if len(s) > maxReference {
		return reject(ReasonInvalidField, field, "%s has %d bytes; at most %d are allowed.", field, len(s), maxReference)
	}
	// A scanner separates the fields of a pack with the group separator.
	if system, value, _ := strings.Cut(s, referenceBar); system == systemGS1 {
		s = strings.ReplaceAll(value, "\x1d", "")
	}
	if !printable(s) {
		return reject(ReasonInvalidField, field, "%s must be printable text.", field)
	}
	return nil
}

func checkOptionalReference[T ~string](field string, reference T) *Rejection {
	if reference == "" {
		return nil
	}
	return checkReference(field, reference)
}

// of names the field that the rejected value stood in.
func (r *Rejection) of(field string) *Rejection {
	if r != nil {
		r.Field = field
	}
	return r
}

// item is what a reference to a medicine or a lot found.
type item struct {
	medicine *Medicine
	lot      *Lot // nil where the reference names only a medicine
	// scan is what was scanned, in the field that scanned names; empty where
	// nothing was.
	scan    gs1.Scan
	scanned string
}

func (i item) lotID() LotID {
	if i.lot == nil {
		return ""
	}
	return i.lot.ID
}

// units converts a quantity into base units: exactly, or not at all. It counts
// the given pack, or scans where the item was scanned, else base units.
func (i item) units(s *State, quantity int64, pack string) (int64, *Rejection) {
	factor, r := int64(1), (*Rejection)(nil)
	switch {
	case i.scanned != "" && pack != "":
		r = reject(ReasonInvalidField, "pack", "The scan says already what the quantity counts: leave the pack out.")
	case i.scanned != "":
		factor, r = s.scannedUnits(i)
	case pack != "":
		factor, r = s.packFactor(i.medicine.ID, pack)
	}
	if r != nil {
		return 0, r
	}
	if quantity > MaxQuantity/factor {
		return 0, reject(ReasonQuantityOutOfRange, "quantity", "%d times %d base units exceed what a quantity can be.", quantity, factor)
	}
	return quantity * factor, nil
}

// identified returns the id that a reference stands for.
func (s *State) identified(subject IdentifierSubject, reference string) (string, bool) {
	system, value, external := strings.Cut(reference, referenceBar)
	if !external {
		return reference, true
	}
	if system == systemGTIN {
		value = gtin14(value)
		if medicine, ok := s.byIdentity[packIdentity(value)]; ok && subject == SubjectMedicine {
			return medicine, true
		}
	}
	found := document[Identifier](s, DocumentIdentifier, identifierID(subject, system, value))
	if found == nil {
		return reference, false
	}
	return found.SubjectID, true
}

// scan reads a scanned reference; ok is false where it is none.
func (s *State) scan(field, reference string, at Instant) (scan gs1.Scan, ok bool, r *Rejection) {
	system, value, _ := strings.Cut(reference, referenceBar)
	if system != systemGS1 {
		return gs1.Scan{}, false, nil
	}
	scan, err := gs1.Parse(value, s.today(at).Time().Year())
	var wrong *gs1.Error
	if errors.As(err, &wrong) {
		return scan, true, reject(ReasonScanUnreadable, field, "The scan cannot be read: %s", wrong.Message)
	}
	return scan, true, nil
}

// scannedUnits is how many base units one scan stands for: as many as the pack
// level that its GTIN names, times the packs that it says there are.
func (s *State) scannedUnits(i item) (int64, *Rejection) {
	if packs := document[Packs](s, DocumentPacks, string(i.medicine.ID)); packs != nil {
		for _, pack := range packs.Packs {
			if pack.GTIN == "" || gtin14(pack.GTIN) != i.scan.Item() {
				continue
			}
			if i.scan.Units() > MaxQuantity/pack.Factor {
				return 0, reject(ReasonQuantityOutOfRange, i.scanned, "The scan counts %d packs of %d base units.", i.scan.Units(), pack.Factor)
			}
			return i.scan.Units() * pack.Factor, nil
		}
	}
	return 0, reject(ReasonPackNotFound, i.scanned, "GTIN %s is not one of the packs of medicine %q, so it is unknown how many base units it holds.", i.scan.Item(), i.medicine.ID).
		with("gtin", i.scan.Item(), "medicine_id", i.medicine.ID)
}

// scannedLot finds the lot that a scan names: by its own GTIN, or by another
// pack level of the same medicine.
func (s *State) scannedLot(scan gs1.Scan) *Lot {
	if id, ok := s.byIdentity[gtinLotIdentity(scan.Item(), scan.Lot)]; ok {
		return s.lots[LotID(id)]
	}
	medicine := s.byIdentity[packIdentity(scan.Item())]
	packs := document[Packs](s, DocumentPacks, medicine)
	if packs == nil {
		return nil
	}
	for _, pack := range packs.Packs {
		if id, ok := s.byIdentity[gtinLotIdentity(pack.GTIN, scan.Lot)]; ok && pack.GTIN != "" {
			return s.lots[LotID(id)]
		}
	}
	return nil
}

// lotItem resolves a reference to a lot, active or not.
func (s *State) lotItem(reference LotID, at Instant) (item, *Rejection) {
	scan, scanned, r := s.scan("lot_id", string(reference), at)
	if r != nil {
		return item{}, r
	}
	if !scanned {
		lot, r := s.knownLot(reference)
		if r != nil {
			return item{}, r
		}
		return item{medicine: s.medicines[lot.Medicine], lot: lot}, nil
	}
	if scan.Item() == "" || scan.Lot == "" {
		return item{}, reject(ReasonScanIncomplete, "lot_id", "To name a lot, a scan needs a GTIN (01 or 02) and a lot number (10).")
	}
	lot := s.scannedLot(scan)
	if lot == nil {
		return item{}, reject(ReasonLotNotFound, "lot_id", "Clinic %q has no lot %q with GTIN %s.", s.id, scan.Lot, scan.Item()).
			with("gtin", scan.Item(), "lot_number", scan.Lot)
	}
	if r := s.agrees(lot, scan); r != nil {
		return item{}, r
	}
	return item{medicine: s.medicines[lot.Medicine], lot: lot, scan: scan, scanned: "lot_id"}, nil
}

// agrees refuses a scan whose expiry is another one than the lot's: one of the
// two was entered wrong, and people may be harmed by it.
func (s *State) agrees(lot *Lot, scan gs1.Scan) *Rejection {
	if scan.Expiry == (gs1.Date{}) {
		return nil
	}
	day, err := NewDate(scan.Expiry.Year, scan.Expiry.Month, scan.Expiry.Day)
	if err == nil && day == lot.Expiry {
		return nil
	}
	return reject(ReasonScanContradictsLot, "lot_id", "The pack says that lot %q expires on %04d-%02d-%02d; registered is %s.", lot.LotNumber,
		scan.Expiry.Year, scan.Expiry.Month, scan.Expiry.Day, lot.Expiry).with("lot_id", lot.ID, "expiry", lot.Expiry)
}

// medicineItem resolves a reference to an active medicine. What lot a scan names
// with it does not matter: it may be one that is about to be registered.
func (s *State) medicineItem(reference MedicineID, at Instant) (item, *Rejection) {
	scan, scanned, r := s.scan("medicine_id", string(reference), at)
	if r != nil {
		return item{}, r
	}
	if !scanned {
		medicine, r := s.activeMedicine(reference)
		return item{medicine: medicine}, r
	}
	if scan.Item() == "" {
		return item{}, reject(ReasonScanIncomplete, "medicine_id", "To name a medicine, a scan needs a GTIN (01 or 02).")
	}
	id, ok := s.byIdentity[packIdentity(scan.Item())]
	if !ok {
		return item{}, reject(ReasonMedicineNotFound, "medicine_id", "No medicine of clinic %q has a pack with GTIN %q.", s.id, scan.Item()).with("gtin", scan.Item())
	}
	medicine, r := s.activeMedicine(MedicineID(id))
	if r != nil {
		return item{}, r
	}
	return item{medicine: medicine, scan: scan, scanned: "medicine_id"}, nil
}

// requestedItem resolves a medicine and, where one is named or was scanned with
// it, a lot of it.
func (s *State) requestedItem(medicine MedicineID, lot LotID, at Instant) (item, *Rejection) {
	found, r := s.medicineItem(medicine, at)
	if r != nil {
		return found, r
	}
	if found.scan.Lot != "" {
		if found, r = s.lotItem(LotID(medicine), at); r != nil {
			return found, r.of("medicine_id")
		}
		found.scanned = "medicine_id"
	}
	if lot == "" {
		return found, nil
	}
	named, r := s.lotItem(lot, at)
	if r != nil {
		return found, r
	}
	if named.lot.Medicine != found.medicine.ID || found.lot != nil && found.lot != named.lot {
		return found, reject(ReasonLotOfOtherMedicine, "lot_id", "Lot %q belongs to medicine %q, not to %q.", named.lot.ID, named.lot.Medicine, found.medicine.ID).
			with("lot_id", named.lot.ID, "medicine_id", named.lot.Medicine)
	}
	if named.scanned == "" {
		named.scan, named.scanned = found.scan, found.scanned
	}
	return named, nil
}

// lotLine resolves a line that names a lot and a quantity of it.
func (s *State) lotLine(line LotLine, at Instant) (item, int64, *Rejection) {
	found, r := s.lotItem(line.LotID, at)
	if r != nil {
		return found, 0, r
	}
	quantity, r := found.units(s, line.Quantity, line.Pack)
	return found, quantity, r
}

// supplier resolves a reference to a supplier into its name.
func (s *State) supplier(reference string) (string, *Rejection) {
	name, ok := s.identified(SubjectSupplier, reference)
	if !ok {
		return "", reject(ReasonIdentifierNotFound, "supplier", "No supplier has the identifier %q.", reference).with("identifier", reference)
	}
	return name, nil
}
