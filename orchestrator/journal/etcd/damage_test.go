package etcd

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
	"github.com/nightshift-batch/nightshift/orchestrator/journal/journaltest"
)

// damage is one way in which the stored log can be wrong.
type damage struct {
	name string
	do   []clientv3.Op
	// last is the number of the last fact that can be read before it.
	last journal.Seq
	// names must be in the error.
	names []string
	// atOpen: Open finds it already.
	atOpen bool
}

func encoded(b journal.Batch) string {
	value, _ := journal.EncodeBatch(b)
	return string(value)
}

func damages(t *testing.T, j *Journal) []damage {
	t.Helper()
	third, err := j.client.Get(t.Context(), testKeys.batch(6))
	if err != nil {
		t.Fatal(err)
	}
	value := third.Kvs[0].Value
	put := func(key, value string) clientv3.Op { return clientv3.OpPut(key, value) }
	return []damage{
		{"a value of another key", []clientv3.Op{put(testKeys.batch(8), string(value))}, 6, []string{"fact 8", testKeys.batch(8)}, false},
		{"a missing batch", []clientv3.Op{clientv3.OpDelete(testKeys.batch(6))}, 4, []string{"fact 5", testKeys.batch(8)}, false},
		{"a strange key", []clientv3.Op{put(testKeys.batches+"00000000000000000005x", "")}, 4, []string{testKeys.batches + "00000000000000000005x"}, false},
		{"a missing last batch", []clientv3.Op{clientv3.OpDelete(testKeys.batch(20))}, 18, []string{"20", testKeys.batch(20)}, true},
		{"a damaged last batch", []clientv3.Op{put(testKeys.batch(20), "x")}, 18, []string{"fact 20", testKeys.batch(20)}, true},
		{"a last batch written anew", []clientv3.Op{put(testKeys.batch(20), encoded(journal.Batch{First: 19, Term: 1, Facts: [][]byte{nil, nil}}))}, 18,
			[]string{"facts 19 to 20", testKeys.batch(20)}, true},
		{"a damaged head", []clientv3.Op{put(testKeys.head, strings.Replace(newTail(20, journal.Digest{}).stored, "20 ", "21 ", 1))}, 0, []string{testKeys.head}, true},
		{"a head too low", []clientv3.Op{put(testKeys.head, oldTail(16).stored)}, 16, []string{"16", testKeys.batch(18)}, true},
		{"a missing head", []clientv3.Op{clientv3.OpDelete(testKeys.head)}, 0, []string{testKeys.batch(2)}, true},
	}
}

func TestDamageIsCorruptAndNamesTheFactAndTheKey(t *testing.T) {
	shared := &sharedServer{dir: t.TempDir()}
	j := shared.Open(t).(*Journal)
	defer func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}()
	term, err := j.Campaign(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, j, term, 10)
	whole, err := j.client.Get(t.Context(), DefaultPrefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range damages(t, j) {
		t.Run(d.name, func(t *testing.T) {
			defer restore(t, j, whole)
			if _, err := j.client.Txn(t.Context()).Then(d.do...).Commit(); err != nil {
				t.Fatal(err)
			}
			_, atOpen := shared.server.open(t.Context(), func() error { return nil })
			if (atOpen != nil) != d.atOpen {
				t.Errorf("opening the damaged log: %v", atOpen)
			}
			if d.atOpen {
				wantCorrupt(t, d, "Open", atOpen)
			}
			if strings.Contains(d.name, "head too low") || strings.Contains(d.name, "missing head") {
				return // the rest reads well, which is why Open looks
			}
			var last journal.Seq
			read := j.Read(t.Context(), 1, count(&last))
			wantCorrupt(t, d, "Read", read)
			if last != d.last {
				t.Errorf("Read yielded up to fact %d, want %d", last, d.last)
			}
			last = 0
			wantCorrupt(t, d, "Follow", j.Follow(t.Context(), 1, count(&last)))
		})
	}
}

