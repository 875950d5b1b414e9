package txn

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/stockledger/stockledger/ledger"
)

// A journal file holds one clinic's journal, for backups and for moving a clinic
// to another database:
//
//	{"format":"stockledger-journal","version":1,"clinic_id":"hillside",…}\n
//	one gzip member: for each record the length of the event as an unsigned
//	  varint, the event as it is stored, and its hash (32 bytes)
//	\n{"epoch":1,"sequence":120,"hash":"…"}\n
//	sha256 …\n
//
// The first line and the last two are text, so head -n 1 and tail -n 2 tell what
// a file is. The last line is the SHA-256 of every byte before it: nothing can be
// missing or changed unnoticed, in the compressed part either. Records are
// compressed because a journal repeats its ids all the time: they come to less
// than half the size, and backups are kept for years. At its fastest gzip takes
// a third of the time for all but 3 % of that. The hashes don't shrink; they are
// kept so that a record can be judged by itself.

const (
	journalFormat  = "stockledger-journal"
	journalVersion = 1
	// journalMagic is how each file begins, whatever its version.
	journalMagic = `{"format":"` + journalFormat + `",`
	checksumWord = "sha256 "
)

const (
	// maxJournalLine bounds a line of text in a file: some ten thousand epochs.
	maxJournalLine = 1 << 20
	// maxJournalEvent bounds one event: as much as a request may hold.
	maxJournalEvent = 16 << 20
	// eventAtOnce is how long an event may be for its length to be believed
	// before its bytes have been read.
	eventAtOnce = 4 << 10
	fileBuffer  = 64 << 10
)

// ErrDamaged means that a file is not what an export wrote: it is another file,
// was cut off, or has changed since.
var ErrDamaged = errors.New("the journal file is damaged")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrDamaged, fmt.Errorf(format, args...))
}

// JournalHeader says whose journal a file holds.
type JournalHeader struct {
	Clinic ledger.ClinicID
	Epochs []Epoch // after the first
}

type journalHeaderLine struct {
	Format  string             `json:"format"`
	Version int                `json:"version"`
	Clinic  ledger.ClinicID    `json:"clinic_id"`
	Epochs  []journalEpochLine `json:"epochs"`
}

type journalEpochLine struct {
	Epoch         int64           `json:"epoch"`
	FirstSequence ledger.Sequence `json:"first_sequence"`
	StartedAt     time.Time       `json:"started_at"`
}

type journalHeadLine struct {
	Epoch    int64           `json:"epoch"`
	Sequence ledger.Sequence `json:"sequence"`
	Hash     string          `json:"hash"`
}

// JournalWriter writes a journal file. It does not check that the records follow
// from each other.
type JournalWriter struct {
	out     *bufio.Writer
	sum     hash.Hash
	records *gzip.Writer
	length  []byte
}

// NewJournalWriter begins a file. Close ends it.
func NewJournalWriter(w io.Writer, header JournalHeader) (*JournalWriter, error) {
	line := journalHeaderLine{
		Format: journalFormat, Version: journalVersion, Clinic: header.Clinic, Epochs: make([]journalEpochLine, len(header.Epochs)),
	}
	for i, e := range header.Epochs {
		line.Epochs[i] = journalEpochLine{e.Epoch, e.FirstSequence, e.StartedAt.Time().UTC()}
	}
	text, err := json.Marshal(line)
	if err != nil {
		return nil, fmt.Errorf("write the header: %w", err)
	}
	if len(text) > maxJournalLine {
		return nil, fmt.Errorf("the header has %d bytes; at most %d are read back", len(text), maxJournalLine)
	}
	sum := sha256.New()
	out := bufio.NewWriterSize(io.MultiWriter(w, sum), fileBuffer)
	if _, err := out.Write(append(text, '\n')); err != nil {
		return nil, fmt.Errorf("write the header: %w", err)
	}
	records, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err != nil {
		return nil, fmt.Errorf("compress records: %w", err)
	}
	return &JournalWriter{out: out, sum: sum, records: records}, nil
}

// Write adds the next record.
func (w *JournalWriter) Write(record *ledger.Record) error {
	if len(record.Stored) > maxJournalEvent {
		return fmt.Errorf("the event with sequence %d has %d bytes; at most %d are read back", record.Event.Sequence, len(record.Stored), maxJournalEvent)
	}
	w.length = binary.AppendUvarint(w.length[:0], uint64(len(record.Stored)))
	for _, part := range [][]byte{w.length, record.Stored, record.Hash[:]} {
		if _, err := w.records.Write(part); err != nil {
			return fmt.Errorf("write a record: %w", err)
		}
	}
	return nil
}

