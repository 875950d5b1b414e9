package txn

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// WebhookKey names a webhook.
type WebhookKey struct {
	Clinic ledger.ClinicID
	ID     string
}

// Webhook is where a clinic's events are sent, and how far that has come.
type Webhook struct {
	WebhookKey
	URL string
	// Filter says what is sent. Its Within is what whoever made the webhook could
	// see, and never grows.
	Filter EventFilter
	// SeesVariances tells that whoever made it could see the variances of blind
	// counts.
	SeesVariances bool
	// Secret is encrypted, as is OldSecret, which signs too until its time is over.
	Secret, OldSecret []byte
	OldSecretUntil    time.Time
	// Cursor is up to where everything was delivered.
	Cursor Place
	WebhookProgress
	// Version rises with each change that somebody makes. What a courier has
	// under way by an earlier version does not move the cursor.
	Version   int64
	CreatedBy ledger.Actor
	CreatedAt time.Time
}

// WebhookProgress is how deliveries go.
type WebhookProgress struct {
	DeliveredAt  time.Time // the last one; zero: none yet
	Attempts     int       // that failed, to deliver the event after the cursor
	FailingSince time.Time // zero where the last attempt did not fail
	LastFailure  string
	DueAt        time.Time // nothing is tried before
	PausedAt     time.Time // zero: it is not paused
	PauseReason  WebhookPause
}

// WebhookPause is why a webhook is paused.
type WebhookPause string

// The reasons.
const (
	PausedByHand   WebhookPause = "BY_HAND"
	PausedFailing  WebhookPause = "FAILING"   // for too long
	PausedGone     WebhookPause = "GONE"      // the receiver said so
	PausedNoSecret WebhookPause = "NO_SECRET" // it was encrypted under another key
	PausedRewound  WebhookPause = "REWOUND"   // to a journal that does not know its epoch
	notPaused      WebhookPause = ""
)

// maxFailureBytes bounds what is kept of why an attempt failed.
const maxFailureBytes = 300

// Resume lets deliveries go on at once.
func (p *WebhookProgress) Resume(now time.Time) {
	*p = WebhookProgress{DeliveredAt: p.DeliveredAt, DueAt: now, PauseReason: notPaused}
}

// Pause ends deliveries until somebody resumes them.
func (p *WebhookProgress) Pause(why WebhookPause, now time.Time) {
	p.PausedAt, p.PauseReason = now, why
}

// Errors of webhooks.
var (
	ErrWebhookNotFound = errors.New("txn: there is no such webhook")
	// ErrWebhookChanged means that the webhook has another version.
	ErrWebhookChanged = errors.New("txn: the webhook was changed meanwhile")
	// ErrTooManyWebhooks means that the clinic has [MaxWebhooks].
	ErrTooManyWebhooks = errors.New("txn: the clinic has as many webhooks as it may have")
)

// MaxWebhooks is how many a clinic may have. Each is sent every event by itself.
const MaxWebhooks = 20

// Webhooks keeps the webhooks of all clinics, each in its clinic's database.
type Webhooks struct{ directory *Directory }

// NewWebhooks returns the webhooks in the databases of a directory.
func NewWebhooks(d *Directory) *Webhooks { return &Webhooks{d} }

