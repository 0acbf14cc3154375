package process

import (
	"bytes"
	"errors"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/attempt"
)

const (
	// chunkBytes is the most that one chunk holds.
	chunkBytes = 64 << 10
	// flushAfter is how long a complete line waits at most.
	flushAfter = 200 * time.Millisecond
	// drainFor is how long a pipe may stay open after everything that is known to write to it was killed.
	drainFor = time.Second
	// drainBytes bounds what is read from such a pipe after that; a pipe's own buffer is 64 KiB.
	drainBytes = 1 << 20
)

// collector reads one container run's pipe and hands it on in chunks of whole lines.
type collector struct {
	pipe *os.File
	out  attempt.Output
	done chan struct{}

	mu    sync.Mutex
	endBy time.Time // When to stop reading; zero while the run lasts.
}

// openPipe returns the end to collect from, and the descriptor for the container, which the caller closes. One pipe carries
// both streams: only so is the order of arrival known.
func openPipe() (read *os.File, write int, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, 0, err
	}
	// Ours alone must not block: the container's end is another open file, and programs expect a blocking one.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, 0, errors.Join(err, unix.Close(fds[0]), unix.Close(fds[1]))
	}
	return os.NewFile(uintptr(fds[0]), "container output"), fds[1], nil
}

func collect(pipe *os.File, out attempt.Output) *collector {
	c := &collector{pipe: pipe, out: out, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		c.run()
	}()
	return c
}

// finish reads what is left, waits no longer than drainFor for more, and ends the output. Back-pressure is not bounded: it
// returns when the output has taken everything.
func (c *collector) finish() {
	c.mu.Lock()
	c.endBy = time.Now().Add(drainFor)
	// Wakes a read in progress, which then arms itself with endBy. It cannot fail: the pipe is open and pollable.
	_ = c.pipe.SetReadDeadline(time.Now())
	c.mu.Unlock()
	<-c.done
}

// arm sets the time at which the next read gives up: when a line is due or when the run's end has been waited out.
func (c *collector) arm(flushAt time.Time) (endBy time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := flushAt
	if at.IsZero() || !c.endBy.IsZero() && c.endBy.Before(at) {
		at = c.endBy
	}
	_ = c.pipe.SetReadDeadline(at)
	return c.endBy
}

func (c *collector) run() {
	defer c.out.End()
	defer c.pipe.Close()
	lines := lineBuffer{out: c.out}
	defer lines.close()
	var flushAt time.Time
	for {
		endBy := c.arm(flushAt)
		n, err := c.pipe.Read(lines.space())
		lines.add(n)
		now := time.Now()
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			if !endBy.IsZero() && !now.Before(endBy) {
				c.drain(&lines)
				lines.flushAll()
				return
			}
		default: // io.EOF: nobody can write any more.
			lines.flushAll()
			return
		}
		if !flushAt.IsZero() && !now.Before(flushAt) {
			lines.flushLines()
		}
		switch {
		case lines.ends == 0:
			flushAt = time.Time{}
		case flushAt.IsZero():
			flushAt = now.Add(flushAfter)
		}
	}
}

// drain takes what the pipe holds now, without waiting: something that was not found keeps it open.
func (c *collector) drain(lines *lineBuffer) {
	_ = c.pipe.SetReadDeadline(time.Time{})
	raw, err := c.pipe.SyscallConn()
	if err != nil {
		return
	}
	for taken := 0; taken < drainBytes; {
		var n int
		var readErr error
		if err := raw.Read(func(fd uintptr) bool {
			n, readErr = syscall.Read(int(fd), lines.space())
			return true
		}); err != nil {
			return
		}
		if errors.Is(readErr, syscall.EINTR) {
			continue
		}
		if n <= 0 {
			return
		}
		lines.add(n)
		taken += n
	}
}

// lineBuffer cuts a stream into chunks that end at line ends, unless a line is longer than a chunk.
type lineBuffer struct {
	out  attempt.Output
	held []byte
	// ends is the length of the whole lines at the beginning of held.
	ends int
}

// space is where the next bytes go; there always is some.
func (b *lineBuffer) space() []byte {
	if b.held == nil {
		b.held = buffers.Get().(*[chunkBytes]byte)[:0]
	}
	return b.held[len(b.held):cap(b.held)]
}

// buffers are those that no run uses now: most runs write little, and to make a buffer for each would be most of the garbage.
var buffers = sync.Pool{New: func() any { return new([chunkBytes]byte) }}

// close gives the buffer back.
func (b *lineBuffer) close() {
	if b.held != nil {
		buffers.Put((*[chunkBytes]byte)(b.held[:chunkBytes]))
		b.held = nil
	}
}

// add takes n bytes that were put into space, and passes a full buffer on.
func (b *lineBuffer) add(n int) {
	if n <= 0 {
		return
	}
	from := len(b.held)
	b.held = b.held[:from+n]
	if end := bytes.LastIndexByte(b.held[from:], '\n'); end >= 0 {
		b.ends = from + end + 1
	}
	if len(b.held) == cap(b.held) {
		if b.ends == 0 {
			b.ends = len(b.held)
		}
		b.flushLines()
	}
}

func (b *lineBuffer) flushLines() {
	if b.ends > 0 {
		b.out.Write(b.held[:b.ends])
	}
	b.held = b.held[:copy(b.held, b.held[b.ends:])]
	b.ends = 0
}

func (b *lineBuffer) flushAll() {
	b.ends = len(b.held)
	b.flushLines()
}
