package ledger

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of text fields, in bytes of UTF-8.
const (
	maxName = 200
	maxWord = 64
	maxKey  = 64
)

// maxBackdatingDays bounds the window of a clinic: ten years.
const maxBackdatingDays = 3650

// checkCommand judges the parts that all commands share.
func checkCommand(c *Command) *Rejection {
	if r := checkKey(c.IdempotencyKey, c.Actor); r != nil {
		return r
	}
	if r := checkClinicID(c.Clinic); r != nil {
		return r
	}
	if c.Actor == "" || len(c.Actor) > maxName || !printable(string(c.Actor)) {
		return reject(ReasonInvalidField, "actor", "The actor must be 1 to %d bytes of printable text.", maxName)
	}
	if c.Witness != "" && (len(c.Witness) > maxName || !printable(string(c.Witness))) {
		return reject(ReasonInvalidField, "witness", "The witness must be 1 to %d bytes of printable text.", maxName)
	}
	if c.Witness == c.Actor {
		return samePerson("witness_token", c.Actor)
	}
	if c.OccurredAt < 0 || c.OccurredAt > MaxInstant {
		return reject(ReasonInvalidField, "occurred_at", "occurred_at must lie between 1970 and 9999.")
	}
	if r := checkCode("late_reason_code", c.LateReasonCode, false); r != nil {
		return r
	}
	return c.Body.check()
}

func checkKey(key string, actor Actor) *Rejection {
	if key == "" || len(key) > maxKey {
		return reject(ReasonInvalidField, "idempotency_key", "The idempotency key must be 1 to %d characters long; this one has %d.", maxKey, len(key))
	}
	for i := range len(key) {
		if key[i] < 0x20 || key[i] > 0x7e {
			return reject(ReasonInvalidField, "idempotency_key", "The idempotency key must be printable ASCII; character %d is not.", i+1)
		}
	}
	if strings.HasPrefix(key, SystemKeyPrefix) && actor != SystemActor {
		return reject(ReasonInvalidField, "idempotency_key", "Keys that begin with %q belong to the ledger itself.", SystemKeyPrefix)
	}
	return nil
}

func checkClinicID(id ClinicID) *Rejection {
	ok := len(id) >= 1 && len(id) <= 40 && id[0] != '-'
	for i := 0; ok && i < len(id); i++ {
		ch := id[i]
		ok = ch == '-' || ch >= 'a' && ch <= 'z' || ch >= '0' && ch <= '9'
	}
	if !ok {
		return reject(ReasonInvalidField, "clinic_id", "The clinic id must be 1 to 40 lowercase letters, digits or hyphens, and not begin with a hyphen.")
	}
	return nil
}

// checkNewID judges an id that a caller chose; empty asks the server for one.
func checkNewID[T ~string](field string, id T) *Rejection {
	ok := len(id) <= maxWord && (id == "" || id[0] != '.' && id[0] != '-')
	for i := 0; ok && i < len(id); i++ {
		ch := id[i]
		ok = ch == '-' || ch == '.' || ch >= 'a' && ch <= 'z' || ch >= 'A' && ch <= 'Z' || ch >= '0' && ch <= '9'
	}
	if !ok {
		return reject(ReasonInvalidField, field, "%s must be at most %d letters, digits, dots or hyphens and begin with a letter or digit; leave it out to have one made.", field, maxWord)
	}
	return nil
}

// checkID judges an id that names something.
func checkID[T ~string](field string, id T) *Rejection {
	if id == "" {
		return reject(ReasonInvalidField, field, "%s is missing.", field)
	}
	if len(id) > maxWord || !printable(string(id)) {
		return reject(ReasonInvalidField, field, "%s must be at most %d bytes of printable text.", field, maxWord)
	}
	return nil
}

