package txn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/stockledger/stockledger/ledger"
)

// ruleFile is broken where a journal file is damaged.
const ruleFile = "file-is-whole"

// JournalSummary says what a journal holds.
type JournalSummary struct {
	Clinic ledger.ClinicID
	// Head is the end of the journal. A file's last record tells its time.
	Head     ledger.Head
	Commands int64
	Entries  int64
}

// replayer evolves a journal from nothing and looks at all that a journal shows
// by itself. Memory grows with the clinic's state, not with its journal.
type replayer struct {
	state   *ledger.State
	entries int64
	renewed ledger.Sequence // when renew last did something
	every   ledger.Sequence // after how many commands it does something
}

// renewEvery is often enough for memory and too seldom to be noticed.
const renewEvery = 50_000

// newReplayer begins a journal whose commands are of a certain epoch, which the
// journal itself doesn't know.
func newReplayer(clinic ledger.ClinicID, epoch int64) (*replayer, error) {
	head := ledger.NewState(clinic, time.LoadLocation).Head()
	head.Epoch = epoch
	state, err := ledger.Restore(clinic, time.LoadLocation, ledger.Snapshot{Head: head})
	if err != nil {
		return nil, fmt.Errorf("begin the journal of clinic %s: %w", clinic, err)
	}
	return &replayer{state: state, every: renewEvery}, nil
}

// renew makes the state anew from its documents, now and then. A state keeps
// some bytes of each hold that was closed until its deadline has passed and
// somebody asks for it; in a replay nobody does, and they would come to as much
// as the journal has holds.
func (r *replayer) renew() error {
	if r.state.Head().Sequence-r.renewed < r.every {
		return nil
	}
	state, err := ledger.Restore(r.state.Clinic(), time.LoadLocation, r.state.Snapshot())
	if err != nil {
		return fmt.Errorf("renew the state of clinic %s: %w", r.state.Clinic(), err)
	}
	r.state, r.renewed = state, state.Head().Sequence
	return nil
}

func (r *replayer) summary() JournalSummary {
	head := r.state.Head()
	return JournalSummary{Clinic: r.state.Clinic(), Head: head, Commands: int64(head.Sequence), Entries: r.entries}
}

func (r *replayer) violation(invariant string, sequence ledger.Sequence, format string, args ...any) *Violation {
	return &Violation{
		Clinic: r.state.Clinic(), Account: "journal", Sequence: sequence, Invariant: invariant, Message: fmt.Sprintf(format, args...),
	}
}

// apply takes the next record. Where it does not follow from those before, the
// state stays as it was.
func (r *replayer) apply(stored []byte, hash ledger.Hash) (ledger.Record, ledger.Effects, *Violation) {
	next := r.state.Head().Sequence + 1
	record, err := ledger.OpenRecord(stored, hash)
	if err != nil {
		return record, ledger.Effects{}, r.violation(ruleReadable, next, "the event cannot be read: %v", err)
	}
	if got := record.Event.Sequence; got != next {
		return record, ledger.Effects{}, r.violation(ruleGapFree, next, "the journal has no such record; the one in its place is %d", got)
	}
	effects, err := ledger.Evolve(r.state, record)
	if err != nil {
		return record, effects, r.violation(ruleReplays, next, "%v", err)
	}
	r.state.Commit()
	r.entries += int64(len(effects.Entries))
	clearing := verifier{clinic: r.state.Clinic()}
	if clearing.checkClearing(effects.Entries); clearing.count > 0 {
		return record, effects, &clearing.violations[0]
	}
	return record, effects, nil
}

// finish compares what was replayed with the head that the journal should have,
// whose time does not count, and its documents with each other.
func (r *replayer) finish(want ledger.Head) []Violation {
	var found []Violation
	got := r.state.Head()
	switch {
	case got.Sequence == 0 && want.Sequence == 0:
		found = append(found, *r.violation(ruleHead, 0, "the journal is empty"))
	case got.Sequence != want.Sequence || got.Hash != want.Hash:
		found = append(found, *r.violation(ruleHead, min(got.Sequence, want.Sequence)+1,
			"the head says sequence %d, hash %s; the journal ends at sequence %d, hash %s", want.Sequence, want.Hash, got.Sequence, got.Hash))
	}
	for _, broken := range r.state.Snapshot().CheckInvariants() {
		account, message, _ := strings.Cut(broken.Error(), ": ")
		v := r.violation(ruleConsistent, r.state.Head().Sequence, "%s", message)
		v.Account = account
		found = append(found, *v)
	}
	return found
}

// VerifyJournalOptions say what happens during [VerifyJournal]. Nothing is
// required.
type VerifyJournalOptions struct {
	// Report is called for each violation.
	Report func(Violation)
	// Progress is called every few thousand commands, with how many were read.
	Progress func(commands int64)
	// visit is called for each record that follows.
	visit func(*ledger.Record)
}

// VerifyJournal replays a journal file from nothing, without a database: the
// file's checksum, each hash, sequence and recorded balance, the head, and what
// the journal comes to. It ends at the first record that does not follow from
// those before, and reports it; nothing can be said of what comes after.
//
// violations is how many were reported. An error means that the file could not
// be read to its end, and is not one about its content.
func VerifyJournal(ctx context.Context, file io.Reader, options VerifyJournalOptions) (summary JournalSummary, violations int, err error) {
	report := func(v Violation) {
		violations++
		if options.Report != nil {
			options.Report(v)
		}
	}
	reader, err := NewJournalReader(file)
	if errors.Is(err, ErrDamaged) {
		report(Violation{Account: "journal", Invariant: ruleFile, Message: err.Error()})
		return summary, violations, nil
	}
	if err != nil {
		return summary, 0, fmt.Errorf("txn: verify a journal file: %w", err)
	}
	r, err := newReplayer(reader.Header().Clinic, 1)
	if err != nil {
		return summary, 0, fmt.Errorf("txn: verify a journal file: %w", err)
	}
	found, err := r.verify(ctx, reader, options)
	for _, v := range found {
		report(v)
	}
	summary = r.summary()
	summary.Head.Epoch = reader.Head().Epoch
	if err != nil {
		return summary, violations, fmt.Errorf("txn: verify a journal file: %w", err)
	}
	return summary, violations, nil
}

// verify replays a file to its end, or to the first violation.
func (r *replayer) verify(ctx context.Context, reader *JournalReader, options VerifyJournalOptions) ([]Violation, error) {
	for {
		stored, hash, err := reader.Next()
		last := r.state.Head().Sequence
		switch {
		case errors.Is(err, io.EOF):
			if options.Progress != nil {
				options.Progress(int64(last))
			}
			return r.finish(reader.Head()), nil
		case errors.Is(err, ErrDamaged):
			return []Violation{*r.violation(ruleFile, last+1, "%v", err)}, nil
		case err != nil:
			return nil, err
		}
		record, _, violation := r.apply(stored, hash)
		if violation != nil {
			return []Violation{*violation}, nil
		}
		if options.visit != nil {
			options.visit(&record)
		}
		if last%verifyChunk == 0 {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if err := r.renew(); err != nil {
				return nil, err
			}
			if options.Progress != nil {
				options.Progress(int64(last))
			}
		}
	}
}
