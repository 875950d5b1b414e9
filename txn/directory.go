package txn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// ShardID names a database that holds clinics.
type ShardID string

// MainShard is the database that holds the directory, and clinics too.
const MainShard ShardID = "shard-1"

const (
	directorySelect = `SELECT shard_id FROM clinic_directory WHERE clinic_id = $1`
	directoryInsert = `INSERT INTO clinic_directory (clinic_id, shard_id, created_at) VALUES ($1, $2, now())`
)

// Directory maps each clinic to its shard, and has the shards that this process
// reaches. What it has found once it keeps until a shard says that the clinic is
// not there: a clinic that leaves a shard is sealed there first, and for good.
type Directory struct {
	main   *DB
	region string
	ids    []ShardID // main first
	shards map[ShardID]*DB
	known  sync.Map // ledger.ClinicID → ShardID

	looking sync.Mutex // for the regions
	regions atomic.Pointer[regions]
}

// regions are those of the shards, as of a moment.
type regions struct {
	of map[ShardID]string
	at time.Time
}

// NewDirectory returns a directory in the database that holds it, which is a
// shard too.
func NewDirectory(main *DB) *Directory {
	return &Directory{main: main, ids: []ShardID{MainShard}, shards: map[ShardID]*DB{MainShard: main}}
}

// OpenDirectory opens the database that holds the directory, and the shards
// beside it by their ids. It does not migrate them. The error is ErrUnavailable
// where one can't be reached and may not be away, or says which is not the shard
// that it should be.
func OpenDirectory(ctx context.Context, cfg Config, shards map[ShardID]string) (*Directory, error) {
	main, err := Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	d := NewDirectory(main)
	if err := d.openShards(ctx, cfg, shards); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Directory) openShards(ctx context.Context, cfg Config, shards map[ShardID]string) error {
	for _, id := range slices.Sorted(maps.Keys(shards)) {
		cfg.DatabaseURL = shards[id]
		if err := d.openShard(ctx, cfg, id); err != nil {
			return fmt.Errorf("shard %s: %w", id, err)
		}
	}
	return nil
}

func (d *Directory) openShard(ctx context.Context, cfg Config, id ShardID) error {
	if err := d.isNew(id); err != nil {
		return err
	}
	err := d.reachShard(ctx, cfg, id)
	if !cfg.ShardsMayBeAway || !isAway(err) || ctx.Err() != nil {
		return err
	}
	d.main.cfg.Log.Warn("a shard cannot be reached; its clinics are unavailable until it can", "shard", id, "error", err)
	db, err := openAway(ctx, cfg, id, d.main)
	if err == nil {
		d.add(id, db)
	}
	return err
}

// reachTimeout is how long a shard may take to say that it is there.
const reachTimeout = 10 * time.Second

func (d *Directory) reachShard(ctx context.Context, cfg Config, id ShardID) error {
	if cfg.ShardsMayBeAway {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, reachTimeout)
		defer cancel()
	}
	db, err := Open(ctx, cfg)
	if err != nil {
		return err
	}
	if err := d.Reach(ctx, id, db); err != nil {
		db.Close()
		return err
	}
	return nil
}

// isAway reports whether a shard was not reached for a reason that may pass. A
// refused password or a database that does not exist is somebody's mistake.
func isAway(err error) bool {
	if pg, ok := pgError(err); ok && (strings.HasPrefix(pg.Code, "28") || pg.Code == codeNoSuchDatabase) {
		return false
	}
	return errors.Is(err, ErrUnavailable) || errors.Is(err, context.DeadlineExceeded)
}

// Close closes the databases.
func (d *Directory) Close() {
	for _, db := range d.shards {
		db.Close()
	}
}

// Reach adds a shard that this process reaches. It must be called before the
// directory is used. The error says that the database is another shard, or none
// yet.
func (d *Directory) Reach(ctx context.Context, id ShardID, db *DB) error {
	if err := d.isNew(id); err != nil {
		return err
	}
	if err := sameKind(db.server, d.main.server); err != nil {
		return err
	}
	if err := db.readTx(ctx, func(tx pgx.Tx) error { return checkShard(ctx, tx, id) }); err != nil {
		return err
	}
	d.add(id, db)
	return nil
}

// sameKind refuses a shard whose server is of another kind than the directory's:
// one process speaks to all of them alike.
func sameKind(shard, main Server) error {
	if shard.Kind != main.Kind {
		return fmt.Errorf("the server is %s, and that of the directory is %s; all must be of one kind", shard.Kind, main.Kind)
	}
	return nil
}

