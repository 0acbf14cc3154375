// Package reaper starts processes, waits for them, and leaves none behind.
//
// It owns every wait of its process: a subreaper gets children that it never started, and only one place can tell them from its
// own without stealing an exit status. Its promises:
//
//   - When a Child ends, its process group is killed before its status is told. The dead leader is reaped only after that, so
//     the group's number cannot have gone to somebody else.
//   - KillDescendants and KillAll return when no descendant exists, whatever it called: setsid, a double fork, a changed group.
//   - If this process is killed, the kernel kills its direct children (PR_SET_PDEATHSIG), even when nobody is left to do it.
//
// What it cannot do: tell which Child a process came from that left the group, whose parents ended, and that wiped its
// environment. Such a process is found when no Child is left, or at the latest when the agent ends.
//
// Linux 5.9 or later on a 64-bit machine: it uses pidfd_open and close_range.
package reaper

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Command is what to start.
type Command struct {
	// Path of the executable; a relative one is relative to Dir.
	Path string
	// Args with the name first.
	Args []string
	// Env is the whole environment, NAME=VALUE.
	Env []string
	// Dir to start in.
	Dir string
	// Output is the file descriptor for standard output and standard error. Standard input is empty.
	Output int
	// Mark is an entry of Env, NAME=VALUE, that no other command's descendants have.
	Mark string
	// Birthplace is where the process is born; nil for where the reaper is.
	Birthplace Birthplace
}

// Birthplace is a place in which the kernel makes a process because the thread that forks is there: control groups.
type Birthplace interface {
	// Enter moves the calling thread, which is locked to its goroutine and forks next; leave moves it back. unified is the open
	// directory of a control group of version 2 for the process, -1 for none.
	Enter() (unified int, leave func() error, err error)
}

// Child is a process that Start made, the leader of its own process group. Safe for concurrent use.
type Child struct {
	reaper *Reaper
	pid    int
	mark   string
	done   chan struct{}
	// status and endedAt are valid once done is closed.
	status  syscall.WaitStatus
	endedAt time.Time
}

// Reaper is the one waiter of its process; make it with New. Safe for concurrent use.
type Reaper struct {
	warn  func(error)
	spawn chan func()
	// births is held for reading while a process is made and not yet among the children, and for writing while ends are taken: the end of
	// a child that is not known yet would be lost. It is taken before mu.
	births   sync.RWMutex
	mu       sync.Mutex
	children map[int]*Child // Guarded by mu: started and not yet reaped.
	// unswept counts the children whose strays may still be about.
	unswept int // Guarded by mu.
}

// New makes this process the reaper of all its descendants. At most one Reaper may exist in a process, it lives as long as the
// process, and nothing else in it may start or wait for processes. Whatever cannot be killed is told to warn.
func New(warn func(error)) (*Reaper, error) {
	if err := Adopt(); err != nil {
		return nil, err
	}
	r := &Reaper{warn: warn, spawn: make(chan func()), children: map[int]*Child{}}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	go func() {
		for range ended {
			r.reap()
		}
	}()
	// A thread waits while the process that it makes becomes its executable, so there is one for each CPU.
	for range runtime.NumCPU() {
		go func() {
			// The parent of PR_SET_PDEATHSIG is a thread and not a process: this one lives as long as the process does.
			runtime.LockOSThread()
			for start := range r.spawn {
				start()
			}
		}()
	}
	return r, nil
}

// Start starts a command in a process group of its own. The error of a command that cannot be executed is the system's.
func (r *Reaper) Start(c Command) (*Child, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	var child *Child
	started := make(chan struct{})
	r.spawn <- func() {
		defer close(started)
		child, err = r.bear(c, null.Fd())
	}
	<-started
	return child, err
}

// bear makes the process and puts it among the children; it runs on a thread that lives as long as this process.
func (r *Reaper) bear(c Command, input uintptr) (*Child, error) {
	r.births.RLock()
	defer r.births.RUnlock()
	pid, err := r.fork(c, input)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	child := &Child{reaper: r, pid: pid, mark: c.Mark, done: make(chan struct{})}
	r.children[pid] = child
	r.unswept++
	return child, nil
}

// fork makes the process.
func (r *Reaper) fork(c Command, input uintptr) (pid int, err error) {
	sys := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if c.Birthplace != nil {
		unified, leave, err := c.Birthplace.Enter()
		if err != nil {
			return 0, err
		}
		sys.UseCgroupFD, sys.CgroupFD = unified >= 0, unified
		defer func() {
			if err := leave(); err != nil {
				r.warn(fmt.Errorf("the thread that starts processes could not leave the place of the last one: %w", err))
			}
		}()
	}
	return syscall.ForkExec(c.Path, c.Args, &syscall.ProcAttr{
		Dir: c.Dir, Env: c.Env, Files: []uintptr{input, uintptr(c.Output), uintptr(c.Output)}, Sys: sys,
	})
}

// KillAll kills every descendant and returns when none exists. It is for a process that is about to exit: from then on Start
// and Signal block, and no Child is told to have ended.
func (r *Reaper) KillAll() {
	r.births.Lock() // And never unlocked: reap must not take a status that KillDescendants waits for, and nothing more may be born.
	r.mu.Lock()
	KillDescendants(r.warn)
}

