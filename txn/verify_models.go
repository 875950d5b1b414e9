package txn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// verifiedModels are the read models of a clinic as its journal makes them.
type verifiedModels struct {
	*modelRows
	zone *time.Location
	upTo ledger.Sequence // that the stored ones reflect; 0: there are none
	// epoch is that of the stored ones. Where it is not the head's, they wait to
	// be folded anew and nothing can be said of them.
	epoch int64
	// lateOnes are the late entries, which are too many to keep.
	lateOnes tally
}

// openModels learns how far the stored models have come.
func (v *verifier) openModels(ctx context.Context) error {
	v.models = &verifiedModels{modelRows: newModelRows(), zone: time.UTC, lateOnes: make(tally)}
	err := v.tx.QueryRow(ctx, `SELECT `+modelsEpoch+`, sequence FROM read_model_cursors WHERE clinic_id = $1`, v.clinic).Scan(&v.models.epoch, &v.models.upTo)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("read how far the read models are: %w", err)
	}
	return nil
}

// link takes in an event that the stored models reflect.
func (m *verifiedModels) link(clinic ledger.ClinicID, e *ledger.Event) {
	if e.Sequence > m.upTo {
		return
	}
	if zone := zoneSet(e.Body); zone != "" {
		m.zone = zoneNamed(zone)
	}
	m.add(clinic, e, ledger.EntriesOf(*e), dayOf(e, m.zone))
	for i := range m.late {
		m.lateOnes.add(m.late[i].Sequence, m.late[i].digest())
	}
	m.late = m.late[:0]
}

// checkModels compares the stored models with what the journal makes of them up
// to where they are. They may be behind; they may not be wrong.
func (v *verifier) checkModels(ctx context.Context) error {
	if !v.whole {
		return nil
	}
	var epoch int64
	if err := v.tx.QueryRow(ctx, `SELECT epoch FROM heads WHERE clinic_id = $1`, v.clinic).Scan(&epoch); err != nil {
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return fmt.Errorf("read the epoch: %w", err)
	}
	if epoch <= restoringEpoch || v.models.upTo > 0 && v.models.epoch != epoch {
		return nil
	}
	if head := v.state.Head().Sequence; v.models.upTo > head {
		v.found(ruleModels, "read models", head+1, "they reflect sequence %d, and the journal ends at %d", v.models.upTo, head)
		return nil
	}
	stored := newModelRows()
	if err := stored.readClinic(ctx, v.tx, v.clinic); err != nil {
		if v.unreadable("read models", v.models.upTo, err) {
			return nil
		}
		return fmt.Errorf("read the read models: %w", err)
	}
	compareModels(v, summaryTable.name, "stock summary", v.models.summaries, stored.summaries, func(k shelfOf) string { return shelfName(k.Shelf) })
	compareModels(v, consumptionTable.name, "consumption", v.models.consumption, stored.consumption, func(k consumptionKey) string {
		return fmt.Sprintf("%s, month from %s", shelfName(k.Shelf), k.month)
	})
	compareModels(v, stockOutsTable.name, "stock-out", pointers(v.models.outs), pointers(stored.outs), func(k stockOutKey) string {
		return fmt.Sprintf("%s, from %s", shelfName(k.Shelf), k.began)
	})
	compareModels(v, dispensingDaysTable.name, "dispensing report", v.models.dispensings, stored.dispensings, func(k dispensingKey) string {
		return fmt.Sprintf("location %s, medicine %s, day %s, dispenser %s, currency %q", k.location, k.medicine, k.day, k.dispenser, k.currency)
	})
	return v.checkLate(ctx)
}

func compareModels[K, V comparable](v *verifier, table, model string, want, stored map[K]*V, name func(K) string) {
	v.table(table, int64(len(want)), int64(len(stored)))
	defer v.ended()
	for k, row := range want {
		switch found := stored[k]; {
		case found == nil:
			v.found(ruleModels, name(k), v.models.upTo, "the %s lacks it; the journal says %+v", model, *row)
		case *found != *row:
			v.found(ruleModels, name(k), v.models.upTo, "the %s says %+v, and the journal %+v", model, *found, *row)
		}
	}
	for k, row := range stored {
		if want[k] == nil {
			v.found(ruleModels, name(k), v.models.upTo, "the %s says %+v, and the journal knows nothing of it", model, *row)
		}
	}
}

func pointers[K comparable, V any](values map[K]V) map[K]*V {
	refs := make(map[K]*V, len(values))
	for k, v := range values {
		refs[k] = &v
	}
	return refs
}
