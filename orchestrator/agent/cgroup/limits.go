package cgroup

import (
	"errors"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Limits are what the processes of one group may use together.
type Limits struct {
	// CPUMillis is the most CPU time they get, in thousandths of a CPU; 0 for no limit.
	CPUMillis int64
	// CPURequestMillis is the weight with which they compete for CPU time, in thousandths of a CPU; 0 for the least.
	CPURequestMillis int64
	// MemoryBytes is the most memory that they hold, swap included; 0 for no limit.
	MemoryBytes int64
}

const (
	// periodMicros is over how long CPU time is counted: the kubelet's, and the kernel's default.
	periodMicros = 100_000
	// minQuotaMicros is the least quota of a period that the kernel takes.
	minQuotaMicros = 1000
	// sharesOfCPU is the weight of one CPU in version 1, minShares and maxShares the kernel's bounds.
	sharesOfCPU, minShares, maxShares = 1024, 2, 262_144
)

// quotaMicros and shares are the kubelet's (pkg/kubelet/cm/helpers_linux.go, MilliCPUToQuota and MilliCPUToShares).
func quotaMicros(millis int64) int64 { return max(millis*periodMicros/1000, minQuotaMicros) }

func shares(millis int64) int64 { return min(max(millis*sharesOfCPU/1000, minShares), maxShares) }

// weight maps the range of shares onto that of version 2, 1 to 10000, as KEP-2254 (cgroup v2) has it.
func weight(millis int64) int64 { return 1 + (shares(millis)-minShares)*9999/(maxShares-minShares) }

// need says that a run with these limits needs a group of its own in a place.
func (l Limits) need(p *place) bool {
	return l.MemoryBytes > 0 && slices.Contains(p.enabled, memory) || (l.CPUMillis > 0 || l.CPURequestMillis > 0) && slices.Contains(p.enabled, cpu)
}

// set writes the limits to a group in a place that has the controllers.
func (l Limits) set(p *place, dir string) error {
	for _, f := range l.files(p) {
		err := write(filepath.Join(dir, f.name), f.value)
		switch {
		case f.optional && errors.Is(err, unix.ENOENT):
			// A kernel without swap accounting, or one before the file came.
		case f.bounded && errors.Is(err, unix.EINVAL):
			// Version 1 takes no quota above that of a group further up, which bounds this one anyway.
		case err != nil:
			return err
		}
	}
	return nil
}

// setting is a file of a group and its content.
type setting struct {
	name, value       string
	optional, bounded bool
}

// files lists what to write, in an order that the kernel takes.
func (l Limits) files(p *place) (files []setting) {
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	hasCPU, hasMemory := slices.Contains(p.enabled, cpu), slices.Contains(p.enabled, memory)
	switch {
	case hasCPU && p.version == 1:
		files = append(files, setting{name: "cpu.shares", value: number(shares(l.CPURequestMillis))})
		if l.CPUMillis > 0 {
			files = append(files,
				setting{name: "cpu.cfs_period_us", value: number(periodMicros)},
				setting{name: "cpu.cfs_quota_us", value: number(quotaMicros(l.CPUMillis)), bounded: true})
		}
	case hasCPU:
		files = append(files, setting{name: "cpu.weight", value: number(weight(l.CPURequestMillis))})
		if l.CPUMillis > 0 {
			files = append(files, setting{name: "cpu.max", value: number(quotaMicros(l.CPUMillis)) + " " + number(periodMicros)})
		}
	}
	switch {
	case !hasMemory || l.MemoryBytes == 0:
	case p.version == 1:
		files = append(files,
			setting{name: "memory.limit_in_bytes", value: number(l.MemoryBytes)},
			setting{name: "memory.memsw.limit_in_bytes", value: number(l.MemoryBytes), optional: true})
	default:
		files = append(files,
			setting{name: "memory.max", value: number(l.MemoryBytes)},
			setting{name: "memory.swap.max", value: "0", optional: true},
			// One process that is killed for want of memory is no container that works any more: all end, as with the kubelet.
			setting{name: "memory.oom.group", value: "1", optional: true})
	}
	return files
}
