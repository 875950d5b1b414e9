package txn

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// tally sums up rows in any order, for each span of sequences, so that two sets
// of rows can be compared without either being sorted or kept.
type tally map[ledger.Sequence]rowSum

// tallySpan is how many sequences share a sum.
const tallySpan = 1000

// rowSum is the number of rows and the sum of their hashes, word by word.
type rowSum struct {
	rows  int64
	words [sha256.Size / 8]uint64
}

func (t tally) add(sequence ledger.Sequence, digest [sha256.Size]byte) {
	sum := t[sequence/tallySpan]
	sum.rows++
	for i := range sum.words {
		sum.words[i] += binary.BigEndian.Uint64(digest[8*i:])
	}
	t[sequence/tallySpan] = sum
}

// rows is how many there are in all.
func (t tally) rows() (rows int64) {
	for _, sum := range t {
		rows += sum.rows
	}
	return rows
}

// differences returns the first few spans in which two tallies differ.
func (t tally) differences(other tally) map[ledger.Sequence]bool {
	all := make(map[ledger.Sequence]bool)
	for _, pair := range [][2]tally{{t, other}, {other, t}} {
		for span, sum := range pair[0] {
			if sum != pair[1][span] {
				all[span] = true
			}
		}
	}
	spans := slices.Sorted(maps.Keys(all))
	for _, span := range spans[min(suspectSpans, len(spans)):] {
		delete(all, span)
	}
	return all
}

// suspectSpans is how many spans of a tally are compared row by row.
const suspectSpans = 20

// digestOf hashes texts and numbers so that no two rows are written alike.
func digestOf(words []string, numbers ...int64) [sha256.Size]byte {
	b := make([]byte, 0, 256)
	for _, word := range words {
		b = binary.AppendUvarint(b, uint64(len(word)))
		b = append(b, word...)
	}
	for _, n := range numbers {
		b = binary.AppendVarint(b, n)
	}
	return sha256.Sum256(b)
}

func entryDigest(e *ledger.Entry) [sha256.Size]byte {
	return digestOf([]string{string(e.Location), string(e.Medicine), string(e.Lot)},
		int64(e.Sequence), int64(e.Line), int64(e.Debit), int64(e.Credit), e.Quantity,
		e.After.Available, e.After.Reserved, e.After.Pending, e.After.Quarantined, e.After.InTransit)
}

// entryKey is a place in the entries' primary key.
type entryKey struct {
	ledger.Shelf
	sequence ledger.Sequence
	line     int
}

func entryKeyOf(e *ledger.Entry) entryKey {
	return entryKey{ledger.Shelf{Location: e.Location, Medicine: e.Medicine}, e.Sequence, e.Line}
}

// eachEntry visits the stored entries in the order of their key: any other
// would have the server sort all of them.
func (v *verifier) eachEntry(ctx context.Context, visit func(*ledger.Entry)) error {
	for after := (entryKey{sequence: -1 << 63}); ; {
		s := selectFrom(`SELECT location_id, medicine_id, sequence, line, lot_id, debit, credit, quantity, available, reserved, pending, quarantined, in_transit
			FROM entries WHERE`).add(` clinic_id = ? AND (location_id, medicine_id, sequence, line) > (?, ?, ?, ?)`,
			v.clinic, after.Location, after.Medicine, after.sequence, after.line).
			add(` ORDER BY location_id, medicine_id, sequence, line LIMIT ?`, verifyChunk)
		entries, err := collect(ctx, v.tx, s, scanEntry)
		if err != nil {
			return err
		}
		for i := range entries {
			visit(&entries[i])
			after = entryKeyOf(&entries[i])
		}
		if len(entries) < verifyChunk {
			return nil
		}
	}
}

func scanEntry(rows pgx.Rows, e *ledger.Entry) error {
	b := &e.After
	return rows.Scan(&e.Location, &e.Medicine, &e.Sequence, &e.Line, &e.Lot, &e.Debit, &e.Credit, &e.Quantity,
		&b.Available, &b.Reserved, &b.Pending, &b.Quarantined, &b.InTransit)
}

// beyond says that the journal could not be replayed as far as a sequence.
func (v *verifier) beyond(sequence ledger.Sequence) bool {
	return !v.whole && sequence > v.state.Head().Sequence
}

