package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// processor is the executable under test, built as the README says: with the race detector its arithmetic would take
// ten times as long.
var processor string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "data-processor")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		processor = filepath.Join(dir, "data-processor")
		if out, err := exec.Command("go", "build", "-o", processor, ".").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building the processor: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// process is one processor at work.
type process struct {
	cmd  *exec.Cmd
	out  *bufio.Reader
	seen strings.Builder
}

func start(t *testing.T, in, out string, env ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(processor)}
	p.cmd.Env = append(os.Environ(), "DATA_PROCESSOR_INPUT="+in, "DATA_PROCESSOR_OUTPUT="+out)
	p.cmd.Env = append(p.cmd.Env, env...)
	pipe, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(pipe)
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill() // a test has failed half-way
			_ = p.cmd.Wait()
		}
	})
	return p
}

// until reads the log up to the line with this text.
func (p *process) until(t *testing.T, text string) {
	t.Helper()
	for {
		line, err := p.out.ReadString('\n')
		p.seen.WriteString(line)
		if strings.Contains(line, text) {
			return
		}
		if err != nil {
			t.Fatalf("the log ended without %q: %v\n%s", text, err, p.seen.String())
		}
	}
}

// end waits for the process and gives its exit status, -1 for a signal, and its whole log.
func (p *process) end(t *testing.T) (int, string) {
	t.Helper()
	rest, err := io.ReadAll(p.out)
	if err != nil {
		t.Fatal(err)
	}
	p.seen.Write(rest)
	if err := p.cmd.Wait(); err != nil {
		if _, ok := err.(*exec.ExitError); !ok {
			t.Fatal(err)
		}
	}
	return p.cmd.ProcessState.ExitCode(), p.seen.String()
}

func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// sources writes Go files: one that is long work, called big.go, and small ones.
func sources(t *testing.T, small int) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, functions int) {
		var text bytes.Buffer
		text.WriteString("package p\n")
		for i := range functions {
			fmt.Fprintf(&text, "\nfunc f%d(a, b int) (sum int) {\n", i)
			for j := range 12 {
				fmt.Fprintf(&text, "\tif a%sb > %d {\n\t\tsum %s= a\n\t}\n\tfor i := range b {\n\t\tsum += i * %d\n\t}\n", string("+-*/"[(i+j)%4]), j, string("+-*"[i%3]), j)
			}
			text.WriteString("\treturn sum\n}\n")
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("big.go", 300)
	for i := range small {
		write(fmt.Sprintf("small/s%d.go", i), 3+i)
	}
	return dir
}

// published reads all reports of an output directory, by file name.
func published(t *testing.T, out string) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(out, "*"))
	if err != nil {
		t.Fatal(err)
	}
	reports := map[string]string{}
	for _, path := range paths {
		if filepath.Base(path) == ".claims" {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		reports[filepath.Base(path)] = string(text)
	}
	return reports
}

func TestSigtermEndsItInMidFileWithNothingPublished(t *testing.T) {
	in, out := sources(t, 0), t.TempDir()
	p := start(t, in, out)
	p.until(t, "claimed big.go")
	p.signal(t, syscall.SIGTERM)
	status, log := p.end(t)
	if status != 143 {
		t.Errorf("exit status %d, want 143\n%s", status, log)
	}
	if !regexp.MustCompile(`(?m)^interrupted in the middle of big\.go after \d+ of \d+ functions$`).MatchString(log) {
		t.Errorf("the log does not tell where it was interrupted:\n%s", log)
	}
	if got := published(t, out); len(got) != 0 {
		t.Errorf("something was published: %v", got)
	}
}

func TestAFileOfAProcessThatWasKilledIsTakenOverByTheOneThatWaits(t *testing.T) {
	in, out := sources(t, 0), t.TempDir()
	first := start(t, in, out)
	first.until(t, "claimed big.go")
	second := start(t, in, out)
	second.until(t, "waiting for big.go")
	first.signal(t, syscall.SIGKILL)
	if status, log := first.end(t); status != -1 || strings.Contains(log, "published") {
		t.Fatalf("the first was not killed in mid-file: status %d\n%s", status, log)
	}
	status, log := second.end(t)
	if status != 0 || !strings.Contains(log, "published big.go in ") {
		t.Errorf("the second ended with %d:\n%s", status, log)
	}
	if got := published(t, out); len(got) != 1 {
		t.Errorf("%d reports, want 1", len(got))
	}
}

func TestSigtermEndsOneThatWaits(t *testing.T) {
	in, out := sources(t, 0), t.TempDir()
	first := start(t, in, out)
	first.until(t, "claimed big.go")
	second := start(t, in, out)
	second.until(t, "waiting for big.go")
	second.signal(t, syscall.SIGTERM)
	if status, log := second.end(t); status != 143 || !strings.Contains(log, "interrupted while waiting for big.go") {
		t.Errorf("ended with %d:\n%s", status, log)
	}
	first.signal(t, syscall.SIGTERM)
	first.end(t)
}