// checkText judges a line of text for people.
func checkText(field, value string, limit int, required bool) *Rejection {
	if value == "" && !required {
		return nil
	}
	if strings.TrimSpace(value) == "" {
		return reject(ReasonInvalidField, field, "%s is missing.", field)
	}
	if len(value) > limit {
		return reject(ReasonInvalidField, field, "%s has %d bytes; at most %d are allowed.", field, len(value), limit)
	}
	if !printable(value) {
		return reject(ReasonInvalidField, field, "%s must be one line of valid UTF-8 without control characters.", field)
	}
	return nil
}

// checkCode judges a code: a word for programs and forms. Codes hold no spaces,
// which keeps people's names out of the journal.
func checkCode(field, value string, required bool) *Rejection {
	if value == "" && !required {
		return nil
	}
	ok := value != "" && len(value) <= maxWord
	for i := 0; ok && i < len(value); i++ {
		ch := value[i]
		ok = ch >= 'a' && ch <= 'z' || ch >= 'A' && ch <= 'Z' || ch >= '0' && ch <= '9' || strings.IndexByte("-_.:/", ch) >= 0
	}
	if !ok {
		return reject(ReasonInvalidField, field, "%s must be a code of 1 to %d letters, digits or any of - _ . : /", field, maxWord)
	}
	return nil
}

func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return false
		}
	}
	return true
}

// checkQuantity judges a quantity in base units; zero is allowed where it
// means "all".
func checkQuantity(quantity int64, zeroMeansAll bool) *Rejection {
	if quantity == 0 && zeroMeansAll {
		return nil
	}
	if quantity <= 0 || quantity > MaxQuantity {
		return reject(ReasonQuantityOutOfRange, "quantity", "The quantity is %d.", quantity)
	}
	return nil
}

func checkExpiry(expiry Date) *Rejection {
	if expiry <= 0 || expiry > MaxDate {
		return reject(ReasonInvalidField, "expiry", "The expiry must be a day from 1970-01-02 to 9999-12-31.")
	}
	return nil
}

// checkGTIN judges the length and the check digit by the GS1 General
// Specifications, section 7.9: from the right, digits weigh 1, 3, 1, 3 … and
// the sum is a multiple of ten.
func checkGTIN(gtin string) *Rejection {
	if gtin == "" {
		return nil
	}
	switch len(gtin) {
	case 8, 12, 13, 14:
	default:
		return reject(ReasonInvalidField, "gtin", "The GTIN must have 8, 12, 13 or 14 digits; this one has %d characters.", len(gtin))
	}
	sum, weight := 0, 1
	for i := len(gtin) - 1; i >= 0; i-- {
		if gtin[i] < '0' || gtin[i] > '9' {
			return reject(ReasonInvalidField, "gtin", "The GTIN must hold digits only.")
		}
		sum += int(gtin[i]-'0') * weight
		weight = 4 - weight
	}
	if sum%10 != 0 {
		return reject(ReasonInvalidField, "gtin", "The GTIN's check digit is wrong: compare it with the pack.")
	}
	return nil
}

func checkTimeZone(zone string, known func(string) bool) *Rejection {
	if !known(zone) {
		return reject(ReasonInvalidField, "time_zone", "%q is not an IANA time zone such as Africa/Nairobi.", zone)
	}
	return nil
}

func checkBackdating(days int64) *Rejection {
	if days < 0 || days > maxBackdatingDays {
		return reject(ReasonInvalidField, "backdating_days", "backdating_days must be 0 to %d.", maxBackdatingDays)
	}
	return nil
}

func checkLocationKind(kind LocationKind) *Rejection {
	if kind < Store || kind > Ward {
		return reject(ReasonInvalidField, "kind", "The kind of location must be store, dispensary or ward.")
	}
	return nil
}

func checkEtag(etag string) *Rejection { return checkCode("etag", etag, false) }

// first returns the first rejection of several checks.
func first(rejections ...*Rejection) *Rejection {
	for _, r := range rejections {
		if r != nil {
			return r
		}
	}
	return nil
}

