// Command testrun runs `go test -json` and reports it for people: one line a package, every failure in full, every skip
// with its reason, and last the plain line
//
//	N passed, N failed, N skipped
//
// which counts each test and each subtest once. A test that never ended, and a package that failed without a failing
// test (it did not build, its TestMain failed, it ran out of time), count as failed, so "0 failed" means what it says.
// A passing test can have a line shown by logging one that begins with "note: ".
//
//	testrun [-also DIR]... -- ARGUMENTS OF go test
//
// Each -also names another module, whose tests run first and whole. The exit status is go test's own: the first that is
// not 0, and 1 if anything counted as failed all the same.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
)

func main() {
	var also []string
	flag.Func("also", "another module `directory`, whose tests run first", func(dir string) error {
		also = append(also, dir)
		return nil
	})
	flag.Parse()

	report := newReport(os.Stdout)
	status := 0
	for _, dir := range also {
		status = firstFailure(status, goTest(report, dir, []string{"-race", "-count=1", "./..."}))
	}
	status = firstFailure(status, goTest(report, ".", flag.Args()))
	if failed := report.finish(); failed > 0 {
		status = firstFailure(status, 1)
	}
	os.Exit(status)
}

func firstFailure(a, b int) int {
	if a != 0 {
		return a
	}
	return b
}

// goTest feeds one run of go test into the report and gives its exit status.
func goTest(report *report, dir string, args []string) int {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return report.broke(fmt.Errorf("cannot read from go test: %w", err))
	}
	if err := cmd.Start(); err != nil {
		return report.broke(fmt.Errorf("cannot start go test: %w", err))
	}
	readErr := report.read(out)
	if readErr != nil {
		// Let go test end instead of blocking on a full pipe: its status is still worth having.
		_, drainErr := io.Copy(io.Discard, out)
		readErr = errors.Join(readErr, drainErr)
	}
	waitErr := cmd.Wait()
	if readErr != nil {
		return report.broke(fmt.Errorf("cannot follow go test: %w", readErr))
	}
	var exit *exec.ExitError
	switch {
	case waitErr == nil:
		return 0
	case errors.As(waitErr, &exit) && exit.ExitCode() > 0:
		report.endedWith(dir, exit.ExitCode())
		return exit.ExitCode()
	default: // killed by a signal, or not run at all
		return report.broke(fmt.Errorf("go test did not end properly: %w", waitErr))
	}
}
