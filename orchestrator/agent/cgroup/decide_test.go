package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fake is a machine whose control groups are plain files in a directory. What only the kernel does (limits, kills) is not there; what is
// decided by looking and what is written is, and so is the rule that a group with processes gives no controllers to those below it.
type fake struct {
	t      *testing.T
	root   string
	mounts []string
	self   []string
}

func newFake(t *testing.T) *fake { return &fake{t: t, root: t.TempDir()} }

// mount mounts a hierarchy: version 2 with no controller named, else version 1 of these controllers. part is the path in the hierarchy
// that is mounted.
func (f *fake) mount(at, part string, controllers ...string) {
	kind, options := "cgroup2", "rw"
	if len(controllers) > 0 {
		kind, options = "cgroup", "rw,"+strings.Join(controllers, ",")
	}
	at = strings.ReplaceAll(filepath.Join(f.root, at), " ", `\040`)
	f.mounts = append(f.mounts, fmt.Sprintf("30 24 0:26 %s %s rw,nosuid shared:4 - %s none %s", part, at, kind, options))
}

// group makes a group of version 2 that has controllers and gives them to those below it.
func (f *fake) group(path string, has, gives string) {
	f.files(path, map[string]string{"cgroup.procs": "", "cgroup.controllers": has, "cgroup.subtree_control": gives, "cgroup.kill": ""})
}

func (f *fake) files(path string, content map[string]string) {
	f.t.Helper()
	dir := filepath.Join(f.root, path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		f.t.Fatal(err)
	}
	for name, text := range content {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			f.t.Fatal(err)
		}
	}
}

// holds puts processes into a group.
func (f *fake) holds(path string, pids ...int) {
	f.files(path, map[string]string{"cgroup.procs": strings.Trim(strings.ReplaceAll(fmt.Sprint(pids), " ", "\n"), "[]")})
}

// write does as the kernel would.
func (f *fake) write(path, value string) error {
	dir, name := filepath.Split(path)
	members, err := readWords(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return err
	}
	switch name {
	case "cgroup.subtree_control":
		if _, err := os.Stat(filepath.Join(dir, "root")); err != nil && len(members) > 0 {
			return unix.EBUSY
		}
		now, err := os.ReadFile(path)
		return errors.Join(err, os.WriteFile(path, []byte(string(now)+" "+value[1:]), 0o644))
	case "cgroup.procs":
		above := filepath.Join(filepath.Dir(filepath.Clean(dir)), name)
		there, err := readWords(above)
		there = slices.DeleteFunc(there, func(pid string) bool { return pid == value })
		return errors.Join(err, os.WriteFile(above, []byte(strings.Join(there, "\n")), 0o644),
			os.WriteFile(path, []byte(strings.Join(append(members, value), "\n")), 0o644))
	}
	return fmt.Errorf("nobody should write %s", path)
}

func (f *fake) machine() machine {
	f.t.Helper()
	f.files(".", map[string]string{"mountinfo": strings.Join(f.mounts, "\n") + "\n", "self": strings.Join(f.self, "\n") + "\n"})
	return machine{
		mounts: filepath.Join(f.root, "mountinfo"), self: filepath.Join(f.root, "self"),
		mkdir: func(path string) error {
			err := os.Mkdir(path, 0o755)
			for _, name := range []string{
				"cgroup.procs", "tasks", "cgroup.kill", "cgroup.subtree_control", "cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.weight",
				"cpu.max", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max", "memory.swap.max", "memory.oom.group",
			} {
				err = errors.Join(err, os.WriteFile(filepath.Join(path, name), nil, 0o644))
			}
			return errors.Join(err, os.WriteFile(filepath.Join(path, "cgroup.controllers"), []byte("cpu memory"), 0o644))
		},
		rmdir: os.RemoveAll,
		write: f.write,
	}
}

func (f *fake) open() *Node {
	f.t.Helper()
	return open(f.machine(), func(err error) { f.t.Error(err) })
}