// reap takes every child that has ended.
func (r *Reaper) reap() {
	r.births.Lock()
	defer r.births.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		pid, ok := endedChild()
		if !ok {
			return
		}
		child := r.children[pid]
		if child != nil {
			child.endedAt = time.Now()
			r.signalGroup(pid, unix.SIGKILL)
		}
		var status syscall.WaitStatus
		for {
			_, err := syscall.Wait4(pid, &status, 0, nil)
			if !errors.Is(err, syscall.EINTR) {
				break
			}
		}
		if child != nil {
			delete(r.children, pid)
			child.status = status
			close(child.done)
		}
	}
}

// siginfo is the head of siginfo_t for SIGCHLD on 64-bit Linux, see waitid(2).
type siginfo struct {
	_   [3]int32
	_   int32
	pid int32
	_   [108]byte
}

// Compile errors when the layouts differ.
var (
	_ [unsafe.Sizeof(siginfo{}) - unsafe.Sizeof(unix.Siginfo{})]struct{}
	_ [unsafe.Sizeof(unix.Siginfo{}) - unsafe.Sizeof(siginfo{})]struct{}
	_ [unsafe.Sizeof(uintptr(0)) - 8]struct{}
)

// endedChild names a child that has ended, without reaping it.
func endedChild() (pid int, ok bool) {
	var info siginfo
	for {
		err := unix.Waitid(unix.P_ALL, 0, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return int(info.pid), err == nil && info.pid != 0
		}
	}
}

// signalGroup signals the group of a child that is not yet reaped; mu is held.
func (r *Reaper) signalGroup(pid int, sig syscall.Signal) {
	// EPERM: no member of the group may be signalled; on a dead leader alone it does not happen.
	if err := syscall.Kill(-pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		r.warn(fmt.Errorf("signal %v to process group %d: %w", sig, pid, err))
	}
}

// Signal sends a signal to the child's process group; nothing happens when the child has ended.
func (c *Child) Signal(sig syscall.Signal) {
	c.reaper.mu.Lock()
	defer c.reaper.mu.Unlock()
	if c.reaper.children[c.pid] == c {
		c.reaper.signalGroup(c.pid, sig)
	}
}

// Kill kills the child's process group and every process that descends from it or carries its mark.
func (c *Child) Kill() {
	c.reaper.mu.Lock()
	defer c.reaper.mu.Unlock()
	if c.reaper.children[c.pid] != c {
		return
	}
	below, err := Descendants(c.pid) // Before the kill: afterwards they are nobody's.
	if err != nil {
		c.reaper.warn(err)
	}
	c.reaper.signalGroup(c.pid, unix.SIGKILL)
	c.reaper.kill(below)
}

// Done is closed when the process has ended, its group was killed and ExitCode is known. Other descendants may run: Sweep.
func (c *Child) Done() <-chan struct{} { return c.done }

// EndedAt is when the process was found to have ended. Only after Done.
func (c *Child) EndedAt() time.Time { return c.endedAt }

// ExitCode is the exit status, or 128 + the signal's number. Only after Done.
func (c *Child) ExitCode() int32 {
	if c.status.Signaled() {
		return 128 + int32(c.status.Signal())
	}
	return int32(c.status.ExitStatus())
}

// Signaled returns the signal that ended the process, if one did. Only after Done.
func (c *Child) Signaled() (syscall.Signal, bool) { return c.status.Signal(), c.status.Signaled() }

// Sweep kills what is left of an ended child and returns when it has ended too. It is called once, after Done. When no other
// child is left it takes every descendant, also those that cannot be told apart.
func (c *Child) Sweep() {
	for {
		strays, err := c.reaper.killStrays(c.mark)
		if err != nil {
			c.reaper.warn(err)
			<-time.After(retryScan)
			continue
		}
		if len(strays) == 0 {
			return
		}
		for _, p := range strays {
			if err := p.await(); err != nil {
				c.reaper.warn(err)
			}
		}
	}
}

// Swept says that nothing is left of an ended child, as another has made sure. It is called once, after Done, in the place of Sweep.
func (c *Child) Swept() {
	c.reaper.mu.Lock()
	defer c.reaper.mu.Unlock()
	c.reaper.unswept--
}

// killStrays kills what carries the mark, and everything if the mark's child is the last one. When there was nothing to kill,
// the child counts as swept.
func (r *Reaper) killStrays(mark string) ([]Process, error) {
	r.births.Lock() // One that is just born is nobody's yet.
	defer r.births.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	strays, err := WithEnviron(mark)
	if err != nil {
		return nil, err
	}
	if r.unswept == 1 {
		all, err := Descendants(os.Getpid())
		if err != nil {
			return nil, err
		}
		for _, p := range all {
			if !p.Ended {
				strays = append(strays, p)
			}
		}
	}
	r.kill(strays)
	if len(strays) == 0 {
		r.unswept--
	}
	return strays, nil
}

func (r *Reaper) kill(processes []Process) {
	for _, p := range processes {
		if err := p.Kill(); err != nil {
			r.warn(err)
		}
	}
}
