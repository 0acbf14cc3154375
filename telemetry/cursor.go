package telemetry

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Cursor remembers for each destination the number of the last fact whose spans it has taken. Implementations are safe for
// concurrent use by several destinations; for one there is one call at a time.
type Cursor interface {
	// Load returns 0 for a destination of which nothing is remembered.
	Load(destination string) (uint64, error)
	// Save returns once the number will outlive a crash.
	Save(destination string, seq uint64) error
}

type forgetful struct{}

func (forgetful) Load(string) (uint64, error) { return 0, nil }
func (forgetful) Save(string, uint64) error   { return nil }

// CursorDir keeps cursors in a directory, a file "trace-DESTINATION.cursor" each. It belongs with the log that the numbers are
// of: beside another log it would hide that log's first facts.
func CursorDir(dir string) Cursor { return cursorDir(dir) }

type cursorDir string

func (d cursorDir) file(destination string) string {
	return filepath.Join(string(d), "trace-"+destination+".cursor")
}

func (d cursorDir) Load(destination string) (uint64, error) {
	content, err := os.ReadFile(d.file(destination))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	} else if err != nil {
		return 0, fmt.Errorf("read cursor: %w", err)
	}
	seq, err := strconv.ParseUint(strings.TrimSuffix(string(content), "\n"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read cursor %s: %w", d.file(destination), err)
	}
	return seq, nil
}

func (d cursorDir) Save(destination string, seq uint64) error {
	if err := d.save(d.file(destination), strconv.FormatUint(seq, 10)+"\n"); err != nil {
		return fmt.Errorf("save cursor: %w", err)
	}
	return nil
}

func (d cursorDir) save(path, content string) error {
	temporary, err := os.Create(path + ".new")
	if err != nil {
		return err
	}
	_, err = temporary.WriteString(content)
	if err = errors.Join(err, temporary.Sync(), temporary.Close()); err != nil {
		return err
	}
	if err := os.Rename(temporary.Name(), path); err != nil {
		return err
	}
	directory, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(directory.Sync(), directory.Close())
}
