package local

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// errLocked says that a lock is held by another open file.
var errLocked = errors.New("its lock is held")

// lock opens a file and takes the lock on it, waiting for as long as that takes.
func lock(path string) (*os.File, error) { return flock(path, syscall.LOCK_EX) }

// tryLock is lock without waiting: it fails with errLocked.
func tryLock(path string) (*os.File, error) { return flock(path, syscall.LOCK_EX|syscall.LOCK_NB) }

// lockWithin polls tryLock for at most the given time: a waiting flock(2) could not be given up.
func lockWithin(path string, within time.Duration) (*os.File, error) {
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		file, err := tryLock(path)
		if !errors.Is(err, errLocked) {
			return file, err
		}
		select {
		case <-ticker.C:
		case <-deadline.C:
			return nil, fmt.Errorf("%w for %v", err, within)
		}
	}
}

func flock(path string, how int) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(file.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err == nil {
		return file, nil
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = errLocked
	}
	return nil, errors.Join(fmt.Errorf("%s: %w", path, err), file.Close())
}
