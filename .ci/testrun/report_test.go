package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// runOn writes a module of these files and runs testrun's own binary on it, as the Makefile does.
func runOn(t *testing.T, files map[string]string, args ...string) (output string, status int) {
	t.Helper()
	dir := t.TempDir()
	files["go.mod"] = "module example.com/m\n\ngo 1.26\n"
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(testrun(t), append([]string{"--"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		t.Fatal(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

func testrun(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "testrun")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("building testrun: %v\n%s", err, out)
	}
	return bin
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return lines[len(lines)-1]
}

func TestEachTestAndSubtestIsCountedOnce(t *testing.T) {
	out, status := runOn(t, map[string]string{"a/a_test.go": `package a
import "testing"
func TestPasses(t *testing.T) { t.Run("one", func(t *testing.T) {}); t.Run("two", func(t *testing.T) { t.Log("note: two of them") }) }
func TestSkips(t *testing.T) { t.Skip("the moon is down") }
func TestFails(t *testing.T) { t.Run("sub", func(t *testing.T) { t.Log("all of this"); t.Error("is shown") }) }
`, "b/b.go": "package b\n"}, "./...")
	if got, want := lastLine(out), "3 passed, 2 failed, 1 skipped"; got != want {
		t.Errorf("last line %q, want %q\n%s", got, want, out)
	}
	if status != 1 {
		t.Errorf("exit status %d, want go test's own 1", status)
	}
	for _, want := range []string{"all of this", "is shown", "the moon is down", "note: two of them"} {
		if !strings.Contains(out, want) {
			t.Errorf("the output does not show %q:\n%s", want, out)
		}
	}
}

func TestEveryWayToFailIsCounted(t *testing.T) {
	tests := map[string]struct {
		files    map[string]string
		args     []string
		wantLast string
		wantText string
	}{
		"a package that does not build": {
			files:    map[string]string{"a/a_test.go": "package a\nfunc broken() { undefinedName() }\n"},
			wantLast: "0 passed, 1 failed, 0 skipped", wantText: "undefinedName",
		},
		"a package that a test's import breaks": {
			files: map[string]string{
				"a/a.go":      "package a\nfunc broken() { undefinedName() }\n",
				"b/b_test.go": "package b\nimport (\"testing\"; _ \"example.com/m/a\")\nfunc TestFine(t *testing.T) {}\n",
			},
			wantLast: "0 passed, 2 failed, 0 skipped", wantText: "undefinedName",
		},
		"a panic, which ends the package": {
			files: map[string]string{"a/a_test.go": `package a
import "testing"
func TestPasses(t *testing.T) {}
func TestPanics(t *testing.T) { t.Run("sub", func(t *testing.T) { panic("went bang") }) }
`},
			wantLast: "1 passed, 2 failed, 0 skipped", wantText: "went bang",
		},
		"an exit in the middle of a test": {
			files:    map[string]string{"a/a_test.go": "package a\nimport (\"os\"; \"testing\")\nfunc TestExits(t *testing.T) { os.Exit(7) }\n"},
			wantLast: "0 passed, 1 failed, 0 skipped", wantText: "TestExits",
		},
		"a TestMain that fails": {
			files:    map[string]string{"a/a_test.go": "package a\nimport (\"os\"; \"testing\")\nfunc TestPasses(t *testing.T) {}\nfunc TestMain(m *testing.M) { m.Run(); os.Exit(3) }\n"},
			wantLast: "1 passed, 1 failed, 0 skipped", wantText: "example.com/m/a",
		},
		"a package that is not there": {
			files: map[string]string{"a/a.go": "package a\n"}, args: []string{"./nowhere"},
			wantLast: "0 passed, 1 failed, 0 skipped", wantText: "nowhere",
		},
		"a flag that go test refuses": {
			files: map[string]string{"a/a.go": "package a\n"}, args: []string{"-p", "none", "./..."},
			wantLast: "0 passed, 1 failed, 0 skipped", wantText: "none",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			args := test.args
			if args == nil {
				args = []string{"./..."}
			}
			out, status := runOn(t, test.files, args...)
			if got := lastLine(out); got != test.wantLast {
				t.Errorf("last line %q, want %q\n%s", got, test.wantLast, out)
			}
			if status == 0 {
				t.Error("exit status 0")
			}
			if !strings.Contains(out, test.wantText) {
				t.Errorf("the output does not show %q:\n%s", test.wantText, out)
			}
		})
	}
}

func TestASuiteThatPassesEndsWithZero(t *testing.T) {
	out, status := runOn(t, map[string]string{"a/a_test.go": "package a\nimport \"testing\"\nfunc TestPasses(t *testing.T) {}\n"}, "./...")
	if lastLine(out) != "1 passed, 0 failed, 0 skipped" || status != 0 {
		t.Errorf("status %d\n%s", status, out)
	}
}
