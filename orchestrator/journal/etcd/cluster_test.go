package etcd

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
	"github.com/nightshift-batch/nightshift/orchestrator/journal/journaltest"
)

func TestAClusterConforms(t *testing.T) {
	members := startCluster(t, 1, nil)
	direct := directTo(t, members)
	journaltest.Run(t, func(t *testing.T) journaltest.Log {
		// Each test has an installation of its own in the one cluster.
		prefix := "/" + t.Name() + "/"
		return &sharedCluster{cluster: Cluster{Endpoints: endpoints(members), Prefix: prefix}, stored: stored{direct, keysUnder(prefix)}}
	})
}

func directTo(t *testing.T, members []*member) *clientv3.Client {
	t.Helper()
	direct, err := clientv3.New(clientv3.Config{Endpoints: endpoints(members), Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = direct.Close() })
	return direct
}

// sharedCluster is a log in a cluster under test.
type sharedCluster struct {
	cluster Cluster
	// own is the cluster's one member, if it has a bound.
	own []*member
	stored
	faults
}

// Limit implements journaltest.Log: with a cluster of the test's own, whose operator then raises the bound.
func (s *sharedCluster) Limit(t *testing.T, bytes int64) {
	t.Helper()
	if s.own == nil {
		s.own = newMembers(t, 1, nil)
		s.cluster.Endpoints = endpoints(s.own)
		s.direct = directTo(t, s.own)
	}
	s.own[0].kill(t)
	s.own[0].MaxBytes = bytes
	s.own[0].start(t)("ready")
	if _, err := s.direct.AlarmDisarm(t.Context(), &clientv3.AlarmMember{}); err != nil {
		t.Fatal(err)
	}
}