// given runs a check on an optional field where it is present.
func given[T any](p *T, check func(T) *Rejection) *Rejection {
	if p == nil {
		return nil
	}
	return check(*p)
}

func name(field string, required bool) func(string) *Rejection {
	return func(value string) *Rejection { return checkText(field, value, maxName, required) }
}

func word(field string, required bool) func(string) *Rejection {
	return func(value string) *Rejection { return checkText(field, value, maxWord, required) }
}

func (b *CreateClinic) check() *Rejection {
	return first(
		name("name", true)(b.Name),
		word("time_zone", true)(b.TimeZone),
		checkBackdating(b.BackdatingDays),
	)
}

func (b *UpdateClinic) check() *Rejection {
	return first(
		checkEtag(b.Etag),
		given(b.Name, name("name", true)),
		given(b.TimeZone, word("time_zone", true)),
		given(b.BackdatingDays, checkBackdating),
	)
}

func (b *DeactivateClinic) check() *Rejection {
	return first(checkEtag(b.Etag), checkCode("reason_code", b.ReasonCode, true))
}

func (b *CreateLocation) check() *Rejection {
	return first(
		checkNewID("location_id", b.LocationID),
		name("name", true)(b.Name),
		checkLocationKind(b.LocationKind),
	)
}

func (b *UpdateLocation) check() *Rejection {
	return first(
		checkReference("location_id", b.LocationID),
		checkEtag(b.Etag),
		given(b.Name, name("name", true)),
		given(b.LocationKind, checkLocationKind),
	)
}

func (b *DeactivateLocation) check() *Rejection {
	return first(
		checkReference("location_id", b.LocationID),
		checkEtag(b.Etag),
		checkCode("reason_code", b.ReasonCode, true),
	)
}

func (b *AddMedicine) check() *Rejection {
	return first(
		checkNewID("medicine_id", b.MedicineID),
		name("name", true)(b.Name),
		word("base_unit", true)(b.BaseUnit),
		name("strength", false)(b.Strength),
		word("form", false)(b.Form),
		checkCode("atc_code", b.ATCCode, false),
		name("category", false)(b.Category),
		checkCode("control_class", b.ControlClass, false),
	)
}

func (b *UpdateMedicine) check() *Rejection {
	return first(
		checkReference("medicine_id", b.MedicineID),
		checkEtag(b.Etag),
		given(b.Name, name("name", true)),
		given(b.BaseUnit, word("base_unit", true)),
		given(b.Strength, name("strength", false)),
		given(b.Form, word("form", false)),
		given(b.ATCCode, func(v string) *Rejection { return checkCode("atc_code", v, false) }),
		given(b.Category, name("category", false)),
		given(b.ControlClass, func(v string) *Rejection { return checkCode("control_class", v, false) }),
	)
}

func (b *DeactivateMedicine) check() *Rejection {
	return first(
		checkReference("medicine_id", b.MedicineID),
		checkEtag(b.Etag),
		checkCode("reason_code", b.ReasonCode, true),
	)
}

func (b *RegisterLot) check() *Rejection {
	if b.Manufacturer == "" && b.GTIN == "" {
		return reject(ReasonInvalidField, "manufacturer", "A lot needs a manufacturer or a GTIN: lot numbers alone are not unique.")
	}
	return first(
		checkNewID("lot_id", b.LotID),
		checkReference("medicine_id", b.MedicineID),
		name("manufacturer", false)(b.Manufacturer),
		checkGTIN(b.GTIN),
		word("lot_number", true)(b.LotNumber),
		checkExpiry(b.Expiry),
	)
}

func (b *UpdateLot) check() *Rejection {
	return first(
		checkReference("lot_id", b.LotID),
		checkEtag(b.Etag),
		given(b.Manufacturer, name("manufacturer", false)),
		given(b.GTIN, checkGTIN),
		given(b.LotNumber, word("lot_number", true)),
		given(b.Expiry, checkExpiry),
	)
}

