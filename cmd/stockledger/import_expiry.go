package main

import (
	"context"
	"fmt"

	"google.golang.org/genproto/googleapis/type/date"

	"github.com/stockledger/stockledger/ledger"
)

// A lot has one expiry, and patients depend on it. Where a file gives another
// one than it gave before, or than the ledger has, nobody can tell from here
// which is right, so none of the lot's rows is received.

// barTwoExpiries bars the lots that the file itself gives two expiries.
func (im *stockImporter) barTwoExpiries(rows []stockRow) {
	first := make(map[string]stockRow)
	for _, r := range rows {
		before, seen := first[r.lot]
		if !seen {
			first[r.lot] = r
			continue
		}
		if before.expiry != r.expiry && im.barred[r.lot] == "" {
			im.barred[r.lot] = fmt.Sprintf("lot %q expires on %s in line %d and on %s in line %d: mend the one that is wrong",
				r.get("lot_number"), before.expiry, before.line, r.expiry, r.line)
		}
	}
}

// compareExpiries bars the lots to which the ledger gives another expiry.
func (im *stockImporter) compareExpiries(ctx context.Context, rows []stockRow) error {
	if !im.known {
		return nil
	}
	lots, err := im.client.lots(ctx, im.Clinic)
	if err != nil {
		return explain(err)
	}
	expiries := make(map[string]*date.Date, len(lots))
	for _, l := range lots {
		expiries[l.GetLotId()] = l.GetExpiry()
	}
	for _, r := range rows {
		id := im.lots[r.lot]
		has := expiries[id]
		if has == nil || sameDate(has, toDate(r.expiry)) || im.barred[r.lot] != "" {
			continue
		}
		im.barred[r.lot] = fmt.Sprintf("the clinic's lot %s (number %q) expires on %04d-%02d-%02d, and the file says %s: mend the file, or the lot with UpdateLot",
			id, r.get("lot_number"), has.GetYear(), has.GetMonth(), has.GetDay(), r.expiry)
	}
	return nil
}

func toDate(d ledger.Date) *date.Date {
	day := d.Time()
	return &date.Date{Year: int32(day.Year()), Month: int32(day.Month()), Day: int32(day.Day())}
}

func sameDate(a, b *date.Date) bool {
	return a.GetYear() == b.GetYear() && a.GetMonth() == b.GetMonth() && a.GetDay() == b.GetDay()
}
