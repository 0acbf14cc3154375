package etcd

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

// chunk yields one chunk of a snapshot n times.
func chunk(bytes []byte, n int) func(func([]byte, error) bool) {
	return func(yield func([]byte, error) bool) {
		for range n {
			if !yield(bytes, nil) {
				return
			}
		}
	}
}

// chainArchive checks that what it is given is the log from its beginning, and counts its bytes.
type chainArchive struct {
	chain *journal.Chain
	bytes int
}

func (a *chainArchive) Keep(_ context.Context, first, _ uint64, segment []byte) error {
	if next := a.chain.Next(); journal.Seq(first) != next {
		return errors.New("the segment does not follow")
	}
	a.bytes += len(segment)
	return journal.ReadSegment(segment, a.chain, func(journal.Batch) error { return nil })
}

func TestTheDiskStaysBoundedWhateverIsWritten(t *testing.T) {
	const bound, round, rounds = 16 << 20, 4 << 20, 32
	dir := t.TempDir()
	j, term := openWriter(t, Options{Dir: dir, MaxBytes: bound})
	kept := &chainArchive{chain: journal.ChainAfter(0, journal.Digest{})}
	large := manyFacts(1, 64, 4<<10)
	var head journal.Seq
	var most int64
	for range rounds {
		for range round / (256 << 10) {
			next, err := j.Append(t.Context(), term, head, large)
			if err != nil {
				t.Fatalf("after %d facts: %v", head, err)
			}
			head = next
		}
		if err := j.Snapshot(t.Context(), term, head, chunk(make([]byte, 512<<10), 2)); err != nil {
			t.Fatal(err)
		}
		if err := j.Compact(t.Context(), term, head, kept); err != nil {
			t.Fatal(err)
		}
		most = max(most, fileBytes(t, filepath.Join(dir, etcdName, "member", "snap", "db")))
	}
	// A file grows 16 MiB at a time (AllocSize in bbolt), of which what it holds never was more than the bound: that would have been ErrFull.
	if most > bound+16<<20 {
		t.Errorf("the store's file grew to %d bytes of %d", most, bound)
	}
	space, err := j.Space(t.Context())
	if err != nil || space.Quota != bound || space.Used > bound/2 {
		t.Errorf("the store holds %+v: %v", space, err)
	}
	if written := rounds * round; kept.bytes < written-len(large)*(4<<10) {
		t.Errorf("%d bytes were written, and %d archived", written, kept.bytes)
	}
	wal := treeBytes(t, filepath.Join(dir, etcdName, "member", "wal"))
	// Two files that stay, the one that is written, one in reserve, and what is not let go of yet.
	if wal > 6*64<<20 {
		t.Errorf("etcd's own log takes %d bytes", wal)
	}
	t.Logf("written %d MiB, archived %d MiB; the store's file never took more than %.1f MiB, and takes %.1f now; etcd's own log takes %.1f",
		rounds*round>>20, kept.bytes>>20, float64(most)/(1<<20), float64(space.Used)/(1<<20), float64(wal)/(1<<20))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	// Archive and log are one chain.
	j, _ = openWriter(t, Options{Dir: dir})
	end, err := j.readTail(t.Context())
	if err != nil || end.seq != head {
		t.Fatalf("the head is %d: %v", end.seq, err)
	}
	if err := j.readTo(t.Context(), kept.chain, end, func(journal.Batch) error { return nil }); err != nil || kept.chain.Next() != head+1 {
		t.Errorf("what was archived goes on in the log to fact %d of %d: %v", kept.chain.Next()-1, head, err)
	}
}