// written returns what is in the files of the directories of a group, those with something in them, as PATH=CONTENT.
func (f *fake) written(g *Group) (found []string) {
	f.t.Helper()
	for _, dir := range g.dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			f.t.Fatal(err)
		}
		for _, e := range entries {
			text, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				f.t.Fatal(err)
			}
			if len(text) > 0 && e.Name() != "cgroup.controllers" {
				found = append(found, e.Name()+"="+string(text))
			}
		}
	}
	slices.Sort(found)
	return found
}

func (f *fake) base(p *place) string {
	f.t.Helper()
	path, err := filepath.Rel(f.root, p.base)
	if err != nil {
		f.t.Fatal(err)
	}
	return path
}

func TestHierarchiesAreFoundAsTheyAreMounted(t *testing.T) {
	f := newFake(t)
	f.mount("cg/memory", "/", "memory")
	f.mount("cg/cpu", "/docker/abc", "cpu", "cpuacct")
	f.mount("cg/pids", "/", "pids")
	f.mount("with space/two", "/")
	f.mount("elsewhere", "/another/part")
	f.self = []string{"5:memory:/jobs/7", "4:cpu,cpuacct:/docker/abc/inner", "3:pids:/", "1:name=systemd:/", "0::/user.slice/a"}
	f.group("with space/two/user.slice/a", "cpuset io", "")
	found, err := f.machine().hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, h := range found {
		own, err := filepath.Rel(f.root, h.own)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("v%d %s %v", h.version, own, h.controllers))
	}
	if want := []string{"v1 cg/memory/jobs/7 [memory]", "v1 cg/cpu/inner [cpu]", "v2 with space/two/user.slice/a [cpuset io]"}; !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}