// checkEntries compares the stored entries with the ones before them and with
// those that the journal posts.
func (v *verifier) checkEntries(ctx context.Context) error {
	err := v.eachEntry(ctx, func(e *ledger.Entry) {
		v.checkEntry(e)
		if !v.beyond(e.Sequence) {
			v.stored.add(e.Sequence, entryDigest(e))
		}
		if v.entries++; v.entries%verifyChunk == 0 {
			v.progress()
		}
	})
	if err != nil {
		return err
	}
	v.table("entries", v.posted.rows(), v.stored.rows())
	defer v.ended()
	if maps.Equal(v.posted, v.stored) {
		return nil
	}
	return v.explainEntries(ctx)
}

// lotEnd is what the last entry of a lot on a shelf left.
type lotEnd struct {
	balances ledger.Balances
	sequence ledger.Sequence
}

var heldBuckets = []ledger.Bucket{ledger.Available, ledger.Reserved, ledger.Pending, ledger.Quarantined, ledger.InTransit}

func (v *verifier) checkEntry(e *ledger.Entry) {
	key := lotKey{ledger.Shelf{Location: e.Location, Medicine: e.Medicine}, e.Lot}
	before := v.ends[key]
	for _, bucket := range heldBuckets {
		want, got := before.balances.Of(bucket)+flowInto(e, bucket), e.After.Of(bucket)
		if want != got {
			v.found(ruleSum, bucketName(key, bucket), e.Sequence, "the entries sum to %d, and the balance recorded is %d", want, got)
		}
	}
	// Later entries are judged by this one, so that an error is told once.
	v.ends[key] = lotEnd{e.After, e.Sequence}
	flows := v.flows[e.Lot]
	if flows == nil {
		flows = make(map[ledger.Bucket]int64)
		v.flows[e.Lot] = flows
	}
	flows[e.Debit] += e.Quantity
	flows[e.Credit] -= e.Quantity
}

// explainEntries names the entries in which the journal and the table differ.
func (v *verifier) explainEntries(ctx context.Context) error {
	spans := v.posted.differences(v.stored)
	posted := make(map[entryKey]ledger.Entry)
	err := v.again(ctx, func(effects *ledger.Effects) {
		for _, e := range effects.Entries {
			if spans[e.Sequence/tallySpan] {
				posted[entryKeyOf(&e)] = e
			}
		}
	})
	if err != nil {
		return err
	}
	err = v.eachEntry(ctx, func(e *ledger.Entry) {
		if !spans[e.Sequence/tallySpan] || v.beyond(e.Sequence) {
			return
		}
		key := entryKeyOf(e)
		want, ok := posted[key]
		delete(posted, key)
		switch account := lotName(key.Shelf, e.Lot); {
		case !ok:
			v.found(ruleEntries, account, e.Sequence, "an entry is stored that the journal does not post: %s", entryText(e))
		case want != *e:
			v.found(ruleEntries, lotName(key.Shelf, want.Lot), e.Sequence, "the journal posts the entry %s; stored is %s", entryText(&want), entryText(e))
		}
	})
	missing := slices.SortedFunc(maps.Values(posted), func(a, b ledger.Entry) int { return cmp.Compare(a.Sequence, b.Sequence) })
	for _, want := range missing {
		v.found(ruleEntries, lotName(entryKeyOf(&want).Shelf, want.Lot), want.Sequence, "the journal posts an entry that is not stored: %s", entryText(&want))
	}
	return err
}

func entryText(e *ledger.Entry) string {
	return fmt.Sprintf("line %d, lot %s, %d from %s to %s, leaving %+v", e.Line, e.Lot, e.Quantity, e.Credit, e.Debit, e.After)
}

// again replays the journal once more, as far as it went, to look at what only
// a sum was kept of.
func (v *verifier) again(ctx context.Context, visit func(*ledger.Effects)) error {
	state := ledger.NewState(v.clinic, time.LoadLocation)
	var broken error
	_, err := v.walk(ctx, func(row *journalRow) bool {
		if state.Head().Sequence == v.state.Head().Sequence {
			return false
		}
		record, err := openRecord(row.event, row.hash)
		if err != nil {
			broken = err
			return false
		}
		effects, err := ledger.Evolve(state, record)
		if err != nil {
			broken = err
			return false
		}
		state.Commit()
		visit(&effects)
		return true
	})
	return errors.Join(err, broken)
}