func (d *Directory) isNew(id ShardID) error {
	if d.shards[id] != nil {
		return fmt.Errorf("shard %s is named twice; %s is the main database", id, MainShard)
	}
	return nil
}

func (d *Directory) add(id ShardID, db *DB) {
	d.ids = append(d.ids, id)
	d.shards[id] = db
}

// rowQuerier is a connection, a pool of them, or a transaction.
type rowQuerier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// checkShard makes sure that a database is a shard, at this release's schema.
func checkShard(ctx context.Context, db rowQuerier, id ShardID) error {
	current, wanted, err := schemaVersion(ctx, db)
	if err != nil {
		return err
	}
	if current < wanted {
		return fmt.Errorf("its schema is at version %d and this release needs %d: run \"stockledger migrate up\" with --shard", current, wanted)
	}
	is, err := shardIdentity(ctx, db)
	switch {
	case err != nil:
		return err
	case is == "":
		return fmt.Errorf("the database is no shard yet: run \"stockledger shard add %s\"", id)
	case is != id:
		return fmt.Errorf("the database is shard %s, and not %s", is, id)
	}
	return nil
}

// Near has new clinics placed on shards of a region, where there are any.
func (d *Directory) Near(region string) { d.region = region }

// What [Directory.Region] asks the database is asked at most every regionsKept,
// and within regionTimeout.
const (
	regionsKept   = 30 * time.Second
	regionTimeout = 2 * time.Second
)

// Region is the region of a clinic's shard, as far as this process has heard;
// empty where no shard has one, or the clinic is nowhere yet.
func (d *Directory) Region(clinic ledger.ClinicID) string {
	ctx, cancel := context.WithTimeout(context.Background(), regionTimeout)
	defer cancel()
	of := d.regionsOf(ctx)
	if len(of) == 0 {
		return ""
	}
	shard, err := d.Shard(ctx, clinic)
	if err != nil {
		return ""
	}
	return of[shard]
}

// regionsOf returns the regions of the shards that have one. Who finds them old
// looks, and nobody waits for that but the first.
func (d *Directory) regionsOf(ctx context.Context) map[ShardID]string {
	known := d.regions.Load()
	if known != nil && time.Since(known.at) < regionsKept {
		return known.of
	}
	if known == nil {
		d.looking.Lock()
	} else if !d.looking.TryLock() {
		return known.of
	}
	defer d.looking.Unlock()
	if newer := d.regions.Load(); newer != known {
		return newer.of
	}
	now := &regions{of: make(map[ShardID]string), at: time.Now()}
	err := d.main.readTx(ctx, func(tx pgx.Tx) error {
		clear(now.of)
		_, err := collect(ctx, tx, selectFrom(selectRegions), func(rows pgx.Rows, s *Shard) error {
			err := rows.Scan(&s.ID, &s.Region)
			now.of[s.ID] = s.Region
			return err
		})
		return err
	})
	if err != nil && known != nil {
		now.of = known.of
	}
	d.regions.Store(now)
	return now.of
}

// Main is the database that holds the directory.
func (d *Directory) Main() *DB { return d.main }

// Shards are the shards that this process reaches, the main one first.
func (d *Directory) Shards() []ShardID { return slices.Clone(d.ids) }

// On returns the database of a shard, nil where this process does not reach it.
func (d *Directory) On(id ShardID) *DB { return d.shards[id] }

// gather reads from all shards side by side. With an error come the answers of
// those that gave one, in the order of the shards.
func gather[T any](d *Directory, read func(*DB) (T, error)) ([]T, error) {
	answers, failed := make([]T, len(d.ids)), make([]error, len(d.ids))
	var reading sync.WaitGroup
	for i, id := range d.ids {
		reading.Go(func() {
			var err error
			if answers[i], err = read(d.shards[id]); err != nil {
				failed[i] = fmt.Errorf("shard %s: %w", id, err)
			}
		})
	}
	reading.Wait()
	given := answers[:0]
	for i, answer := range answers {
		if failed[i] == nil {
			given = append(given, answer)
		}
	}
	return given, errors.Join(failed...) // one list of them all, which is looked through
}

// merged reads the next rows from all shards, in the order of their keys, which
// begin with the clinic. With an error come the rows of those shards that
// answered.
func merged[T any](d *Directory, limit int, key func(T) string, read func(*DB) ([]T, error)) ([]T, error) {
	some, err := gather(d, read)
	all := slices.Concat(some...)
	slices.SortStableFunc(all, func(a, b T) int { return cmp.Compare(key(a), key(b)) })
	return all[:min(limit, len(all))], err
}