func TestVersion2LimitsBelowTheAgentsOwnGroup(t *testing.T) {
	f := newFake(t)
	f.mount("cg", "/")
	f.self = []string{"0::/agent"}
	f.group("cg", "cpu memory", "cpu memory")
	f.group("cg/agent", "cpu memory pids", "")
	n := f.open()
	if n.Missing() != "" || f.base(n.places[0]) != "cg/agent" {
		t.Fatalf("missing %q, base %s", n.Missing(), f.base(n.places[0]))
	}
	g, err := n.New(Limits{CPUMillis: 1500, CPURequestMillis: 1000, MemoryBytes: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"cpu.max=150000 100000", "cpu.weight=39", "memory.max=67108864", "memory.oom.group=1", "memory.swap.max=0"}
	if got := f.written(g); !slices.Equal(got, want) {
		t.Errorf("written %q, want %q", got, want)
	}
	unified, leave, err := g.Enter()
	if err != nil || unified < 0 || leave() != nil {
		t.Errorf("processes are not cloned into the group: %d, %v", unified, err)
	}
	if err := errors.Join(g.Remove(), n.Close()); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(filepath.Join(f.root, "cg/agent", prefix+"*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

func TestVersion2CountsOOMKillsAmongItsEvents(t *testing.T) {
	f := newFake(t)
	f.mount("cg", "/")
	f.self = []string{"0::/"}
	f.group("cg", "cpu memory", "")
	g, err := f.open().New(Limits{MemoryBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		"low 0\nhigh 0\nmax 9\noom 2\noom_kill 0\noom_group_kill 0\n": false,
		"low 0\nhigh 0\nmax 9\noom 2\noom_kill 3\noom_group_kill 1\n": true,
	} {
		if err := os.WriteFile(filepath.Join(g.dirs[0], "memory.events"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if killed, err := g.OOMKilled(); err != nil || killed != want {
			t.Errorf("killed %v (%v), want %v for\n%s", killed, err, want, text)
		}
	}
}

func TestVersion2GoesUpWhereAGroupWithProcessesGivesNoControllers(t *testing.T) {
	f := newFake(t)
	f.mount("cg", "/")
	f.self = []string{"0::/user/session"}
	f.group("cg", "cpu memory", "cpu memory")
	f.group("cg/user", "cpu memory", "memory")
	f.group("cg/user/session", "cpu memory", "")
	f.holds("cg/user/session", os.Getpid(), os.Getppid(), 1)
	n := f.open()
	if n.Missing() != "" || f.base(n.places[0]) != "cg/user" {
		t.Errorf("missing %q, base %s, want it to be cg/user", n.Missing(), f.base(n.places[0]))
	}
}

func TestVersion2MovesAnAgentThatIsAloneIntoAGroupBelow(t *testing.T) {
	f := newFake(t)
	f.mount("cg", "/")
	f.self = []string{"0::/service"}
	f.group("cg", "cpu memory", "cpu memory")
	f.group("cg/service", "cpu memory", "")
	f.holds("cg/service", os.Getpid(), os.Getppid())
	n := f.open()
	if n.Missing() != "" || f.base(n.places[0]) != "cg/service" {
		t.Fatalf("missing %q, base %s", n.Missing(), f.base(n.places[0]))
	}
	for path, want := range map[string][]string{
		"cg/service":         nil,
		"cg/service/" + leaf: {strconv.Itoa(os.Getpid()), strconv.Itoa(os.Getppid())},
	} {
		if got, err := readWords(filepath.Join(f.root, path, "cgroup.procs")); err != nil || !slices.Equal(got, want) {
			t.Errorf("processes of %s: %v (%v), want %v", path, got, err, want)
		}
	}
	// The next one is started where this one has moved to, and leaves it alone.
	f.self = []string{"0::/service/" + leaf}
	if second := f.open(); second.Missing() != "" || f.base(second.places[0]) != "cg/service" {
		t.Errorf("missing %q, base %s", second.Missing(), f.base(second.places[0]))
	}
}

func TestVersion2WithoutControllersStillHoldsAndSaysWhatIsMissing(t *testing.T) {
	f := newFake(t)
	f.mount("cg", "/")
	f.self = []string{"0::/a"}
	f.group("cg", "cpu memory", "")
	f.group("cg/a", "memory", "")
	f.holds("cg", 1)
	f.holds("cg/a", 2, 3)
	n := f.open()
	if len(n.places) != 1 || f.base(n.places[0]) != "cg/a" {
		t.Fatalf("places %v", n.places)
	}
	missing := n.Missing()
	if want := "cpu limits are not enforced on this node: no control groups with this controller are mounted; " +
		"memory limits are not enforced on this node: device or resource busy; DIR/cg/a holds other processes than the agent's"; strings.ReplaceAll(missing, f.root, "DIR") != want {
		t.Errorf("missing %q, want %q", missing, want)
	}
	g, err := n.New(Limits{CPUMillis: 100, MemoryBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if got := f.written(g); len(got) > 0 {
		t.Errorf("written %q", got)
	}
}

func TestVersion1LimitsByEachOfItsHierarchiesAndVersion2Beside(t *testing.T) {
	f := newFake(t)
	f.mount("cpu", "/", "cpu")
	f.mount("memory", "/", "memory")
	f.mount("unified", "/")
	f.self = []string{"2:cpu:/", "1:memory:/deep", "0::/"}
	f.files("cpu", map[string]string{"tasks": ""})
	f.files("memory/deep", map[string]string{"tasks": ""})
	f.group("unified", "", "")
	n := f.open()
	if n.Missing() != "" || len(n.places) != 3 {
		t.Fatalf("missing %q, places %d", n.Missing(), len(n.places))
	}
	g, err := n.New(Limits{CPUMillis: 250, MemoryBytes: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"cpu.cfs_period_us=100000", "cpu.cfs_quota_us=25000", "cpu.shares=2", "memory.limit_in_bytes=1073741824", "memory.memsw.limit_in_bytes=1073741824",
	}
	if got := f.written(g); !slices.Equal(got, want) {
		t.Errorf("written %q, want %q", got, want)
	}
	_, leave, err := g.Enter()
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range g.dirs[1:] {
		if text, err := os.ReadFile(filepath.Join(dir, "tasks")); err != nil || string(text) != "0" {
			t.Errorf("%s was not entered: %q, %v", dir, text, err)
		}
	}
	if err := leave(); err != nil {
		t.Error(err)
	}

	// A run without limits is found by version 2, and its processes are in the group of those that request nothing.
	if g, err = n.New(Limits{}); err != nil {
		t.Fatal(err)
	}
	if len(g.dirs) != 1 || g.places[0].version != 2 || len(g.shared) != 1 {
		t.Fatalf("directories %v, shared %v", g.dirs, g.shared)
	}
	if _, leave, err = g.Enter(); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"tasks": "0", "cpu.shares": "2"} {
		if text, err := os.ReadFile(filepath.Join(g.shared[0].least, file)); err != nil || string(text) != want {
			t.Errorf("%s of the shared group is %q, %v", file, text, err)
		}
	}
	if err := leave(); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNotThereOrMayNotBeUsedIsNamed(t *testing.T) {
	t.Run("no control groups", func(t *testing.T) {
		f := newFake(t)
		f.self = []string{"0::/"}
		missing := f.open().Missing()
		if want := "cpu and memory limits are not enforced on this node: no control groups with this controller are mounted"; missing != want {
			t.Errorf("missing %q", missing)
		}
	})
	t.Run("one controller alone", func(t *testing.T) {
		f := newFake(t)
		f.mount("memory", "/", "memory")
		f.self = []string{"1:memory:/"}
		f.files("memory", map[string]string{"tasks": ""})
		n := f.open()
		if missing := n.Missing(); !strings.HasPrefix(missing, "cpu limits") || strings.Contains(missing, "memory") {
			t.Errorf("missing %q", missing)
		}
		if !n.Enforces(Limits{MemoryBytes: 1, CPURequestMillis: 1}) || n.Enforces(Limits{CPUMillis: 1}) {
			t.Error("memory is not enforced, or cpu is")
		}
	})
	t.Run("no right to go back", func(t *testing.T) {
		f := newFake(t)
		f.mount("memory", "/", "memory")
		f.self = []string{"1:memory:/mine"}
		f.files("memory/mine", nil) // And no file "tasks".
		n := f.open()
		if missing := n.Missing(); !strings.Contains(missing, "memory/mine/tasks: no such file") || len(n.places) > 0 {
			t.Errorf("missing %q, places %v", missing, n.places)
		}
	})
}

func TestLimitsBecomeTheNumbersOfTheKubelet(t *testing.T) {
	for millis, want := range map[int64][3]int64{
		0: {1000, 2, 1}, 1: {1000, 2, 1}, 10: {1000, 10, 1}, 100: {10_000, 102, 4}, 1000: {100_000, 1024, 39}, 1500: {150_000, 1536, 59},
		256_000: {25_600_000, 262_144, 10_000}, 1_000_000: {100_000_000, 262_144, 10_000},
	} {
		if got := [3]int64{quotaMicros(millis), shares(millis), weight(millis)}; got != want {
			t.Errorf("%d millicores: quota, shares and weight %v, want %v", millis, got, want)
		}
	}
}

func TestANodeRemovesWhatOthersLeftAndLeavesWhatIsHeld(t *testing.T) {
	f := newFake(t)
	f.mount("memory", "/", "memory")
	f.self = []string{"1:memory:/"}
	f.files("memory", map[string]string{"tasks": ""})
	others := []string{"another", "nightshift-agent.service", prefix + "mine", prefix + strings.Repeat("a", 26) + "-1.service"}
	for _, name := range others {
		f.files("memory/"+name, nil)
	}
	dead, living := f.open(), f.open()
	if _, err := dead.New(Limits{}); err != nil {
		t.Fatal(err)
	}
	if err := dead.places[0].lock.Close(); err != nil { // As the kernel does at the end of a process.
		t.Fatal(err)
	}
	f.open()
	want := map[string]error{dead.places[0].dir: unix.ENOENT, living.places[0].dir: nil}
	for _, name := range others {
		want[filepath.Join(f.root, "memory", name)] = nil
	}
	for dir, want := range want {
		if _, err := os.Stat(dir); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", dir, err, want)
		}
	}
}