func (b *DeactivateLot) check() *Rejection {
	return first(
		checkReference("lot_id", b.LotID),
		checkEtag(b.Etag),
		checkCode("reason_code", b.ReasonCode, true),
	)
}

func (b *ReceiveStock) check() *Rejection {
	return first(
		checkReference("location_id", b.LocationID),
		checkReference("lot_id", b.LotID),
		checkQuantity(b.Quantity, false),
		checkPack(b.Pack),
		name("supplier", false)(b.Supplier),
		checkCode("reference", b.Reference, false),
	)
}

func (b *ReserveStock) check() *Rejection {
	if b.Deadline <= 0 || b.Deadline > MaxInstant {
		return reject(ReasonInvalidField, "deadline", "A reservation needs a deadline after the present and before the year 10000.")
	}
	if b.LastsUntil < 0 || b.LastsUntil > MaxDate {
		return reject(ReasonInvalidField, "lasts_until", "lasts_until must be a day up to 9999-12-31.")
	}
	return first(
		checkReference("location_id", b.LocationID),
		checkReference("medicine_id", b.MedicineID),
		checkQuantity(b.Quantity, false),
		checkPack(b.Pack),
		checkOptionalReference("lot_id", b.LotID),
		checkCode("reason_code", b.ReasonCode, true),
	)
}

func checkOptionalID[T ~string](field string, id T) *Rejection {
	if id == "" {
		return nil
	}
	return checkID(field, id)
}

func (b *ReleaseStock) check() *Rejection {
	return first(
		checkID("hold_id", b.HoldID),
		checkQuantity(b.Quantity, true),
		checkCode("reason_code", b.ReasonCode, false),
	)
}

func (b *ExpireReservation) check() *Rejection { return checkID("hold_id", b.HoldID) }

func (b *IssueStock) check() *Rejection {
	if b.HoldID != "" {
		if b.LocationID != "" || b.MedicineID != "" || b.LotID != "" {
			return reject(ReasonInvalidField, "hold_id", "Name either a hold or a location and medicine, not both: the hold knows its own.")
		}
		return first(
			checkID("hold_id", b.HoldID),
			checkQuantity(b.Quantity, true),
			checkPack(b.Pack),
			checkCode("recipient", b.Recipient, false),
			checkCode("reason_code", b.ReasonCode, false),
		)
	}
	return first(
		checkReference("location_id", b.LocationID),
		checkReference("medicine_id", b.MedicineID),
		checkOptionalReference("lot_id", b.LotID),
		checkQuantity(b.Quantity, false),
		checkPack(b.Pack),
		checkCode("recipient", b.Recipient, false),
		checkCode("reason_code", b.ReasonCode, false),
	)
}

func (b *AdjustStock) check() *Rejection {
	if b.Direction != Increase && b.Direction != Decrease {
		return reject(ReasonInvalidField, "direction", "The direction must be increase or decrease.")
	}
	return first(
		checkReference("location_id", b.LocationID),
		checkReference("lot_id", b.LotID),
		checkQuantity(b.Quantity, false),
		checkPack(b.Pack),
		checkCode("reason_code", b.ReasonCode, true),
	)
}

func (b *WriteOffStock) check() *Rejection {
	return first(
		checkReference("location_id", b.LocationID),
		checkReference("lot_id", b.LotID),
		checkQuantity(b.Quantity, false),
		checkPack(b.Pack),
		checkCode("reason_code", b.ReasonCode, true),
		checkCode("reference", b.Reference, false),
	)
}

func (b *ReturnToSupplier) check() *Rejection {
	return first(
		checkReference("location_id", b.LocationID),
		checkReference("lot_id", b.LotID),
		checkQuantity(b.Quantity, false),
		checkPack(b.Pack),
		checkCode("reason_code", b.ReasonCode, true),
		name("supplier", false)(b.Supplier),
		checkCode("reference", b.Reference, false),
	)
}
