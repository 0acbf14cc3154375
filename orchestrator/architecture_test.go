// Package orchestrator_test states the rules that keep this tree readable, each with its reason, and fails on a breach.
// The table of who may import whom is in architecture_imports_test.go, what sources must not do in
// architecture_sources_test.go, and architecture_breach_test.go proves that each rule can fail.
package orchestrator_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const modulePath = "github.com/nightshift-batch/nightshift"

// breach is one place that breaks a rule.
type breach struct {
	where   string // a package or file:line, from the root of the repository
	what    string
	because string // the reason for the rule
}

func (b breach) String() string { return b.where + ": " + b.what + "\n\tbecause " + b.because }

func report(t *testing.T, breaches []breach) {
	t.Helper()
	for _, b := range breaches {
		t.Error(b)
	}
}

func TestArchitectureImports(t *testing.T) {
	packages := listPackages(t)
	report(t, checkImports(packages))
	report(t, checkReach(packages))
	report(t, checkOwners(packages))
}

func TestArchitectureSources(t *testing.T) {
	sources := readSources(t, "..")
	report(t, checkSources(sources))
}

// Each rule has to bind something, or a renamed package would slip out of it.
func TestArchitectureRulesNameWhatExists(t *testing.T) {
	directories := map[string]bool{}
	for _, s := range readSources(t, "..") {
		directories[s.directory()] = true
	}
	for _, name := range pure {
		if !directories[name] && !planned[name] {
			t.Errorf("the purity rule names %s, which does not exist", name)
		}
	}
	for _, rule := range importRules {
		found := planned[strings.TrimSuffix(rule.pattern, "/...")]
		for directory := range directories {
			found = found || matches(rule.pattern, directory)
		}
		if !found {
			t.Errorf("an import rule names %s, which does not exist", rule.pattern)
		}
	}
}

// listed is what `go list -json` says about a package. Paths in it are cut by local.
type listed struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string
	GoFiles      []string
}

// listPackages lists the packages of the module, with what the whole of each reaches.
func listPackages(t *testing.T) []listed {
	t.Helper()
	// -e: a package that does not build still has imports, and its own tests tell the rest.
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports,TestImports,XTestImports,Deps,GoFiles", modulePath+"/...")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var packages []listed
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listed
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		packages = append(packages, p)
	}
	if len(packages) < 10 {
		t.Fatalf("go list found %d packages: it looked in the wrong place", len(packages))
	}
	return packages
}

// local gives the path of one of our packages from the root of the module, and false for one of somebody else's.
func local(path string) (string, bool) { return strings.CutPrefix(path, modulePath+"/") }

// fromOutside tells whether a package is neither ours nor of the standard library.
func fromOutside(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	_, ours := local(path)
	return strings.Contains(first, ".") && !ours
}

// matches tells whether a path is that of a pattern: the same, or below it if the pattern ends in "/...".
func matches(pattern, path string) bool {
	if above, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == above || strings.HasPrefix(path, above+"/")
	}
	return path == pattern
}

func matchesAny(patterns []string, path string) bool {
	for _, p := range patterns {
		if matches(p, path) {
			return true
		}
	}
	return false
}

// source is one Go file.
type source struct {
	path string // slash-separated, from the root of the repository
	text string
}

func (s source) directory() string {
	return filepath.ToSlash(filepath.Dir(s.path))
}

func (s source) isTest() bool { return strings.HasSuffix(s.path, "_test.go") }

// readSources reads all Go files of the repository but testdata and what is built or fetched.
func readSources(t *testing.T, root string) []source {
	t.Helper()
	var sources []source
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch name := entry.Name(); {
		case entry.IsDir() && (name == "testdata" || name == ".git" || name == ".cache" || name == ".terraform"):
			return filepath.SkipDir
		case entry.IsDir() || !strings.HasSuffix(name, ".go"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		sources = append(sources, source{filepath.ToSlash(relative), string(text)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(sources) < 50 {
		t.Fatalf("%d Go files: looked in the wrong place", len(sources))
	}
	return sources
}

func at(path string, line int) string { return fmt.Sprintf("%s:%d", path, line) }