func TestCompetingProcessesPublishEachFileOnce(t *testing.T) {
	const small = 9
	in, out := sources(t, small), t.TempDir()
	var mu sync.Mutex
	times := map[string]int{}
	idle := 0
	var all sync.WaitGroup
	processes := make([]*process, small+3) // two more than there are files
	for i := range processes {
		processes[i] = start(t, in, out)
	}
	for _, p := range processes {
		all.Go(func() {
			status, log := p.end(t)
			if status != 0 {
				t.Errorf("exit status %d\n%s", status, log)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, m := range regexp.MustCompile(`(?m)^published (\S+) in `).FindAllStringSubmatch(log, -1) {
				times[m[1]]++
			}
			if strings.Contains(log, "nothing left: 10 of 10") {
				idle++
			}
		})
	}
	all.Wait()
	for name, n := range times {
		if n != 1 {
			t.Errorf("%s was published %d times", name, n)
		}
	}
	if len(times) != small+1 || len(published(t, out)) != small+1 || idle != 2 {
		t.Errorf("%d published by their logs, %d reports, %d processes with nothing left; want 10, 10, 2", len(times), len(published(t, out)), idle)
	}
}

func TestTheSameOutputWhicheverWayTheWorkIsShared(t *testing.T) {
	in := sources(t, 4)
	queue, indexed := t.TempDir(), t.TempDir()
	// An interruption must leave no trace in the output.
	p := start(t, in, queue)
	p.until(t, "claimed big.go")
	p.signal(t, syscall.SIGTERM)
	p.end(t)
	for index := range 5 {
		if status, log := start(t, in, queue).end(t); status != 0 {
			t.Fatalf("exit status %d\n%s", status, log)
		}
		if status, log := start(t, in, indexed, fmt.Sprintf("JOB_COMPLETION_INDEX=%d", 4-index)).end(t); status != 0 {
			t.Fatalf("exit status %d\n%s", status, log)
		}
	}
	a, b := published(t, queue), published(t, indexed)
	if len(a) != 5 || len(b) != 5 {
		t.Fatalf("%d and %d reports, want 5", len(a), len(b))
	}
	for name, text := range a {
		if b[name] != text {
			t.Errorf("%s differs:\n%s\n%s", name, text, b[name])
		}
		if !strings.Contains(text, `"passagePairsCompared": `) || strings.Contains(text, in) {
			t.Errorf("%s holds no result, or a path of this machine:\n%s", name, text)
		}
	}
}

func TestAnIndexThatIsAlreadyRunningFails(t *testing.T) {
	in, out := sources(t, 2), t.TempDir()
	first := start(t, in, out, "JOB_COMPLETION_INDEX=0")
	first.until(t, "claimed big.go")
	status, log := start(t, in, out, "JOB_COMPLETION_INDEX=0").end(t)
	if status != 3 || !strings.Contains(log, "index 0 is already running") {
		t.Errorf("the second of index 0 ended with %d:\n%s", status, log)
	}
	if status, log := start(t, in, out, "JOB_COMPLETION_INDEX=1").end(t); status != 0 {
		t.Errorf("index 1 ended with %d:\n%s", status, log)
	}
	first.signal(t, syscall.SIGKILL)
	first.end(t)
	if status, log := start(t, in, out, "JOB_COMPLETION_INDEX=0").end(t); status != 0 || !strings.Contains(log, "published big.go") {
		t.Errorf("index 0 could not run after its first process was killed: %d\n%s", status, log)
	}
	if status, log := start(t, in, out, "JOB_COMPLETION_INDEX=0").end(t); status != 0 || !strings.Contains(log, "big.go was published before") {
		t.Errorf("index 0 did not see that it was done: %d\n%s", status, log)
	}
}

func TestBadInputFailsWithItsName(t *testing.T) {
	in, out := t.TempDir(), t.TempDir()
	if status, log := start(t, in, out).end(t); status != 1 || !strings.Contains(log, "no Go file") {
		t.Errorf("an empty input ended with %d:\n%s", status, log)
	}
	if err := os.WriteFile(filepath.Join(in, "broken.go"), []byte("package p\nfunc {"), 0o644); err != nil {
		t.Fatal(err)
	}
	if status, log := start(t, in, out).end(t); status != 1 || !strings.Contains(log, "broken.go: not a Go file") {
		t.Errorf("a broken file ended with %d:\n%s", status, log)
	}
	if status, log := start(t, in, out, "JOB_COMPLETION_INDEX=x").end(t); status != 1 || !strings.Contains(log, `"x"`) {
		t.Errorf("a broken index ended with %d:\n%s", status, log)
	}
}
