package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"sort"
	"strings"
	"time"
)

// event is one line of `go test -json`; see `go doc test2json` and `go help buildjson`.
type event struct {
	Action      string
	Package     string
	Test        string
	Output      string
	Elapsed     float64 // seconds
	ImportPath  string  // of a build event
	FailedBuild string  // the build that kept a package from running
}

// report follows one or more runs of go test. It is used by one goroutine.
type report struct {
	out      io.Writer
	packages map[string]*packageRun
	builds   map[string]*bytes.Buffer // what the compiler said, by import path

	passed, failed, skipped int
	failures, skips         []string
	failedPackages          int // since the run began; tells whether a bad exit status is accounted for
}

// packageRun is one package while it runs.
type packageRun struct {
	output  bytes.Buffer             // what belongs to no test
	tests   map[string]*bytes.Buffer // running tests
	ran     int
	failed  int
	skipped int
}

func newReport(out io.Writer) *report {
	return &report{out: out, packages: map[string]*packageRun{}, builds: map[string]*bytes.Buffer{}}
}

// read follows one run to its end. A line that is not JSON (go test prints some errors so) is passed through.
func (r *report) read(in io.Reader) error {
	r.failedPackages = 0
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				fmt.Fprintf(r.out, "%s\n", bytes.TrimRight(line, "\n"))
			} else {
				r.take(e)
			}
		}
		if err == io.EOF {
			r.closeUnfinished()
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *report) take(e event) {
	switch {
	case e.Action == "build-output":
		if r.builds[e.ImportPath] == nil {
			r.builds[e.ImportPath] = &bytes.Buffer{}
		}
		r.builds[e.ImportPath].WriteString(e.Output)
	case e.Package == "":
	case e.Test == "":
		r.takePackage(e)
	default:
		r.takeTest(e)
	}
}

func (r *report) pkg(name string) *packageRun {
	if r.packages[name] == nil {
		r.packages[name] = &packageRun{tests: map[string]*bytes.Buffer{}}
	}
	return r.packages[name]
}

func (r *report) takeTest(e event) {
	p := r.pkg(e.Package)
	if p.tests[e.Test] == nil {
		p.tests[e.Test] = &bytes.Buffer{}
	}
	switch e.Action {
	case "output":
		p.tests[e.Test].WriteString(e.Output)
		if _, note, ok := strings.Cut(e.Output, ": note: "); ok {
			fmt.Fprintf(r.out, "note: %s (%s %s)\n", strings.TrimRight(note, "\n"), e.Package, e.Test)
		}
	case "pass":
		p.ran++
		r.passed++
		delete(p.tests, e.Test)
	case "skip":
		p.skipped++
		r.skipped++
		r.skips = append(r.skips, fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason(p.tests[e.Test].String())))
		delete(p.tests, e.Test)
	case "fail":
		r.failTest(p, e.Package, e.Test, "FAILED")
	}
}

func (r *report) failTest(p *packageRun, pkg, test, how string) {
	p.ran++
	p.failed++
	r.failed++
	r.failures = append(r.failures, fmt.Sprintf("%s %s", pkg, test))
	fmt.Fprintf(r.out, "\n--- %s: %s %s\n%s\n", how, pkg, test, p.tests[test].String())
	delete(p.tests, test)
}

// takePackage ends a package. Its own output is shown when it failed: panics, data races outside a test and the like
// are told there.
func (r *report) takePackage(e event) {
	p := r.pkg(e.Package)
	switch e.Action {
	case "output":
		p.output.WriteString(e.Output)
		return
	case "pass":
		fmt.Fprintf(r.out, "ok      %-60s %7s  %d tests%s\n", e.Package, seconds(e.Elapsed), p.ran, andSkipped(p.skipped))
	case "skip":
		fmt.Fprintf(r.out, "-       %-60s          no tests\n", e.Package)
	case "fail":
		r.failUnfinished(e.Package, p)
		r.failPackage(e.Package, p, e)
	default:
		return
	}
	delete(r.packages, e.Package)
}

func (r *report) failPackage(name string, p *packageRun, e event) {
	r.failedPackages++
	if said := r.builds[e.FailedBuild]; said != nil {
		p.output.Write(said.Bytes())
	}
	if p.failed == 0 {
		r.failed++
		r.failures = append(r.failures, name+" (the package)")
	}
	fmt.Fprintf(r.out, "%s\nFAILED  %-60s %7s  %d of %d tests%s\n", p.output.String(), name, seconds(e.Elapsed), p.failed, p.ran, andSkipped(p.skipped))
}

// failUnfinished counts the tests of a package that has ended without ending them: one of them brought it down.
func (r *report) failUnfinished(name string, p *packageRun) {
	var open []string
	for test := range p.tests {
		open = append(open, test)
	}
	sort.Strings(open)
	for _, test := range open {
		r.failTest(p, name, test, "NEVER ENDED")
	}
}

// closeUnfinished fails the packages that never ended, as when go test itself was stopped.
func (r *report) closeUnfinished() {
	var open []string
	for name := range r.packages {
		open = append(open, name)
	}
	sort.Strings(open)
	for _, name := range open {
		p := r.packages[name]
		r.failUnfinished(name, p)
		r.failPackage(name, p, event{})
		delete(r.packages, name)
	}
}

// endedWith accounts for a bad status of go test that no package explains, as for a bad flag or an unknown package.
func (r *report) endedWith(dir string, status int) {
	if r.failedPackages == 0 {
		r.broke(fmt.Errorf("go test in %s ended with status %d before it ran a test", dir, status))
	}
}

// broke counts a run that could not be followed as one failure, and gives the exit status for it.
func (r *report) broke(err error) int {
	r.failed++
	r.failures = append(r.failures, err.Error())
	fmt.Fprintln(r.out, err)
	return 1
}

// finish prints what is worth reading last and gives the number of failures.
func (r *report) finish() int {
	for _, s := range r.skips {
		fmt.Fprintf(r.out, "skipped %s\n", s)
	}
	for _, f := range r.failures {
		fmt.Fprintf(r.out, "failed  %s\n", f)
	}
	fmt.Fprintf(r.out, "%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	return r.failed
}

// reason finds what a skipped test gave as its reason: the last line it logged.
func reason(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		line := strings.TrimSpace(lines[i])
		if line != "" && !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "===") {
			return line
		}
	}
	return "no reason given"
}

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(10 * time.Millisecond).String()
}

func andSkipped(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", %d skipped", n)
}
