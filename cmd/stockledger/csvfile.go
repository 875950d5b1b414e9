package main

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// csvRow is a row of a CSV file by the names of its columns.
type csvRow struct {
	line   int
	record []string
	values map[string]string
}

func (r *csvRow) get(column string) string { return r.values[column] }

// csvFile is a CSV file with a header. Columns are matched by name, in any order
// and case.
type csvFile struct {
	path    string
	header  []string
	rows    []csvRow
	ignored []string  // columns that the import does not know
	refused []refusal // rows that are not even rows
}

// refusal is a row that was not imported.
type refusal struct {
	row    csvRow
	reason string
}

// column is a column that an import knows.
type column struct {
	name     string
	aliases  []string
	required bool
}

func (c column) named(name string) bool { return c.name == name || slices.Contains(c.aliases, name) }

// readCSV reads a file whole. It fails where a required column is missing.
func readCSV(path string, columns []column) (*csvFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f := &csvFile{path: path}
	reader := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))))
	reader.FieldsPerRecord = -1
	reader.TrimLeadingSpace = true
	if f.header, err = reader.Read(); err != nil {
		return nil, fmt.Errorf("%s: the first line must name the columns: %w", path, err)
	}
	names, err := f.match(columns)
	if err != nil {
		return nil, err
	}
	for {
		record, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return f, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		line, _ := reader.FieldPos(0)
		f.add(csvRow{line: line, record: record, values: make(map[string]string, len(names))}, names)
	}
}

// match finds the known column that each column of the file is.
func (f *csvFile) match(columns []column) ([]string, error) {
	names := make([]string, len(f.header))
	for i, title := range f.header {
		title = strings.ToLower(strings.TrimSpace(title))
		for _, c := range columns {
			if c.named(title) && !slices.Contains(names, c.name) {
				names[i] = c.name
			}
		}
		if names[i] == "" {
			f.ignored = append(f.ignored, title)
		}
	}
	for _, c := range columns {
		if c.required && !slices.Contains(names, c.name) {
			return nil, fmt.Errorf("%s has no column %q: its header must name it, and has %s", f.path, c.name, strings.Join(f.header, ", "))
		}
	}
	return names, nil
}

func (f *csvFile) add(row csvRow, names []string) {
	for i, value := range row.record {
		if !utf8.ValidString(value) {
			f.refused = append(f.refused, refusal{row, "the row is not valid UTF-8: save the file as UTF-8"})
			return
		}
		if i < len(names) && names[i] != "" {
			row.values[names[i]] = strings.TrimSpace(value)
		}
	}
	if len(row.record) != len(names) {
		f.refused = append(f.refused, refusal{row, fmt.Sprintf("the row has %d fields and the header %d", len(row.record), len(names))})
		return
	}
	f.rows = append(f.rows, row)
}

// writeRefused writes the refused rows beside the file, with their lines and
// reasons in two more columns. It returns the new file's name.
func (f *csvFile) writeRefused(refused []refusal) (string, error) {
	path := strings.TrimSuffix(f.path, ".csv") + ".refused.csv"
	var out bytes.Buffer
	w := csv.NewWriter(&out)
	rows := [][]string{append(slices.Clone(f.header), "refused_line", "refused_because")}
	for _, r := range refused {
		record := slices.Clone(r.row.record)
		for len(record) < len(f.header) {
			record = append(record, "")
		}
		rows = append(rows, append(record[:len(f.header)], strconv.Itoa(r.row.line), r.reason))
	}
	if err := w.WriteAll(rows); err != nil {
		return "", err
	}
	return path, os.WriteFile(path, out.Bytes(), 0o600)
}
