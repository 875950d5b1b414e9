// Command gendocs writes what of the documentation follows from the code:
// docs/errors.md from the catalogue of reasons, and docs/events.md from the names
// of events. With -check it only tells whether the files are current.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/stockledger/stockledger/rpc"
)

func main() {
	check := flag.Bool("check", false, "change nothing; fail where a file is not current")
	folder := flag.String("o", "docs", "the folder")
	flag.Parse()
	err := errors.Join(
		run(filepath.Join(*folder, "errors.md"), rpc.ErrorsDoc(), *check),
		run(filepath.Join(*folder, "events.md"), rpc.EventsDoc(), *check),
	)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(path, text string, check bool) error {
	want := []byte(text)
	if !check {
		return os.WriteFile(path, want, 0o644) //nolint:gosec // G306: everybody may read the documentation
	}
	have, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !bytes.Equal(have, want) {
		return fmt.Errorf("%s is not current: go run ./rpc/gendocs", path)
	}
	return nil
}
