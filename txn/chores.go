package txn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// Submitter executes commands: an [Executor], or what brings them to one.
type Submitter interface {
	Submit(ctx context.Context, s Submission) ([]Verdict, error)
}

// Chores are what the background jobs do at one clinic. They change stock by
// commands alone, under keys that name what they are about: any number of nodes
// may do the same chore at a time, any number of times.
type Chores struct {
	directory *Directory
	queries   *Queries
	submit    Submitter
	log       *slog.Logger
}

// NewChores returns the chores at the clinics of a directory, whose commands go
// to a submitter.
func NewChores(d *Directory, submit Submitter, log *slog.Logger) *Chores {
	return &Chores{directory: d, queries: NewQueries(d), submit: submit, log: log}
}

// Errand is one chore at one clinic.
type Errand struct {
	Clinic ledger.ClinicID
	// Now is when the chore is done.
	Now time.Time
	// Term is that of the leader who does it: what it notes outside of journals
	// is refused with [ErrDeposed] once the term has ended. The zero Term is not
	// asked for.
	Term Term
}

// choreChunk is how many things a chore takes at a time.
const choreChunk = 500

var strong = ReadOptions{Consistency: Strong}

// order is a command that a chore gives, with what it is about.
type order struct {
	key  string
	body ledger.CommandBody
}

// give submits commands and counts those that were accepted. One that is
// rejected found its subject changed meanwhile: nothing is left to do about it.
func (c *Chores) give(ctx context.Context, clinic ledger.ClinicID, orders []order, rejected func(order, *ledger.Rejection)) (int64, error) {
	commands := make([]ledger.Command, len(orders))
	for i, o := range orders {
		commands[i] = ledger.Command{Clinic: clinic, Actor: ledger.SystemActor, IdempotencyKey: ledger.SystemKeyPrefix + o.key, Body: o.body}
	}
	verdicts, err := c.submit.Submit(ctx, Submission{Clinic: clinic, Commands: commands, Bulk: true})
	if err != nil {
		return 0, err
	}
	var accepted int64
	for i, v := range verdicts {
		var r *ledger.Rejection
		switch {
		case errors.As(v.Err, &r):
			rejected(orders[i], r)
		case v.Err != nil:
			return accepted, v.Err
		case !v.Replayed:
			accepted++
		}
	}
	return accepted, nil
}

// left logs a command that was rejected.
func (c *Chores) left(clinic ledger.ClinicID) func(order, *ledger.Rejection) {
	return func(o order, r *ledger.Rejection) {
		c.log.Info("a job leaves something as it is", "clinic", clinic, "key", o.key, "reason", r.Reason, "message", r.Message)
	}
}

// dueHold is a hold whose deadline has passed.
type dueHold struct {
	deadline time.Time
	id       ledger.HoldID
}

const selectDueHolds = `SELECT deadline, hold_id FROM holds
	WHERE clinic_id = $1 AND status = 1 AND line = 0 AND deadline < $2 AND (deadline, hold_id) > ($3, $4) ORDER BY deadline, hold_id LIMIT $5`

// ExpireHolds gives up the holds of a clinic whose deadlines have passed, with
// the transfers that they serve.
func (c *Chores) ExpireHolds(ctx context.Context, e Errand) (Looked, error) {
	var done Looked
	for after := (dueHold{}); ; {
		var due []dueHold
		err := c.directory.read(ctx, e.Clinic, func(tx pgx.Tx) (err error) {
			s := selectFrom(selectDueHolds)
			s.args = []any{e.Clinic, e.Now, after.deadline, after.id, choreChunk}
			due, err = collect(ctx, tx, s, func(rows pgx.Rows, h *dueHold) error { return rows.Scan(&h.deadline, &h.id) })
			return err
		})
		if err != nil || len(due) == 0 {
			return done, err
		}
		after = due[len(due)-1]
		accepted, err := c.expire(ctx, e.Clinic, due)
		done.Commands += accepted
		if err != nil || len(due) < choreChunk {
			return done, err
		}
	}
}

