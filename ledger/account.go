package ledger

import "fmt"

// MaxQuantity is the largest quantity of a command and of a balance: 2^53, the
// last integer that every JSON reader keeps exactly.
const MaxQuantity int64 = 1 << 53

// Bucket says what the units in an account are to the clinic. The numbers are
// part of the stored format and never change.
type Bucket int16

// Held buckets hold units that lie at a location. The others are the
// counterparties that units come from and go to.
const (
	Available   Bucket = 1
	Reserved    Bucket = 2
	Pending     Bucket = 3 // awaits a second person
	Quarantined Bucket = 4
	InTransit   Bucket = 5 // belongs to the source until it is received

	Supplier   Bucket = 16
	Dispensed  Bucket = 17
	Issued     Bucket = 18 // used without a patient
	Adjustment Bucket = 19
	Wasted     Bucket = 20
	Variance   Bucket = 21
	Converted  Bucket = 22
	Clearing   Bucket = 23 // zero again at the end of every command
)

var bucketNames = map[Bucket]string{
	Available: "available", Reserved: "reserved", Pending: "pending",
	Quarantined: "quarantined", InTransit: "in_transit",
	Supplier: "supplier", Dispensed: "dispensed", Issued: "issued",
	Adjustment: "adjustment", Wasted: "wasted", Variance: "variance",
	Converted: "converted", Clearing: "clearing",
}

// String returns the bucket's word in the design: "available", "in_transit".
func (b Bucket) String() string {
	if name, ok := bucketNames[b]; ok {
		return name
	}
	return fmt.Sprintf("bucket(%d)", int16(b))
}

func (b Bucket) known() bool {
	_, ok := bucketNames[b]
	return ok
}

// Held reports whether the bucket's units lie at a location.
func (b Bucket) Held() bool { return b >= Available && b <= InTransit }

// Balances are the held buckets of one (location, medicine, lot), in base
// units. None is ever negative.
type Balances struct {
	Available   int64
	Reserved    int64
	Pending     int64
	Quarantined int64
	InTransit   int64
}

// OnHand is the sum of all held buckets.
func (b Balances) OnHand() int64 {
	return b.Available + b.Reserved + b.Pending + b.Quarantined + b.InTransit
}

// Of returns the balance of a held bucket, and zero for a counterparty.
func (b Balances) Of(bucket Bucket) int64 {
	if p := b.bucket(bucket); p != nil {
		return *p
	}
	return 0
}

func (b *Balances) bucket(bucket Bucket) *int64 {
	switch bucket {
	case Available:
		return &b.Available
	case Reserved:
		return &b.Reserved
	case Pending:
		return &b.Pending
	case Quarantined:
		return &b.Quarantined
	case InTransit:
		return &b.InTransit
	}
	return nil
}

// move returns the balances after quantity left one bucket for another, and
// whether every balance is still within 0 and [MaxQuantity].
func (b Balances) move(from, to Bucket, quantity int64) (Balances, bool) {
	if p := b.bucket(from); p != nil {
		*p -= quantity
		if *p < 0 {
			return b, false
		}
	}
	if p := b.bucket(to); p != nil {
		*p += quantity
		if *p > MaxQuantity {
			return b, false
		}
	}
	return b, b.OnHand() <= MaxQuantity
}

// Entry is one immutable movement inside one (location, medicine, lot). Stock
// is an asset, so as in any double-entry book the bucket that a quantity enters
// is debited and the bucket that it leaves is credited.
type Entry struct {
	Sequence Sequence
	Line     int // from 0, in the order of the command's lots
	Location LocationID
	Medicine MedicineID
	Lot      LotID
	Debit    Bucket
	Credit   Bucket
	Quantity int64    // base units, greater than zero
	After    Balances // the held balances once the entry is posted
}
