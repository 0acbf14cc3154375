package main_test

import (
	"io"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// unread is a named pipe that holds little and that nobody reads; full tells that it has no room, and read begins to read it.
func (w *world) unread(name string) (path string, full func() bool, read func() *transcript) {
	w.t.Helper()
	path = w.path(name)
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		w.t.Fatal(err)
	}
	// Opened for both, it waits for no writer, and a writer for no reader.
	pipe, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = pipe.Close() })
	const size = 4096
	if _, err := unix.FcntlInt(pipe.Fd(), unix.F_SETPIPE_SZ, size); err != nil {
		w.t.Fatal(err)
	}
	full = func() bool {
		held, err := unix.IoctlGetInt(int(pipe.Fd()), unix.TIOCINQ)
		return err == nil && held > size-256
	}
	return path, full, func() *transcript {
		text := newTranscript()
		go func() { _, _ = io.Copy(text, pipe) }()
		return text
	}
}

func TestARunWhoseOutputNobodyReadsIsInterruptedAllTheSame(t *testing.T) {
	const waits = `trap "echo told to stop >> told; exit 1" TERM; touch ready; while [ ! -e told ]; do %s; done`
	for _, test := range []struct{ name, flag, script string }{
		{"with lines of pods", "--follow=true", strings.Replace(waits, "%s", "echo a line that nobody reads", 1)},
		{"with changes", "--follow=false", "[ $JOB_COMPLETION_INDEX -lt 60 ] && exit 0; " + strings.Replace(waits, "%s", "sleep 0.05", 1)},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			path, full, read := w.unread("pipe")
			w.write("job.yaml", job("loud", test.script, "completionMode: Indexed", "completions: 61", "parallelism: 1"))
			run := w.start("sh", "-c", "exec "+built.nightshift+" run -f job.yaml --data-dir state "+test.flag+" >"+path)
			w.await("nothing more can be written", full)
			w.await("a pod waits to be told", func() bool { _, err := os.Stat(w.path("ready")); return err == nil })
			run.signal(syscall.SIGINT)
			w.await("no pod is left", func() bool { return !strings.Contains(w.commandLines(), "told to stop") })
			if _, err := os.Stat(w.path("told")); err != nil {
				t.Errorf("the pod was not told to stop: %v", err)
			}
			shown := read()
			run.mustEnd(130)
			if !strings.Contains(shown.String(), "interrupted: the pods are stopped gracefully") {
				t.Errorf("what is read late ends with\n%s", tail(shown.String()))
			}
		})
	}
}