// Open implements journaltest.Log.
func (s *sharedCluster) Open(t *testing.T) journal.Journal {
	t.Helper()
	j, err := Open(t.Context(), Options{Dir: t.TempDir(), Cluster: s.cluster, Logger: testLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	return s.wrap(j)
}

// openIn opens a handle in a cluster, closed with the test.
func openIn(t *testing.T, cluster Cluster) *Journal {
	t.Helper()
	j, err := Open(t.Context(), Options{Dir: t.TempDir(), Cluster: cluster, Logger: testLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() }) // tests end some of their clusters before
	return j
}

func TestInAClusterAWriterThatIsAliveIsWaitedFor(t *testing.T) {
	cluster := Cluster{Endpoints: endpoints(startCluster(t, 1, nil))}
	first, second := openIn(t, cluster), openIn(t, cluster)
	term, err := first.Campaign(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// For longer than a lease lasts, which is renewed meanwhile.
	waiting, cancel := context.WithTimeout(t.Context(), (leaseSeconds+1)*time.Second)
	defer cancel()
	if got, err := second.Campaign(waiting); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("with a writer alive, a second one got term %d: %v", got, err)
	}
	head := mustAppend(t, first, term, 1)
	// A writer that goes in good order is followed at once.
	began := time.Now()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	next, err := second.Campaign(t.Context())
	if err != nil || next <= term {
		t.Fatalf("after term %d came term %d: %v", term, next, err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("following a writer that went in good order took %v", took)
	}
	if now := mustAppend(t, second, next, 1); now != head+2 {
		t.Errorf("the head is %d, want %d", now, head+2)
	}
}

func TestInAClusterAWriterThatIsNotHeardOfIsFollowedAndFenced(t *testing.T) {
	cluster := Cluster{Endpoints: endpoints(startCluster(t, 1, nil))}
	first, second := openIn(t, cluster), openIn(t, cluster)
	term, err := first.Campaign(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	head := mustAppend(t, first, term, 1)
	first.reign.lapse() // as if its process stood still
	began := time.Now()
	next, err := second.Campaign(t.Context())
	if err != nil || next <= term {
		t.Fatalf("after term %d came term %d: %v", term, next, err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("following a writer that is not heard of took %v", took)
	}
	if _, err := first.Append(t.Context(), term, head, manyFacts(head+1, 1, 20)); !errors.Is(err, journal.ErrFenced) {
		t.Errorf("the former writer's append: %v", err)
	}
	mustAppend(t, second, next, 1)
}

func TestInstallationsThatShareAClusterDoNotSeeEachOther(t *testing.T) {
	members := startCluster(t, 1, nil)
	var group sync.WaitGroup
	for _, prefix := range []string{"/a/", "/b", ""} {
		j := openIn(t, Cluster{Endpoints: endpoints(members), Prefix: prefix})
		group.Go(func() {
			term, err := j.Campaign(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			for head := journal.Seq(0); head < 20 && err == nil; {
				head, err = j.Append(t.Context(), term, head, manyFacts(head+1, 2, 20))
			}
			var last journal.Seq
			if err := errors.Join(err, j.Read(t.Context(), 1, count(&last))); err != nil || last != 20 {
				t.Errorf("the log under %q holds %d facts: %v", prefix, last, err)
			}
		})
	}
	group.Wait()
}

func TestADirectoryKeepsToWhereItsLogIs(t *testing.T) {
	members := startCluster(t, 1, nil)
	inside, outside := t.TempDir(), t.TempDir()
	cluster := Cluster{Endpoints: endpoints(members)}
	for dir, options := range map[string]Options{inside: {}, outside: {Cluster: cluster}} {
		options.Dir = dir
		for range 2 {
			j, err := Open(t.Context(), options)
			if err != nil {
				t.Fatal(err)
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for what, options := range map[string]Options{
		"an embedded log in a cluster": {Dir: inside, Cluster: cluster},
		"a cluster's log embedded":     {Dir: outside},
		"under another prefix":         {Dir: outside, Cluster: Cluster{Endpoints: cluster.Endpoints, Prefix: "/other"}},
	} {
		if j, err := Open(t.Context(), options); !errors.Is(err, ErrElsewhere) || !strings.Contains(err.Error(), options.Dir) {
			t.Errorf("%s: %v, %v", what, j, err)
		}
	}
	if _, err := os.Stat(filepath.Join(outside, etcdName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory of a log in a cluster has an etcd: %v", err)
	}
	// It is one process's all the same.
	j, err := Open(t.Context(), Options{Dir: outside, Cluster: cluster})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Open(t.Context(), Options{Dir: outside, Cluster: cluster}); !errors.Is(err, ErrInUse) {
		t.Errorf("a second one on the directory: %v, %v", again, err)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

func TestAClusterThatCannotBeUsedIsNamedWithWhatIsWrong(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	secure, plain := startCluster(t, 1, ca), startCluster(t, 1, nil)
	lonely := newMembers(t, 3, nil)
	lonely[0].start(t)("listening")
	cert, key := ca.issue(t, "nightshift")
	strangerCert, strangerKey := other.issue(t, "nightshift")
	nobody := newMembers(t, 1, ca)
	good := Cluster{Endpoints: endpoints(secure), CACertFile: ca.file, CertFile: cert, KeyFile: key}
	openIn(t, good)
	change := func(change func(*Cluster)) Cluster {
		c := good
		change(&c)
		return c
	}
	for _, test := range []struct {
		name    string
		cluster Cluster
		problem journal.Problem
		at      string
	}{
		{"nobody listens there", change(func(c *Cluster) { c.Endpoints = endpoints(nobody) }), journal.Unreachable, nobody[0].Client},
		{"its authority is another", change(func(c *Cluster) { c.CACertFile = other.file }), journal.Untrusted, secure[0].Client},
		{"its name is another", change(func(c *Cluster) {
			c.Endpoints = []string{strings.Replace(secure[0].Client, "127.0.0.1", "localhost", 1)}
		}), journal.Untrusted, "localhost"},
		{"no certificate is shown to it", change(func(c *Cluster) { c.CertFile, c.KeyFile = "", "" }), journal.Refused, secure[0].Client},
		{"a stranger's certificate is shown to it", change(func(c *Cluster) { c.CertFile, c.KeyFile = strangerCert, strangerKey }), journal.Refused, secure[0].Client},
		{"it speaks TLS and is spoken to without", Cluster{Endpoints: []string{strings.Replace(secure[0].Client, "https", "http", 1)}}, journal.WantsTLS, "http://"},
		{"it is spoken to by TLS and speaks none", change(func(c *Cluster) { c.Endpoints = []string{strings.Replace(plain[0].Client, "http", "https", 1)} }), journal.LacksTLS, "https://"},
		{"the others of its cluster are not there", Cluster{Endpoints: endpoints(lonely[:1])}, journal.NoMajority, lonely[0].Client},
		{"one is not there and another refuses", change(func(c *Cluster) {
			c.Endpoints = []string{nobody[0].Client, secure[0].Client}
			c.CertFile, c.KeyFile = "", ""
		}), journal.Refused, secure[0].Client},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel() // some wait for seconds
			j, err := Open(t.Context(), Options{Dir: t.TempDir(), Cluster: test.cluster, Logger: testLogger(t)})
			var wrong *journal.ConnectError
			if !errors.As(err, &wrong) || wrong.Problem != test.problem || !strings.Contains(wrong.Where, test.at) {
				t.Fatalf("opened %v: %v", j, err)
			}
			t.Log(err)
		})
	}
}

func TestAClusterIsRefusedForWhatCannotBeMeant(t *testing.T) {
	ca := newAuthority(t)
	cert, _ := ca.issue(t, "nightshift")
	for name, cluster := range map[string]Cluster{
		"10.0.0.5:2379 is not":         {Endpoints: []string{"10.0.0.5:2379"}},
		"https://10.0.0.5 is not":      {Endpoints: []string{"https://10.0.0.5"}},
		"by TLS alone":                 {Endpoints: []string{"http://10.0.0.5:2379"}},
		"all https, or all http":       {Endpoints: []string{"https://10.0.0.5:2379", "http://127.0.0.1:2379"}},
		"key belong together":          {Endpoints: []string{"https://10.0.0.5:2379"}, CertFile: cert},
		"holds no certificate":         {Endpoints: []string{"https://10.0.0.5:2379"}, CACertFile: filepath.Join(ca.dir, "ca.key")},
		"the etcd cluster's authority": {Endpoints: []string{"https://10.0.0.5:2379"}, CACertFile: filepath.Join(ca.dir, "missing")},
		"the client certificate":       {Endpoints: []string{"https://10.0.0.5:2379"}, CertFile: cert, KeyFile: cert},
	} {
		name = strings.TrimSuffix(name, " is not")
		if j, err := Open(t.Context(), Options{Dir: t.TempDir(), Cluster: cluster}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%+v: %v, %v; want an error with %q", cluster, j, err, name)
		}
	}
}
