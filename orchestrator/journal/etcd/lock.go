package etcd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// ErrInUse: another journal, of this or another process, has the data directory open. The error that wraps it names both.
var ErrInUse = errors.New("journal: the data directory is in use")

// lockName is the file in the data directory that its owner holds locked.
const lockName = "lock"

// dirLock is the exclusive right to a data directory. The kernel takes it back when its process ends, however it ends; child
// processes do not inherit it. It is a bare descriptor, so that a lock nobody refers to any more still holds.
type dirLock struct{ fd int }

// lockDir takes the right or fails with ErrInUse at once. etcd has locks of its own, but waits for them without a word.
func lockDir(dir string) (*dirLock, error) {
	path := filepath.Join(dir, lockName)
	fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CREAT|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("journal: opening %s: %w", path, err)
	}
	lock := &dirLock{fd}
	if err := flock(fd); err != nil {
		err = fmt.Errorf("journal: locking %s: %w", path, err)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = fmt.Errorf("%w: %s, by %s", ErrInUse, dir, holder(path))
		}
		return nil, errors.Join(err, lock.unlock())
	}
	if err := os.WriteFile(path, []byte(owner()+"\n"), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("journal: writing who has the data directory: %w", err), lock.unlock())
	}
	return lock, nil
}

func flock(fd int) error {
	for {
		if err := syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// owner is how this process is told to people.
func owner() string { return fmt.Sprintf("process %d", os.Getpid()) }

// holder is what the lock's file says about who holds it. It is for a message, and the holder may be about to write it.
func holder(path string) string {
	data, err := os.ReadFile(path)
	if s := strings.TrimSpace(string(data)); err == nil && s != "" {
		return s
	}
	return "a process that has not named itself"
}

// unlock gives the right back. The file stays: removing it would let two processes lock two files of one name.
func (l *dirLock) unlock() error {
	if err := syscall.Close(l.fd); err != nil {
		return fmt.Errorf("journal: unlocking the data directory: %w", err)
	}
	return nil
}
