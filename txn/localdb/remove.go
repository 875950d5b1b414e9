package localdb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Remove deletes a data folder for good, with what links in it lead to where
// the data had to live elsewhere. It refuses while a server uses the folder.
func Remove(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("localdb: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return fmt.Errorf("localdb: %s is in use; stop the server first: %w", dir, err)
	}
	defer func() { _ = lock.Close() }()
	for _, entry := range entries {
		if entry.Type()&fs.ModeSymlink == 0 {
			continue
		}
		target, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if err != nil {
			return fmt.Errorf("localdb: %w", err)
		}
		if strings.HasPrefix(target, elsewhere+string(filepath.Separator)) {
			if err := os.RemoveAll(target); err != nil {
				return fmt.Errorf("localdb: %w", err)
			}
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("localdb: %w", err)
	}
	return nil
}
