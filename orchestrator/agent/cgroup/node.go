// Package cgroup bounds what a container's processes may use of the machine, and finds all of them, by the kernel's control groups.
//
// A Node is the agent's part of the control groups: one directory in each hierarchy that serves it, and below it a Group for each run of
// a container. It takes what is there: version 2, version 1, or both (then version 2 has no controllers, and still can kill a whole group
// at once). Where a controller is nowhere to be had or may not be used, limits of its kind are not enforced, and Missing says why:
// a machine where they are not is a place to run pods all the same, as a developer's own.
//
// A process is in its group from its first moment. With version 2 the kernel makes it there (CLONE_INTO_CGROUP, clone3(2)). In version 1
// a child is born where the thread is that forks it, and threads move one by one: the thread that starts processes enters the
// group, forks, and leaves again. Either way there is no moment in which the process, or a child of it, could be elsewhere, and no
// second executable in between. The process may leave its group if the agent's user may write there: nothing here contains it.
//
// What the node has made it removes at its end (Close). After a crash the guardian does it, or the next agent of the machine: each
// directory is locked by its node, and Sweep kills and removes what nobody holds the lock of.
//
// Linux 5.9 or later; cgroup.kill, which is used where it is, came with 5.14.
package cgroup

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// prefix of the directories that nodes make, so that they know each other's, and nodeName, all of such a name: what is swept has to be a node's
// beyond doubt, and a service that is called nightshift has a group too.
const prefix = "nightshift_node_"

var nodeName = regexp.MustCompile(`^` + prefix + `[a-z2-7]{26}-[0-9]+$`)

// Node is the agent's part of the machine's control groups; the zero Node has none. Safe for concurrent use.
type Node struct {
	machine machine
	places  []*place
	// missing says of each controller that cannot be used why, where more is known than that it is not.
	missing map[string]error
	// groups counts those that were made, for their names.
	groups atomic.Int64

	mu sync.Mutex
	// spare are empty groups without limits that wait for another run. closed: there are no more of them.
	spare  []*Group // Guarded by mu.
	closed bool     // Guarded by mu.
}

// Open takes a part of the machine's control groups, after a Sweep. It always returns a Node, also where there are none. What fails later and
// stops nobody is told to warn.
func Open(warn func(error)) *Node { return open(thisMachine(), warn) }

func open(m machine, tell func(error)) *Node {
	warn := func(err error) {
		if err != nil {
			tell(err)
		}
	}
	n := &Node{machine: m, missing: map[string]error{}}
	found, err := m.hierarchies()
	if err != nil {
		err = fmt.Errorf("look for control groups: %w", err)
	} else {
		err = errors.New("no control groups with this controller are mounted")
	}
	for _, controller := range wanted() {
		n.missing[controller] = err
	}
	// Version 2 first: it may kill a whole group at once, and nothing is left to be done for the others.
	slices.SortStableFunc(found, func(a, b hierarchy) int { return b.version - a.version })
	name := prefix + strings.ToLower(rand.Text())
	for _, h := range found {
		for _, err := range m.sweep(h) {
			warn(err)
		}
		p, err := m.settle(h, name, h.wantedControllers())
		if p != nil {
			if prepareErr := n.prepare(p); prepareErr != nil {
				err = prepareErr
				warn(n.release(p))
				p = nil
			}
		}
		if p != nil {
			n.places = append(n.places, p)
		}
		for _, controller := range h.wantedControllers() {
			n.missing[controller] = err
		}
	}
	return n
}

// prepare makes a place ready for runs.
func (n *Node) prepare(p *place) (err error) {
	if p.version == 1 {
		if p.ownTasks, err = openTasks(p.own); err != nil {
			return err
		}
		// Moving there and back is tried, since several rights are needed.
		if err := n.probe(p); err != nil {
			return err
		}
	}
	if slices.Contains(p.enabled, cpu) {
		return n.machine.share(p)
	}
	return nil
}

func openTasks(dir string) (*os.File, error) {
	return os.OpenFile(filepath.Join(dir, "tasks"), os.O_WRONLY, 0)
}

