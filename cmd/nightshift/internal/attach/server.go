package attach

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/screen"
)

// Server serves the socket of a data directory. Host and API are required.
type Server struct {
	// Host carries a visit out. Its context ends when the run is interrupted or gone, or with the server.
	Host func(ctx context.Context, guest Guest) End
	// API is served to commands that look; they are who owns the data directory.
	API    http.Handler
	Logger *slog.Logger

	mu      sync.Mutex
	present int
	// closed: nobody may enter any more.
	closed bool
	// left is closed and replaced when somebody leaves.
	left chan struct{}
}

// Guest is a run that is attached.
type Guest struct {
	*Visit
	Show screen.Display
	// Gone ends when nobody is at the other end any more.
	Gone context.Context
}

// Serve serves until the context ends, which is no error. All visits have ended when it returns.
func (s *Server) Serve(ctx context.Context, dataDir string) error {
	listener, err := listen(dataDir)
	if err != nil {
		return fmt.Errorf("listen for other runs: %w", err)
	}
	var current visits
	defer current.end()
	paths := http.NewServeMux()
	paths.Handle("/", s.API)
	paths.HandleFunc("POST "+visitPath, func(w http.ResponseWriter, request *http.Request) {
		if request.Header.Get("Upgrade") != visitProtocol {
			http.Error(w, "want Upgrade: "+visitProtocol, http.StatusUpgradeRequired)
			return
		}
		conn, both, err := http.NewResponseController(w).Hijack()
		if err != nil {
			s.Logger.Error("a run cannot attach", "error", err)
			return
		}
		if !current.begin(func() { s.visit(ctx, conn, both.Reader) }) {
			_ = conn.Close()
		}
	})
	server := &http.Server{Handler: paths, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(s.Logger.Handler(), slog.LevelDebug)}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(listener); ctx.Err() == nil {
		return fmt.Errorf("listen for other runs: %w", err)
	}
	return nil
}

// visits are those that go on.
type visits struct {
	mu    sync.Mutex
	ended bool
	all   sync.WaitGroup
}

// begin carries a visit out, unless none begins any more.
func (v *visits) begin(visit func()) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.ended {
		v.all.Go(visit)
	}
	return !v.ended
}

// end lets none begin any more and waits for those that go on.
func (v *visits) end() {
	v.mu.Lock()
	v.ended = true
	v.mu.Unlock()
	v.all.Wait()
}

// visit serves one run that is attached.
func (s *Server) visit(ctx context.Context, conn net.Conn, in io.Reader) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if _, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", visitProtocol); err != nil {
		return // the other end is gone
	}
	messages := json.NewDecoder(in)
	var brought Visit
	if err := messages.Decode(&brought); err != nil {
		return // somebody who only knocked
	}
	answer := &remote{out: json.NewEncoder(conn)}
	if !s.enter() {
		answer.send(message{End: &End{Closing: true}})
		return
	}
	defer s.leave()
	there, gone := context.WithCancel(ctx)
	defer gone()
	visiting, interrupt := context.WithCancel(there)
	defer interrupt()
	go func() {
		defer gone()
		for {
			var interruption struct{}
			if err := messages.Decode(&interruption); err != nil {
				return
			}
			interrupt()
		}
	}()
	show := screen.Behind(answer)
	ended := s.Host(visiting, Guest{Visit: &brought, Show: show, Gone: there})
	show.Close()
	answer.send(message{End: &ended})
}

func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.present++
	return true
}

// Refuse lets nobody in any more; who is attached stays.
func (s *Server) Refuse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.present--
	if s.left != nil {
		close(s.left)
		s.left = nil
	}
}

// CloseWhenEmpty waits until nobody is attached and then lets nobody in. It calls waiting with the number of those that are attached, each time
// it has changed.
func (s *Server) CloseWhenEmpty(ctx context.Context, waiting func(present int)) error {
	for {
		s.mu.Lock()
		present := s.present
		s.closed = s.closed || present == 0
		if s.left == nil {
			s.left = make(chan struct{})
		}
		left := s.left
		s.mu.Unlock()
		if present == 0 {
			return nil
		}
		waiting(present)
		select {
		case <-left:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// remote is the display of a run that is attached: it sends what there is to show. What cannot be sent is not shown; that nobody is at the
// other end is found out by reading.
type remote struct {
	mu  sync.Mutex
	out *json.Encoder
}

func (r *remote) send(m message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.out.Encode(m)
}

// Tell implements screen.Display.
func (r *remote) Tell(change screen.Change) { r.send(message{Change: &change}) }

// Log implements screen.Display.
func (r *remote) Log(_ context.Context, pod, line string) {
	r.send(message{Log: &logLine{pod, Bytes(line)}})
}

// Count implements screen.Display.
func (r *remote) Count(now screen.Tally) { r.send(message{Tally: &now}) }

// Close implements screen.Display.
func (r *remote) Close() {}
