package txn

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/stockledger/stockledger/ledger"
)

// filedDocument is what is kept of a document to compare it: of one that is
// closed or read on demand, which are not part of the state.
type filedDocument struct {
	opened, last ledger.Sequence
	digest       [sha256.Size / 2]byte
}

func fileOf(opened, last ledger.Sequence, body []byte) filedDocument {
	sum := sha256.Sum256(body)
	return filedDocument{opened, last, [sha256.Size / 2]byte(sum[:])}
}

func documentName(key ledger.DocumentKey) string { return key.Kind.String() + " " + key.ID }

// file notes which documents a command closed, and which it opened again; and
// those that are no part of the state.
func (v *verifier) file(documents []*ledger.Document) {
	for _, d := range documents {
		about := d.Body.About()
		if about.Open && !about.Kind.OnDemand() {
			delete(v.filed, about.DocumentKey)
			continue
		}
		v.filed[about.DocumentKey] = fileOf(d.OpenedSequence, d.LastSequence, ledger.AppendDocument(nil, d.Body))
	}
}

// writtenDocument is a document whose body is written out, to be compared and
// shown.
type writtenDocument struct {
	key                          ledger.DocumentKey
	OpenedSequence, LastSequence ledger.Sequence
	Body                         string
}

func writtenOut(documents []ledger.Document) []writtenDocument {
	written := make([]writtenDocument, len(documents))
	for i, d := range documents {
		written[i] = writtenDocument{d.Body.About().DocumentKey, d.OpenedSequence, d.LastSequence, fmt.Sprintf("%+v", d.Body)}
	}
	return written
}

// closedDocument is a stored row of a closed document.
type closedDocument struct {
	about ledger.About
	filedDocument
	stored []byte
}

// checkClosedDocuments compares the documents that are closed, which the state
// has forgotten, with those that the journal has closed; and the columns of all
// documents with what stands in them.
func (v *verifier) checkClosedDocuments(ctx context.Context) error {
	v.table("documents, closed or read on demand", int64(len(v.filed)), 0)
	defer v.ended()
	for after := (ledger.DocumentKey{}); ; {
		rows, err := v.storedDocuments(ctx, after)
		if v.unreadable("documents", 0, err) {
			return nil
		}
		if err != nil {
			return err
		}
		for i := range rows {
			v.checkDocument(&rows[i])
			after = rows[i].about.DocumentKey
		}
		v.progress()
		if len(rows) < verifyChunk {
			break
		}
	}
	if !v.whole {
		return nil
	}
	missing := slices.SortedFunc(maps.Keys(v.filed), func(a, b ledger.DocumentKey) int { return int(v.filed[a].last - v.filed[b].last) })
	for _, key := range missing {
		v.found(ruleClosedDocs, documentName(key), v.filed[key].last, "the document is missing, or stored as open and is closed")
	}
	return nil
}

func (v *verifier) storedDocuments(ctx context.Context, after ledger.DocumentKey) ([]closedDocument, error) {
	s := selectFrom(`SELECT kind, document_id, is_open, location_id, other_location_id, opened_sequence, last_sequence, document, patient_id, day, due_at FROM documents WHERE`).
		add(` clinic_id = ? AND (kind, document_id) > (?, ?)`, v.clinic, after.Kind, after.ID).
		add(` ORDER BY kind, document_id LIMIT ?`, verifyChunk)
	return collect(ctx, v.tx, s, func(rows pgx.Rows, d *closedDocument) error {
		a := &d.about
		var day, due time.Time
		err := rows.Scan(&a.Kind, &a.ID, &a.Open, &a.Location, &a.OtherLocation, &d.opened, &d.last, &d.stored, &a.Patient, &day, &due)
		a.Day, a.Due = ledger.DateOf(day), ledger.InstantOf(due)
		return err
	})
}

func (v *verifier) checkDocument(d *closedDocument) {
	key := d.about.DocumentKey
	body, err := ledger.DecodeDocument(key.Kind, d.stored)
	if err != nil {
		delete(v.filed, key)
		v.found(ruleReadable, documentName(key), d.last, "the document cannot be read: %v", err)
		return
	}
	if about := body.About(); about != d.about {
		v.found(ruleProjection, documentName(key), d.last, "its columns say %s, and it says itself %s", aboutText(d.about), aboutText(about))
		return
	}
	if d.about.Open && !key.Kind.OnDemand() || !v.whole {
		return
	}
	want, ok := v.filed[key]
	delete(v.filed, key)
	v.tables[len(v.tables)-1].Stored++
	switch {
	case !ok:
		v.found(ruleClosedDocs, documentName(key), d.last, "a document is stored that the journal does not make, or not close")
	case want != fileOf(d.opened, d.last, d.stored):
		v.found(ruleClosedDocs, documentName(key), want.last, "stored is another document than the journal makes: opened by %d, last changed by %d; replayed is %d, %d", d.opened, d.last, want.opened, want.last)
	}
}

func aboutText(a ledger.About) string {
	return fmt.Sprintf("%s, open %t, locations %q and %q, patient %q, day %s, due %s", documentName(a.DocumentKey), a.Open, a.Location, a.OtherLocation, a.Patient, a.Day, a.Due)
}