const (
	webhookColumns = `clinic_id, webhook_id, url, location_ids, medicine_ids, event_types, within_location_ids, sees_variances,
		secret, old_secret, old_secret_until, epoch, sequence, delivered_at, attempts, failing_since, last_failure, due_at, paused_at, pause_reason,
		version, created_by, created_at`
	selectWebhook      = `SELECT ` + webhookColumns + ` FROM webhooks WHERE clinic_id = $1 AND webhook_id = $2`
	lockWebhook        = selectWebhook + ` FOR UPDATE`
	selectWebhookNames = `SELECT webhook_id FROM webhooks WHERE clinic_id = $1`
	insertWebhook      = `INSERT INTO webhooks (` + webhookColumns + `)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)`
	updateWebhook = `UPDATE webhooks SET url = $4, location_ids = $5, medicine_ids = $6, event_types = $7, secret = $8, old_secret = $9, old_secret_until = $10,
		epoch = $11, sequence = $12, delivered_at = $13, attempts = $14, failing_since = $15, last_failure = $16, due_at = $17, paused_at = $18, pause_reason = $19,
		version = version + 1
		WHERE clinic_id = $1 AND webhook_id = $2 AND version = $3`
	// The cursor moves only from where it was when the courier began.
	moveWebhook = `UPDATE webhooks SET epoch = $6, sequence = $7, delivered_at = $8, attempts = $9, failing_since = $10, last_failure = $11, due_at = $12,
		paused_at = $13, pause_reason = $14
		WHERE clinic_id = $1 AND webhook_id = $2 AND version = $3 AND epoch = $4 AND sequence = $5`
	deleteWebhook       = `DELETE FROM webhooks WHERE clinic_id = $1 AND webhook_id = $2 AND version = $3`
	selectWebhooksAfter = `SELECT clinic_id, webhook_id, epoch, sequence, due_at, attempts, pause_reason FROM webhooks
		WHERE (clinic_id, webhook_id) > ($1, $2) ORDER BY clinic_id, webhook_id LIMIT $3`
	selectHeadsOf = `SELECT clinic_id, epoch, sequence FROM heads WHERE clinic_id = ANY($1)`
)

func scanWebhook(rows pgx.Rows, w *Webhook) error {
	var oldUntil, delivered, failing, paused *time.Time
	var within []string
	var locations, medicines []string
	err := rows.Scan(&w.Clinic, &w.ID, &w.URL, &locations, &medicines, &w.Filter.Names, &within, &w.SeesVariances,
		&w.Secret, &w.OldSecret, &oldUntil, &w.Cursor.Epoch, &w.Cursor.Sequence, &delivered, &w.Attempts, &failing, &w.LastFailure, &w.DueAt, &paused, &w.PauseReason,
		&w.Version, &w.CreatedBy, &w.CreatedAt)
	w.Filter.Locations, w.Filter.Medicines = named[ledger.LocationID](locations), named[ledger.MedicineID](medicines)
	if within != nil {
		w.Filter.Within = named[ledger.LocationID](within)
	}
	w.OldSecretUntil, w.DeliveredAt, w.FailingSince, w.PausedAt = timeOr(oldUntil), timeOr(delivered), timeOr(failing), timeOr(paused)
	return err
}

func timeOr(at *time.Time) time.Time {
	if at == nil {
		return time.Time{}
	}
	return *at
}

// named makes ids of texts; none is an empty list and not nil.
func named[T ~string](values []string) []T {
	list := make([]T, len(values))
	for i, value := range values {
		list[i] = T(value)
	}
	return list
}

// settings are what somebody decides about a webhook, as arguments.
func (w *Webhook) settings() []any {
	return []any{w.URL, texts(w.Filter.Locations), texts(w.Filter.Medicines), texts(w.Filter.Names)}
}

func (w *Webhook) secrets() []any { return []any{w.Secret, w.OldSecret, nullTime(w.OldSecretUntil)} }

func (p *WebhookProgress) arguments() []any {
	failure := strings.ToValidUTF8(p.LastFailure[:min(len(p.LastFailure), maxFailureBytes)], "")
	return []any{
		nullTime(p.DeliveredAt), p.Attempts, nullTime(p.FailingSince), failure, p.DueAt,
		nullTime(p.PausedAt), p.PauseReason,
	}
}

// Create records a webhook, or returns the one that has its id already. The error
// is ErrTooManyWebhooks, or one of the database.
func (s *Webhooks) Create(ctx context.Context, w Webhook) (is Webhook, created bool, err error) {
	w.Version = 1
	for {
		is, created, err = s.create(ctx, w)
		if _, duplicate := uniqueViolation(err); duplicate {
			continue // somebody makes the same at this moment
		}
		if err != nil {
			return Webhook{}, false, fmt.Errorf("txn: create a webhook: %w", err)
		}
		return is, created, nil
	}
}

