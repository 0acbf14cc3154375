// The tests of this package are users: they run the program as it is shipped, on real manifests, and look at what users see.
package main_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for what must come; on a busy machine under the race detector things take their time.
const patience = 6 * time.Minute

// outlive is how long a process may live on after the run or serve that it belongs to has ended, however that was.
const outlive = 5 * time.Second

// built holds the programs under test.
var built struct{ nightshift, processor string }

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "nightshift-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := 1
	if err := build(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		status = m.Run()
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = max(status, 1)
	}
	os.Exit(status)
}

// build takes the programs that `make test` has built with the race detector, or builds them.
func build(dir string) error {
	programs := os.Getenv("NIGHTSHIFT_BIN_DIR")
	if programs == "" {
		programs = dir
		if err := goBuild("-race", "-o", dir+"/", "../nightshift", "../nightshift-agent", "../nightshift-provider-aws"); err != nil {
			return err
		}
	}
	built.nightshift = filepath.Join(programs, "nightshift")
	built.processor = filepath.Join(dir, "data-processor")
	return goBuild("-o", built.processor, "../../examples/data-processing/processor")
}

func goBuild(args ...string) error {
	if out, err := exec.Command("go", append([]string{"build"}, args...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// world is a test's place on this machine: a directory, and a mark in the environment of all that it starts, by which its processes
// are found in /proc whatever they did to their names, parents and sessions.
type world struct {
	t    *testing.T
	dir  string
	mark string
	env  []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), mark: "E2E_MARK=" + rand.Text()}
	w.env = append(os.Environ(), w.mark, "DATA_PROCESSOR_OUTPUT="+w.path("out"), "HOME="+w.dir, "XDG_STATE_HOME=")
	t.Cleanup(func() {
		if left := w.awaitNothingLeft(); len(left) > 0 {
			t.Errorf("left over %s after the end of the test:\n%s", outlive, strings.Join(left, "\n"))
			w.killAll()
		}
	})
	return w
}

func (w *world) path(parts ...string) string {
	return filepath.Join(append([]string{w.dir}, parts...)...)
}

func (w *world) write(name, text string) string {
	w.t.Helper()
	if err := os.WriteFile(w.path(name), []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	return w.path(name)
}

// marked lists the processes that carry the mark: pid and command line.
func (w *world) marked() map[int]string {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		w.t.Fatal(err)
	}
	found := make(map[int]string)
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		environ, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "environ"))
		if err != nil || !slices.Contains(strings.Split(string(environ), "\x00"), w.mark) {
			continue // ended, or somebody else's
		}
		line, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		found[pid] = strings.ReplaceAll(string(line), "\x00", " ")
	}
	return found
}

// commandLines of the processes that carry the mark.
func (w *world) commandLines() string {
	return strings.Join(slices.Collect(maps.Values(w.marked())), "\n")
}

// awaitNothingLeft waits until no process carries the mark, for as long as one may outlive its run, and lists those that still do.
func (w *world) awaitNothingLeft() (left []string) {
	deadline := time.After(outlive)
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		found := w.marked()
		if len(found) == 0 {
			return nil
		}
		select {
		case <-look.C:
		case <-deadline:
			for pid, line := range found {
				left = append(left, fmt.Sprintf("%d %s", pid, line))
			}
			return left
		}
	}
}

// killAll ends what a failed test has left.
func (w *world) killAll() {
	for pid := range w.marked() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// command is a nightshift, or another program, that has been started.
type command struct {
	w              *world
	cmd            *exec.Cmd
	stdout, stderr *transcript
	ended          chan struct{}
}

// start starts a program with the world's environment and directory.
func (w *world) start(program string, args ...string) *command {
	w.t.Helper()
	return w.startReading("", program, args...)
}

// in is the same world seen from another directory, with more in its environment.
func (w *world) in(dir string, env ...string) *world {
	w.t.Helper()
	if err := os.MkdirAll(w.path(dir), 0o755); err != nil {
		w.t.Fatal(err)
	}
	return &world{t: w.t, dir: w.path(dir), mark: w.mark, env: append(slices.Clone(w.env), env...)}
}

// startReading starts a program that reads the text from its standard input.
func (w *world) startReading(stdin, program string, args ...string) *command {
	w.t.Helper()
	c := &command{w: w, cmd: exec.Command(program, args...), stdout: newTranscript(), stderr: newTranscript(), ended: make(chan struct{})}
	c.cmd.Dir, c.cmd.Env, c.cmd.Stdout, c.cmd.Stderr = w.dir, w.env, c.stdout, c.stderr
	if stdin != "" {
		c.cmd.Stdin = strings.NewReader(stdin)
	}
	// What a pod inherits must not keep Wait from seeing the end.
	c.cmd.WaitDelay = outlive
	if err := c.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		_ = c.cmd.Wait() // the status is read from ProcessState
		close(c.ended)
	}()
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.t.Logf("%s %s\n--- standard output\n%s--- standard error\n%s", filepath.Base(program), strings.Join(args, " "), tail(c.stdout.String()), tail(c.stderr.String()))
		}
		_ = c.cmd.Process.Kill()
		<-c.ended
	})
	return c
}

