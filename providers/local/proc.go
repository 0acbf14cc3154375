package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// processID names one process for good: a number alone is used again.
type processID struct {
	PID int `json:"pid"`
	// StartTicks is the process' start, in clock ticks since the machine's (proc_pid_stat(5), starttime).
	StartTicks uint64 `json:"startTicks"`
	// BootID is the machine's start (proc_sys_kernel(5), random/boot_id).
	BootID string `json:"bootId"`
}

// identify returns the name of the process that has this number now.
func identify(pid int) (processID, error) {
	boot, err := bootID()
	if err != nil {
		return processID{}, err
	}
	stat, err := readStat(pid)
	if err != nil {
		return processID{}, err
	}
	return processID{PID: pid, StartTicks: stat.startTicks, BootID: boot}, nil
}

func bootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data)), err
}

// alive says whether the process is there still, and no zombie.
func (id processID) alive() bool {
	if id.PID <= 0 {
		return false
	}
	now, err := identify(id.PID)
	if err != nil || now != id {
		return false
	}
	stat, err := readStat(id.PID)
	return err == nil && stat.state != "Z" && stat.state != "X"
}

// kill ends the process if it is there still.
func (id processID) kill() error {
	if !id.alive() {
		return nil
	}
	if err := syscall.Kill(id.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill process %d: %w", id.PID, err)
	}
	return nil
}

// end kills the process if it is there still and returns when it is not.
func (id processID) end(within time.Duration) error {
	if err := id.kill(); err != nil {
		return err
	}
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(within)
	for id.alive() {
		select {
		case <-ticker.C:
		case <-deadline:
			return fmt.Errorf("process %d does not end on SIGKILL", id.PID)
		}
	}
	return nil
}

// killAll kills what is left of an instance: whatever descends from its guardian, deepest first so that nothing is orphaned, then
// the guardian, then whoever else has the lock's file open. Processes come and go meanwhile; it is repeated until the lock is free.
func (p *Provider) killAll(r record, lockPath string) {
	if r.Guardian.alive() {
		p.kill(r, append(descendants(r.Guardian), r.Guardian))
	}
	held, err := holders(lockPath)
	if err != nil {
		p.logger.Error("cannot look for the processes of an instance", "instance", r.ID, "error", err)
	}
	p.kill(r, held)
}

func (p *Provider) kill(r record, victims []processID) {
	for _, victim := range victims {
		if victim.PID == os.Getpid() { // it waits for the lock
			continue
		}
		p.logger.Warn("killing a process of an instance", "instance", r.ID, "pid", victim.PID)
		if err := victim.kill(); err != nil {
			p.logger.Error("cannot kill a process of an instance", "instance", r.ID, "error", err)
		}
	}
}

// processStat is the part of /proc/PID/stat that is of interest.
type processStat struct {
	state      string
	parent     int
	startTicks uint64
}

func readStat(pid int) (processStat, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return processStat{}, err
	}
	// The second field is the command's name in parentheses, which may hold anything; fields are counted from after it.
	_, rest, found := cutLast(string(data), ")")
	fields := strings.Fields(rest)
	if !found || len(fields) < 20 {
		return processStat{}, fmt.Errorf("/proc/%d/stat: %q", pid, data)
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return processStat{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return processStat{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return processStat{state: fields[0], parent: parent, startTicks: start}, nil
}

func cutLast(s, separator string) (before, after string, found bool) {
	at := strings.LastIndex(s, separator)
	if at < 0 {
		return s, "", false
	}
	return s[:at], s[at+len(separator):], true
}

// processes returns the numbers of all processes.
func processes() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil // no /proc, no processes to be found: holders tells that
	}
	var pids []int
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// descendants returns the children of a process and theirs, deepest first.
func descendants(root processID) []processID {
	children := map[int][]processID{}
	for _, pid := range processes() {
		if stat, err := readStat(pid); err == nil { // one that has ended meanwhile is nobody's child
			children[stat.parent] = append(children[stat.parent], processID{PID: pid, StartTicks: stat.startTicks, BootID: root.BootID})
		}
	}
	var found []processID
	var visit func(int)
	visit = func(parent int) {
		for _, child := range children[parent] {
			visit(child.PID)
			found = append(found, child)
		}
	}
	visit(root.PID)
	return found
}

// holders returns the processes that have a file open.
func holders(path string) ([]processID, error) {
	wanted, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	pids := processes()
	if len(pids) == 0 {
		return nil, errors.New("/proc lists no process")
	}
	var found []processID
	for _, pid := range pids {
		descriptors, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "fd", "*"))
		if err != nil {
			return nil, err
		}
		for _, descriptor := range descriptors {
			// One that closed meanwhile, or belongs to another user, holds nothing of ours.
			if info, err := os.Stat(descriptor); err == nil && os.SameFile(info, wanted) {
				if id, err := identify(pid); err == nil {
					found = append(found, id)
				}
				break
			}
		}
	}
	return found, nil
}
