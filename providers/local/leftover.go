package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// settleInstances looks after the instances that an earlier provider left. When it returns without an error none of them runs
// anything. Their directories stay until the provider after this one; those of instances that had ended before are removed.
func (p *Provider) settleInstances() error {
	entries, err := os.ReadDir(filepath.Join(p.config.Dir, "instances"))
	if err != nil {
		return err
	}
	errs := make([]error, len(entries))
	var wg sync.WaitGroup
	for n, entry := range entries {
		wg.Go(func() { errs[n] = p.settle(p.instanceDir(entry.Name())) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// settle waits for one instance to go, and kills it if it does not.
func (p *Provider) settle(dir string) error {
	left, err := readRecord(dir)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		// The last provider died between making the directory and writing the record: nothing was started.
		return os.RemoveAll(dir)
	}
	path := filepath.Join(dir, "lock")
	free, err := lockWithin(path, killAfter)
	if errors.Is(err, errLocked) {
		p.logger.Warn("an instance of an earlier provider does not end by itself and is killed", "instance", left.ID)
		p.killAll(left, path)
		free, err = lockWithin(path, killAfter)
	}
	if err != nil {
		return fmt.Errorf("instance %s of an earlier provider: %w", left.ID, err)
	}
	defer free.Close()
	if left.Gone {
		return os.RemoveAll(dir)
	}
	// A guardian that let go of its lock must not outlive it.
	if err := left.Guardian.end(killAfter); err != nil {
		return fmt.Errorf("instance %s of an earlier provider: %w", left.ID, err)
	}
	left.Gone = true
	if err := os.Remove(filepath.Join(dir, "token")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return writeJSON(recordPath(dir), left)
}
