package reaper

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// retryScan is the pause after a look at /proc that failed, as for want of file descriptors: nothing tells when it would succeed.
const retryScan = 100 * time.Millisecond

// Adopt makes this process the reaper of its descendants: those whose parents end become its children instead of init's, so
// that none can leave the tree, not by setsid and not by forking twice (PR_SET_CHILD_SUBREAPER, prctl(2)).
func Adopt() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the reaper of descendants: %w", err)
	}
	return nil
}

// KeepFilesFromChildren marks every open file but the standard three as closed on exec.
func KeepFilesFromChildren() error {
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("mark open files as closed on exec: %w", err)
	}
	return nil
}

// KillDescendants kills every descendant of this process with SIGKILL and reaps them; when it returns, none exists. The
// process must have called Adopt, and nothing else in it may wait for children meanwhile. What cannot be killed (another
// user's process) is told to warn and waited for: a false "all gone" would be worse than a late one.
func KillDescendants(warn func(error)) {
	for {
		found, err := Descendants(os.Getpid())
		if err != nil {
			warn(err)
			<-time.After(retryScan)
			continue
		}
		for _, p := range found {
			if err := p.Kill(); err != nil {
				warn(err)
			}
		}
		// Each child that the scan saw is dying, and the children of a dead one become ours, so some child ends soon; the
		// next round finds what was forked behind the scan's back. No child at all means no descendant.
		if !reapSome() {
			return
		}
	}
}

// reapSome waits for one child and takes all others that have ended too; false when there is no child.
func reapSome() bool {
	options := 0
	for {
		pid, err := unix.Wait4(-1, nil, options, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return false // ECHILD, the only other error that these arguments can have.
		case pid == 0:
			return true
		default:
			options = unix.WNOHANG
		}
	}
}
