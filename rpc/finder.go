package rpc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/ledger/gs1"
	"github.com/stockledger/stockledger/txn"
)

// Systems of identifiers with rules of their own.
const (
	systemGS1  = "gs1"
	systemGTIN = "gtin"
)

// finderChunk is how many documents are read at a time.
const finderChunk = 1000

// finder finds things of a clinic by what the world outside calls them, as the
// core does for commands.
type finder struct{ queries *txn.Queries }

// find returns the id that a reference stands for, empty where it is unknown.
// What was scanned and can't be read is a rejection of the field.
func (f finder) find(ctx context.Context, clinic ledger.ClinicID, subject ledger.IdentifierSubject, field, reference string) (string, error) {
	system, value, _ := strings.Cut(reference, referenceBar)
	if system == systemGS1 {
		scanned, err := f.scan(ctx, clinic, field, value)
		if err != nil {
			return "", err
		}
		switch subject {
		case ledger.SubjectMedicine:
			return string(scanned.medicine), nil
		case ledger.SubjectLot:
			return string(scanned.lotID()), nil
		}
		return "", nil
	}
	found, _, err := f.identifier(ctx, clinic, subject, system, value, txn.ReadOptions{})
	if err != nil || found == nil {
		return "", err
	}
	return found.SubjectID, nil
}

// identifier finds what has an identifier, nil where nothing has. The GTIN of a
// pack names its medicine, too.
func (f finder) identifier(
	ctx context.Context, clinic ledger.ClinicID, subject ledger.IdentifierSubject, system, value string, o txn.ReadOptions,
) (*ledger.Identifier, txn.AsOf, error) {
	if system == systemGTIN {
		if item, err := gs1.NormalizeGTIN(value); err == nil {
			value = item
		}
		if subject == ledger.SubjectMedicine {
			packs, _, err := f.packOf(ctx, clinic, value)
			if err != nil {
				return nil, txn.AsOf{}, err
			}
			if packs != nil {
				_, asOf, err := f.queries.Clinic(ctx, clinic, o)
				return &ledger.Identifier{Subject: subject, SubjectID: string(packs.MedicineID), System: system, Value: value}, asOf, err
			}
		}
	}
	key := (&ledger.Identifier{Subject: subject, System: system, Value: value}).About().DocumentKey
	document, asOf, err := f.queries.Document(ctx, clinic, key, o)
	if err != nil || document == nil {
		return nil, asOf, err
	}
	found, ok := document.Body.(*ledger.Identifier)
	if !ok || found.Removed {
		return nil, asOf, nil
	}
	return found, asOf, nil
}

// packOf finds the medicine that has a pack with a GTIN of 14 digits, and the
// pack.
func (f finder) packOf(ctx context.Context, clinic ledger.ClinicID, item string) (found *ledger.Packs, pack ledger.Pack, err error) {
	filter := txn.DocumentFilter{Kind: ledger.DocumentPacks, OpenOnly: true}
	for place := (*txn.DocumentPlace)(nil); ; {
		documents, next, _, err := f.queries.Documents(ctx, clinic, filter, place, finderChunk, txn.ReadOptions{})
		if err != nil {
			return nil, pack, err
		}
		for _, document := range documents {
			packs, ok := document.Body.(*ledger.Packs)
			if !ok {
				continue
			}
			at := slices.IndexFunc(packs.Packs, func(p ledger.Pack) bool { return sameGTIN(p.GTIN, item) })
			if at >= 0 {
				return packs, packs.Packs[at], nil
			}
		}
		if next == nil {
			return nil, pack, nil
		}
		place = next
	}
}

// sameGTIN compares GTINs of any length: zeros in front do not count.
func sameGTIN(a, b string) bool {
	return a != "" && strings.TrimLeft(a, "0") == strings.TrimLeft(b, "0")
}

// scanned is what a scan says, and what it names in the clinic.
type scanned struct {
	gs1.Scan
	medicine ledger.MedicineID
	pack     ledger.Pack
	lot      *ledger.Lot
}

func (s *scanned) lotID() ledger.LotID {
	if s.lot == nil {
		return ""
	}
	return s.lot.ID
}

// contradicts reports whether the scan names another expiry than its lot has.
func (s *scanned) contradicts() bool {
	if s.lot == nil || s.Expiry.IsZero() {
		return false
	}
	return fromScanned(s.Expiry) != s.lot.Expiry
}

func fromScanned(d gs1.Date) ledger.Date {
	day, err := ledger.NewDate(d.Year, d.Month, d.Day)
	if err != nil {
		return 0
	}
	return day
}

// scan reads a scan and looks up what it names.
func (f finder) scan(ctx context.Context, clinic ledger.ClinicID, field, text string) (*scanned, error) {
	read, err := gs1.Parse(text, f.queries.Clock().UTC().Year())
	if err != nil {
		return nil, unreadable(field, err)
	}
	found := &scanned{Scan: read}
	if found.Item() == "" {
		return found, nil
	}
	packs, pack, err := f.packOf(ctx, clinic, found.Item())
	if err != nil {
		return nil, err
	}
	items := []string{found.Item()}
	if packs != nil {
		found.medicine, found.pack = packs.MedicineID, pack
		for _, other := range packs.Packs {
			items = append(items, other.GTIN)
		}
	}
	if found.Lot == "" {
		return found, nil
	}
	found.lot, err = f.lotOf(ctx, clinic, found.medicine, items, found.Lot)
	if found.lot != nil && found.medicine == "" {
		found.medicine = found.lot.Medicine
	}
	return found, err
}

func unreadable(field string, err error) error {
	var wrong *gs1.Error
	if !errors.As(err, &wrong) {
		return err
	}
	return &ledger.Rejection{
		Reason: ledger.ReasonScanUnreadable, Field: field, Message: "The scan cannot be read: " + wrong.Message,
		Metadata: map[string]string{"position": fmt.Sprint(wrong.Position), "application_identifier": wrong.AI},
	}
}

// lotOf finds a lot by its number and one of several GTINs, the first of which
// counts most: among the lots of a medicine, or of all where none is named.
func (f finder) lotOf(ctx context.Context, clinic ledger.ClinicID, medicine ledger.MedicineID, items []string, number string) (*ledger.Lot, error) {
	var found *ledger.Lot
	best := len(items)
	for after := ledger.LotID(""); ; {
		lots, more, _, err := f.queries.ListLots(ctx, clinic, medicine, after, finderChunk, txn.ReadOptions{})
		if err != nil {
			return nil, err
		}
		for i := range lots {
			lot := &lots[i]
			after = lot.ID
			if lot.LotNumber != number {
				continue
			}
			at := slices.IndexFunc(items, func(item string) bool { return sameGTIN(lot.GTIN, item) })
			if at >= 0 && at < best {
				found, best = lot, at
			}
		}
		if !more {
			return found, nil
		}
	}
}
