package txn

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// clinicTable is a table with rows of clinics, some of which are copied or deleted
// at a time.
type clinicTable struct {
	name string
	key  []string // after the clinic
	rows int      // that one transaction copies or deletes
}

// keptTables are those whose rows do not follow from the journal, so that a move
// has to bring them. The parts of a report may have a mebibyte each.
var keptTables = []clinicTable{
	{"patient_keys", []string{"patient_id"}, 500},
	{"patient_texts", []string{"patient_id", "digest"}, 500},
	{"patient_identifiers", []string{"digest"}, 500},
	{"operations", []string{"idempotency_key"}, 500},
	{"reports", []string{"idempotency_key"}, 500},
	{"report_parts", []string{"idempotency_key", "run", "part"}, 4},
	{"webhooks", []string{"webhook_id"}, 500},
}

// keptPage is some rows of a table, with all of its columns.
type keptPage struct {
	columns []string
	rows    [][]any
	last    []any // key of the last row
}

// page reads the next rows of a clinic, in the order of their keys.
func (t clinicTable) page(ctx context.Context, tx pgx.Tx, clinic any, after []any) (keptPage, error) {
	s := selectFrom("SELECT * FROM "+t.name+" WHERE").add(" clinic_id = ?", clinic)
	if after != nil {
		s.add(" AND "+t.place()+" > "+placeholders(t.key), after...)
	}
	s.add(" ORDER BY clinic_id, "+strings.Join(t.key, ", ")+" LIMIT ?", t.rows)
	rows, err := tx.Query(ctx, s.sql.String(), s.args...)
	if err != nil {
		return keptPage{}, err
	}
	defer rows.Close()
	var p keptPage
	for _, field := range rows.FieldDescriptions() {
		p.columns = append(p.columns, field.Name)
	}
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			return p, err
		}
		p.rows = append(p.rows, values)
	}
	if n := len(p.rows); n > 0 {
		for _, key := range t.key {
			for i, column := range p.columns {
				if column == key {
					p.last = append(p.last, p.rows[n-1][i])
				}
			}
		}
	}
	return p, rows.Err()
}

// place is the row value of a table's key.
func (t clinicTable) place() string { return "(" + strings.Join(t.key, ", ") + ")" }

// insert is the statement that writes a row, unless it is there.
func (p keptPage) insert(table string) string {
	places := make([]string, len(p.columns))
	for i := range places {
		places[i] = fmt.Sprintf("$%d", i+1)
	}
	return "INSERT INTO " + table + " (" + strings.Join(p.columns, ", ") + ") VALUES (" + strings.Join(places, ", ") + ") ON CONFLICT DO NOTHING"
}

// copyKept brings a table's rows of the clinic to the other shard. They do not
// change: the clinic is sealed where they are read, and closed where they are
// written.
func (m *mover) copyKept(ctx context.Context, t clinicTable) error {
	for after := []any(nil); ; {
		var page keptPage
		err := m.from.readTx(ctx, func(tx pgx.Tx) (err error) {
			page, err = t.page(ctx, tx, m.clinic, after)
			return err
		})
		if err != nil || len(page.rows) == 0 {
			return err
		}
		after = page.last
		insert := page.insert(t.name)
		err = m.to.settle(ctx, func(tx pgx.Tx) error {
			if _, err := m.lock(ctx, tx, m.state.Head()); err != nil {
				return err
			}
			if err := m.ours(ctx, tx); err != nil {
				return err
			}
			batch := &pgx.Batch{}
			for _, row := range page.rows {
				batch.Queue(insert, row...)
			}
			return tx.SendBatch(ctx, batch).Close()
		})
		if err != nil {
			return err
		}
		m.moved.Kept += int64(len(page.rows))
	}
}

// clearKept deletes a table's rows of the clinic where it was, as long as it is
// sealed there.
func (m *mover) clearKept(ctx context.Context, t clinicTable) error {
	for after, more := []any(nil), true; more; {
		var last []any
		err := m.from.settle(ctx, func(tx pgx.Tx) error {
			head, err := lockHead(ctx, tx, m.clinic)
			if err != nil {
				return err
			}
			if head.Epoch >= 0 {
				return fmt.Errorf("%w: the clinic is in use there, or is coming back", errMoveEnded)
			}
			if err := m.ours(ctx, tx); err != nil {
				return err
			}
			var deleted int64
			last, deleted, err = t.deletePage(ctx, tx, m.clinic, after)
			more = deleted > 0
			return err
		})
		if err != nil {
			return err
		}
		after = last
	}
	return nil
}

// deletePage deletes a clinic's next rows after a key, in the order of their keys.
// It returns the last of these and how many there were.
func (t clinicTable) deletePage(ctx context.Context, tx pgx.Tx, clinic ledger.ClinicID, after []any) (last []any, deleted int64, err error) {
	within := func(s *selection) *selection {
		s.add(" clinic_id = ?", clinic)
		if len(after) > 0 {
			s.add(" AND "+t.place()+" > "+placeholders(t.key), after...)
		}
		return s
	}
	keys := strings.Join(append([]string{"clinic_id"}, t.key...), ", ")
	s := within(selectFrom("SELECT "+keys+" FROM "+t.name+" WHERE")).add(" ORDER BY "+keys+" LIMIT ?", t.rows)
	rows, err := tx.Query(ctx, s.sql.String(), s.args...)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		if last, err = rows.Values(); err != nil {
			return nil, 0, err
		}
	}
	if err := rows.Err(); err != nil || last == nil {
		return nil, 0, err
	}
	last = last[1:]
	s = within(selectFrom("DELETE FROM " + t.name + " WHERE"))
	if len(t.key) > 0 {
		s.add(" AND "+t.place()+" <= "+placeholders(t.key), last...)
	}
	tag, err := tx.Exec(ctx, s.sql.String(), s.args...)
	return last, tag.RowsAffected(), err
}

// placeholders is a row value of parameters, one for each column of a key.
func placeholders(key []string) string {
	return "(" + strings.Repeat(", ?", len(key))[2:] + ")"
}