func tail(text string) string {
	lines := strings.SplitAfter(text, "\n")
	return strings.Join(lines[max(0, len(lines)-80):], "")
}

// nightshift starts the program under test.
func (w *world) nightshift(args ...string) *command {
	w.t.Helper()
	return w.start(built.nightshift, args...)
}

// status waits for the end and returns the exit status, 128 and more for a signal.
func (c *command) status() int {
	c.w.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(patience):
		c.w.t.Fatalf("%v did not end", c.cmd.Args)
	}
	if wait, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && wait.Signaled() {
		return 128 + int(wait.Signal())
	}
	return c.cmd.ProcessState.ExitCode()
}

// mustEnd waits for the end with a status.
func (c *command) mustEnd(status int) {
	c.w.t.Helper()
	if got := c.status(); got != status {
		c.w.t.Fatalf("%v ended with %d, want %d\n%s", c.cmd.Args, got, status, tail(c.stderr.String()))
	}
}

func (c *command) signal(signal syscall.Signal) {
	c.w.t.Helper()
	if err := c.cmd.Process.Signal(signal); err != nil {
		c.w.t.Fatal(err)
	}
}

// awaitOutput waits until a stream holds the text, and fails if the program ends before it does.
func (c *command) awaitOutput(stream *transcript, text string) {
	c.w.t.Helper()
	deadline := time.After(patience)
	for {
		written, changed := stream.look()
		if strings.Contains(written, text) {
			return
		}
		select {
		case <-changed:
		case <-c.ended:
			if strings.Contains(stream.String(), text) {
				return
			}
			c.w.t.Fatalf("%v ended and never said %q", c.cmd.Args, text)
		case <-deadline:
			c.w.t.Fatalf("%v never said %q", c.cmd.Args, text)
		}
	}
}

// await polls what nothing signals: files, and processes of others.
func (w *world) await(what string, holds func() bool) {
	w.t.Helper()
	deadline := time.After(patience)
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for !holds() {
		select {
		case <-look.C:
		case <-deadline:
			w.t.Fatalf("waited too long until %s", what)
		}
	}
}

// transcript is output that can be waited for.
type transcript struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
}

func newTranscript() *transcript { return &transcript{changed: make(chan struct{})} }

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.changed)
	t.changed = make(chan struct{})
	return t.text.Write(p)
}

func (t *transcript) look() (string, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String(), t.changed
}

func (t *transcript) String() string {
	text, _ := t.look()
	return text
}

// result is what `run -o json` prints.
type result struct {
	Name, Namespace, UID, Status, Reason, Message string
	Succeeded, Failed, Evicted                    int
	CompletedIndexes, FailedIndexes               string
	StartTime, CompletionTime                     string
	TraceID                                       string
	Cost                                          struct{ Spot, OnDemand, Currency string }
}

// result reads the one object on standard output; that nothing else is there is part of the promise.
func (c *command) result() (r result) {
	c.w.t.Helper()
	decoder := json.NewDecoder(strings.NewReader(c.stdout.String()))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		c.w.t.Fatalf("standard output is not the one object: %v\n%s", err, c.stdout)
	}
	if decoder.More() {
		c.w.t.Fatalf("standard output holds more than one object:\n%s", c.stdout)
	}
	return r
}

// podLogs reads what the pods of a Job have written from the archive, by pod UID; restarts one after another.
func (w *world) podLogs(dataDir, namespace, jobUID string) map[string]string {
	w.t.Helper()
	root := filepath.Join(dataDir, "archive", "logs", namespace, jobUID)
	logs := make(map[string]string)
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || entry.Name() == "end" {
			return err
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		pod, _, _ := strings.Cut(relative, string(filepath.Separator))
		logs[pod] += string(text) // WalkDir is lexical, and chunks are named by their offset
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Fatal(err)
	}
	return logs
}

// readReports reads the example's output, by file name.
func readReports(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	reports := make(map[string]string)
	for _, entry := range entries {
		if entry.IsDir() { // the claims
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			return nil, err
		}
		reports[entry.Name()] = string(text)
	}
	return reports, nil
}