func (s *Webhooks) create(ctx context.Context, w Webhook) (is Webhook, created bool, err error) {
	err = s.directory.write(ctx, w.Clinic, func(tx pgx.Tx) error {
		is, created, err = w, false, nil
		existing, err := readWebhook(ctx, tx, selectWebhook, w.WebhookKey)
		if !errors.Is(err, ErrWebhookNotFound) {
			is = existing
			return err
		}
		names := selectFrom(selectWebhookNames)
		names.args = []any{w.Clinic}
		all, err := collect(ctx, tx, names, func(rows pgx.Rows, id *string) error { return rows.Scan(id) })
		if err != nil {
			return err
		}
		if len(all) >= MaxWebhooks {
			return ErrTooManyWebhooks
		}
		var within []string
		if w.Filter.Within != nil {
			within = texts(w.Filter.Within)
		}
		args := append([]any{w.Clinic, w.ID}, w.settings()...)
		args = append(append(args, within, w.SeesVariances), w.secrets()...)
		args = append(append(args, w.Cursor.Epoch, w.Cursor.Sequence), w.arguments()...)
		created = true
		_, err = tx.Exec(ctx, insertWebhook, append(args, w.Version, w.CreatedBy, w.CreatedAt)...)
		return err
	})
	return is, created, err
}

// readWebhook returns a webhook, or ErrWebhookNotFound.
func readWebhook(ctx context.Context, tx pgx.Tx, sql string, key WebhookKey) (Webhook, error) {
	one := selectFrom(sql)
	one.args = []any{key.Clinic, key.ID}
	rows, err := collect(ctx, tx, one, scanWebhook)
	if err != nil {
		return Webhook{}, err
	}
	if len(rows) == 0 {
		return Webhook{}, ErrWebhookNotFound
	}
	return rows[0], nil
}

// Get returns a webhook, or ErrWebhookNotFound.
func (s *Webhooks) Get(ctx context.Context, key WebhookKey) (w Webhook, err error) {
	err = s.directory.read(ctx, key.Clinic, func(tx pgx.Tx) error {
		w, err = readWebhook(ctx, tx, selectWebhook, key)
		return err
	})
	if err != nil {
		return Webhook{}, fmt.Errorf("txn: read a webhook: %w", err)
	}
	return w, nil
}

// List returns all of a clinic's webhooks, of which there are at most
// [MaxWebhooks], by id.
func (s *Webhooks) List(ctx context.Context, clinic ledger.ClinicID) (list []Webhook, err error) {
	err = s.directory.read(ctx, clinic, func(tx pgx.Tx) error {
		list, err = collect(ctx, tx, selectFrom(`SELECT `+webhookColumns+` FROM webhooks WHERE`).add(` clinic_id = ? ORDER BY webhook_id`, clinic), scanWebhook)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("txn: list webhooks: %w", err)
	}
	return list, nil
}

// Change has a webhook changed by somebody, and returns it as it is then. change
// may be called many times; an error of it ends the matter. The clinic, the id,
// and what whoever made the webhook could see stay as they are.
func (s *Webhooks) Change(ctx context.Context, key WebhookKey, change func(*Webhook) error) (w Webhook, err error) {
	err = s.directory.write(ctx, key.Clinic, func(tx pgx.Tx) error {
		if w, err = readWebhook(ctx, tx, lockWebhook, key); err != nil {
			return err
		}
		if err := change(&w); err != nil {
			return err
		}
		args := append(append([]any{key.Clinic, key.ID, w.Version}, w.settings()...), w.secrets()...)
		args = append(append(args, w.Cursor.Epoch, w.Cursor.Sequence), w.arguments()...)
		w.Version++
		_, err := tx.Exec(ctx, updateWebhook, args...)
		return err
	})
	if err != nil {
		return Webhook{}, fmt.Errorf("txn: change a webhook: %w", err)
	}
	return w, nil
}

// Delete removes a webhook that has a certain version. The error is
// ErrWebhookChanged where it has another one or is not there.
func (s *Webhooks) Delete(ctx context.Context, w *Webhook) error {
	err := s.directory.write(ctx, w.Clinic, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, deleteWebhook, w.Clinic, w.ID, w.Version)
		if err == nil && tag.RowsAffected() == 0 {
			err = ErrWebhookChanged
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("txn: delete a webhook: %w", err)
	}
	return nil
}

// Move records how deliveries went: the cursor is at a place now, and they go as
// progress says. It reports whether that counts: not where somebody has changed
// the webhook, or another courier has moved its cursor, since w was read. Then
// nothing is recorded.
func (s *Webhooks) Move(ctx context.Context, w *Webhook, to Place, progress WebhookProgress) (moved bool, err error) {
	args := []any{w.Clinic, w.ID, w.Version, w.Cursor.Epoch, w.Cursor.Sequence, to.Epoch, to.Sequence}
	args = append(args, progress.arguments()...)
	err = s.directory.write(ctx, w.Clinic, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, moveWebhook, args...)
		moved = tag.RowsAffected() > 0
		return err
	})
	if err != nil {
		return false, fmt.Errorf("txn: move the cursor of a webhook: %w", err)
	}
	return moved, nil
}

