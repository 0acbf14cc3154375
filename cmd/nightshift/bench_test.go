package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkNoOpPods runs a thousand pods that do nothing, and the same thousand processes by xargs. It prints how much longer the run takes, all
// of it and the Job alone.
func BenchmarkNoOpPods(b *testing.B) {
	dir := b.TempDir()
	if err := goBuild("-o", dir+"/", "../nightshift"); err != nil {
		b.Fatal(err)
	}
	manifest := filepath.Join(dir, "job.yaml")
	if err := os.WriteFile(manifest, []byte(job("noop", "true", "completions: 1000", "parallelism: 64")), 0o644); err != nil {
		b.Fatal(err)
	}
	timed := func(name string, args ...string) time.Duration {
		command := exec.Command(name, args...)
		command.Dir = dir
		began := time.Now()
		if out, err := command.CombinedOutput(); err != nil {
			b.Fatalf("%s: %v\n%s", name, err, out)
		}
		return time.Since(began)
	}
	var run, xargs time.Duration
	for b.Loop() {
		xargs += timed("sh", "-c", "seq 1000 | xargs -P 64 -n 1 sh -c true")
		run += timed(filepath.Join(dir, "nightshift"), "run", "-f", manifest, "--data-dir", b.TempDir())
	}
	b.ReportMetric(1000*float64(b.N)/run.Seconds(), "pods/s")
	b.ReportMetric(1000*float64(b.N)/xargs.Seconds(), "xargs-processes/s")
	b.ReportMetric(run.Seconds()/xargs.Seconds(), "times-xargs")
}
