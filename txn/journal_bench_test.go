package txn

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/metrics"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stockledger/stockledger/ledger"
)

var journalEntries = flag.Int("journal.entries", 1_000_000, "entries of the journal that BenchmarkJournal makes")

// memoryWatch keeps the most that the process took since it was begun.
type memoryWatch struct{ heap, resident uint64 }

const heapObjects = "/memory/classes/heap/objects:bytes"

func (m *memoryWatch) look() {
	sample := []metrics.Sample{{Name: heapObjects}}
	metrics.Read(sample)
	m.heap = max(m.heap, sample[0].Value.Uint64())
	m.resident = max(m.resident, residentBytes())
}

// residentBytes is what the process has in memory, where the system tells; else 0.
func residentBytes() uint64 {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(statm))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}

// BenchmarkJournal makes a journal of a million entries (-journal.entries),
// verifies it offline, imports it, and exports it again. What comes out must be
// what went in. It reports each step's time and the most memory that it took:
// run it with a tenth of the entries, and memory is the same.
func BenchmarkJournal(b *testing.B) {
	db := testDB(b)
	for range b.N {
		j := journalBench{b: b, folder: b.TempDir(), clinic: ledger.ClinicID(newClinicID(b))}
		j.step("make", func(look func()) { j.make(look) })
		j.step("verify", func(look func()) { j.verify(look) })
		j.step("import", func(look func()) { j.restore(db, look) })
		j.step("export", func(look func()) { j.export(db, look) })
		j.compare()
	}
}

type journalBench struct {
	b      *testing.B
	folder string
	clinic ledger.ClinicID
	head   ledger.Head
}

func (j *journalBench) step(name string, work func(look func())) {
	j.b.Helper()
	m := &memoryWatch{}
	began := time.Now()
	work(m.look)
	j.b.ReportMetric(time.Since(began).Seconds(), name+"_seconds")
	j.b.ReportMetric(float64(m.heap)/(1<<20), name+"_heap_MiB")
	j.b.ReportMetric(float64(m.resident)/(1<<20), name+"_resident_MiB")
}

func (j *journalBench) check(err error) {
	j.b.Helper()
	if err != nil {
		j.b.Fatal(err)
	}
}

func (j *journalBench) path(name string) string { return filepath.Join(j.folder, name) }

// watched looks at memory whenever something is written.
type watched struct {
	io.Writer
	look func()
}

func (w watched) Write(p []byte) (int, error) {
	w.look()
	return w.Writer.Write(p)
}

func (j *journalBench) make(look func()) {
	f, err := os.Create(j.path("made"))
	j.check(err)
	// The clinic, its locations, medicines and lots have no entries.
	j.check(writeLongJournal(watched{f, look}, j.clinic, *journalEntries+3+2*authorMedicines))
	j.check(f.Close())
	info, err := os.Stat(j.path("made"))
	j.check(err)
	j.b.ReportMetric(float64(info.Size())/(1<<20), "file_MiB")
}

func (j *journalBench) open(name string) *os.File {
	f, err := os.Open(j.path(name))
	j.check(err)
	j.b.Cleanup(func() { _ = f.Close() })
	return f
}

func (j *journalBench) verify(look func()) {
	summary, violations, err := VerifyJournal(j.b.Context(), j.open("made"), VerifyJournalOptions{
		Report: func(v Violation) { j.b.Error(v) }, Progress: func(int64) { look() },
	})
	j.check(err)
	if violations > 0 || summary.Entries != int64(*journalEntries) {
		j.b.Fatalf("%d violations, and %d entries", violations, summary.Entries)
	}
	j.head = summary.Head
}

func (j *journalBench) restore(db *DB, look func()) {
	done, err := ImportJournal(j.b.Context(), NewDirectory(db), j.open("made"), ImportJournalOptions{
		Check: func(int64) { look() }, Progress: func(int64, int64) { look() },
	})
	j.check(err)
	if done.Head.Hash != j.head.Hash || done.Entries != int64(*journalEntries) {
		j.b.Fatalf("imported %+v, want %+v", done, j.head)
	}
}

func (j *journalBench) export(db *DB, look func()) {
	f, err := os.Create(j.path("exported"))
	j.check(err)
	summary, err := ExportJournal(j.b.Context(), db, j.clinic, f, func(int64, int64) { look() })
	j.check(err)
	j.check(f.Close())
	if summary.Head.Hash != j.head.Hash || summary.Head.Sequence != j.head.Sequence || summary.Head.Epoch != 2 {
		j.b.Fatalf("exported %+v, want %+v", summary, j.head)
	}
}

// compare reads both files side by side.
func (j *journalBench) compare() {
	made, err := NewJournalReader(j.open("made"))
	j.check(err)
	exported, err := NewJournalReader(j.open("exported"))
	j.check(err)
	for n := 0; ; n++ {
		a, hashA, errA := made.Next()
		b, hashB, errB := exported.Next()
		if errors.Is(errA, io.EOF) && errors.Is(errB, io.EOF) {
			return
		}
		if errA != nil || errB != nil || !bytes.Equal(a, b) || hashA != hashB {
			j.b.Fatal(fmt.Errorf("record %d differs: %w", n+1, errors.Join(errA, errB)))
		}
	}
}
