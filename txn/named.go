package txn

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// selectNamedSQL reads documents by their keys.
func selectNamedSQL(server ServerKind) string {
	return selectByKeysSQL(server, "documents",
		[]string{"clinic_id", "kind", "document_id", "opened_sequence", "last_sequence", "document"},
		[]string{"clinic_id", "kind", "document_id"}, []string{"text", "int2", "text"}, "")
}

// namedKey names a document of a clinic.
type namedKey struct {
	clinic ledger.ClinicID
	ledger.DocumentKey
}

// namedRounds is how often documents are read that a group's commands name: an
// identifier names a prescription, and a dispensing does.
const namedRounds = 3

// learn reads the documents on demand that the commands of a group name and the
// states do not know, for all clinics at a time. What it cannot learn is read
// later, under the head's lock.
func (e *Executor) learn(ctx context.Context, parts []part, homes []*home) {
	for range namedRounds {
		states := make(map[ledger.ClinicID]*ledger.State)
		var wanted []namedKey
		for i, h := range homes {
			if h.state == nil {
				continue
			}
			for _, key := range wantedBy(h.state, parts[i].units) {
				wanted = append(wanted, namedKey{h.clinic, key})
				states[h.clinic] = h.state
			}
		}
		if len(wanted) == 0 {
			return
		}
		learned := 0
		err := e.db.readTx(ctx, func(tx pgx.Tx) (err error) {
			learned, err = learnNamed(ctx, tx, e.sql, states, wanted)
			return err
		})
		for _, state := range states {
			state.Commit()
		}
		if err != nil {
			e.cfg.Log.Debug("documents that commands name are read later", "error", err)
		}
		if err != nil || learned == 0 {
			return
		}
	}
}

// wantedBy lists what units name and the state does not know, each once.
func wantedBy(state *ledger.State, units []*unit) []ledger.DocumentKey {
	var wanted []ledger.DocumentKey
	seen := make(map[ledger.DocumentKey]bool)
	for _, w := range units {
		for _, c := range w.commands {
			for _, key := range ledger.Wanted(state, c) {
				if !seen[key] {
					seen[key] = true
					wanted = append(wanted, key)
				}
			}
		}
	}
	return wanted
}

// learnNamed gives states the documents that are wanted, and says how many of
// them it gave. The heads are read first, so what is read after them is not
// older.
func learnNamed(ctx context.Context, tx pgx.Tx, sql statements, states map[ledger.ClinicID]*ledger.State, wanted []namedKey) (int, error) {
	var clinics, ids, keyClinics []string
	var kinds []int16
	for clinic := range states {
		clinics = append(clinics, string(clinic))
	}
	for _, key := range wanted {
		keyClinics, kinds, ids = append(keyClinics, string(key.clinic)), append(kinds, int16(key.Kind)), append(ids, key.ID)
	}
	heads := make(map[ledger.ClinicID]ledger.Sequence, len(clinics))
	found := make(map[namedKey]*ledger.Document, len(wanted))
	batch := &pgx.Batch{}
	batch.Queue(sql.headsOf, clinics).Query(func(rows pgx.Rows) error {
		var clinic ledger.ClinicID
		var head ledger.Head
		var hash []byte
		_, err := pgx.ForEachRow(rows, []any{&clinic, &head.Epoch, &head.Sequence, &hash}, func() error {
			heads[clinic] = head.Sequence
			return nil
		})
		return err
	})
	batch.Queue(sql.named, keyClinics, kinds, ids).Query(func(rows pgx.Rows) error { return readNamed(rows, found) })
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return 0, fmt.Errorf("read documents that commands name: %w", err)
	}
	learned := 0
	for _, key := range wanted {
		if states[key.clinic].Learn(key.DocumentKey, found[key], heads[key.clinic]) {
			learned++
		}
	}
	return learned, nil
}

func readNamed(rows pgx.Rows, found map[namedKey]*ledger.Document) error {
	var key namedKey
	var opened, last ledger.Sequence
	var stored []byte
	_, err := pgx.ForEachRow(rows, []any{&key.clinic, &key.Kind, &key.ID, &opened, &last, &stored}, func() error {
		body, err := ledger.DecodeDocument(key.Kind, stored)
		if err != nil {
			return fmt.Errorf("clinic %s: %w: %w", key.clinic, errUnreadable, err)
		}
		found[key] = &ledger.Document{Body: body, OpenedSequence: opened, LastSequence: last}
		return nil
	})
	return err
}

// named gives the state of a clinic whose head is locked the documents that a
// command names.
func (e *Executor) named(ctx context.Context, tx pgx.Tx, state *ledger.State, units []*unit) error {
	for range namedRounds {
		var wanted []namedKey
		for _, key := range wantedBy(state, units) {
			wanted = append(wanted, namedKey{state.Clinic(), key})
		}
		if len(wanted) == 0 {
			return nil
		}
		states := map[ledger.ClinicID]*ledger.State{state.Clinic(): state}
		if learned, err := learnNamed(ctx, tx, e.sql, states, wanted); err != nil || learned == 0 {
			return err
		}
	}
	return nil
}
