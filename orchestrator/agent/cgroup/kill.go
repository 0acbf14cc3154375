package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// pause between looks at a group: nothing tells that a process has left it, in version 1.
	pause = time.Millisecond
	// removeTries bounds how often the removal of an empty group is tried. The kernel counts a dead process for a moment longer.
	removeTries = 2000
)

// signalTree kills the processes of a group and of those below it, which its processes may have made, and returns a pidfd of each that it
// found, which the caller closes. Whoever wants them all gone calls it until it finds none: where the kernel cannot kill a whole group,
// a process may fork while it is killed.
func signalTree(dir string) (pidfds []int, err error) {
	err = write(filepath.Join(dir, "cgroup.kill"), "1")
	if err != nil && !isMissing(err) { // It is missing in version 1 and on older kernels.
		return nil, fmt.Errorf("kill what is in control group %s: %w", filepath.Base(dir), err)
	}
	pidfds, err = membersOf(dir)
	for _, fd := range pidfds {
		if killErr := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); killErr != nil && !errors.Is(killErr, unix.ESRCH) {
			err = errors.Join(err, fmt.Errorf("kill what is in control group %s: %w", filepath.Base(dir), killErr))
		}
	}
	return pidfds, err
}

// killTree kills the processes of a group and returns when none is left.
func killTree(dir string) error {
	for {
		pidfds, err := signalTree(dir)
		if err == nil && len(pidfds) == 0 {
			return nil
		}
		for _, fd := range pidfds {
			if err == nil {
				err = awaitEnd(fd) // Only of one that was sent the signal.
			}
			unix.Close(fd)
		}
		if err != nil {
			return err
		}
		<-time.After(pause)
	}
}

// awaitEnd blocks until the process of a pidfd has ended.
func awaitEnd(pidfd int) error {
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// membersOf returns a pidfd of each process in the group and those below it, which the caller closes. The agent is none of them: in
// version 1 a thread of it may be there for a moment.
func membersOf(dir string) (pidfds []int, err error) {
	before, err := pids(dir)
	if err != nil {
		return nil, err
	}
	opened := map[int]int{}
	for _, pid := range before {
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			opened[pid] = fd
		} else if !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EINVAL) {
			return nil, fmt.Errorf("pidfd of process %d: %w", pid, err)
		}
	}
	// The number may have gone to another process before it was opened; one that is still in the group is the one that is meant.
	after, err := pids(dir)
	for pid, fd := range opened {
		if err == nil && slices.Contains(after, pid) {
			pidfds = append(pidfds, fd)
		} else {
			unix.Close(fd)
		}
	}
	return pidfds, err
}

func pids(dir string) (found []int, err error) {
	groups, err := tree(dir)
	if err != nil {
		return nil, err
	}
	for _, group := range groups {
		words, err := readWords(filepath.Join(group, "cgroup.procs"))
		if err != nil && !isMissing(err) {
			return nil, err
		}
		for _, word := range words {
			pid, err := strconv.Atoi(word)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", group, err)
			}
			if pid != os.Getpid() && pid != 0 {
				found = append(found, pid)
			}
		}
	}
	return found, nil
}

// tree returns the directory and all directories below it, parents first; nothing when it is not there.
func tree(dir string) (dirs []string, err error) {
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil && isMissing(err):
			return nil
		case err == nil && entry.IsDir():
			dirs = append(dirs, path)
		}
		return err
	})
	return dirs, err
}

// removeTree kills what is in a group and those below it and removes them all.
func (m machine) removeTree(dir string) error {
	if err := killTree(dir); err != nil {
		return err
	}
	dirs, err := tree(dir)
	if err != nil {
		return err
	}
	for _, group := range slices.Backward(dirs) {
		for try := 1; ; try++ {
			err := m.rmdir(group)
			if err == nil || isMissing(err) {
				break
			}
			if !errors.Is(err, unix.EBUSY) || try == removeTries {
				return fmt.Errorf("remove control group %s: %w", group, err)
			}
			<-time.After(pause)
		}
	}
	return nil
}