func fileBytes(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func treeBytes(t *testing.T, dir string) (bytes int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			bytes += fileBytes(t, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

// chunkKeys are those of all chunks of all snapshots.
func chunkKeys(t *testing.T, j *Journal) (found []string) {
	t.Helper()
	response, err := j.client.Get(t.Context(), j.keys.chunks, clientv3.WithRange(j.keys.chunksEnd), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range response.Kvs {
		found = append(found, string(kv.Key))
	}
	return found
}

func TestAHalfWrittenSnapshotIsRemovedAtTheNextStart(t *testing.T) {
	dir := t.TempDir()
	j, term := openWriter(t, Options{Dir: dir})
	mustAppend(t, j, term, 1)
	if err := j.Snapshot(t.Context(), term, 2, chunk([]byte("whole"), 3)); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, j, term, 2)
	whole := chunkKeys(t, j)
	broken := errors.New("broken")
	err := j.Snapshot(t.Context(), term, 6, func(yield func([]byte, error) bool) {
		_ = yield([]byte("half"), nil) && yield([]byte("of it"), nil) && yield(nil, broken)
	})
	if !errors.Is(err, broken) || len(chunkKeys(t, j)) != len(whole)+2 {
		t.Fatalf("a snapshot that broke off left chunks %q: %v", chunkKeys(t, j), err)
	}
	// Who only reads, and who watches for its turn in a cluster, removes nothing.
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j, term = openWriter(t, Options{Dir: dir})
	if left := chunkKeys(t, j); !slices.Equal(left, whole) {
		t.Errorf("after a start there are chunks %q, want %q", left, whole)
	}
	// One takes the other's place.
	if err := j.Snapshot(t.Context(), term, 6, chunk([]byte("next"), 1)); err != nil {
		t.Fatal(err)
	}
	if left := chunkKeys(t, j); len(left) != 1 || slices.Contains(whole, left[0]) {
		t.Errorf("after the next snapshot there are chunks %q", left)
	}
}

func TestADamagedSnapshotIsCorruptAndNamed(t *testing.T) {
	j, term := openWriter(t, Options{Dir: t.TempDir()})
	mustAppend(t, j, term, 3)
	if err := j.Snapshot(t.Context(), term, 4, chunk([]byte("some bytes of a state"), 3)); err != nil {
		t.Fatal(err)
	}
	keys := chunkKeys(t, j)
	at := func(key string) string {
		response, err := j.client.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		return string(response.Kvs[0].Value)
	}
	first, second := at(keys[0]), at(keys[1])
	named := at(j.keys.snapshot)
	for name, damage := range map[string]struct {
		key, value, names string
	}{
		"a missing chunk":           {keys[1], "", keys[1]},
		"a flipped bit":             {keys[1], second[:40] + "X" + second[41:], keys[1]},
		"a cut chunk":               {keys[1], second[:40], keys[1]},
		"a chunk in another place":  {keys[1], first, keys[1]},
		"a last chunk of another":   {keys[2], second, keys[2]},
		"a name of another one":     {j.keys.snapshot, strings.Replace(named, "4 ", "6 ", 1), j.keys.snapshot},
		"a batch that does not fit": {j.keys.batch(6), encoded(journal.Batch{First: 5, Term: term, Facts: [][]byte{nil, nil}}), j.keys.snapshot},
	} {
		t.Run(name, func(t *testing.T) {
			was := at(damage.key)
			op := clientv3.OpPut(damage.key, damage.value)
			if damage.value == "" {
				op = clientv3.OpDelete(damage.key)
			}
			if _, err := j.client.Do(t.Context(), op); err != nil {
				t.Fatal(err)
			}
			seq, err := j.ReadSnapshot(t.Context(), func([]byte) error { return nil })
			if !errors.Is(err, journal.ErrCorrupt) || !strings.Contains(err.Error(), damage.names) || seq != 0 {
				t.Errorf("read after fact %d: %v; want an error with %s", seq, err, damage.names)
			}
			if _, err := j.client.Put(t.Context(), damage.key, was); err != nil {
				t.Fatal(err)
			}
		})
	}
	if seq, err := j.ReadSnapshot(t.Context(), func([]byte) error { return nil }); err != nil || seq != 4 {
		t.Errorf("the snapshot after fact %d: %v", seq, err)
	}
}
