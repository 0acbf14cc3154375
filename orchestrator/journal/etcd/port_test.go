package etcd

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// listening returns the sockets of this process that take connections, as the kernel lists them (proc_pid_net(5); 0A is TCP_LISTEN, and
// a socket of the unix family that listens has flag 00010000).
func listening(t *testing.T) (sockets []string) {
	t.Helper()
	ours := map[string]bool{}
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil || len(links) == 0 {
		t.Fatalf("no open files are listed: %v", err)
	}
	for _, link := range links {
		// A file that was closed meanwhile is no socket that is open.
		if target, err := os.Readlink(link); err == nil {
			ours[strings.TrimSuffix(strings.TrimPrefix(target, "socket:["), "]")] = true
		}
	}
	for table, column := range map[string]struct {
		state, inode int
		listens      string
	}{
		"/proc/self/net/tcp":  {3, 9, "0A"},
		"/proc/self/net/tcp6": {3, 9, "0A"},
		"/proc/self/net/unix": {3, 6, "00010000"},
	} {
		text, err := os.ReadFile(table)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) > column.inode && fields[column.state] == column.listens && ours[fields[column.inode]] {
				sockets = append(sockets, line)
			}
		}
	}
	slices.Sort(sockets)
	return sockets
}

func TestAnEmbeddedStoreListensNowhere(t *testing.T) {
	j, term := openWriter(t, Options{Dir: t.TempDir()})
	mustAppend(t, j, term, 1)
	if sockets := listening(t); len(sockets) > 0 {
		t.Errorf("with an embedded log this process listens on\n%s", strings.Join(sockets, ""))
	}
	// The look finds what there is.
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "socket")} {
		listener, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		if sockets := listening(t); len(sockets) != 1 {
			t.Errorf("with one listener on %s this process listens on %q", network, sockets)
		}
		if err := listener.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
