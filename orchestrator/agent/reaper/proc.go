package reaper

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Process is one process as /proc showed it at some moment.
type Process struct {
	PID    int
	Parent int
	// Ended: it runs no more and waits to be reaped.
	Ended bool
	// started is the start time in clock ticks after boot; with the PID it names a process for good.
	started uint64
}

// Kill sends SIGKILL to exactly this process: a later one with the same number is left alone. A process that is gone is no
// error.
func (p Process) Kill() error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pidfd of process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	// The descriptor pins whatever has the number now; look again whether that is still the one that was meant.
	if same, err := p.isCurrent(); !same {
		return err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	return nil
}

// await blocks until the process has ended (it may still be a zombie).
func (p Process) await() error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pidfd of process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	if same, err := p.isCurrent(); !same {
		return err
	}
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for process %d: %w", p.PID, err)
		}
	}
}

// isCurrent says that the process still has its number.
func (p Process) isCurrent() (bool, error) {
	now, err := readProcess(p.PID)
	if isGone(err) {
		return false, nil
	}
	return err == nil && now.started == p.started, err
}

// isGone tells the errors of a look at a process that has ended from those of a look that failed.
func isGone(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) }

// Descendants returns the processes below root, parents before children, those that wait to be reaped included. Processes come and go while it
// looks, so a caller that needs them all gone looks again until there are none.
func Descendants(root int) ([]Process, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	children := make(map[int][]Process, len(all))
	for _, p := range all {
		children[p.Parent] = append(children[p.Parent], p)
	}
	found := append([]Process(nil), children[root]...)
	for i := 0; i < len(found); i++ {
		found = append(found, children[found[i].PID]...)
	}
	return found, nil
}

// WithEnviron returns the living processes whose environment at their start held the entry NAME=VALUE. Processes that may not
// be read belong to somebody else and are left out.
func WithEnviron(entry string) ([]Process, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	var found []Process
	for _, p := range all {
		if p.Ended {
			continue
		}
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.PID))
		if isGone(err) || errors.Is(err, os.ErrPermission) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for e := range bytes.SplitSeq(environ, []byte{0}) {
			if string(e) == entry {
				found = append(found, p)
				break
			}
		}
	}
	return found, nil
}

func processes() ([]Process, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list /proc: %w", err)
	}
	var all []Process
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		p, err := readProcess(pid)
		if isGone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// readProcess reads /proc/PID/stat, see proc_pid_stat(5). The command's name, in parentheses, may hold anything, so the
// fields are counted from the last parenthesis.
func readProcess(pid int) (Process, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, err
	}
	_, rest, ok := strings.Cut(string(raw[bytes.LastIndexByte(raw, ')')+1:]), " ")
	fields := strings.Fields(rest)
	const state, parent, threads, started = 0, 1, 17, 19 // Fields 3, 4, 20 and 22 of the page.
	if !ok || len(fields) <= started {
		return Process{}, fmt.Errorf("/proc/%d/stat is cut short", pid)
	}
	// A process whose first thread alone has ended shows as a zombie too, but has others.
	ended := fields[state] == "X" || fields[state] == "Z" && (fields[threads] == "0" || fields[threads] == "1")
	p := Process{PID: pid, Ended: ended}
	if p.Parent, err = strconv.Atoi(fields[parent]); err != nil {
		return Process{}, fmt.Errorf("/proc/%d/stat: parent: %w", pid, err)
	}
	if p.started, err = strconv.ParseUint(fields[started], 10, 64); err != nil {
		return Process{}, fmt.Errorf("/proc/%d/stat: start time: %w", pid, err)
	}
	return p, nil
}
