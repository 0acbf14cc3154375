package attach

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/screen"
)

// served serves the socket of a directory until the context ends; ended is closed when Serve has returned.
func served(t *testing.T, ctx context.Context, dir string, host func(context.Context, Guest) End) (ended chan struct{}) {
	t.Helper()
	ended = make(chan struct{})
	server := &Server{Host: host, API: http.NotFoundHandler(), Logger: slog.New(slog.DiscardHandler)}
	go func() {
		defer close(ended)
		if err := server.Serve(ctx, dir); err != nil {
			t.Error(err)
		}
	}()
	return ended
}

// dialed connects as soon as somebody serves.
func dialed(t *testing.T, dir string) net.Conn {
	t.Helper()
	for {
		conn, err := Dial(dir)
		switch {
		case err == nil:
			return conn
		case t.Context().Err() != nil:
			t.Fatal(err)
		}
	}
}

func TestTheSocketComesUnderItsNameWithTheRightsOfItsOwnerAlone(t *testing.T) {
	dir := t.TempDir()
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(watch)
	if _, err := unix.InotifyAddWatch(watch, dir, unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		t.Fatal(err)
	}
	// One that is left over gives way.
	if err := os.WriteFile(filepath.Join(dir, socketName), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	listener, err := listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	events := make([]byte, 4096)
	n, err := unix.Read(watch, events)
	if err != nil {
		t.Fatal(err)
	}
	// The one that is left over was created here; the socket has to be moved to its name, when its mode is what it shall be.
	if named := bytes.Count(events[:n], append([]byte(socketName), 0)); named != 2 {
		t.Errorf("the name comes up %d times", named)
	}
	for at := 0; at < n; {
		mask, length := uint32(events[at+4])|uint32(events[at+5])<<8, int(events[at+12])
		name := strings.TrimRight(string(events[at+16:at+16+length]), "\x00")
		if at > 0 && name == socketName && mask&unix.IN_CREATE != 0 {
			t.Error("the socket was created under its name, before its rights were set")
		}
		at += 16 + length
	}
	info, err := os.Stat(filepath.Join(dir, socketName))
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("the socket is %v (%v)", info.Mode(), err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("beside it are %v (%v)", entries, err)
	}
	conn, err := Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

func TestNoVisitGoesOnOrBeginsWhenTheServerHasEnded(t *testing.T) {
	for range 100 {
		dir := t.TempDir()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var hosted, late atomic.Int32
		var over atomic.Bool
		ended := served(t, ctx, dir, func(ctx context.Context, _ Guest) End {
			hosted.Add(1)
			defer hosted.Add(-1)
			if over.Load() {
				late.Add(1)
			}
			<-ctx.Done()
			return End{}
		})
		var visitors sync.WaitGroup
		conns := make([]net.Conn, 8)
		for i := range conns {
			conns[i] = dialed(t, dir)
		}
		for i, conn := range conns {
			visitors.Go(func() {
				if i == 4 {
					stop()
				}
				// It is cut off, or is not taken in.
				_, _ = Run(t.Context(), conn, Visit{}, screen.Lines(io.Discard))
			})
		}
		<-ended
		over.Store(true)
		if n := hosted.Load(); n != 0 {
			t.Fatalf("%d visits go on", n)
		}
		visitors.Wait()
		if n := late.Load(); n != 0 {
			t.Fatalf("%d visits have begun later", n)
		}
	}
}
