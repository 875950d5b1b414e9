package txn

import (
	"bytes"
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/stockledger/stockledger/ledger"
)

// journalRow is a row of the journal as it is stored.
type journalRow struct {
	sequence    ledger.Sequence
	key         string
	kind        ledger.Kind
	recordedAt  pgtype.Timestamptz // which may be infinite
	event, hash []byte
}

const selectJournal = `SELECT sequence, idempotency_key, kind, recorded_at, event, hash FROM journal WHERE clinic_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3`

func scanJournalRow(rows pgx.Rows, r *journalRow) error {
	return rows.Scan(&r.sequence, &r.key, &r.kind, &r.recordedAt, &r.event, &r.hash)
}

// follows checks that a row follows from the record before it, and moves last to
// it.
func (r *journalRow) follows(last *Checkpoint) (*ledger.Event, *BrokenLink) {
	if next := last.Sequence + 1; r.sequence != next {
		return nil, &BrokenLink{next, fmt.Sprintf("the journal has no such row; the next one is %d", r.sequence), ruleGapFree}
	}
	hash := ledger.Chain(last.Hash, r.event)
	if !bytes.Equal(hash[:], r.hash) {
		return nil, &BrokenLink{r.sequence, fmt.Sprintf("its hash is %x, and its bytes and the hash before it make %s", r.hash, hash), ruleReplays}
	}
	event, err := ledger.DecodeEvent(r.event)
	if err != nil {
		return nil, &BrokenLink{r.sequence, fmt.Sprintf("the event cannot be read: %v", err), ruleReadable}
	}
	last.Sequence, last.Hash = r.sequence, hash
	return &event, nil
}

// contradicts compares the columns beside an event, which the chain does not
// cover, with what it says.
func (r *journalRow) contradicts(clinic ledger.ClinicID, event *ledger.Event) *BrokenLink {
	at := r.recordedAt
	if event.Clinic == clinic && event.Sequence == r.sequence && event.IdempotencyKey == r.key && event.Kind() == r.kind &&
		at.InfinityModifier == pgtype.Finite && event.At == ledger.InstantOf(at.Time) {
		return nil
	}
	return &BrokenLink{r.sequence, fmt.Sprintf("the columns (%s, %d, %s, %s, %s %s) differ from the event (%s, %d, %s, %s, %s)",
		clinic, r.sequence, r.key, r.kind, at.InfinityModifier, ledger.InstantOf(at.Time),
		event.Clinic, event.Sequence, event.IdempotencyKey, event.Kind(), event.At), ruleColumns}
}

// headDiffers compares a head with the end of the journal, and names the first
// command of which they say different things.
func (c Checkpoint) headDiffers(sequence ledger.Sequence, hash []byte) *BrokenLink {
	first := c.Sequence
	switch {
	case sequence != c.Sequence:
		first = min(sequence, c.Sequence) + 1
	case bytes.Equal(hash, c.Hash[:]):
		return nil
	}
	return &BrokenLink{first, fmt.Sprintf("the head says sequence %d, hash %x; the journal ends at sequence %d, hash %s",
		sequence, hash, c.Sequence, c.Hash), ruleHead}
}

// walk visits the journal's rows until one is refused.
func (v *verifier) walk(ctx context.Context, visit func(*journalRow) bool) (whole bool, err error) {
	// The lowest sequence a row could have, not 0: the table forbids others,
	// but what is verified is not trusted.
	return v.walkAfter(ctx, -1<<63, visit)
}

// walkAfter visits the rows after a sequence.
func (v *verifier) walkAfter(ctx context.Context, after ledger.Sequence, visit func(*journalRow) bool) (whole bool, err error) {
	for {
		s := selectFrom(selectJournal)
		s.args = []any{v.clinic, after, verifyChunk}
		rows, err := collect(ctx, v.tx, s, scanJournalRow)
		if err != nil {
			return false, err
		}
		for i := range rows {
			if !visit(&rows[i]) {
				return false, nil
			}
			after = rows[i].sequence
		}
		v.progress()
		if len(rows) < verifyChunk {
			return true, nil
		}
	}
}

// replay evolves the journal from nothing, as far as it goes.
func (v *verifier) replay(ctx context.Context) error {
	var err error
	v.whole, err = v.walk(ctx, v.link)
	return err
}

func (v *verifier) foundLink(account string, broken *BrokenLink) {
	v.found(broken.rule, account, broken.Sequence, "%s", broken.Problem)
}

// link checks one row of the journal and applies it.
func (v *verifier) link(row *journalRow) bool {
	if next := v.state.Head().Sequence + 1; row.sequence != next {
		v.found(ruleGapFree, "journal", next, "the journal has no such row; the next one is %d", row.sequence)
		return false
	}
	record, err := openRecord(row.event, row.hash)
	if err != nil {
		v.found(ruleReadable, "journal", row.sequence, "the event cannot be read: %v", err)
		return false
	}
	event := &record.Event
	if broken := row.contradicts(v.clinic, event); broken != nil {
		v.foundLink("journal", broken)
	}
	effects, err := ledger.Evolve(v.state, record)
	if err != nil {
		v.found(ruleReplays, "journal", row.sequence, "%v", err)
		return false
	}
	v.state.Commit()
	for i := range effects.Entries {
		v.posted.add(effects.Entries[i].Sequence, entryDigest(&effects.Entries[i]))
	}
	for _, hold := range closedRows(effects.Holds) {
		v.closed.add(hold.lastSequence, hold.digest())
	}
	v.file(effects.Documents)
	v.models.link(v.clinic, event)
	v.checkClearing(effects.Entries)
	return true
}

// checkClearing sums up what a command left in clearing.
func (v *verifier) checkClearing(entries []ledger.Entry) {
	type account struct {
		medicine ledger.MedicineID
		lot      ledger.LotID
	}
	var left map[account]int64
	for _, e := range entries {
		if e.Debit != ledger.Clearing && e.Credit != ledger.Clearing {
			continue
		}
		if left == nil {
			left = make(map[account]int64)
		}
		left[account{e.Medicine, e.Lot}] += flowInto(&e, ledger.Clearing)
	}
	for a, quantity := range left {
		if quantity != 0 {
			v.found(ruleClearing, fmt.Sprintf("medicine %s, lot %s, bucket %s", a.medicine, a.lot, ledger.Clearing),
				entries[0].Sequence, "%d units are left after the command", quantity)
		}
	}
}

// flowInto is what an entry adds to a bucket.
func flowInto(e *ledger.Entry, bucket ledger.Bucket) int64 {
	var flow int64
	if e.Debit == bucket {
		flow += e.Quantity
	}
	if e.Credit == bucket {
		flow -= e.Quantity
	}
	return flow
}
