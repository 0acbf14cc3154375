package archive

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"gocloud.dev/blob"
)

// LogRun names the output of one run of a container.
type LogRun struct {
	Tenant, JobUID, PodUID, Container string
	// Restart is how many runs of the container in this pod came before.
	Restart int32
}

var runWord = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,252}$`)

func (r LogRun) prefix() (string, error) {
	for _, part := range []struct{ name, value string }{
		{"tenant", r.Tenant}, {"Job UID", r.JobUID}, {"pod UID", r.PodUID}, {"container", r.Container},
	} {
		if !runWord.MatchString(part.value) {
			return "", fmt.Errorf("log: %q is no %s", part.value, part.name)
		}
	}
	if r.Restart < 0 {
		return "", fmt.Errorf("log: restart %d is negative", r.Restart)
	}
	return fmt.Sprintf("logs/%s/%s/%s/%s/%d/", r.Tenant, r.JobUID, r.PodUID, r.Container, r.Restart), nil
}

func (r LogRun) String() string {
	return fmt.Sprintf("log of pod %s, container %s, restart %d", r.PodUID, r.Container, r.Restart)
}

// OffsetError refuses an append that does not fit to what is kept.
type OffsetError struct {
	Run LogRun
	// Offset is where the refused bytes began.
	Offset int64
	// Next is the offset that the log goes on at: all bytes before it are kept.
	Next int64
	// Ended is true if the log takes no more.
	Ended bool
}

func (e *OffsetError) Error() string {
	if e.Ended {
		return fmt.Sprintf("%s: it ended at offset %d; bytes at %d contradict that", e.Run, e.Next, e.Offset)
	}
	return fmt.Sprintf("%s: it goes on at offset %d; bytes at %d would not follow", e.Run, e.Next, e.Offset)
}

// chunk is one immutable object of a log.
type chunk struct{ offset, size int64 }

func (c chunk) end() int64 { return c.offset + c.size }

// logState is what is known of one log. Its content, bytes before next, never changes; only where they are kept does.
type logState struct {
	prefix string
	// users counts appends and readers at work; guarded by Archive.mu.
	users int

	// append is held by the one append at work, across its writes; a token in a channel, so that waiting for it ends with a context.
	append chan struct{}
	// rooted is set once this process has put something into the log's folder; it belongs to the holder of append.
	rooted bool

	mu sync.Mutex
	// loaded is set once the bucket was listed.
	loaded bool
	next   int64
	ended  bool
	// chunks cover [0, next) without a gap. Where whole is set they are what its writing left over, and only to be deleted.
	chunks []chunk
	endKey bool
	whole  bool
	// changed is closed and replaced whenever next or ended changes.
	changed chan struct{}
}

func (a *Archive) acquire(run LogRun) (*logState, error) {
	prefix, err := run.prefix()
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.logs[run]
	if s == nil {
		s = &logState{prefix: prefix, append: make(chan struct{}, 1), changed: make(chan struct{})}
		a.logs[run] = s
	}
	s.users++
	return s, nil
}

// EndSilentLog tells those who follow the log of a run that it has ended, if nothing was written. It looks at nothing that is kept.
func (a *Archive) EndSilentLog(run LogRun) {
	a.mu.Lock()
	s := a.logs[run]
	a.mu.Unlock()
	if s == nil {
		return // As of most runs of a night.
	}
	s.mu.Lock()
	silent := s.loaded && s.next == 0 && !s.ended
	s.mu.Unlock()
	if silent {
		s.update(func() { s.ended = true })
	}
}

// release forgets a log that nobody uses, unless it is open: its next append would have to list the bucket again.
func (a *Archive) release(run LogRun, s *logState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s.users--
	if s.users > 0 {
		return
	}
	s.mu.Lock()
	open := s.loaded && !s.ended && s.next > 0
	s.mu.Unlock()
	if !open {
		delete(a.logs, run)
	}
}

// load finds by listing what the bucket holds of a log.
func (a *Archive) load(ctx context.Context, run LogRun, s *logState) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.loaded {
		return nil
	}
	var chunks []chunk
	var wholeSize int64
	whole, endKey := false, false
	objects := a.bucket.List(&blob.ListOptions{Prefix: s.prefix})
	for {
		object, err := objects.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", run, a.why(err))
		}
		switch name := strings.TrimPrefix(object.Key, s.prefix); name {
		case "whole":
			whole, wholeSize = true, object.Size
		case "end":
			endKey = true
		default:
			if offset, ok := parseChunkName(name); ok {
				chunks = append(chunks, chunk{offset, object.Size})
			}
		}
	}
	slices.SortFunc(chunks, func(x, y chunk) int { return cmp.Compare(x.offset, y.offset) })
	next := int64(0)
	for _, c := range chunks {
		if !whole && c.offset != next {
			return fmt.Errorf("%s: the archive is damaged: a chunk at offset %d where %d should follow", run, c.offset, next)
		}
		next = c.end()
	}
	if whole {
		next = wholeSize
	}
	s.chunks, s.next, s.whole, s.endKey, s.ended, s.loaded = chunks, next, whole, endKey, whole || endKey, true
	return nil
}

func chunkName(offset int64) string { return fmt.Sprintf("%020d", offset) }

func parseChunkName(name string) (int64, bool) {
	offset, err := strconv.ParseInt(name, 10, 64)
	return offset, err == nil && offset >= 0 && chunkName(offset) == name
}

// AppendLog keeps data, the bytes of a run's output from offset on; with end, nothing follows them. It returns once they are kept. Of a log that
// ends without a byte nothing is kept. Bytes that
// are kept already are skipped without a look, so the same chunk, or one cut otherwise, can be sent again. Bytes that would leave
// a gap, or follow the end, are refused by an *OffsetError. data is not used after the return.
func (a *Archive) AppendLog(ctx context.Context, run LogRun, offset int64, data []byte, end bool) error {
	if offset < 0 {
		return fmt.Errorf("%s: offset %d is negative", run, offset)
	}
	return a.appending(ctx, run, func(s *logState) error { return a.extend(ctx, run, s, offset, data, end) })
}

// EndLog ends a log where it is: its container is gone, and whoever would have sent the rest too. Of a log of which nothing is kept those
// are told who follow it. To end an ended log does nothing.
func (a *Archive) EndLog(ctx context.Context, run LogRun) error {
	return a.appending(ctx, run, func(s *logState) error {
		next, _ := s.position()
		return a.extend(ctx, run, s, next, nil, true)
	})
}

// appending calls f while no other append to the log is at work.
func (a *Archive) appending(ctx context.Context, run LogRun, f func(*logState) error) error {
	s, err := a.acquire(run)
	if err != nil {
		return err
	}
	defer a.release(run, s)
	select {
	case s.append <- struct{}{}:
		defer func() { <-s.append }()
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", run, ctx.Err())
	case <-a.closed:
		return ErrClosed
	}
	if err := a.load(ctx, run, s); err != nil {
		return err
	}
	return f(s)
}

// extend is AppendLog for the one append at work.
func (a *Archive) extend(ctx context.Context, run LogRun, s *logState, offset int64, data []byte, end bool) error {
	next, ended := s.position()
	last := offset + int64(len(data))
	// The second case is an end before bytes that are kept: one of the two is not this run's.
	if offset > next || end && last < next || ended && last > next {
		return &OffsetError{Run: run, Offset: offset, Next: next, Ended: ended}
	}
	if last > next {
		fresh := data[next-offset:]
		// A short log that comes in one piece with its end is one write.
		if end && next == 0 && int64(len(fresh)) <= a.wholeLimit {
			if err := a.putPart(ctx, s, "whole", bytes.NewReader(fresh)); err != nil {
				return err
			}
			s.update(func() { s.next, s.ended, s.whole = last, true, true })
			return nil
		}
		if err := a.putPart(ctx, s, chunkName(next), bytes.NewReader(fresh)); err != nil {
			return err
		}
		s.update(func() { s.chunks, s.next = append(s.chunks, chunk{next, last - next}), last })
	}
	if !end {
		return nil
	}
	if last == 0 && !ended {
		// A run that has written nothing leaves nothing: most of a night's objects would be empty ones. Those who follow it now are told.
		s.update(func() { s.ended = true })
		return nil
	}
	if !ended {
		if err := a.finish(ctx, run, s); err != nil {
			return err
		}
	}
	return a.sweep(ctx, run, s)
}

// finish makes the end durable: by one object with everything, or by a mark after chunks that are too much to copy.
func (a *Archive) finish(ctx context.Context, run LogRun, s *logState) error {
	next, _ := s.position()
	if next > a.wholeLimit {
		if err := a.putPart(ctx, s, "end", bytes.NewReader(nil)); err != nil {
			return err
		}
		s.update(func() { s.endKey, s.ended = true, true })
		return nil
	}
	content := &reader{archive: a, ctx: ctx, run: run, log: s, stop: next, closed: make(chan struct{})}
	err := a.putPart(ctx, s, "whole", content)
	if err = errors.Join(err, content.closeObject()); err != nil {
		return err
	}
	s.update(func() { s.whole, s.ended = true, true })
	return nil
}

// putPart puts one object of the log, for the one append at work.
func (a *Archive) putPart(ctx context.Context, s *logState, name string, content io.Reader) error {
	if err := a.put(ctx, s.prefix+name, "text/plain", content, s.rooted); err != nil {
		return err
	}
	s.rooted = true
	return nil
}

// sweep deletes what the whole object has replaced. Left over by a crash it harms nobody: the whole one is looked for first.
func (a *Archive) sweep(ctx context.Context, run LogRun, s *logState) error {
	s.mu.Lock()
	whole, chunks, endKey := s.whole, s.chunks, s.endKey
	s.mu.Unlock()
	if !whole {
		return nil
	}
	for i, c := range chunks {
		if err := a.bucket.Delete(ctx, s.prefix+chunkName(c.offset)); err != nil && !notFound(err) {
			s.update(func() { s.chunks = chunks[i:] })
			return fmt.Errorf("%s: it is kept as a whole, but its chunks could not be deleted: %w", run, a.why(err))
		}
	}
	s.update(func() { s.chunks = nil })
	if endKey {
		if err := a.bucket.Delete(ctx, s.prefix+"end"); err != nil && !notFound(err) {
			return fmt.Errorf("%s: it is kept as a whole, but its end mark could not be deleted: %w", run, a.why(err))
		}
		s.update(func() { s.endKey = false })
	}
	return nil
}

func (s *logState) position() (next int64, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next, s.ended
}

// update changes the state and wakes those who wait for a change.
func (s *logState) update(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	close(s.changed)
	s.changed = make(chan struct{})
}
