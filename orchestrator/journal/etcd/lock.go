package etcd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// ErrInUse: another journal, of this or another process, has the data directory open. The error that wraps it names both.
var ErrInUse = errors.New("journal: the data directory is in use")

// lockName is the file in the data directory that its owner holds locked.
const lockName = "lock"

// dirLock is the exclusive right to a data directory. The kernel takes it back when its process ends, however it ends, and child
// processes do not inherit it (Go opens files close-on-exec).
type dirLock struct{ file *os.File }

// lockDir takes the right or fails with ErrInUse at once. etcd has locks of its own, but waits for them without a word.
func lockDir(dir string) (*dirLock, error) {
	path := filepath.Join(dir, lockName)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("journal: opening the lock of the data directory: %w", err)
	}
	if err := flock(file); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(file, 128)) // for the message alone
		_ = file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s, by %s", ErrInUse, dir, describe(holder))
		}
		return nil, fmt.Errorf("journal: locking %s: %w", path, err)
	}
	if err := errors.Join(file.Truncate(0), writeOwner(file)); err != nil {
		return nil, errors.Join(fmt.Errorf("journal: writing %s: %w", path, err), file.Close())
	}
	return &dirLock{file: file}, nil
}

func flock(file *os.File) error {
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func writeOwner(file *os.File) error {
	_, err := fmt.Fprintln(file, owner())
	return err
}

// owner is how this process is told to people.
func owner() string { return fmt.Sprintf("process %d", os.Getpid()) }

// describe is what the lock's file says about who holds it.
func describe(holder []byte) string {
	if s := strings.TrimSpace(string(holder)); s != "" {
		return s
	}
	return "a process that has not named itself"
}

// unlock gives the right back. The file stays: removing it would let two processes lock two files of one name.
func (l *dirLock) unlock() error {
	if err := l.file.Close(); err != nil {
		return fmt.Errorf("journal: unlocking the data directory: %w", err)
	}
	return nil
}
