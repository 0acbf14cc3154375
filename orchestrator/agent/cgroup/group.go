package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Group is one run of a container: its processes and what they may use. Its methods are called one after the other; Signal may be called at
// any time.
//
// A group costs the kernel more than the process that is born into it. So it has a directory in one hierarchy, which finds all its processes, and in
// others only where a limit of the run needs it. Runs that request no CPU share the least weight in version 1, as the kubelet's BestEffort pods do.
// The directory of a run without limits goes to another such run if all processes have ended by themselves; one that was killed is not used again, as it
// kills what is made in it later, on some kernels.
type Group struct {
	node *Node
	// places are those in which it has a directory; dirs are these.
	places []*place
	dirs   []string
	// shared are those in which its processes are in the group of those that request nothing.
	shared []*place
	// unified is the directory in version 2, open; -1 without one.
	unified int
	// plain: it has one directory, and no limits.
	plain bool

	mu sync.Mutex
	// killed: something of it was sent SIGKILL. removed: it has no directory any more, or another has it.
	killed, removed bool // Guarded by mu.
}

// New makes a group. Limits that cannot be enforced here are left out, see Enforces.
func (n *Node) New(limits Limits) (*Group, error) {
	if limits != (Limits{}) {
		return n.newGroup(n.places, limits)
	}
	if spare := n.takeSpare(); spare != nil {
		return spare, nil
	}
	g, err := n.newGroup(n.places, limits)
	if err == nil {
		g.plain = true
	}
	return g, err
}

func (n *Node) newGroup(places []*place, limits Limits) (*Group, error) {
	g := &Group{node: n, unified: -1}
	name := "run-" + strconv.FormatInt(n.groups.Add(1), 10)
	for i, p := range places {
		if i > 0 && !limits.need(p) {
			if p.least != "" {
				g.shared = append(g.shared, p)
			}
			continue
		}
		dir := p.dir + "/" + name
		if err := n.machine.mkdir(dir); err != nil {
			return nil, errors.Join(fmt.Errorf("make a control group: %w", err), g.Remove())
		}
		g.places, g.dirs = append(g.places, p), append(g.dirs, dir)
		if err := limits.set(p, dir); err != nil {
			return nil, errors.Join(fmt.Errorf("limit a control group: %w", err), g.Remove())
		}
		if p.version != 2 {
			continue
		}
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open a control group: %w", err), g.Remove())
		}
		g.unified = fd
	}
	return g, nil
}

// Enter moves the calling thread so that a process that it forks is born in the group; leave moves it back. unified is the open
// directory of version 2 into which the process is to be cloned, -1 for none. The thread must be locked to its goroutine.
func (g *Group) Enter() (unified int, leave func() error, err error) {
	var entered []*place
	leave = func() error {
		var errs []error
		for _, p := range entered {
			errs = append(errs, enterThread(p.ownTasks))
		}
		return errors.Join(errs...)
	}
	enter := func(p *place, tasks *os.File) error {
		if err := enterThread(tasks); err != nil {
			return errors.Join(fmt.Errorf("enter a control group: %w", err), leave())
		}
		entered = append(entered, p)
		return nil
	}
	for i, p := range g.places {
		if p.version != 1 {
			continue
		}
		tasks, err := openTasks(g.dirs[i])
		if err != nil {
			return -1, nil, errors.Join(fmt.Errorf("enter a control group: %w", err), leave())
		}
		if err := errors.Join(enter(p, tasks), tasks.Close()); err != nil {
			return -1, nil, err
		}
	}
	for _, p := range g.shared {
		if err := enter(p, p.leastTasks); err != nil {
			return -1, nil, err
		}
	}
	return g.unified, leave, nil
}

// enterThread moves the calling thread into a group of version 1, whose tasks file it is; 0 stands for it (cgroup-v1/cgroups.rst).
func enterThread(tasks *os.File) error {
	_, err := tasks.WriteAt([]byte("0"), 0)
	return err
}

// OOMKilled says whether the kernel has killed a process of the group because the group had no memory left.
func (g *Group) OOMKilled() (bool, error) {
	for i, p := range g.places {
		if !slices.Contains(p.enabled, memory) {
			continue
		}
		file := "memory.events"
		if p.version == 1 {
			file = "memory.oom_control"
		}
		text, err := os.ReadFile(filepath.Join(g.dirs[i], file))
		if err != nil {
			return false, err
		}
		for line := range strings.Lines(string(text)) {
			if count, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
				kills, err := strconv.ParseInt(count, 10, 64)
				return kills > 0, err
			}
		}
		return false, fmt.Errorf("%s of a control group does not count kills", file)
	}
	return false, nil
}

// HoldsAll says that there is a control group, so that Remove ends everything that the run has started; but what was moved out of it, which
// takes the right to write to the control groups.
func (g *Group) HoldsAll() bool { return len(g.dirs) > 0 }

// Signal kills every process of the group, and does not wait.
func (g *Group) Signal() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.removed {
		return nil
	}
	g.killed = true
	var errs []error
	for _, dir := range g.dirs {
		pidfds, err := signalTree(dir)
		for _, fd := range pidfds {
			unix.Close(fd)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Remove kills what is left in the group and removes it. When it returns no process of it runs, and no group below it is left.
func (g *Group) Remove() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.removed {
		return nil
	}
	g.removed = true
	if g.plain && !g.killed && g.isIdle() {
		if g.node.keepSpare(&Group{node: g.node, places: g.places, dirs: g.dirs, shared: g.shared, unified: g.unified, plain: true}) {
			return nil
		}
	}
	return g.destroy()
}

func (g *Group) destroy() error {
	var errs []error
	if g.unified >= 0 {
		errs = append(errs, unix.Close(g.unified))
		g.unified = -1
	}
	for _, dir := range g.dirs {
		// The kernel removes no group that holds a process or a group; one that it removes was empty.
		if err := g.node.machine.rmdir(dir); err != nil && !isMissing(err) {
			errs = append(errs, g.node.machine.removeTree(dir))
		}
	}
	return errors.Join(errs...)
}

// isIdle says that the group holds no process, and no group either.
func (g *Group) isIdle() bool {
	for i, dir := range g.dirs {
		file, empty, at, below := "cgroup.procs", "", unix.AT_FDCWD, dir+"/"
		if g.places[i].version == 2 {
			file, empty, at, below = "cgroup.events", "populated 0", g.unified, ""
		}
		var stat unix.Stat_t
		if err := unix.Fstatat(at, below+".", &stat, 0); err != nil || stat.Nlink > 2 { // Each directory below is a link to it.
			return false
		}
		text, err := read(at, below+file)
		if err != nil || !strings.HasPrefix(text, empty) || empty == "" && text != "" {
			return false
		}
	}
	return len(g.dirs) > 0
}

// maxSpare bounds how many directories wait for another run.
const maxSpare = 64

// takeSpare returns a group that waits for a run, nil if none does.
func (n *Node) takeSpare() *Group {
	n.mu.Lock()
	defer n.mu.Unlock()
	last := len(n.spare) - 1
	if last < 0 {
		return nil
	}
	g := n.spare[last]
	n.spare = n.spare[:last]
	return g
}

func (n *Node) keepSpare(g *Group) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || len(n.spare) == maxSpare {
		return false
	}
	n.spare = append(n.spare, g)
	return true
}

// isMissing says that a file of a group, or the group, is not there.
func isMissing(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) }