// rounds are looks at all shards, again and again. One that is slow or away
// holds up no other: while a look at it has not ended, no other one begins.
type rounds struct {
	directory *Directory
	look      func(context.Context, *DB) error
	failed    func(error)
	shards    []lookState // by the shards' order
	looking   sync.WaitGroup
}

// lookState says how it goes with the look at a shard.
type lookState struct {
	mu          sync.Mutex
	busy, again bool
}

// newRounds returns rounds that tell failed of looks that failed before their ctx
// ended.
func (d *Directory) newRounds(look func(context.Context, *DB) error, failed func(error)) *rounds {
	return &rounds{directory: d, look: look, failed: failed, shards: make([]lookState, len(d.ids))}
}

// begin begins a round. A shard whose last look has not ended is left out; if
// something is new, it is looked at again when that has ended.
func (r *rounds) begin(ctx context.Context, isNew bool) {
	for i, id := range r.directory.ids {
		s := &r.shards[i]
		if s.begin(isNew) {
			r.looking.Go(func() {
				for again := true; again; again = s.end() {
					if err := r.look(ctx, r.directory.shards[id]); err != nil && ctx.Err() == nil {
						r.failed(fmt.Errorf("shard %s: %w", id, err))
					}
				}
			})
		}
	}
}

// begin reports whether a look may begin.
func (s *lookState) begin(isNew bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy {
		s.again = s.again || isNew
		return false
	}
	s.busy = true
	return true
}

// end reports whether another look is due.
func (s *lookState) end() (again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	again, s.again = s.again, false
	s.busy = again
	return again
}

// wait returns when all looks have ended.
func (r *rounds) wait() { r.looking.Wait() }

// Shard returns the clinic's shard, or a *[ledger.Rejection] with
// CLINIC_NOT_FOUND.
func (d *Directory) Shard(ctx context.Context, clinic ledger.ClinicID) (ShardID, error) {
	if shard, ok := d.known.Load(clinic); ok {
		return shard.(ShardID), nil
	}
	var shard ShardID
	err := d.main.readTx(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, directorySelect, clinic).Scan(&shard)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return "", clinicNotFound(clinic)
	}
	if err != nil {
		return "", fmt.Errorf("txn: look up the shard of clinic %s: %w", clinic, err)
	}
	d.known.Store(clinic, shard)
	return shard, nil
}

// DB returns the database that holds a clinic. The error is a *[ledger.Rejection]
// with CLINIC_NOT_FOUND, ErrUnavailable where this process does not reach the
// shard, or one of the database.
func (d *Directory) DB(ctx context.Context, clinic ledger.ClinicID) (*DB, error) {
	shard, err := d.Shard(ctx, clinic)
	if err != nil {
		return nil, err
	}
	db := d.shards[shard]
	if db == nil {
		return nil, d.unreached(clinic, shard)
	}
	return db, nil
}

func (d *Directory) unreached(clinic ledger.ClinicID, shard ShardID) error {
	return fmt.Errorf("%w: clinic %s lives on shard %s, which this node does not reach; give it to --shard", ErrUnavailable, clinic, shard)
}

// likely is DB without a look-up where there is but one shard.
func (d *Directory) likely(ctx context.Context, clinic ledger.ClinicID) (*DB, error) {
	if len(d.ids) == 1 {
		return d.main, nil
	}
	return d.DB(ctx, clinic)
}

// at runs fn on the database of a clinic, and once more on another one where the
// clinic has moved there.
func (d *Directory) at(ctx context.Context, clinic ledger.ClinicID, fn func(*DB) error) error {
	db, err := d.likely(ctx, clinic)
	if err != nil {
		return err
	}
	err = fn(db)
	if !errors.Is(err, ErrMoving) {
		return err
	}
	now, failed := d.Moved(ctx, clinic)
	if failed != nil {
		return failed
	}
	if now == db {
		return err // it is still on its way
	}
	return fn(now)
}

// read runs fn in a transaction that reads a clinic's database.
func (d *Directory) read(ctx context.Context, clinic ledger.ClinicID, fn func(pgx.Tx) error) error {
	return d.readOn(ctx, clinic, func(_ *DB, tx pgx.Tx) error { return fn(tx) })
}

