package ledger

import "strings"

// What must be unique in a clinic beside ids, folded to one key each.

func locationIdentity(name string) string {
	return "location\x00" + strings.ToLower(name)
}

func medicineIdentity(f MedicineFacts) string {
	return "medicine\x00" + strings.ToLower(f.Name+"\x00"+f.Strength+"\x00"+f.Form)
}

func lotIdentity(medicine MedicineID, f LotFacts) string {
	maker := "manufacturer\x00" + strings.ToLower(f.Manufacturer)
	if f.GTIN != "" {
		maker = "gtin\x00" + gtin14(f.GTIN)
	}
	return "lot\x00" + string(medicine) + "\x00" + maker + "\x00" + f.LotNumber
}

// gtin14 pads a GTIN: all its lengths name the same item once they have 14
// digits.
func gtin14(gtin string) string {
	return strings.Repeat("0", max(0, 14-len(gtin))) + gtin
}

// gtinLotIdentity finds a lot by what is printed on its pack, without knowing
// the medicine.
func gtinLotIdentity(gtin, lotNumber string) string {
	return "pack lot\x00" + gtin14(gtin) + "\x00" + lotNumber
}

func packIdentity(gtin string) string { return "pack\x00" + gtin14(gtin) }

func recallIdentity(r *Recall) string {
	return makerIdentity(r.GTIN, r.Manufacturer, r.LotNumber)
}

// makerIdentity is what a recall names: a maker's lot number, of whatever
// medicine.
func makerIdentity(gtin, manufacturer, lotNumber string) string {
	if gtin != "" {
		return "recall\x00gtin\x00" + gtin14(gtin) + "\x00" + lotNumber
	}
	return "recall\x00manufacturer\x00" + strings.ToLower(manufacturer) + "\x00" + lotNumber
}

// nameLot makes a lot known by its identities. Earlier rules let lots of two
// medicines have one GTIN and lot number; it then names the one whose id comes
// first, in whatever order they become known.
func (s *State) nameLot(lot *Lot) {
	put(s, s.byIdentity, lotIdentity(lot.Medicine, lot.LotFacts), string(lot.ID))
	if lot.GTIN == "" {
		return
	}
	identity := gtinLotIdentity(lot.GTIN, lot.LotNumber)
	if named, ok := s.byIdentity[identity]; !ok || named > string(lot.ID) {
		put(s, s.byIdentity, identity, string(lot.ID))
	}
}

// unnameLot forgets a lot's identities, and lets another lot have the one that
// they shared.
func (s *State) unnameLot(lot *Lot) {
	remove(s, s.byIdentity, lotIdentity(lot.Medicine, lot.LotFacts))
	identity := gtinLotIdentity(lot.GTIN, lot.LotNumber)
	if lot.GTIN == "" || s.byIdentity[identity] != string(lot.ID) {
		return
	}
	remove(s, s.byIdentity, identity)
	for _, other := range s.lots {
		if other != lot && other.GTIN != "" && gtinLotIdentity(other.GTIN, other.LotNumber) == identity {
			s.nameLot(other)
		}
	}
}

// rename moves an identity from its old key to its new one.
func (s *State) rename(from, to, id string) {
	if from == to {
		return
	}
	remove(s, s.byIdentity, from)
	put(s, s.byIdentity, to, id)
}