// expire gives up holds. The keys are those that the ledger itself uses where it
// needs the units before the job comes by.
func (c *Chores) expire(ctx context.Context, clinic ledger.ClinicID, due []dueHold) (int64, error) {
	orders := make([]order, len(due))
	for i, h := range due {
		orders[i] = order{"expire:" + string(h.id), &ledger.ExpireReservation{HoldID: h.id}}
	}
	var transfers []order
	accepted, err := c.give(ctx, clinic, orders, func(o order, r *ledger.Rejection) {
		id := r.Metadata["transfer_id"]
		if r.Reason != ledger.ReasonHoldOfTransfer || id == "" {
			c.left(clinic)(o, r)
			return
		}
		cancel := order{"cancel:" + id, &ledger.CancelTransfer{TransferID: ledger.TransferID(id), ReasonCode: ledger.ReasonCodeOverdue}}
		if !slices.ContainsFunc(transfers, func(o order) bool { return o.key == cancel.key }) {
			transfers = append(transfers, cancel)
		}
	})
	if err != nil || len(transfers) == 0 {
		return accepted, err
	}
	cancelled, err := c.give(ctx, clinic, transfers, c.left(clinic))
	return accepted + cancelled, err
}

// eachOpen visits a clinic's open documents of a kind.
func (c *Chores) eachOpen(ctx context.Context, clinic ledger.ClinicID, kind ledger.DocumentKind, visit func([]ledger.Document) error) error {
	for place := (*DocumentPlace)(nil); ; {
		documents, next, _, err := c.queries.Documents(ctx, clinic, DocumentFilter{Kind: kind, OpenOnly: true}, place, choreChunk, strong)
		if err != nil {
			return err
		}
		if err := visit(documents); err != nil || next == nil {
			return err
		}
		place = next
	}
}

// LapseApprovals ends the requests for a second person whose time has run out,
// and tells which reviews are overdue: what they are about has happened.
func (c *Chores) LapseApprovals(ctx context.Context, e Errand) (Looked, error) {
	var done Looked
	now := ledger.InstantOf(e.Now)
	err := c.eachOpen(ctx, e.Clinic, ledger.DocumentApproval, func(documents []ledger.Document) error {
		var orders []order
		for _, d := range documents {
			a := d.Body.(*ledger.Approval)
			switch {
			case a.Deadline >= now:
			case a.Review:
				done.Findings = append(done.Findings, Finding{
					Subject: "approval " + string(a.ApprovalID), Kind: FindingReviewOverdue, Sequence: d.OpenedSequence,
					Message: fmt.Sprintf("Somebody was to look at this %s of %s by %s. Approve or reject it.", a.Command, a.Requester, a.Deadline),
				})
			default:
				orders = append(orders, order{"lapse:" + string(a.ApprovalID), &ledger.LapseCommand{ApprovalID: a.ApprovalID}})
			}
		}
		if len(orders) == 0 {
			return nil
		}
		accepted, err := c.give(ctx, e.Clinic, orders, c.left(e.Clinic))
		done.Commands += accepted
		return err
	})
	return done, err
}

const selectUncollected = `SELECT document_id FROM documents WHERE clinic_id = $1 AND kind = 21 AND is_open AND due_at < $2 ORDER BY due_at, document_id LIMIT $3`

// reasonNotCollected is why the ledger cancels a dispensing by itself.
const reasonNotCollected = "NOT_COLLECTED"

// ReturnUncollected puts back what was laid ready at a clinic and not collected
// in time.
func (c *Chores) ReturnUncollected(ctx context.Context, e Errand) (Looked, error) {
	var done Looked
	for {
		var ids []ledger.DispensingID
		err := c.directory.read(ctx, e.Clinic, func(tx pgx.Tx) (err error) {
			s := selectFrom(selectUncollected)
			s.args = []any{e.Clinic, e.Now, choreChunk}
			ids, err = collect(ctx, tx, s, func(rows pgx.Rows, id *ledger.DispensingID) error { return rows.Scan(id) })
			return err
		})
		if err != nil || len(ids) == 0 {
			return done, err
		}
		orders := make([]order, len(ids))
		for i, id := range ids {
			orders[i] = order{"uncollected:" + string(id), &ledger.CancelDispensing{DispensingID: id, ReasonCode: reasonNotCollected}}
		}
		accepted, err := c.give(ctx, e.Clinic, orders, c.left(e.Clinic))
		done.Commands += accepted
		// Those that were accepted are gone from the list. Where none was, the
		// same ones would come again.
		if err != nil || len(ids) < choreChunk || accepted == 0 {
			return done, err
		}
	}
}

