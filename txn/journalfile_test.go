package txn

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/stockledger/stockledger/ledger"
)

// written writes a file anew from records, with a checksum that fits.
func written(tb testing.TB, header JournalHeader, records []fileRecord, head ledger.Head) []byte {
	tb.Helper()
	var file bytes.Buffer
	w, err := NewJournalWriter(&file, header)
	if err != nil {
		tb.Fatal(err)
	}
	for _, r := range records {
		if err := w.Write(&ledger.Record{Stored: r.stored, Hash: r.hash}); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(head); err != nil {
		tb.Fatal(err)
	}
	return file.Bytes()
}

// sealed puts the right checksum under text and compressed records.
func sealed(parts ...string) []byte {
	file := []byte(strings.Join(parts, ""))
	return fmt.Appendf(file, "%s%x\n", checksumWord, sha256.Sum256(file))
}

// zippers are compressors for tests that need many: each is large.
var zippers = sync.Pool{New: func() any { return gzip.NewWriter(io.Discard) }}

func zipped(tb testing.TB, content []byte) string {
	tb.Helper()
	var b bytes.Buffer
	w := zippers.Get().(*gzip.Writer)
	defer zippers.Put(w)
	w.Reset(&b)
	if _, err := w.Write(content); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.String()
}

const (
	anyHeader = `{"format":"stockledger-journal","version":1,"clinic_id":"t-x","epochs":[]}` + "\n"
	anyHead   = "\n" + `{"epoch":1,"sequence":0,"hash":"0000000000000000000000000000000000000000000000000000000000000000"}` + "\n"
)

func TestJournalFileTellsWhatItIs(t *testing.T) {
	t.Parallel()
	file := longJournal(t, "hillside", 300)
	lines := bytes.Split(bytes.TrimSuffix(file, []byte("\n")), []byte("\n"))
	if got, want := string(lines[0]), `{"format":"stockledger-journal","version":1,"clinic_id":"hillside","epochs":[]}`; got != want {
		t.Errorf("the first line is %s, want %s", got, want)
	}
	if got := string(lines[len(lines)-2]); !strings.HasPrefix(got, `{"epoch":1,"sequence":300,"hash":"`) {
		t.Errorf("the line before the last is %s", got)
	}
	summary, found := verifyFile(t, file)
	if len(found) > 0 || summary.Clinic != "hillside" || summary.Commands != 300 || summary.Head.Epoch != 1 {
		t.Errorf("it holds %+v, with %v", summary, found)
	}
	// However it comes in.
	if _, violations, err := VerifyJournal(t.Context(), iotest.OneByteReader(bytes.NewReader(file)), VerifyJournalOptions{}); err != nil || violations > 0 {
		t.Errorf("read byte by byte: %d violations, %v", violations, err)
	}
	if _, violations, err := VerifyJournal(t.Context(), iotest.DataErrReader(bytes.NewReader(file)), VerifyJournalOptions{}); err != nil || violations > 0 {
		t.Errorf("read with its end: %d violations, %v", violations, err)
	}
}

func TestEveryChangedByteIsNoticed(t *testing.T) {
	t.Parallel()
	file := longJournal(t, "hillside", 12)
	for i := range file {
		for _, mask := range []byte{0x01, 0x20, 0xff} {
			changed := slices.Clone(file)
			changed[i] ^= mask
			_, violations, err := VerifyJournal(t.Context(), bytes.NewReader(changed), VerifyJournalOptions{})
			if err == nil && violations == 0 {
				t.Errorf("byte %d of %d was changed by %#x, and nobody noticed", i, len(file), mask)
			}
		}
	}
	for length := range file {
		_, violations, err := VerifyJournal(t.Context(), bytes.NewReader(file[:length]), VerifyJournalOptions{})
		if err != nil || violations == 0 {
			t.Errorf("cut to %d of %d bytes: %d violations, %v", length, len(file), violations, err)
		}
	}
}

// Files whose checksums fit, and whose records do not follow from each other.
// Each is refused by an import too, before anything is written.
func TestRecordsThatDoNotFollowAreFound(t *testing.T) {
	t.Parallel()
	c, _, _ := verifiable(t, testExecutor(t, ExecutorConfig{}))
	other, _, _ := verifiable(t, c.e)
	header, whole, head := records(t, export(t, c.e.db, c.id))
	_, foreign, _ := records(t, export(t, c.e.db, other.id))
	lose(t, c.e.db, c.id)

	change := func(edit func(r []fileRecord) []fileRecord) []byte {
		all := make([]fileRecord, len(whole))
		for i, r := range whole {
			all[i] = fileRecord{slices.Clone(r.stored), r.hash}
		}
		return written(t, header, edit(all), head)
	}
	headed := func(edit func(h *ledger.Head)) []byte {
		h := head
		edit(&h)
		return written(t, header, whole, h)
	}
	for name, test := range map[string]struct {
		file []byte
		want string
	}{
		"a missing record": {change(func(r []fileRecord) []fileRecord { return slices.Delete(r, 6, 7) }), "7 journal-gap-free"},
		"records swapped":  {change(func(r []fileRecord) []fileRecord { r[7], r[8] = r[8], r[7]; return r }), "8 journal-gap-free"},
		"a repeated record": {change(func(r []fileRecord) []fileRecord {
			return slices.Insert(r, 6, r[5])
		}), "7 journal-gap-free"},
		"a changed event": {change(func(r []fileRecord) []fileRecord {
			r[9].stored = bytes.Replace(r[9].stored, []byte("tester"), []byte("tesser"), 1)
			return r
		}), "10 journal-replays"},
		"a changed hash":      {change(func(r []fileRecord) []fileRecord { r[4].hash[31] ^= 1; return r }), "5 journal-replays"},
		"an unreadable event": {change(func(r []fileRecord) []fileRecord { r[3].stored[0] = 77; return r }), "4 readable"},
		"no last record":      {change(func(r []fileRecord) []fileRecord { return r[:11] }), "12 head-is-last-record"},
		"no records":          {change(func([]fileRecord) []fileRecord { return nil }), "1 head-is-last-record"},
		"another's records":   {change(func([]fileRecord) []fileRecord { return foreign }), "1 journal-replays"},
		"another's record":    {change(func(r []fileRecord) []fileRecord { r[11] = foreign[11]; return r }), "12 journal-replays"},
		"another head's hash": {headed(func(h *ledger.Head) { h.Hash[0] ^= 1 }), "13 head-is-last-record"},
		"a later head":        {headed(func(h *ledger.Head) { h.Sequence++ }), "13 head-is-last-record"},
		"another clinic's":    {written(t, JournalHeader{Clinic: other.id}, whole, head), "1 journal-replays"},
	} {
		t.Run(name, func(t *testing.T) {
			_, found := verifyFile(t, test.file)
			if len(found) != 1 || found[0] != test.want {
				t.Errorf("found %v, want %s", found, test.want)
			}
			refusedImport(t, c.e.db, c.id, test.file)
		})
	}
}

// refusedImport imports a bad file into an empty clinic.
func refusedImport(t *testing.T, db *DB, clinic ledger.ClinicID, file []byte) {
	t.Helper()
	if _, err := ImportJournal(t.Context(), NewDirectory(db), bytes.NewReader(file), ImportJournalOptions{}); !errors.Is(err, ErrDamaged) {
		t.Errorf("the import ended with %v", err)
	}
	if rows := rowsOf(t, db, clinic); len(rows) > 0 {
		t.Errorf("a refused import wrote %v", rows)
	}
	if _, err := NewDirectory(db).Shard(t.Context(), clinic); err == nil {
		t.Error("a refused import gave the clinic a place")
	}
}

func TestDamagedFilesAreRefused(t *testing.T) {
	t.Parallel()
	db, clinic := testDB(t), ledger.ClinicID(newClinicID(t))
	file := longJournal(t, clinic, 40)
	header := fmt.Sprintf(`{"format":"stockledger-journal","version":1,"clinic_id":%q,"epochs":[]}`+"\n", clinic)
	long := binary.AppendUvarint(nil, maxJournalEvent+1)
	for name, damagedFile := range map[string][]byte{
		"empty":                  {},
		"another file":           []byte("PK\x03\x04 this is a holiday picture"),
		"cut in the header":      file[:40],
		"cut in the records":     file[:len(file)/2],
		"cut before the head":    file[:bytes.LastIndex(file, []byte("\n{"))],
		"cut in the checksum":    file[:len(file)-10],
		"without its last byte":  file[:len(file)-1],
		"with more than its end": append(slices.Clone(file), '\n'),
		"twice":                  append(slices.Clone(file), file...),
		"a byte changed":         append(append(slices.Clone(file[:len(file)/2]), file[len(file)/2]^4), file[len(file)/2+1:]...),
		"a long record":          sealed(header, zipped(t, long), anyHead),
		"an endless number":      sealed(header, zipped(t, bytes.Repeat([]byte{0xff}, 20)), anyHead),
		"a record of nothing":    sealed(header, zipped(t, []byte{0}), anyHead),
		"half a record":          sealed(header, zipped(t, []byte{9, 1, 2}), anyHead),
		"half a hash":            sealed(header, zipped(t, []byte{1, 1, 2}), anyHead),
		"not compressed":         sealed(header, "records", anyHead),
		"no records at all":      sealed(header, zipped(t, nil), anyHead),
		"a head that is none":    sealed(header, zipped(t, nil), "\n{\n"),
		"a hash that is none":    sealed(header, zipped(t, nil), "\n"+`{"epoch":1,"sequence":0,"hash":"00"}`+"\n"),
		"epoch zero":             sealed(header, zipped(t, nil), strings.Replace(anyHead, `"epoch":1`, `"epoch":0`, 1)),
		"epochs in disorder":     sealed(strings.Replace(header, "[]", `[{"epoch":3,"first_sequence":4},{"epoch":2,"first_sequence":4}]`, 1), zipped(t, nil), anyHead),
		"a header that is none":  sealed(strings.Replace(header, "[]", "[", 1), zipped(t, nil), anyHead),
		"an endless header":      append([]byte(journalMagic), bytes.Repeat([]byte{' '}, maxJournalLine+1)...),
	} {
		t.Run(name, func(t *testing.T) {
			if _, found := verifyFile(t, damagedFile); len(found) != 1 {
				t.Errorf("found %v", found)
			}
			refusedImport(t, db, clinic, damagedFile)
		})
	}
	// Not damaged, but not for this release either.
	_, violations, err := VerifyJournal(t.Context(), strings.NewReader(strings.Replace(anyHeader, `"version":1`, `"version":2`, 1)), VerifyJournalOptions{})
	if err == nil || errors.Is(err, ErrDamaged) || violations > 0 || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("a later version: %d violations, %v", violations, err)
	}
	// An error of the disk is not one of the file.
	broken := errors.New("input/output error")
	for _, at := range []int{0, 20, 200, len(file) - 5} {
		reader := io.MultiReader(bytes.NewReader(file[:at]), iotest.ErrReader(broken))
		if _, violations, err := VerifyJournal(t.Context(), reader, VerifyJournalOptions{}); !errors.Is(err, broken) || violations > 0 {
			t.Errorf("a disk that fails at byte %d: %d violations, %v", at, violations, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := VerifyJournal(ctx, bytes.NewReader(file), VerifyJournalOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who left: %v", err)
	}
}

// A file that claims a long record costs no more than what it really has.
func TestLyingLengthsCostNothing(t *testing.T) {
	lying := sealed(anyHeader, zipped(t, append(binary.AppendUvarint(nil, maxJournalEvent), "short"...)), anyHead)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, found := verifyFile(t, lying)
	runtime.ReadMemStats(&after)
	if len(found) != 1 {
		t.Errorf("found %v", found)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20 {
		t.Errorf("it took %d bytes to find out", used)
	}
}

// FuzzJournalFile reads anything, and anything that is compressed and has a
// checksum that fits. Whatever it is, reading ends, with a whole journal or an
// error; and a journal that is read whole is one when it is written again.
func FuzzJournalFile(f *testing.F) {
	file := longJournal(f, "hillside", 12)
	header, tail := bytes.IndexByte(file, '\n')+1, bytes.LastIndex(file, []byte("\n{"))
	unzipped, err := gzip.NewReader(bytes.NewReader(file[header:tail]))
	if err != nil {
		f.Fatal(err)
	}
	content, err := io.ReadAll(unzipped)
	if err != nil {
		f.Fatal(err)
	}
	end := string(file[tail:bytes.LastIndex(file, []byte(checksumWord))])
	f.Add(string(file[:header]), content, end)
	f.Add(string(file[:header]), content[:len(content)/2], end)
	f.Add(anyHeader, []byte{}, anyHead)
	f.Add(anyHeader, binary.AppendUvarint(nil, maxJournalEvent), anyHead)
	f.Add(anyHeader, file[header:tail], string(file[tail:]))
	f.Fuzz(func(t *testing.T, header string, content []byte, end string) {
		for _, data := range [][]byte{sealed(header, zipped(t, content), end), []byte(header + string(content) + end)} {
			_, violations, err := VerifyJournal(t.Context(), bytes.NewReader(data), VerifyJournalOptions{})
			if err != nil || violations > 0 {
				continue
			}
			header, all, head := records(t, data)
			again := written(t, header, all, head)
			if _, violations, err := VerifyJournal(t.Context(), bytes.NewReader(again), VerifyJournalOptions{}); err != nil || violations > 0 {
				t.Errorf("what was read whole is refused when it is written again: %d violations, %v", violations, err)
			}
		}
	})
}
