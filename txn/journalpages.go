package txn

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

const selectJournalUpTo = `SELECT event, hash FROM journal WHERE clinic_id = $1 AND sequence > $2 AND sequence <= $3 ORDER BY sequence LIMIT $4`

// journalPages reads a journal up to a head. What stands in a journal never
// changes, so it is read in many short transactions: load does not disturb the
// reader, a lost connection costs one page, and no old rows are kept alive.
type journalPages struct {
	db     *DB
	clinic ledger.ClinicID
	last   ledger.Sequence // that was read
	end    ledger.Sequence
	page   []storedEvent
}

type storedEvent struct{ event, hash []byte }

// next returns the next event as it is stored, with its hash, and io.EOF after
// the last one.
func (p *journalPages) next(ctx context.Context) ([]byte, ledger.Hash, error) {
	if p.last == p.end {
		return nil, ledger.Hash{}, io.EOF
	}
	if len(p.page) == 0 {
		if err := p.turn(ctx); err != nil {
			return nil, ledger.Hash{}, fmt.Errorf("read the journal: %w", err)
		}
	}
	p.last++
	if len(p.page) == 0 {
		return nil, ledger.Hash{}, p.violation(ruleGapFree, "the journal has no such row, and its head is at %d", p.end)
	}
	row := p.page[0]
	p.page = p.page[1:]
	if len(row.hash) != len(ledger.Hash{}) {
		return nil, ledger.Hash{}, p.violation(ruleReadable, "its hash has %d bytes", len(row.hash))
	}
	return row.event, ledger.Hash(row.hash), nil
}

func (p *journalPages) turn(ctx context.Context) error {
	return p.db.readTx(ctx, func(tx pgx.Tx) (err error) {
		s := selectFrom(selectJournalUpTo)
		s.args = []any{p.clinic, p.last, p.end, verifyChunk}
		p.page, err = collect(ctx, tx, s, func(rows pgx.Rows, r *storedEvent) error { return rows.Scan(&r.event, &r.hash) })
		return err
	})
}

func (p *journalPages) violation(invariant, format string, args ...any) error {
	return errors.New(Violation{
		Clinic: p.clinic, Account: "journal", Sequence: p.last, Invariant: invariant, Message: fmt.Sprintf(format, args...),
	}.String())
}