func (d *Directory) readOn(ctx context.Context, clinic ledger.ClinicID, fn func(*DB, pgx.Tx) error) error {
	return d.at(ctx, clinic, func(db *DB) error {
		return db.readTx(ctx, func(tx pgx.Tx) error {
			if err := unsealed(ctx, tx, clinic); err != nil {
				return err
			}
			return fn(db, tx)
		})
	})
}

// write runs fn in a transaction that writes what no head guards to a clinic's
// database.
func (d *Directory) write(ctx context.Context, clinic ledger.ClinicID, fn func(pgx.Tx) error) error {
	return d.writeOn(ctx, clinic, func(_ *DB, tx pgx.Tx) error { return fn(tx) })
}

func (d *Directory) writeOn(ctx context.Context, clinic ledger.ClinicID, fn func(*DB, pgx.Tx) error) error {
	return d.at(ctx, clinic, func(db *DB) error {
		return db.InTx(ctx, func(tx pgx.Tx) error {
			if err := unsealed(ctx, tx, clinic); err != nil {
				return err
			}
			return fn(db, tx)
		})
	})
}

const selectSealed = `SELECT EXISTS (SELECT 1 FROM sealed_clinics WHERE clinic_id = $1)`

// unsealed returns ErrMoving for a clinic that leaves the shard or has left it.
// Whoever writes without the head's lock has to ask, in the same transaction.
func unsealed(ctx context.Context, tx pgx.Tx, clinic ledger.ClinicID) error {
	var sealed bool
	if err := tx.QueryRow(ctx, selectSealed, clinic).Scan(&sealed); err != nil {
		return fmt.Errorf("look whether clinic %s is sealed: %w", clinic, err)
	}
	if sealed {
		return ErrMoving
	}
	return nil
}

// Moved returns the database that holds a clinic now, which was not where the
// directory said.
func (d *Directory) Moved(ctx context.Context, clinic ledger.ClinicID) (*DB, error) {
	d.known.Delete(clinic)
	return d.DB(ctx, clinic)
}

// assign gives a clinic a place unless it has one. A place without a clinic
// does no harm: its journal is empty.
func (d *Directory) assign(ctx context.Context, clinic ledger.ClinicID) (*DB, error) {
	db, err := d.DB(ctx, clinic)
	if !isAbsent(err) {
		return db, err
	}
	shard, err := d.place(ctx)
	if err != nil {
		return nil, err
	}
	return d.settle(ctx, clinic, shard)
}

func isAbsent(err error) bool {
	var absent *ledger.Rejection
	return errors.As(err, &absent)
}

// future returns the shard that holds a clinic, or would if it were created now.
func (d *Directory) future(ctx context.Context, clinic ledger.ClinicID) (ShardID, error) {
	shard, err := d.Shard(ctx, clinic)
	if isAbsent(err) {
		return d.place(ctx)
	}
	return shard, err
}

// settle writes down which shard a clinic is on, unless somebody else has, and
// returns the database that it is on.
func (d *Directory) settle(ctx context.Context, clinic ledger.ClinicID, shard ShardID) (*DB, error) {
	err := d.main.InTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, directoryInsert, clinic, shard)
		return err
	})
	if _, taken := uniqueViolation(err); err != nil && !taken && !isAmbiguous(err) {
		return nil, fmt.Errorf("txn: assign clinic %s to a shard: %w", clinic, err)
	}
	// Whoever assigned it, and whether or not this attempt did, it is there now.
	return d.DB(ctx, clinic)
}

// locate returns the database that executes a submission.
func (d *Directory) locate(ctx context.Context, s Submission) (*DB, error) {
	for _, c := range s.Commands {
		if c.Body.Kind() == ledger.KindCreateClinic {
			return d.assign(ctx, s.Clinic)
		}
	}
	return d.DB(ctx, s.Clinic)
}

// place chooses the shard of a new clinic: one that is open, of this region
// where there is any, and of those the one with the fewest clinics.
func (d *Directory) place(ctx context.Context) (ShardID, error) {
	if len(d.ids) == 1 {
		return MainShard, nil
	}
	list, err := d.List(ctx)
	if err != nil {
		return "", err
	}
	var best *Shard
	for i := range list {
		s := &list[i]
		if !s.Open || d.shards[s.ID] == nil {
			continue
		}
		near, nearest := s.Region == d.region, best != nil && best.Region == d.region
		if best == nil || near && !nearest || near == nearest && s.Clinics < best.Clinics {
			best = s
		}
	}
	if best == nil {
		return "", fmt.Errorf("%w: no shard that this node reaches takes new clinics; run \"stockledger shard open\"", ErrUnavailable)
	}
	return best.ID, nil
}

