package etcd

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/journal"
	"github.com/nightshift-batch/nightshift/orchestrator/object"
	"github.com/nightshift-batch/nightshift/orchestrator/writer"
)

// load is a writer on a log, with callers who put objects, each of a name of its own, for as long as it runs.
type load struct {
	t       *testing.T
	journal *Journal
	writer  *writer.Writer
	// acked gets the name of each object whose put was answered.
	acked chan string
	// doubts counts the batches of which the log did not say at once whether it took them.
	doubts atomic.Int64
	ended  chan error
	stop   context.CancelFunc
	group  sync.WaitGroup
	quit   chan struct{}
}

func startLoad(t *testing.T, cluster Cluster) *load {
	t.Helper()
	l := &load{t: t, journal: openIn(t, cluster), acked: make(chan string), ended: make(chan error, 1), quit: make(chan struct{})}
	w, err := writer.Open(t.Context(), writer.Config{
		Journal: l.journal, Now: time.Now, Seed: []byte("a seed of sixteen bytes"), Logger: slog.New(slog.NewTextHandler(l, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	l.writer = w
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	t.Cleanup(stop)
	go func() { l.ended <- w.Run(ctx) }()
	for i := range 4 {
		l.group.Go(func() { l.call(i) })
	}
	return l
}

// Write takes a line of the writer's log.
func (l *load) Write(line []byte) (int, error) {
	if strings.Contains(string(line), "did not say") {
		l.doubts.Add(1)
	}
	return l.t.Output().Write(line)
}

// call puts objects one after the other.
func (l *load) call(caller int) {
	for i := 0; ; i++ {
		name := fmt.Sprintf("%d-%d", caller, i)
		_, err := l.writer.Submit(context.Background(), engine.PutObject{Put: object.Put{
			Key: object.Key{Resource: "configmaps", Namespace: "default", Name: name}, UID: "uid-" + name, Object: []byte("{}"), Create: true,
		}})
		if err != nil {
			l.t.Errorf("put %s: %v", name, err)
			return
		}
		select {
		case l.acked <- name:
		case <-l.quit:
			return
		}
	}
}

// take waits for so many answers.
func (l *load) take(acked map[string]int, n int) {
	l.t.Helper()
	late := time.NewTimer(30 * time.Second)
	defer late.Stop()
	for range n {
		select {
		case name := <-l.acked:
			acked[name]++
		case err := <-l.ended:
			l.t.Fatalf("the writer ended: %v", err)
		case <-late.C:
			l.t.Fatal("nothing was answered for 30 seconds")
		}
	}
}

// leader returns the member that leads, and the others.
func leader(t *testing.T, members []*member, client *clientv3.Client) *member {
	t.Helper()
	for _, m := range members {
		if status, err := client.Status(t.Context(), m.Client); err == nil && status.Leader == status.Header.MemberId {
			return m
		}
	}
	t.Fatal("no member leads")
	return nil
}

func TestALeadingMemberThatIsKilledUnderLoadCostsNothingThatWasAnswered(t *testing.T) {
	ca := newAuthority(t)
	members := startCluster(t, 3, ca)
	cert, key := ca.issue(t, "nightshift")
	l := startLoad(t, Cluster{Endpoints: endpoints(members), CACertFile: ca.file, CertFile: cert, KeyFile: key})
	acked := map[string]int{}
	l.take(acked, 100)
	for round := range 4 {
		lost := leader(t, members, l.journal.client)
		began := time.Now()
		if round == 3 {
			// A member that stands still, as on a disk that does not answer, is worse: its connections stay.
			lost.signal(t, syscall.SIGSTOP)
		} else {
			lost.kill(t)
		}
		l.take(acked, 50)
		t.Logf("round %d: 50 answers %v after the leader was lost", round, time.Since(began))
		if round == 3 {
			// If it went on, it would take itself for the leader for a moment, and might take the lease back in which nobody has told it
			// of a renewal (EtcdServer.revokeExpiredLeases). That would end the writer, rightly.
			lost.kill(t)
		}
		lost.start(t)("ready")
		l.take(acked, 50)
	}
	close(l.quit)
	l.group.Wait()
	l.stop()
	if err := <-l.ended; err != nil {
		t.Errorf("the writer ended with %v", err)
	}
	t.Logf("%d puts were answered; of %d batches the log did not say at once", len(acked), l.doubts.Load())
	wantEachOnce(t, l.journal, acked)
}

// wantEachOnce reads the log and wants each put that was answered to be there, once.
func wantEachOnce(t *testing.T, j journal.Journal, acked map[string]int) {
	t.Helper()
	found := map[string]int{}
	err := writer.Read(t.Context(), j, func(_ uint64, facts []*event.Fact) {
		for _, fact := range facts {
			if put := fact.GetObjectPut(); put != nil {
				found[put.GetName()]++
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, n := range found {
		if n != 1 {
			t.Errorf("%s was put %d times", name, n)
		}
	}
	for name := range acked {
		if found[name] == 0 {
			t.Errorf("%s was answered and is not in the log", name)
		}
	}
}