// A log that an older version wrote names no batch before another, neither in a batch nor in the head.
func TestALogOfTheFirstFormatIsReadAndGoesOn(t *testing.T) {
	shared := &sharedServer{dir: t.TempDir()}
	j := shared.Open(t).(*Journal)
	old := []journal.Batch{{First: 1, Term: 1, Facts: manyFacts(1, 3, 20)}, {First: 4, Term: 2, Facts: manyFacts(4, 1, 20)}}
	for _, b := range old {
		shared.Overwrite(t, b.Last(), journaltest.FormatOne(b))
	}
	if _, err := j.client.Put(t.Context(), testKeys.head, oldTail(4).stored); err != nil {
		t.Fatal(err)
	}
	head := journal.Seq(4)
	for range 2 {
		again := shared.Open(t).(*Journal)
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		j = again
		term, err := j.Campaign(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		mustAppend(t, j, term, 2)
		head += 4
		var last journal.Seq
		if err := j.Read(t.Context(), 1, count(&last)); err != nil || last != head {
			t.Fatalf("reading up to fact %d ended after %d: %v", head, last, err)
		}
	}
	// The last old batch is chained to the first new one.
	shared.Overwrite(t, 4, journaltest.FormatOne(journal.Batch{First: 4, Term: 2, Facts: manyFacts(5, 1, 20)}))
	var last journal.Seq
	if err := j.Read(t.Context(), 1, count(&last)); !errors.Is(err, journal.ErrCorrupt) || last != 4 || !strings.Contains(err.Error(), "facts 5 to 6") {
		t.Errorf("with another last old batch, reading ended after fact %d: %v", last, err)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

func wantCorrupt(t *testing.T, d damage, what string, err error) {
	t.Helper()
	if !errors.Is(err, journal.ErrCorrupt) {
		t.Fatalf("%s: %v", what, err)
	}
	for _, name := range d.names {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s does not name %s: %v", what, name, err)
		}
	}
}

// restore puts the log back as it was.
func restore(t *testing.T, j *Journal, whole *clientv3.GetResponse) {
	t.Helper()
	if _, err := j.client.Delete(t.Context(), DefaultPrefix, clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	for _, kv := range whole.Kvs {
		if _, err := j.client.Put(t.Context(), string(kv.Key), string(kv.Value)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAnAppendOverAStrayBatchIsCorruptAndWritesNothing(t *testing.T) {
	j, term := openWriter(t, Options{Dir: t.TempDir()})
	head := mustAppend(t, j, term, 2)
	stray := testKeys.batch(head + 2)
	if _, err := j.client.Put(t.Context(), stray, "stray"); err != nil {
		t.Fatal(err)
	}
	_, err := j.Append(t.Context(), term, head, manyFacts(head+1, 2, 20))
	if !errors.Is(err, journal.ErrCorrupt) || !strings.Contains(err.Error(), stray) {
		t.Errorf("the append over a stray batch: %v", err)
	}
	if now, err := j.Head(t.Context()); err != nil || now != head {
		t.Errorf("the head went from %d to %d (%v)", head, now, err)
	}
}

func TestADamagedLogOfEtcdsOwnIsCorruptAndNamesTheDirectory(t *testing.T) {
	dir := t.TempDir()
	j, term := openWriter(t, Options{Dir: dir})
	mustAppend(t, j, term, 5)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	wals, err := filepath.Glob(filepath.Join(dir, etcdName, "member", "wal", "*.wal"))
	if err != nil || len(wals) != 1 {
		t.Fatalf("etcd's log: %v, %v", wals, err)
	}
	whole, err := os.ReadFile(wals[0])
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(whole, []byte(testKeys.batch(6)))
	if at < 0 {
		t.Fatal("etcd's log does not hold the third batch")
	}
	flipped := bytes.Clone(whole)
	flipped[at] ^= 0x10
	// Over an empty log etcd panics, so this comes last: nothing can be started in the directory after that.
	for _, damaged := range [][]byte{flipped, nil} {
		if err := os.WriteFile(wals[0], damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err = Open(t.Context(), Options{Dir: dir}); !errors.Is(err, journal.ErrCorrupt) || !strings.Contains(err.Error(), dir) {
			t.Errorf("Open over a damaged log of %d bytes: %v", len(damaged), err)
		}
	}
	if !errors.Is(err, errPanicked) {
		t.Fatalf("etcd did not panic: %v", err)
	}
	runtime.GC() // nobody refers to the lock any more
	if _, err := Open(t.Context(), Options{Dir: dir}); !errors.Is(err, ErrInUse) {
		t.Errorf("Open where etcd has panicked: %v", err)
	}
}