// Close ends the file with the journal's head and the checksum. It does not
// close the writer below.
func (w *JournalWriter) Close(head ledger.Head) error {
	line, err := json.Marshal(journalHeadLine{head.Epoch, head.Sequence, head.Hash.String()})
	if err != nil {
		return fmt.Errorf("write the head: %w", err)
	}
	if err := w.records.Close(); err != nil {
		return fmt.Errorf("write the last records: %w", err)
	}
	if _, err := fmt.Fprintf(w.out, "\n%s\n", line); err != nil {
		return fmt.Errorf("write the head: %w", err)
	}
	if err := w.out.Flush(); err != nil {
		return fmt.Errorf("write the head: %w", err)
	}
	if _, err := fmt.Fprintf(w.out, "%s%x\n", checksumWord, w.sum.Sum(nil)); err != nil {
		return fmt.Errorf("write the checksum: %w", err)
	}
	if err := w.out.Flush(); err != nil {
		return fmt.Errorf("write the checksum: %w", err)
	}
	return nil
}

// JournalReader reads a journal file from its beginning to its end, with memory
// for one record. It checks the file, and not that the records follow from each
// other. Errors wrap [ErrDamaged], unless they are those of the reader below.
type JournalReader struct {
	in      *summingReader
	header  JournalHeader
	zip     *gzip.Reader
	records *bufio.Reader
	head    ledger.Head
	ended   bool
}

// NewJournalReader reads the header of a file.
func NewJournalReader(r io.Reader) (*JournalReader, error) {
	j := &JournalReader{in: &summingReader{in: bufio.NewReaderSize(r, fileBuffer), sum: sha256.New()}}
	if err := j.readHeader(); err != nil {
		return nil, j.explain(err)
	}
	zip, err := gzip.NewReader(j.in)
	if err != nil {
		return nil, j.explain(damaged("the records do not begin: %w", withoutEOF(err)))
	}
	zip.Multistream(false)
	j.zip, j.records = zip, bufio.NewReaderSize(zip, fileBuffer)
	return j, nil
}

// explain prefers an error of the reader below to what was made of it.
func (j *JournalReader) explain(err error) error {
	if j.in.failed != nil {
		return fmt.Errorf("read the journal file: %w", j.in.failed)
	}
	return err
}

func (j *JournalReader) readHeader() error {
	start, err := j.in.in.Peek(len(journalMagic))
	if string(start) != journalMagic {
		if err != nil && !errors.Is(err, io.EOF) {
			j.in.failed = err
		}
		return damaged("it does not begin as a journal's export does")
	}
	text, err := j.in.line()
	if err != nil {
		return err
	}
	var format struct{ Version int }
	if err := json.Unmarshal(text, &format); err != nil {
		return damaged("its header: %w", err)
	}
	if format.Version != journalVersion {
		return fmt.Errorf("the file has version %d of the format, and this release reads version %d", format.Version, journalVersion)
	}
	var line journalHeaderLine
	if err := json.Unmarshal(text, &line); err != nil {
		return damaged("its header: %w", err)
	}
	j.header = JournalHeader{Clinic: line.Clinic}
	for i, e := range line.Epochs {
		if e.Epoch < 2 || e.FirstSequence < 1 || i > 0 && e.Epoch <= line.Epochs[i-1].Epoch {
			return damaged("its epochs are not in order: %d, from sequence %d", e.Epoch, e.FirstSequence)
		}
		j.header.Epochs = append(j.header.Epochs, Epoch{e.Epoch, e.FirstSequence, ledger.InstantOf(e.StartedAt)})
	}
	return nil
}

// Header says whose journal it is. Until the end is reached nothing vouches for
// it.
func (j *JournalReader) Header() JournalHeader { return j.header }

// Head is the end of the journal, once Next has returned io.EOF. Its time is not
// known.
func (j *JournalReader) Head() ledger.Head { return j.head }

// Next returns the next event as it is stored, and its hash. After the last one
// it reads the rest of the file and returns io.EOF, which vouches for all that
// was read: every byte is as it was written.
func (j *JournalReader) Next() ([]byte, ledger.Hash, error) {
	if j.ended {
		return nil, ledger.Hash{}, io.EOF
	}
	stored, hash, err := j.next()
	if errors.Is(err, io.EOF) {
		if err = j.readEnd(); err == nil {
			j.ended = true
			return nil, hash, io.EOF
		}
	}
	if err != nil {
		return nil, hash, j.explain(err)
	}
	return stored, hash, nil
}

