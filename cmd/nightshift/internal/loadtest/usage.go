package loadtest

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Usage is what a process has used.
type Usage struct {
	CPUSeconds   float64 `json:"cpuSeconds"`
	PeakRSSBytes int64   `json:"peakRSSBytes"`
}

// ticksPerSecond is the unit of CPU times in /proc: USER_HZ, 100 on every Linux that Go runs on.
const ticksPerSecond = 100

// usageOf reads what a process has used, see proc_pid_stat(5) and proc_pid_status(5).
func usageOf(pid int) (u Usage, err error) {
	fields, err := statOf(pid)
	if err != nil {
		return u, err
	}
	const user, system = 11, 12 // Fields 14 and 15 of the page.
	for _, at := range []int{user, system} {
		ticks, err := strconv.ParseInt(fields[at], 10, 64)
		if err != nil {
			return u, fmt.Errorf("CPU time of process %d: %w", pid, err)
		}
		u.CPUSeconds += float64(ticks) / ticksPerSecond
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		if amount, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kilobytes, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(amount), " kB"), 10, 64)
			u.PeakRSSBytes = kilobytes << 10
			return u, err
		}
	}
	return u, fmt.Errorf("the kernel does not tell the peak memory of process %d", pid)
}

// statOf returns the fields of /proc/PID/stat behind the command's name.
func statOf(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	const least = 22
	if len(fields) < least {
		return nil, fmt.Errorf("/proc/%d/stat is cut short", pid)
	}
	return fields, nil
}

// usageOfChildren adds up what the children of a process have used.
func usageOfChildren(parent int) (sum Usage, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return sum, err
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		fields, err := statOf(pid)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return sum, err
		}
		const ppid = 1 // Field 4 of the page.
		if fields[ppid] != strconv.Itoa(parent) {
			continue
		}
		u, err := usageOf(pid)
		if err != nil {
			return sum, err
		}
		sum.CPUSeconds += u.CPUSeconds
		sum.PeakRSSBytes += u.PeakRSSBytes
	}
	return sum, nil
}
