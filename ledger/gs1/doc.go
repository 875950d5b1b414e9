// Package gs1 reads what a scanner says of a pack: the element string of a GS1
// DataMatrix, GS1-128, GS1 DataBar, GS1 QR Code or GS1 DotCode symbol, or its
// bracketed human readable form. The result names the trade item, the lot, the
// expiry and how many units there are, so that nobody types them.
//
// It is no judge of the stock: whether the item is known, the lot expired or
// the serial number seen before is the ledger's business. It does no I/O and
// has no clock; the year that two-digit years are measured against is an
// argument. It does not print barcodes, resolve GS1 Digital Links or check
// company prefixes.
//
// # Input
//
// Both forms may be preceded by a symbology identifier (]d2, ]C1, ]e0, ]Q3,
// ]J1) and FNC1, and by white space at both ends:
//
//	(01)09506000134352(17)260228(10)ABC123
//	]d201095060001343521726022810ABC123
//
// In the raw form FNC1 ends a field of variable length. Scanners transmit it
// as ASCII 29, which does not survive every keyboard, log and clipboard. These
// spellings of it are therefore read too: {GS} and <GS>, the labels of
// terminals and scanner utilities; ^], the key that types it; ␝, its picture
// in Unicode; \x1d and \u001d, the escapes of logs and JSON. All but <GS> hold
// a character that no GS1 value may hold; <GS> does not, but to read it as a
// part of a lot number would be the worse guess. The notations of label printing programs (~1, ~d029, >8) are
// not read: they differ from maker to maker, and no scanner sends them.
//
// A scanner that drops FNC1 altogether makes a lot number swallow what follows
// it. That shows only where the value gets too long for its identifier, so
// scanners must be set up to transmit FNC1.
//
// In the bracketed form a bracket opens the next application identifier. One
// that belongs to a value is written \(, as the GS1 Barcode Syntax Engine
// does; a closing bracket needs no such care.
//
// # What is not judged
//
// A pack may carry its data in several symbols, say the GTIN in one and lot and
// expiry in another. So a scan without an item is good here, and of the
// mandatory associations of section 4.14.2 of the GS1 General Specifications
// only one is enforced, without which a count means nothing (02 and 37).
package gs1
