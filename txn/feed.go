package txn

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// Feed tells when journals have grown: of this node's own commits at once, of
// those of other nodes by looking at the heads, every so often and of all
// clinics that are waited for at a time. It only says that there is something to
// read; what is read is the journal.
type Feed struct {
	directory *Directory
	every     time.Duration

	// told is told of this node's own commits, where not nil.
	told func(ledger.ClinicID)

	mu     sync.Mutex
	topics map[ledger.ClinicID]*topic
}

// topic is a clinic that somebody waits for.
type topic struct {
	head    Place
	waiting int
	grown   chan struct{} // closed, and replaced, when the head moves
}

// NewFeed returns a feed that looks at the heads every so often once it runs.
func NewFeed(d *Directory, every time.Duration) *Feed {
	return &Feed{directory: d, every: every, topics: make(map[ledger.ClinicID]*topic)}
}

// Tell has fn told of each clinic whose journal has grown by a command of this
// node, or of another one that it asked, whether or not anybody waits for it. fn
// must be quick. Tell must be called before the feed is used.
func (f *Feed) Tell(fn func(ledger.ClinicID)) { f.told = fn }

// committed takes in a command that this node executed.
func (f *Feed) committed(clinic ledger.ClinicID, head Place) {
	f.note(clinic, head)
	if f.told != nil {
		f.told(clinic)
	}
}

// Run looks at the heads of the clinics that are waited for, until ctx ends.
// failed is told of reads that failed; they are tried again. It is called
// concurrently where there are several shards.
func (f *Feed) Run(ctx context.Context, failed func(error)) {
	tick := time.NewTicker(f.every)
	defer tick.Stop()
	looks := f.directory.newRounds(f.look, failed)
	defer looks.wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			looks.begin(ctx, false)
		}
	}
}

// look reads the heads of a shard's clinics that are waited for.
func (f *Feed) look(ctx context.Context, db *DB) error {
	f.mu.Lock()
	clinics := make([]string, 0, len(f.topics))
	for clinic := range f.topics {
		clinics = append(clinics, string(clinic))
	}
	f.mu.Unlock()
	if len(clinics) == 0 {
		return nil
	}
	heads := make(map[ledger.ClinicID]Place, len(clinics))
	err := db.readTx(ctx, func(tx pgx.Tx) error {
		// What is left of a clinic that has moved has another epoch.
		s := selectFrom(`SELECT clinic_id, epoch, sequence FROM heads WHERE`).add(` clinic_id = ANY(?) AND epoch > 0`, clinics)
		_, err := collect(ctx, tx, s, func(rows pgx.Rows, _ *struct{}) error {
			var clinic ledger.ClinicID
			var head Place
			err := rows.Scan(&clinic, &head.Epoch, &head.Sequence)
			heads[clinic] = head
			return err
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("txn: look at heads: %w", err)
	}
	for clinic, head := range heads {
		f.note(clinic, head)
	}
	return nil
}

// note takes in that a clinic's journal has come to a place.
func (f *Feed) note(clinic ledger.ClinicID, head Place) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topics[clinic]
	if t == nil || head.Epoch < t.head.Epoch || head.Epoch == t.head.Epoch && head.Sequence <= t.head.Sequence {
		return
	}
	t.head = head
	close(t.grown)
	t.grown = make(chan struct{})
}

// heard takes in a command that another node executed. It is of the epoch that
// is known here, or the heads will tell.
func (f *Feed) heard(clinic ledger.ClinicID, sequence ledger.Sequence) {
	f.mu.Lock()
	t := f.topics[clinic]
	epoch := int64(0)
	if t != nil {
		epoch = t.head.Epoch
	}
	f.mu.Unlock()
	f.committed(clinic, Place{epoch, sequence})
}

// Wait returns when the clinic's journal may hold more than the place or was
// rewound, or when ctx ends, with its error. It may return early; who reads then
// finds nothing new and waits again.
func (f *Feed) Wait(ctx context.Context, clinic ledger.ClinicID, after Place) error {
	f.mu.Lock()
	t := f.topics[clinic]
	if t == nil {
		t = &topic{head: after, grown: make(chan struct{})}
		f.topics[clinic] = t
	}
	if t.head.Sequence > after.Sequence {
		f.mu.Unlock()
		return ctx.Err()
	}
	t.waiting++
	grown := t.grown
	f.mu.Unlock()
	defer f.leave(clinic)
	select {
	case <-grown:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// leave forgets a clinic that nobody waits for any more.
func (f *Feed) leave(clinic ledger.ClinicID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.topics[clinic]
	if t.waiting--; t.waiting == 0 {
		delete(f.topics, clinic)
	}
}
