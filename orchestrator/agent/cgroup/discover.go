package cgroup

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// machine is where control groups are found, and how directories of theirs are made: another one in tests.
type machine struct {
	// mounts and self are /proc/self/mountinfo and /proc/self/cgroup, see proc_pid_mountinfo(5) and cgroups(7).
	mounts, self string
	mkdir        func(path string) error
	rmdir        func(path string) error
	// write sets a file of a control group, which must be there.
	write func(path, value string) error
}

func thisMachine() machine {
	return machine{
		mounts: "/proc/self/mountinfo", self: "/proc/self/cgroup",
		mkdir: func(path string) error { return os.Mkdir(path, 0o755) },
		rmdir: unix.Rmdir,
		write: write,
	}
}

// hierarchy is one tree of control groups: the only one of version 2, or one of several of version 1.
type hierarchy struct {
	version int
	// mount is where it is mounted; own is the directory of this process's group, below it or the same.
	mount, own string
	// controllers that this tree has on this machine, of those that matter here.
	controllers []string
}

// The controllers that matter here.
const (
	cpu    = "cpu"
	memory = "memory"
)

func wanted() []string { return []string{cpu, memory} }

// hierarchies returns the trees that may serve: that of version 2, and those of version 1 that have a wanted controller.
func (m machine) hierarchies() ([]hierarchy, error) {
	own, err := m.ownGroups()
	if err != nil {
		return nil, err
	}
	file, err := os.Open(m.mounts)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var found []hierarchy
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		mount, source := strings.Fields(before), strings.Fields(after)
		if !ok || len(mount) < 5 || len(source) < 3 {
			continue
		}
		h := hierarchy{mount: unescape(mount[4])}
		var path string
		var mine bool
		switch source[0] {
		case "cgroup2":
			h.version = 2
			path, mine = own[""]
		case "cgroup":
			h.version = 1
			for _, option := range strings.Split(source[2], ",") {
				if slices.Contains(wanted(), option) {
					h.controllers = append(h.controllers, option)
					path, mine = own[option]
				}
			}
		}
		if !mine {
			continue
		}
		// What is mounted may be a part of the tree, as in a container.
		below, err := filepath.Rel(unescape(mount[3]), path)
		if err != nil || below == ".." || strings.HasPrefix(below, "../") {
			continue
		}
		h.own = filepath.Join(h.mount, below)
		if h.version == 2 {
			if h.controllers, err = readWords(filepath.Join(h.own, "cgroup.controllers")); err != nil {
				return nil, err
			}
		}
		// A tree that is mounted twice is one tree.
		if !slices.ContainsFunc(found, func(f hierarchy) bool { return f.version == h.version && slices.Equal(f.controllers, h.controllers) }) {
			found = append(found, h)
		}
	}
	return found, lines.Err()
}

// ownGroups returns this process's groups: of version 1 by controller, of version 2 under "".
func (m machine) ownGroups() (map[string]string, error) {
	text, err := os.ReadFile(m.self)
	if err != nil {
		return nil, err
	}
	own := map[string]string{}
	for line := range strings.Lines(string(text)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 {
			return nil, fmt.Errorf("%s: %q is not a line of it", m.self, line)
		}
		for _, controller := range strings.Split(fields[1], ",") {
			own[controller] = fields[2]
		}
	}
	return own, nil
}

// place is a directory of this node's own in one hierarchy, with a group for each container below it.
type place struct {
	hierarchy
	// base is the directory that holds dir, the node's own.
	base, dir string
	// enabled are the controllers that groups below dir have.
	enabled []string
	// least is a group below dir for the processes of all runs that request no CPU; "" in version 2, and without that controller.
	least string
	// ownTasks and leastTasks are where a thread writes 0 to move into own and into least: open, as it is done for each run. Of version 1 alone.
	ownTasks, leastTasks *os.File
	// lock is dir, locked for as long as the node lives: who can lock it knows that its node is gone.
	lock *os.File
}

// errCannotHold is the error of a place where the kernel lets no group have the controllers.
var errCannotHold = errors.New("the kernel gives its groups no such controllers")

// settle makes the node's directory in the hierarchy, with as many of the controllers as it can give to groups there.
//
// In version 1 that is below the agent's own group. In version 2 a group with processes gives controllers to none below it (the "no
// internal process" rule of cgroup-v2.rst), the root excepted. If the agent is alone in its group, as in a service of its own, it moves
// into a group below it first; otherwise the node's directory is below the nearest group above that may be used.
func (m machine) settle(h hierarchy, name string, controllers []string) (*place, error) {
	if h.version == 1 {
		return m.take(h, h.own, name, controllers)
	}
	var reason error // Of the agent's own group: those above are tried because of it.
	for _, need := range [][]string{controllers, nil} {
		for base := h.own; ; base = filepath.Dir(base) {
			p, err := m.take(h, base, name, need)
			if errors.Is(err, unix.EBUSY) && base == h.own && filepath.Base(base) != leaf {
				if moveErr := m.moveDown(base); moveErr != nil {
					err = errors.Join(err, moveErr)
				} else {
					p, err = m.take(h, base, name, need)
				}
			}
			if err == nil {
				return p, reason
			}
			reason = cmp.Or(reason, err)
			if base == h.mount {
				break
			}
		}
		if len(controllers) == 0 {
			break
		}
	}
	return nil, reason
}