// share gives all runs together the weight of the machine's CPUs, against what else runs there, as the kubelet does (kubepods,
// pkg/kubelet/cm/node_container_manager_linux.go): the weights of runs count among themselves. In version 1 it makes the group in which runs that
// request no CPU share the least of them.
func (m machine) share(p *place) error {
	if err := (Limits{CPURequestMillis: 1000 * int64(runtime.NumCPU())}).set(p, p.dir); err != nil || p.version == 2 {
		return err
	}
	p.least = filepath.Join(p.dir, "least")
	if err := m.mkdir(p.least); err != nil {
		return fmt.Errorf("make a control group: %w", err)
	}
	if err := (Limits{}).set(p, p.least); err != nil {
		return err
	}
	var err error
	p.leastTasks, err = openTasks(p.least)
	return err
}

func (h hierarchy) wantedControllers() []string {
	return slices.DeleteFunc(wanted(), func(c string) bool { return !slices.Contains(h.controllers, c) })
}

// Missing says which limits this node cannot enforce, and why, in one line; "" when it can enforce all.
func (n *Node) Missing() string {
	var order []string // Of the reasons.
	controllers := map[string][]string{}
	for _, controller := range wanted() {
		if n.has(controller) {
			continue
		}
		reason := strings.ReplaceAll(cmp.Or(n.missing[controller], errNotLooked).Error(), "\n", "; ")
		if controllers[reason] == nil {
			order = append(order, reason)
		}
		controllers[reason] = append(controllers[reason], controller)
	}
	var parts []string
	for _, reason := range order {
		parts = append(parts, strings.Join(controllers[reason], " and ")+" limits are not enforced on this node: "+reason)
	}
	return strings.Join(parts, "; ")
}

var errNotLooked = errors.New("it uses no control groups")

// Enforces says whether the node can enforce the limits that are set.
func (n *Node) Enforces(l Limits) bool {
	return (l.CPUMillis == 0 || n.has(cpu)) && (l.MemoryBytes == 0 || n.has(memory))
}

func (n *Node) has(controller string) bool {
	return slices.ContainsFunc(n.places, func(p *place) bool { return slices.Contains(p.enabled, controller) })
}

// probe moves a thread into a group of the place and back.
func (n *Node) probe(p *place) error {
	g, err := n.newGroup([]*place{p}, Limits{})
	if err != nil {
		return err
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // And never unlocked: a thread that could not move back ends with the goroutine.
		_, leave, err := g.Enter()
		if err == nil {
			err = leave()
		}
		result <- err
	}()
	err = <-result
	return errors.Join(err, g.Remove())
}

// Close kills what is left in the node's groups and removes them. New groups fail from then on.
func (n *Node) Close() error {
	n.mu.Lock()
	spare := n.spare
	n.spare, n.closed = nil, true
	n.mu.Unlock()
	var errs []error
	for _, g := range spare {
		errs = append(errs, g.destroy())
	}
	for _, p := range n.places {
		errs = append(errs, n.release(p))
	}
	return errors.Join(errs...)
}

func (n *Node) release(p *place) error {
	err := n.machine.removeTree(p.dir)
	for _, file := range []*os.File{p.ownTasks, p.leastTasks, p.lock} {
		if file != nil {
			err = errors.Join(err, file.Close())
		}
	}
	return err
}

// Sweep kills and removes what nodes that are gone have left, where this process would make its own. When it returns nothing of
// theirs runs any more, unless another process of the machine sweeps it at the same time.
func Sweep() error {
	m := thisMachine()
	found, err := m.hierarchies()
	errs := []error{err}
	for _, h := range found {
		errs = append(errs, m.sweep(h)...)
	}
	return errors.Join(errs...)
}

// sweep looks from the process's own group upwards, where version 2 may have put a node.
func (m machine) sweep(h hierarchy) (errs []error) {
	for base := h.own; ; base = filepath.Dir(base) {
		left, err := filepath.Glob(filepath.Join(escapeGlob(base), prefix+"*"))
		if err != nil {
			errs = append(errs, err)
		}
		for _, dir := range left {
			if !nodeName.MatchString(filepath.Base(dir)) {
				continue
			}
			p := place{dir: dir}
			switch err := p.hold(); {
			case isSwept(err), errors.Is(err, os.ErrPermission):
				// Its node lives, another has swept it, or it is another user's.
			case err != nil:
				errs = append(errs, err)
			default:
				errs = append(errs, m.removeTree(dir), p.lock.Close())
			}
		}
		if h.version == 1 || base == h.mount {
			return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
		}
	}
}

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
