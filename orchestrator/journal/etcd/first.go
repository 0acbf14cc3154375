package etcd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// A new etcd writes its log's file before the entry that makes it the member of its own cluster. If it dies in between, it starts
// from that log as a member of nothing and waits for ever. So a file beside it tells that the first start has begun; it
// is removed when the first start has succeeded, before anybody can append. What stands beside such a file never held a fact.
const (
	etcdName  = "etcd"
	firstName = "etcd.first-start"
)

// beginFirst makes the directory ready for etcd: it marks a first start, and removes what an unfinished one has left.
func beginFirst(dir string) error {
	marker, store := filepath.Join(dir, firstName), filepath.Join(dir, etcdName)
	_, err := os.Stat(marker)
	if err == nil {
		if err := os.RemoveAll(store); err != nil {
			return fmt.Errorf("journal: removing an unfinished first start: %w", err)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("journal: looking at the data directory: %w", err)
	}
	if _, err := os.Stat(store); !errors.Is(err, fs.ErrNotExist) {
		return err // an etcd that has been started before, or an error
	}
	file, err := os.Create(marker)
	if err == nil {
		err = errors.Join(file.Sync(), file.Close(), syncDir(dir))
	}
	if err != nil {
		return fmt.Errorf("journal: marking the first start: %w", err)
	}
	return nil
}

// endFirst tells that the start has succeeded. It is on disk when endFirst returns: a marker that came back after a power failure
// would cost the facts that were appended since.
func endFirst(dir string) error {
	err := os.Remove(filepath.Join(dir, firstName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err = errors.Join(err, syncDir(dir)); err != nil {
		return fmt.Errorf("journal: marking the end of the first start: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