// The kinds of findings.
const (
	FindingTransferOverdue = "TRANSFER_OVERDUE"
	FindingReviewOverdue   = "REVIEW_OVERDUE"
	FindingLotExpired      = "LOT_EXPIRED"
	FindingLotExpires30    = "LOT_EXPIRES_WITHIN_30_DAYS"
	FindingLotExpires60    = "LOT_EXPIRES_WITHIN_60_DAYS"
	FindingLotExpires90    = "LOT_EXPIRES_WITHIN_90_DAYS"
	FindingStockLow        = "STOCK_LOW"
)

// CompleteTransfers closes the transfers of which nothing is under way any more,
// and tells which are overdue.
func (c *Chores) CompleteTransfers(ctx context.Context, e Errand) (Looked, error) {
	var done Looked
	now := ledger.InstantOf(e.Now)
	err := c.eachOpen(ctx, e.Clinic, ledger.DocumentTransfer, func(documents []ledger.Document) error {
		var orders []order
		for _, d := range documents {
			t := d.Body.(*ledger.Transfer)
			switch {
			case t.Status == ledger.TransferReceived:
				orders = append(orders, order{"complete:" + string(t.TransferID), &ledger.CompleteTransfer{TransferID: t.TransferID}})
			case t.Status == ledger.TransferInTransit && t.ReceiveBy != 0 && t.ReceiveBy < now:
				done.Findings = append(done.Findings, Finding{
					Subject: "transfer " + string(t.TransferID), Kind: FindingTransferOverdue, Sequence: d.LastSequence,
					Message: fmt.Sprintf("It was to arrive at %s by %s. Receive it, or complete it with a reason for what is missing.", t.To, t.ReceiveBy),
				})
			}
		}
		if len(orders) == 0 {
			return nil
		}
		accepted, err := c.give(ctx, e.Clinic, orders, c.left(e.Clinic))
		done.Commands += accepted
		return err
	})
	return done, err
}

// QuarantineExpired moves what is available of expired lots to quarantine, and
// tells which lots expire within 30, 60 and 90 days.
func (c *Chores) QuarantineExpired(ctx context.Context, e Errand) (Looked, error) {
	var done Looked
	var today ledger.Date
	window := func(day ledger.Date) (from, to ledger.Date) {
		today = day
		// From the first day that a lot can have: an old lot may come back, or
		// have been away while others were moved.
		return 1, day + 90
	}
	for place := (*ExpiringPlace)(nil); ; {
		rows, next, _, err := c.queries.Expiring(ctx, e.Clinic, StockFilter{}, window, place, choreChunk, strong)
		if err != nil {
			return done, err
		}
		var orders []order
		for i := range rows {
			row := &rows[i]
			if !row.Expired {
				done.Findings = append(done.Findings, expiring(row, today))
				continue
			}
			if row.Available == 0 {
				continue
			}
			// What is in it now: more may come later, under another sequence.
			orders = append(orders, order{
				fmt.Sprintf("expired:%d:%x", row.LastSequence, digestOf([]string{string(row.Location), string(row.Lot)}))[:expiredKey],
				&ledger.QuarantineLot{LotID: row.Lot, LocationID: row.Location, ReasonCode: FindingLotExpired},
			})
		}
		if len(orders) > 0 {
			accepted, err := c.give(ctx, e.Clinic, orders, c.left(e.Clinic))
			done.Commands += accepted
			if err != nil {
				return done, err
			}
		}
		if next == nil {
			return done, nil
		}
		place = next
	}
}

// expiredKey is the most bytes of such a key that count: the prefix and a
// sequence leave room for at least 80 bits of the digest.
const expiredKey = 48

