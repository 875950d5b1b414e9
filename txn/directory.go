package txn

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// ShardID names a database that holds clinics.
type ShardID string

// OnlyShard is the one shard of this release.
const OnlyShard ShardID = "shard-1"

const (
	directorySelect = `SELECT shard_id FROM clinic_directory WHERE clinic_id = $1`
	directoryInsert = `INSERT INTO clinic_directory (clinic_id, shard_id, created_at) VALUES ($1, $2, now())`
)

// Directory maps each clinic to its shard. What it has found once it keeps: a
// clinic leaves its shard only while its journal is sealed.
type Directory struct {
	db    *DB
	known sync.Map // ledger.ClinicID → ShardID
}

// NewDirectory returns a directory on the database that holds it.
func NewDirectory(db *DB) *Directory { return &Directory{db: db} }

// Shard returns the clinic's shard, or a *[ledger.Rejection] with
// CLINIC_NOT_FOUND.
func (d *Directory) Shard(ctx context.Context, clinic ledger.ClinicID) (ShardID, error) {
	if shard, ok := d.known.Load(clinic); ok {
		return shard.(ShardID), nil
	}
	var shard ShardID
	err := d.db.readTx(ctx, func(tx pgx.Tx) error {
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

// check makes sure that the clinic lives on the one shard that there is.
func (d *Directory) check(ctx context.Context, clinic ledger.ClinicID) error {
	shard, err := d.Shard(ctx, clinic)
	if err != nil {
		return err
	}
	if shard != OnlyShard {
		return fmt.Errorf("%w: clinic %s lives on shard %s, which this node does not reach", ErrUnavailable, clinic, shard)
	}
	return nil
}

// assign gives a clinic a place unless it has one. A place without a clinic
// does no harm: its journal is empty.
func (d *Directory) assign(ctx context.Context, clinic ledger.ClinicID) error {
	err := d.check(ctx, clinic)
	var absent *ledger.Rejection
	if !errors.As(err, &absent) {
		return err
	}
	err = d.db.InTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, directoryInsert, clinic, OnlyShard)
		return err
	})
	if _, taken := uniqueViolation(err); err != nil && !taken && !isAmbiguous(err) {
		return fmt.Errorf("txn: assign clinic %s to a shard: %w", clinic, err)
	}
	// Whoever assigned it, and whether or not this attempt did, it is there now.
	return d.check(ctx, clinic)
}

func clinicNotFound(clinic ledger.ClinicID) *ledger.Rejection {
	return &ledger.Rejection{
		Reason: ledger.ReasonClinicNotFound, Field: "clinic_id",
		Message:  fmt.Sprintf("There is no clinic %q.", clinic),
		Metadata: map[string]string{"clinic_id": string(clinic)},
	}
}