// leaf is the group into which an agent moves that is alone in its own. It stays, empty, when the agent ends: whoever made the group
// above it removes both. Its name is none of a node's.
const leaf = "agent.nightshift"

// moveDown moves the agent's two processes out of their group into one below it. It fails if others are there: they are not the agent's
// to move.
func (m machine) moveDown(group string) error {
	members, err := readWords(filepath.Join(group, "cgroup.procs"))
	if err != nil {
		return err
	}
	ours := []string{strconv.Itoa(os.Getpid()), strconv.Itoa(os.Getppid())} // The worker, and its guardian.
	for _, pid := range members {
		if !slices.Contains(ours, pid) {
			return fmt.Errorf("%s holds other processes than the agent's", group)
		}
	}
	below := filepath.Join(group, leaf)
	if err := m.mkdir(below); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	for _, pid := range members {
		if err := m.write(filepath.Join(below, "cgroup.procs"), pid); err != nil {
			return err
		}
	}
	return nil
}

// take makes the node's directory below base.
func (m machine) take(h hierarchy, base, name string, controllers []string) (*place, error) {
	entrance := "cgroup.procs"
	if h.version == 1 {
		entrance = "tasks"
	}
	if err := unix.Access(filepath.Join(base, entrance), unix.W_OK); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(base, entrance), err)
	}
	if h.version == 2 {
		if err := m.enable(base, controllers); err != nil {
			return nil, err
		}
	}
	p := &place{hierarchy: h, base: base, enabled: controllers}
	for try := 1; p.lock == nil; try++ {
		p.dir = filepath.Join(base, fmt.Sprintf("%s-%d", name, try))
		if err := m.mkdir(p.dir); err != nil {
			return nil, fmt.Errorf("make %s: %w", p.dir, err)
		}
		// A node that sweeps may take it for a dead one's in this very moment; it removes it then.
		if err := p.hold(); err != nil && (!isSwept(err) || try == takeTries) {
			return nil, errors.Join(err, m.rmdir(p.dir))
		}
	}
	if h.version == 2 {
		if err := m.enable(p.dir, controllers); err != nil {
			return nil, errors.Join(err, p.lock.Close(), m.rmdir(p.dir))
		}
	}
	return p, nil
}

// takeTries bounds how often a directory is made anew.
const takeTries = 100

// isSwept says that a directory could not be held because another has it or has removed it.
func isSwept(err error) bool { return errors.Is(err, unix.EWOULDBLOCK) || isMissing(err) }

// hold locks the directory.
func (p *place) hold() error {
	dir, err := os.Open(p.dir)
	if err != nil {
		return err
	}
	err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		// Whoever had the lock before may have removed it.
		_, err = os.Stat(p.dir)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("lock %s: %w", p.dir, err), dir.Close())
	}
	p.lock = dir
	return nil
}

// enable lets the groups below a directory have controllers. It is for version 2.
func (m machine) enable(dir string, controllers []string) error {
	file := filepath.Join(dir, "cgroup.subtree_control")
	have, err := readWords(file)
	if err != nil {
		return err
	}
	available, err := readWords(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, controller := range controllers {
		switch {
		case slices.Contains(have, controller):
		case !slices.Contains(available, controller):
			return fmt.Errorf("%s: %s: %w", dir, controller, errCannotHold)
		default:
			if err := m.write(file, "+"+controller); err != nil {
				return err
			}
		}
	}
	return nil
}

// unescape undoes the octal escapes of mountinfo.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}

func readWords(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	return strings.Fields(string(text)), err
}

// write sets a file of a control group, which must be there. It does not use a file of the os package, whose descriptors are made ready
// for waiting: that costs several times what the writing does.
func write(path, value string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	_, err = unix.Write(fd, []byte(value))
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return fmt.Errorf("set %s to %q: %w", path, value, err)
	}
	return nil
}

// read reads a short file of a control group, as write writes one. A relative path is below the open directory.
func read(directory int, path string) (string, error) {
	fd, err := unix.Openat(directory, path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: path, Err: err}
	}
	text := make([]byte, 256)
	n, err := unix.Read(fd, text)
	return string(text[:max(n, 0)]), errors.Join(err, unix.Close(fd))
}
