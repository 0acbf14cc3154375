package main_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// What the documents tell users to type is typed here, in a copy of this tree: each block that is marked as sh, in order, in one shell
// that ends at the first error. A block that begins with "# in one terminal" runs beside those that follow it.
var shellBlock = regexp.MustCompile("(?s)```sh\n(.*?)```")

const inOneTerminal = "# in one terminal\n"

func TestTheReadmeDoesWhatItSays(t *testing.T) {
	w := newWorld(t)
	w.copyTree()
	blocks := w.blocks("README.md")
	// The main job, on all of its real input, into ./out.
	w.env = append(w.env, "DATA_PROCESSOR_OUTPUT=")
	first := w.shell(blocks[0])
	first.mustEnd(0)
	if out := first.stdout.String(); !strings.Contains(out, "Complete after") || !strings.Contains(out, "100 of 100 succeeded, 0 failed, 0 evicted") || !strings.Contains(out, "receipt:  $0.0") {
		t.Errorf("the README's first command ends with\n%s", tail(out))
	}
	w.checkReports(w.path("out"))
	// The rest on less input: what it shows is that the commands do what the text says.
	w.smallInput()
	out := w.type_(blocks[1:])
	for _, words := range []string{"100 of 100 succeeded", "job.batch/data-processing-indexed condition met", "Completed Indexes:  0-99", "published ", "exit status 2"} {
		if !strings.Contains(out, words) {
			t.Errorf("the README's commands never print %q", words)
		}
	}
	if spans := w.spans("trace.jsonl"); len(spans) < exampleFiles+1 {
		t.Errorf("the README's trace has %d spans", len(spans))
	}
}

func TestTheExamplesDoWhatTheySay(t *testing.T) {
	for _, example := range []string{"data-processing", "indexed"} {
		t.Run(example, func(t *testing.T) {
			w := newWorld(t)
			w.copyTree()
			w.smallInput()
			if out := w.type_(w.blocks("examples/" + example + "/README.md")); strings.Count(out, "\nthe same\n") != 1 {
				t.Error("the outputs were not found to be the same")
			}
		})
	}
}

func (w *world) blocks(document string) (blocks []string) {
	w.t.Helper()
	text, err := os.ReadFile(w.path(document))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, found := range shellBlock.FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, found[1])
	}
	if len(blocks) < 2 {
		w.t.Fatalf("%s has %d blocks of commands", document, len(blocks))
	}
	return blocks
}

// type_ runs the blocks and returns what they printed.
func (w *world) type_(blocks []string) string {
	w.t.Helper()
	var script strings.Builder
	for _, block := range blocks {
		if !strings.HasPrefix(block, inOneTerminal) {
			script.WriteString(block)
			continue
		}
		block = strings.TrimPrefix(block, inOneTerminal)
		// The port that the document names may be taken on this machine.
		beside := w.shell("exec " + strings.Replace(block, "127.0.0.1:6443", "127.0.0.1:0", 1))
		beside.awaitOutput(beside.stderr, "kubectl --kubeconfig")
		defer func() {
			beside.signal(syscall.SIGINT)
			beside.mustEnd(0)
		}()
	}
	typed := w.shell(script.String())
	typed.mustEnd(0)
	return typed.stdout.String()
}

func (w *world) shell(script string) *command {
	w.t.Helper()
	return w.start("bash", "-euo", "pipefail", "-c", script)
}

// copyTree copies this repository, without what was built. Go's caches stay where they are.
func (w *world) copyTree() {
	w.t.Helper()
	for _, name := range []string{"GOCACHE", "GOMODCACHE"} {
		w.env = append(w.env, name+"="+goEnv(w.t, name))
	}
	listed := exec.Command("git", "ls-files", "-co", "--exclude-standard", "-z")
	listed.Dir = "../.."
	files, err := listed.Output()
	if err != nil {
		w.t.Fatalf("git ls-files: %v", err)
	}
	for _, name := range strings.Split(strings.TrimSuffix(string(files), "\x00"), "\x00") {
		info, err := os.Stat(filepath.Join("../..", name))
		if os.IsNotExist(err) {
			continue // deleted and not committed yet
		}
		if err != nil {
			w.t.Fatal(err)
		}
		w.copyFile(name, info.Mode())
	}
}

func (w *world) copyFile(name string, mode fs.FileMode) {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join("../..", name))
	if err == nil {
		err = os.MkdirAll(filepath.Dir(w.path(name)), 0o755)
	}
	if err == nil {
		err = os.WriteFile(w.path(name), text, mode)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// smallInput gives the examples a hundred small files of the Go distribution to work on.
func (w *world) smallInput() {
	w.t.Helper()
	w.env = append(w.env, "DATA_PROCESSOR_OUTPUT=", "DATA_PROCESSOR_INPUT="+filepath.Join(goEnv(w.t, "GOROOT"), "src", "internal", "syscall"))
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	value, err := exec.Command("go", "env", name).Output()
	if err != nil {
		t.Fatalf("go env %s: %v", name, err)
	}
	return strings.TrimSpace(string(value))
}
