package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"gocloud.dev/blob/memblob"
)

var night = LogRun{Tenant: "team-a", JobUID: "job-1", PodUID: "pod-1", Container: "main"}

func openDir(t *testing.T, dir string) *Archive {
	t.Helper()
	a, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

func mustAppend(t *testing.T, a *Archive, run LogRun, offset int64, data string, end bool) {
	t.Helper()
	if err := a.AppendLog(context.Background(), run, offset, []byte(data), end); err != nil {
		t.Fatal(err)
	}
}

func readLog(t *testing.T, a *Archive, run LogRun, options LogOptions) string {
	t.Helper()
	r, err := a.OpenLog(context.Background(), run, options)
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// files lists what lies below dir, by the last element of the name.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			names = append(names, filepath.Base(path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// openFiles counts the files below dir that this process holds open.
func openFiles(t *testing.T, dir string) int {
	t.Helper()
	held, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("cannot count open files: %v", err)
	}
	count := 0
	for _, fd := range held {
		if target, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(target, dir) {
			count++
		}
	}
	return count
}

func TestALogIsKeptInChunksUntilItEndsAndThenAsAWhole(t *testing.T) {
	dir := t.TempDir()
	for name, a := range map[string]*Archive{"a directory": openDir(t, dir), "memory": New(memblob.OpenBucket(nil))} {
		t.Run(name, func(t *testing.T) {
			mustAppend(t, a, night, 0, "one\n", false)
			mustAppend(t, a, night, 4, "two\n", false)
			if got := readLog(t, a, night, LogOptions{}); got != "one\ntwo\n" {
				t.Errorf("while open: %q", got)
			}
			if name == "a directory" {
				if got := files(t, dir); !slices.Equal(got, []string{"00000000000000000000", "00000000000000000004"}) {
					t.Errorf("files %q while open", got)
				}
			}
			mustAppend(t, a, night, 8, "three", true)
			if got := readLog(t, a, night, LogOptions{}); got != "one\ntwo\nthree" {
				t.Errorf("ended: %q", got)
			}
			other := night
			other.Restart = 1
			mustAppend(t, a, other, 0, "again\n", true)
			if got := readLog(t, a, other, LogOptions{}) + readLog(t, a, night, LogOptions{}); got != "again\none\ntwo\nthree" {
				t.Errorf("two runs: %q", got)
			}
			if len(a.logs) != 0 {
				t.Errorf("%d ended logs are still in memory", len(a.logs))
			}
		})
	}
	if got := files(t, dir); !slices.Equal(got, []string{"whole", "whole"}) {
		t.Errorf("files %q at the end, want one a run", got)
	}
	if held := openFiles(t, dir); held != 0 {
		t.Errorf("%d files are still open", held)
	}
}

func TestARepeatedOrOverlappingChunkIsTrimmedAndAGapIsRefused(t *testing.T) {
	a := openDir(t, t.TempDir())
	mustAppend(t, a, night, 0, "0123", false)
	mustAppend(t, a, night, 0, "0123", false)
	mustAppend(t, a, night, 0, "01", false)
	mustAppend(t, a, night, 2, "234567", false)
	mustAppend(t, a, night, 0, "0123456789", false)
	var mismatch *OffsetError
	err := a.AppendLog(context.Background(), night, 11, []byte("b"), false)
	if !errors.As(err, &mismatch) || mismatch.Next != 10 || mismatch.Offset != 11 || mismatch.Ended {
		t.Errorf("a gap gave %v", err)
	}
	if err := a.AppendLog(context.Background(), night, 0, []byte("01"), true); !errors.As(err, &mismatch) {
		t.Errorf("an end before bytes that are kept gave %v", err)
	}
	if err := a.AppendLog(context.Background(), night, -1, []byte("x"), false); err == nil {
		t.Error("a negative offset was taken")
	}
	mustAppend(t, a, night, 10, "", true)
	mustAppend(t, a, night, 10, "", true)
	mustAppend(t, a, night, 8, "89", true)
	mustAppend(t, a, night, 8, "89", false)
	if err := a.AppendLog(context.Background(), night, 10, []byte("a"), false); !errors.As(err, &mismatch) || !mismatch.Ended {
		t.Errorf("bytes after the end gave %v", err)
	}
	if got := readLog(t, a, night, LogOptions{}); got != "0123456789" {
		t.Errorf("kept %q", got)
	}
}

func TestALogGoesOnWhereItWasAfterARestart(t *testing.T) {
	dir := t.TempDir()
	first := openDir(t, dir)
	mustAppend(t, first, night, 0, "one\n", false)
	mustAppend(t, first, night, 4, "two\n", false)

	second := openDir(t, dir)
	var mismatch *OffsetError
	if err := second.AppendLog(context.Background(), night, 9, []byte("x"), false); !errors.As(err, &mismatch) || mismatch.Next != 8 {
		t.Errorf("a gap after the restart gave %v", err)
	}
	mustAppend(t, second, night, 4, "two\nthree\n", false)
	if err := second.EndLog(context.Background(), night); err != nil {
		t.Fatal(err)
	}

	third := openDir(t, dir)
	mustAppend(t, third, night, 8, "three\n", true)
	if got := readLog(t, third, night, LogOptions{Follow: true}); got != "one\ntwo\nthree\n" {
		t.Errorf("after two restarts: %q", got)
	}
}

func TestWhatACrashLeavesIsNoPartOfALog(t *testing.T) {
	dir := t.TempDir()
	first := openDir(t, dir)
	mustAppend(t, first, night, 0, "one\n", false)
	logs := filepath.Join(dir, "logs/team-a/job-1/pod-1/main/0")
	// A write that broke off, as the bucket names it; the same of the whole; and names that only look like a chunk's.
	for _, name := range []string{"00000000000000000004.18a.tmp", "whole.18a.tmp", "4", "+0000000000000000004"} {
		if err := os.WriteFile(filepath.Join(logs, name), []byte("tw"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	second := openDir(t, dir)
	mustAppend(t, second, night, 4, "two\n", false)
	mustAppend(t, second, night, 8, "", true)

	// A crash after the whole was written and before its chunks were deleted.
	if err := os.WriteFile(filepath.Join(logs, chunkName(0)), []byte("one\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	third := openDir(t, dir)
	if got := readLog(t, third, night, LogOptions{}); got != "one\ntwo\n" {
		t.Errorf("read %q", got)
	}
	mustAppend(t, third, night, 4, "two\n", true)
	if slices.Contains(files(t, dir), chunkName(0)) {
		t.Error("the repeated end did not delete the chunk that was left over")
	}
}

func TestAMissingChunkIsReportedAndNotSkipped(t *testing.T) {
	dir := t.TempDir()
	first := openDir(t, dir)
	for i, line := range []string{"one\n", "two\n", "six\n"} {
		mustAppend(t, first, night, int64(4*i), line, false)
	}
	if err := os.Remove(filepath.Join(dir, "logs/team-a/job-1/pod-1/main/0", chunkName(4))); err != nil {
		t.Fatal(err)
	}
	if _, err := openDir(t, dir).OpenLog(context.Background(), night, LogOptions{}); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("after a restart: %v", err)
	}
	r, err := first.OpenLog(context.Background(), night, LogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if got, err := io.ReadAll(r); string(got) != "one\n" || !errors.Is(err, os.ErrNotExist) && !notFound(err) {
		t.Errorf("read %q and %v, want what is before and the reason", got, err)
	}
}

func TestALongLogKeepsItsChunksAndAnEndMark(t *testing.T) {
	dir := t.TempDir()
	a := openDir(t, dir)
	a.wholeLimit = 6
	mustAppend(t, a, night, 0, "one\n", false)
	mustAppend(t, a, night, 4, "two\n", true)
	if got := files(t, dir); !slices.Equal(got, []string{chunkName(0), chunkName(4), "end"}) {
		t.Errorf("files %q", got)
	}
	for _, archive := range []*Archive{a, openDir(t, dir)} {
		if got := readLog(t, archive, night, LogOptions{Follow: true}); got != "one\ntwo\n" {
			t.Errorf("read %q", got)
		}
	}
}

func TestAWriteThatFailsLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	a := openDir(t, dir)
	broken := errors.New("broken off")
	err := a.put(context.Background(), "documents/x.json", "application/json",
		io.MultiReader(strings.NewReader("{"), iotest.ErrReader(broken)), false)
	if !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := a.AppendLog(ended, night, 0, []byte("x"), false); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if got := files(t, dir); len(got) != 0 {
		t.Errorf("files %q", got)
	}
	mustAppend(t, a, night, 0, "x", false)
}

func TestNamesThatCouldLeaveTheirFolderAreRefused(t *testing.T) {
	a := openDir(t, t.TempDir())
	for _, change := range []func(*LogRun){
		func(r *LogRun) { r.Tenant = "" }, func(r *LogRun) { r.Tenant = ".." }, func(r *LogRun) { r.JobUID = "a/b" },
		func(r *LogRun) { r.PodUID = "../x" }, func(r *LogRun) { r.Container = "a\x00" }, func(r *LogRun) { r.Restart = -1 },
	} {
		run := night
		change(&run)
		if err := a.AppendLog(context.Background(), run, 0, []byte("x"), false); err == nil {
			t.Errorf("appended to %#v", run)
		}
		if _, err := a.OpenLog(context.Background(), run, LogOptions{}); err == nil || errors.Is(err, ErrNoLog) {
			t.Errorf("opened %#v: %v", run, err)
		}
	}
	for _, name := range []string{"", "/", "/a", "a/", "a//b", "../a", "a/../b", "a..b", ".a", "a b", strings.Repeat("a", 513)} {
		if err := a.PutDocument(context.Background(), name, 1); err == nil {
			t.Errorf("put document %q", name)
		}
	}
}

func TestADocumentIsReadAsItWasPutOldOrNewAndNeverMixed(t *testing.T) {
	type document struct {
		Version int
		Filling string
	}
	dir := t.TempDir()
	a := openDir(t, dir)
	ctx := context.Background()
	var got document
	if err := a.GetDocument(ctx, "admissions/uid-1", &got); !errors.Is(err, ErrNoDocument) {
		t.Fatalf("a document that is not there gave %v", err)
	}
	put := func(version int) error {
		return a.PutDocument(ctx, "admissions/uid-1", document{version, strings.Repeat(fmt.Sprint(version%10), 100_000)})
	}
	if err := put(0); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		all.Go(func() {
			last := 0
			for {
				var got document
				if err := a.GetDocument(ctx, "admissions/uid-1", &got); err != nil {
					t.Error(err)
					return
				}
				if got.Version < last || got.Filling != strings.Repeat(fmt.Sprint(got.Version%10), 100_000) {
					t.Errorf("version %d after %d, or mixed", got.Version, last)
					return
				}
				last = got.Version
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for version := 1; version <= 40; version++ {
		if err := put(version); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	all.Wait()
	if err := openDir(t, dir).GetDocument(ctx, "admissions/uid-1", &got); err != nil || got.Version != 40 {
		t.Errorf("after a restart: version %d, %v", got.Version, err)
	}
	if err := a.PutDocument(ctx, "bad", func() {}); err == nil {
		t.Error("a function became JSON")
	}
}

func BenchmarkAppendLog(b *testing.B) {
	a, err := OpenDir(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	line := bytes.Repeat([]byte("x"), 16<<10)
	b.SetBytes(int64(len(line)))
	offset := int64(0)
	for b.Loop() {
		if err := a.AppendLog(context.Background(), night, offset, line, false); err != nil {
			b.Fatal(err)
		}
		offset += int64(len(line))
	}
}
