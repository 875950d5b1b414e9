// Command gendocs writes docs/errors.md from the catalogue of reasons. With
// -check it only tells whether the file is current.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"

	"github.com/stockledger/stockledger/rpc"
)

func main() {
	check := flag.Bool("check", false, "change nothing; fail where the file is not current")
	path := flag.String("o", "docs/errors.md", "the file")
	flag.Parse()
	if err := run(*path, *check); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(path string, check bool) error {
	want := []byte(rpc.ErrorsDoc())
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