func (j *JournalReader) next() (stored []byte, hash ledger.Hash, err error) {
	length, err := binary.ReadUvarint(j.records)
	switch {
	case err == io.EOF: //nolint:errorlint // wrapped, it is the end of something else
		return nil, hash, err
	case err != nil:
		return nil, hash, damaged("a record's length: %w", withoutEOF(err))
	case length == 0 || length > maxJournalEvent:
		return nil, hash, damaged("a record of %d bytes", length)
	}
	if stored, err = readLong(j.records, int(length)); err != nil {
		return nil, hash, damaged("a record: %w", withoutEOF(err))
	}
	if _, err := io.ReadFull(j.records, hash[:]); err != nil {
		return nil, hash, damaged("a record's hash: %w", withoutEOF(err))
	}
	return stored, hash, nil
}

// withoutEOF keeps the end of the file in the middle of something from looking
// like its regular end.
func withoutEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readLong reads so many bytes. Memory grows with what there is to read, not
// with the length that the file claims.
func readLong(r io.Reader, length int) ([]byte, error) {
	if length <= eventAtOnce {
		b := make([]byte, length)
		_, err := io.ReadFull(r, b)
		return b, err
	}
	var b bytes.Buffer
	if _, err := io.CopyN(&b, r, int64(length)); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// readEnd reads what follows the records.
func (j *JournalReader) readEnd() error {
	if b, err := j.in.ReadByte(); err != nil || b != '\n' {
		return damaged("nothing follows the records")
	}
	text, err := j.in.line()
	if err != nil {
		return err
	}
	var line journalHeadLine
	if err := json.Unmarshal(text, &line); err != nil {
		return damaged("its head: %w", err)
	}
	link, err := hex.DecodeString(line.Hash)
	if err != nil || len(link) != len(j.head.Hash) || line.Epoch < 1 {
		return damaged("its head says epoch %d, hash %q", line.Epoch, line.Hash)
	}
	sum := j.in.total()
	if text, err = j.in.line(); err != nil {
		return err
	}
	if want := fmt.Sprintf("%s%x", checksumWord, sum); string(text) != want {
		return damaged("its last line is %q, and what precedes it comes to %q", text, want)
	}
	if _, err := j.in.ReadByte(); !errors.Is(err, io.EOF) {
		return damaged("something follows its end")
	}
	j.head = ledger.Head{Epoch: line.Epoch, Sequence: line.Sequence, Hash: ledger.Hash(link)}
	return nil
}

// summingReader sums up what is read through it. It implements io.ByteReader,
// so that the decompressor takes no byte beyond its own end.
type summingReader struct {
	in     *bufio.Reader
	sum    hash.Hash
	single [512]byte // bytes that were read singly and are not summed up yet
	n      int
	failed error // of the reader below, other than its end
}

// Read reads at least one byte.
func (r *summingReader) Read(p []byte) (int, error) {
	r.settle()
	n, err := r.in.Read(p)
	r.sum.Write(p[:n])
	r.note(err)
	return n, err
}

// ReadByte reads one byte.
func (r *summingReader) ReadByte() (byte, error) {
	b, err := r.in.ReadByte()
	if err != nil {
		r.note(err)
		return b, err
	}
	if r.n == len(r.single) {
		r.settle()
	}
	r.single[r.n] = b
	r.n++
	return b, nil
}

func (r *summingReader) settle() {
	r.sum.Write(r.single[:r.n])
	r.n = 0
}

func (r *summingReader) note(err error) {
	if err != nil && !errors.Is(err, io.EOF) && r.failed == nil {
		r.failed = err
	}
}

// total is the sum of all that was read.
func (r *summingReader) total() []byte {
	r.settle()
	return r.sum.Sum(nil)
}

// line reads up to the end of a line and returns it without that.
func (r *summingReader) line() ([]byte, error) {
	var line []byte
	for {
		b, err := r.ReadByte()
		switch {
		case err != nil:
			return nil, damaged("it ends in the middle of a line: %w", withoutEOF(err))
		case b == '\n':
			return line, nil
		case len(line) == maxJournalLine:
			return nil, damaged("it has a line of more than %d bytes", maxJournalLine)
		}
		line = append(line, b)
	}
}
