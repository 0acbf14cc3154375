package etcd

import (
	"errors"
	"log/slog"
	"sync"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
	"github.com/nightshift-batch/nightshift/orchestrator/journal/journaltest"
)

func TestEtcdConforms(t *testing.T) {
	journaltest.Run(t, func(t *testing.T) journaltest.Log { return &sharedServer{dir: t.TempDir()} })
}

// sharedServer opens handles on one directory: the server starts with the first and stops with the last.
type sharedServer struct {
	dir string

	mu      sync.Mutex
	server  *server
	handles int
	// maxBytes is for the next server.
	maxBytes int64
	stored
	faults
}

// Limit implements journaltest.Log.
func (s *sharedServer) Limit(_ *testing.T, bytes int64) { s.maxBytes = bytes }

// Open implements journaltest.Log.
func (s *sharedServer) Open(t *testing.T) journal.Journal {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.handles == 0 {
		server, err := startServer(t.Context(), Options{Dir: s.dir, Logger: testLogger(t), MaxBytes: s.maxBytes})
		if err != nil {
			t.Fatal(err)
		}
		s.server, s.stored = server, stored{v3client.New(server.etcd.Server), testKeys}
	}
	j, err := s.server.open(t.Context(), s.release)
	if err != nil {
		if s.handles == 0 {
			err = errors.Join(err, s.server.stop())
		}
		t.Fatal(err)
	}
	s.handles++
	return s.wrap(j)
}

func (s *sharedServer) release() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.handles--; s.handles > 0 {
		return nil
	}
	_ = s.direct.Close() // of an in-process client it tells only that its context has ended
	return s.server.stop()
}

// testKeys are those of an embedded log.
var testKeys = keysUnder(DefaultPrefix)

// stored reaches what etcd holds of a log, past the journal.
type stored struct {
	direct *clientv3.Client
	keys   keys
}

// Stored implements journaltest.Log.
func (s stored) Stored(t *testing.T, last journal.Seq) []byte {
	t.Helper()
	response, err := s.direct.Get(t.Context(), s.keys.batch(last))
	if err != nil {
		t.Fatal(err)
	}
	if len(response.Kvs) == 0 {
		return nil
	}
	return response.Kvs[0].Value
}

// Overwrite implements journaltest.Log.
func (s stored) Overwrite(t *testing.T, last journal.Seq, value []byte) {
	t.Helper()
	op := clientv3.OpPut(s.keys.batch(last), string(value))
	if value == nil {
		op = clientv3.OpDelete(s.keys.batch(last))
	}
	if _, err := s.direct.Do(t.Context(), op); err != nil {
		t.Fatal(err)
	}
}

// Lapse implements journaltest.Log: what etcd does when a lease has run out.
func (s stored) Lapse(t *testing.T) {
	t.Helper()
	response, err := s.direct.Get(t.Context(), s.keys.writer)
	if err != nil {
		t.Fatal(err)
	}
	if len(response.Kvs) == 0 {
		return
	}
	if lease := response.Kvs[0].Lease; lease != 0 {
		_, err = s.direct.Revoke(t.Context(), clientv3.LeaseID(lease))
	} else {
		_, err = s.direct.Delete(t.Context(), s.keys.writer)
	}
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		t.Fatal(err)
	}
}

// testLogger shows etcd's warnings with the test's output.
func testLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}