// expiring is what is found of a lot that expires soon.
func expiring(row *StockRow, today ledger.Date) Finding {
	f := Finding{
		Subject: fmt.Sprintf("location %s, medicine %s, lot %s", row.Location, row.Medicine, row.Lot), Kind: FindingLotExpires90, Sequence: row.LastSequence,
		Message: fmt.Sprintf("%d units, last usable day %s.", row.OnHand(), row.Expiry),
	}
	switch days := row.Expiry - today; {
	case days <= 30:
		f.Kind = FindingLotExpires30
	case days <= 60:
		f.Kind = FindingLotExpires60
	}
	return f
}

// ListLowStock tells of what a clinic's locations hold too little.
func (c *Chores) ListLowStock(ctx context.Context, e Errand) (Looked, error) {
	var done Looked
	for after := (ledger.Shelf{}); ; {
		rows, more, _, err := c.queries.StockSummaries(ctx, e.Clinic, SummaryFilter{LowOnly: true}, after, choreChunk, ReadOptions{Consistency: Cached})
		if err != nil {
			return done, err
		}
		for i := range rows {
			row := &rows[i]
			after = row.Shelf
			done.Findings = append(done.Findings, Finding{
				Subject: fmt.Sprintf("location %s, medicine %s", row.Location, row.Medicine), Kind: FindingStockLow, Sequence: row.LowSequence,
				Message: fmt.Sprintf("%d units are available; the reorder level is %d and the minimum %d.", row.Available, row.Reorder, row.Min),
			})
		}
		if !more {
			return done, nil
		}
	}
}

// The conditions under which a chore has anything to do at a clinic h. OFFSET 0
// changes no answer: it keeps PostgreSQL from turning the question for a clinic
// into a join with what all clinics have, which statistics of a small table make
// look cheap.
const (
	holdsAreDue       = ` AND EXISTS (SELECT 1 FROM holds AS d WHERE d.clinic_id = h.clinic_id AND d.status = 1 AND d.line = 0 AND d.deadline < ? OFFSET 0)`
	dispensingsAreDue = ` AND EXISTS (SELECT 1 FROM documents AS d WHERE d.clinic_id = h.clinic_id AND d.kind = 21 AND d.is_open AND d.due_at < ? OFFSET 0)`
	approvalsAreOpen  = ` AND EXISTS (SELECT 1 FROM documents AS d WHERE d.clinic_id = h.clinic_id AND d.kind = 4 AND d.is_open OFFSET 0)`
	transfersAreOpen  = ` AND EXISTS (SELECT 1 FROM documents AS d WHERE d.clinic_id = h.clinic_id AND d.kind = 1 AND d.is_open OFFSET 0)`
)

// Clinics lists clinics by their ids, from after one: all that have a journal.
func (c *Chores) Clinics(ctx context.Context, _ time.Time, after ledger.ClinicID, limit int) ([]ledger.ClinicID, error) {
	return c.clinics(ctx, after, limit, "")
}

// WithHoldsDue lists the clinics where holds are overdue.
func (c *Chores) WithHoldsDue(ctx context.Context, now time.Time, after ledger.ClinicID, limit int) ([]ledger.ClinicID, error) {
	return c.clinics(ctx, after, limit, holdsAreDue, now)
}

// WithDispensingsDue lists the clinics where dispensings were not collected in
// time.
func (c *Chores) WithDispensingsDue(ctx context.Context, now time.Time, after ledger.ClinicID, limit int) ([]ledger.ClinicID, error) {
	return c.clinics(ctx, after, limit, dispensingsAreDue, now)
}

// WithApprovals lists the clinics where commands wait for a second person.
func (c *Chores) WithApprovals(ctx context.Context, _ time.Time, after ledger.ClinicID, limit int) ([]ledger.ClinicID, error) {
	return c.clinics(ctx, after, limit, approvalsAreOpen)
}

// WithTransfers lists the clinics where transfers are open.
func (c *Chores) WithTransfers(ctx context.Context, _ time.Time, after ledger.ClinicID, limit int) ([]ledger.ClinicID, error) {
	return c.clinics(ctx, after, limit, transfersAreOpen)
}

