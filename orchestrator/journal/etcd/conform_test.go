package etcd

import (
	"errors"
	"log/slog"
	"sync"
	"testing"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
	"github.com/nightshift-batch/nightshift/orchestrator/journal/journaltest"
)

func TestEtcdConforms(t *testing.T) {
	journaltest.Run(t, func(t *testing.T) journaltest.Opener {
		shared := &sharedServer{dir: t.TempDir()}
		return shared.open
	})
}

// sharedServer opens handles on one directory: the server starts with the first and stops with the last.
type sharedServer struct {
	dir string

	mu      sync.Mutex
	server  *server
	handles int
}

func (s *sharedServer) open(t *testing.T) journal.Journal {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.handles == 0 {
		server, err := startServer(t.Context(), Options{Dir: s.dir, Logger: testLogger(t)})
		if err != nil {
			t.Fatal(err)
		}
		s.server = server
	}
	j, err := s.server.open(t.Context(), s.release)
	if err != nil {
		if s.handles == 0 {
			err = errors.Join(err, s.server.stop())
		}
		t.Fatal(err)
	}
	s.handles++
	return j
}

func (s *sharedServer) release() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.handles--; s.handles > 0 {
		return nil
	}
	return s.server.stop()
}

// testLogger shows etcd's warnings with the test's output.
func testLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}