// Shard is a database that holds clinics.
type Shard struct {
	ID     ShardID
	Region string
	// Open tells that new clinics are placed there.
	Open    bool
	Clinics int64
}

const (
	selectShards = `SELECT s.shard_id, s.region, s.is_open, (SELECT count(*) FROM clinic_directory AS c WHERE c.shard_id = s.shard_id)
		FROM shards AS s ORDER BY s.shard_id`
	selectRegions  = `SELECT shard_id, region FROM shards WHERE region <> ''`
	insertShard    = `INSERT INTO shards (shard_id, region, is_open, added_at) VALUES ($1, $2, $3, now()) ON CONFLICT (shard_id) DO NOTHING`
	setShardRegion = `UPDATE shards SET region = $2 WHERE shard_id = $1`
	setShardOpen   = `UPDATE shards SET is_open = $2 WHERE shard_id = $1`
	selectIdentity = `SELECT shard_id FROM shard_identity`
	insertIdentity = `INSERT INTO shard_identity (shard_id) VALUES ($1) ON CONFLICT (shard_id) DO NOTHING`
)

// List returns the shards that were added, by id. There is none where the main
// database is alone.
func (d *Directory) List(ctx context.Context) (list []Shard, err error) {
	err = d.main.readTx(ctx, func(tx pgx.Tx) error {
		list, err = collect(ctx, tx, selectFrom(selectShards), func(rows pgx.Rows, s *Shard) error {
			return rows.Scan(&s.ID, &s.Region, &s.Open, &s.Clinics)
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("txn: list shards: %w", err)
	}
	return list, nil
}

// shardIdentity is the shard that a database is; empty where it was never made one.
func shardIdentity(ctx context.Context, db rowQuerier) (id ShardID, err error) {
	err = db.QueryRow(ctx, selectIdentity).Scan(&id)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", fmt.Errorf("txn: read which shard the database is: %w", statementError(err))
	}
	return id, nil
}

func (db *DB) identity(ctx context.Context) (id ShardID, err error) {
	err = db.readTx(ctx, func(tx pgx.Tx) error {
		id, err = shardIdentity(ctx, tx)
		return err
	})
	return id, err
}

// CheckMain refuses a database that was made a shard of another one.
func (d *Directory) CheckMain(ctx context.Context) error {
	is, err := d.main.identity(ctx)
	if err == nil && is != "" && is != MainShard {
		err = fmt.Errorf("the database is shard %s of another one: name the one with the directory, and this one with --shard", is)
	}
	return err
}

// Add makes a database a shard, which takes no new clinics yet. It may be
// repeated.
func (d *Directory) Add(ctx context.Context, id ShardID, region string, db *DB) error {
	is, err := db.identity(ctx)
	if err != nil {
		return err
	}
	if is != "" && is != id {
		return fmt.Errorf("the database is shard %s already", is)
	}
	if id != MainShard {
		heads, err := ClinicsWithHeads(ctx, db, "", 1)
		if err != nil {
			return err
		}
		if is == "" && len(heads) > 0 {
			return fmt.Errorf("the database has clinics of its own, %s among them: a shard begins empty", heads[0])
		}
	}
	err = db.settle(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, insertIdentity, id)
		return err
	})
	if err == nil {
		err = d.main.settle(ctx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, insertShard, id, region, id == MainShard)
			if err == nil && region != "" {
				_, err = tx.Exec(ctx, setShardRegion, id, region)
			}
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("txn: add shard %s: %w", id, err)
	}
	return nil
}

// SetOpen says whether new clinics are placed on a shard. It reports whether
// there is such a shard.
func (d *Directory) SetOpen(ctx context.Context, id ShardID, open bool) (found bool, err error) {
	err = d.main.settle(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, setShardOpen, id, open)
		found = tag.RowsAffected() > 0
		return err
	})
	if err != nil {
		return false, fmt.Errorf("txn: open or close shard %s: %w", id, err)
	}
	return found, nil
}

func clinicNotFound(clinic ledger.ClinicID) *ledger.Rejection {
	return &ledger.Rejection{
		Reason: ledger.ReasonClinicNotFound, Field: "clinic_id",
		Message:  fmt.Sprintf("There is no clinic %q.", clinic),
		Metadata: map[string]string{"clinic_id": string(clinic)},
	}
}