// WebhookState says whether there is anything to do for a webhook.
type WebhookState struct {
	WebhookKey
	// Absent tells that the clinic can't be read there: it is being restored, or
	// leaves the shard or has left it.
	Absent bool
	Paused bool
	// Failing tells that the last attempt failed.
	Failing bool
	// Behind tells that the journal holds more than the cursor knows.
	Behind bool
	DueAt  time.Time
}

// Look tells how the next webhooks are, of all clinics and in the order of their
// keys, from after one of them. With an error come those of the shards that
// answered.
func (s *Webhooks) Look(ctx context.Context, after WebhookKey, limit int) ([]WebhookState, error) {
	list, err := merged(s.directory, limit, func(w WebhookState) string { return string(w.Clinic) + "\x00" + w.ID }, func(db *DB) ([]WebhookState, error) {
		return lookAtWebhooks(ctx, db, after, limit)
	})
	if err != nil {
		err = fmt.Errorf("txn: look at webhooks: %w", err)
	}
	return list, err
}

type webhookPlace struct {
	WebhookState
	cursor Place
}

func lookAtWebhooks(ctx context.Context, db *DB, after WebhookKey, limit int) (list []WebhookState, err error) {
	err = db.readTx(ctx, func(tx pgx.Tx) error {
		list = nil
		s := selectFrom(selectWebhooksAfter)
		s.args = []any{after.Clinic, after.ID, limit}
		rows, err := collect(ctx, tx, s, func(rows pgx.Rows, w *webhookPlace) error {
			var pause WebhookPause
			var attempts int
			err := rows.Scan(&w.Clinic, &w.ID, &w.cursor.Epoch, &w.cursor.Sequence, &w.DueAt, &attempts, &pause)
			w.Failing, w.Paused = attempts > 0, pause != notPaused
			return err
		})
		if err != nil || len(rows) == 0 {
			return err
		}
		clinics := make([]string, len(rows))
		for i, row := range rows {
			clinics[i] = string(row.Clinic)
		}
		s = selectFrom(selectHeadsOf)
		s.args = []any{clinics}
		heads := make(map[ledger.ClinicID]Place)
		_, err = collect(ctx, tx, s, func(rows pgx.Rows, _ *struct{}) error {
			var clinic ledger.ClinicID
			var head Place
			err := rows.Scan(&clinic, &head.Epoch, &head.Sequence)
			heads[clinic] = head
			return err
		})
		for _, row := range rows {
			head := heads[row.Clinic]
			row.Absent, row.Behind = absence(head.Epoch) != nil, head != row.cursor
			list = append(list, row.WebhookState)
		}
		return err
	})
	return list, err
}
