package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"
)

// Ids are strings of their own types, so that one cannot be passed where
// another is meant.
type (
	// ClinicID names the tenant: 1 to 40 lowercase letters, digits and
	// hyphens, chosen when the clinic is created.
	ClinicID string
	// LocationID names a place that holds stock, unique in its clinic.
	LocationID string
	// MedicineID names an item of the clinic's formulary, unique in its clinic.
	MedicineID string
	// LotID names a lot, unique in its clinic.
	LotID string
	// HoldID names a reservation. It is always made by the server.
	HoldID string
	// Actor is who gave a command: the subject of the verified token.
	Actor string
	// Sequence counts a clinic's accepted commands from 1, without gaps.
	Sequence int64
)

// Prefixes of server-made ids. Ids that callers choose hold no underscore, so
// the two can never collide.
const (
	locationPrefix = "loc_"
	medicinePrefix = "med_"
	lotPrefix      = "lot_"
	holdPrefix     = "hold_"
)

// idAlphabet is Crockford's base 32 in lower case: it sorts like the number it
// spells, and has no i, l, o or u to misread.
const idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

const (
	idSequenceDigits = 8 // 40 bits: a trillion commands a clinic
	idOrdinalDigits  = 2
	idClinicDigits   = 6
	idDigits         = idSequenceDigits + idOrdinalDigits + idClinicDigits
)

// clinicTag is 30 bits of the clinic id's hash. It is part of every id that the
// server makes, so an id of another clinic is recognised as foreign.
func clinicTag(clinic ClinicID) uint32 {
	sum := sha256.Sum256([]byte(clinic))
	return binary.BigEndian.Uint32(sum[:4]) >> 2
}

// deriveID makes the id of the ordinal-th thing that the command with the given
// sequence creates. Ids of one clinic sort by sequence.
func deriveID(prefix string, tag uint32, sequence Sequence, ordinal int) string {
	var digits [idDigits]byte
	putDigits(digits[:idSequenceDigits], uint64(sequence))
	putDigits(digits[idSequenceDigits:idSequenceDigits+idOrdinalDigits], uint64(ordinal))
	putDigits(digits[idSequenceDigits+idOrdinalDigits:], uint64(tag))
	return prefix + string(digits[:])
}

func putDigits(dst []byte, n uint64) {
	for i := len(dst) - 1; i >= 0; i-- {
		dst[i] = idAlphabet[n&31]
		n >>= 5
	}
}

// holdKey is a hold's id without the parts that all holds of a clinic share.
type holdKey struct {
	sequence Sequence
	ordinal  int
}

func (k holdKey) id(tag uint32) HoldID {
	return HoldID(deriveID(holdPrefix, tag, k.sequence, k.ordinal))
}

// parseHoldID reads the key back out of an id, or reports that the clinic with
// this tag never made it.
func parseHoldID(id HoldID, tag uint32) (holdKey, bool) {
	digits, ok := strings.CutPrefix(string(id), holdPrefix)
	if !ok || len(digits) != idDigits {
		return holdKey{}, false
	}
	sequence, ok1 := readDigits(digits[:idSequenceDigits])
	ordinal, ok2 := readDigits(digits[idSequenceDigits : idSequenceDigits+idOrdinalDigits])
	made, ok3 := readDigits(digits[idSequenceDigits+idOrdinalDigits:])
	if !ok1 || !ok2 || !ok3 || made != uint64(tag) {
		return holdKey{}, false
	}
	return holdKey{sequence: Sequence(sequence), ordinal: int(ordinal)}, true
}

func readDigits(s string) (uint64, bool) {
	var n uint64
	for i := range len(s) {
		d := strings.IndexByte(idAlphabet, s[i])
		if d < 0 {
			return 0, false
		}
		n = n<<5 | uint64(d)
	}
	return n, true
}
