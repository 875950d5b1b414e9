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
		// All lengths of a GTIN name the same item once padded to 14 digits.
		maker = "gtin\x00" + strings.Repeat("0", max(0, 14-len(f.GTIN))) + f.GTIN
	}
	return "lot\x00" + string(medicine) + "\x00" + maker + "\x00" + f.LotNumber
}

// rename moves an identity from its old key to its new one.
func (s *State) rename(from, to, id string) {
	if from == to {
		return
	}
	remove(s, s.byIdentity, from)
	put(s, s.byIdentity, to, id)
}