func (c *Chores) clinics(ctx context.Context, after ledger.ClinicID, limit int, condition string, args ...any) (ids []ledger.ClinicID, err error) {
	ids, err = merged(c.directory, limit, func(id ledger.ClinicID) string { return string(id) }, func(db *DB) (ids []ledger.ClinicID, err error) {
		err = db.readTx(ctx, func(tx pgx.Tx) error {
			s := selectFrom(`SELECT h.clinic_id FROM heads AS h WHERE`).add(` h.clinic_id > ? AND h.epoch > 0`, after).
				add(condition, args...).add(` ORDER BY h.clinic_id LIMIT ?`, limit)
			ids, err = collect(ctx, tx, s, func(rows pgx.Rows, id *ledger.ClinicID) error { return rows.Scan(id) })
			return err
		})
		return ids, err
	})
	if err = c.without(err); err != nil {
		return nil, fmt.Errorf("txn: list clinics: %w", err)
	}
	return ids, nil
}

// without forgives that some of several shards are away: the others' clinics
// must not wait for them.
func (c *Chores) without(err error) error {
	if len(c.directory.ids) == 1 {
		return err
	}
	all, several := err.(interface{ Unwrap() []error })
	if !several {
		return err
	}
	for _, one := range all.Unwrap() {
		if !isUnavailable(one) {
			return err
		}
	}
	c.log.Warn("a job passes over the clinics of a shard that is away", "error", err)
	return nil
}

// newDayChunk is how many clinics are looked through at a time for those where
// a day has begun.
const newDayChunk = 1000

// clinicZone is a clinic with its time zone.
type clinicZone struct {
	id        ledger.ClinicID
	zone      string
	restoring bool
}

// WithNewDay lists the clinics at which a day began after one moment and not
// after another; all, where the first is zero. Those that are being restored are
// listed as well: nobody knows which days they miss meanwhile.
func (c *Chores) WithNewDay(ctx context.Context, from, to time.Time, after ledger.ClinicID, limit int) ([]ledger.ClinicID, error) {
	var found []ledger.ClinicID
	for {
		clinics, more, err := c.zones(ctx, after, newDayChunk)
		if err != nil {
			return nil, fmt.Errorf("txn: list clinics: %w", err)
		}
		for _, z := range clinics {
			after = z.id
			zone := zoneNamed(z.zone)
			if from.IsZero() || z.restoring || ledger.DateOf(from.In(zone)) != ledger.DateOf(to.In(zone)) {
				if found = append(found, z.id); len(found) == limit {
					return found, nil
				}
			}
		}
		if !more {
			return found, nil
		}
	}
}

// zones reads the next clinics with their time zones, and says whether there may
// be more.
func (c *Chores) zones(ctx context.Context, after ledger.ClinicID, limit int) ([]clinicZone, bool, error) {
	clinics, err := merged(c.directory, limit, func(z clinicZone) string { return string(z.id) }, func(db *DB) (clinics []clinicZone, err error) {
		err = db.readTx(ctx, func(tx pgx.Tx) error {
			s := selectFrom(`SELECT h.clinic_id, COALESCE(c.time_zone, ''), h.epoch = 0 FROM heads AS h LEFT JOIN clinics AS c ON c.clinic_id = h.clinic_id AND`).
				add(` c.clinic_id > ? WHERE h.clinic_id > ? AND h.epoch >= 0 ORDER BY h.clinic_id LIMIT ?`, after, after, limit)
			clinics, err = collect(ctx, tx, s, func(rows pgx.Rows, z *clinicZone) error { return rows.Scan(&z.id, &z.zone, &z.restoring) })
			return err
		})
		return clinics, err
	})
	more := len(clinics) == limit
	return eachOnce(clinics), more, c.without(err)
}

// eachOnce joins the rows of a clinic that is being copied to another shard: it
// is away only if it is away from both.
func eachOnce(clinics []clinicZone) []clinicZone {
	once := clinics[:0]
	for _, z := range clinics {
		last := len(once) - 1
		switch {
		case last < 0 || once[last].id != z.id:
			once = append(once, z)
		case !z.restoring:
			once[last] = z
		}
	}
	return once
}
