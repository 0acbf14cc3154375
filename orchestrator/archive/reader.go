package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// LogOptions choose what of a log is read. The zero value is all that is kept now.
type LogOptions struct {
	// Follow goes on with what is appended later, until the log's end. It waits also for a log of which nothing is kept yet.
	Follow bool
	// TailLines starts that many lines before the end of what is kept now; nil for the beginning. A last line without an end counts.
	TailLines *int64
	// LimitBytes ends the reading after so many bytes; nil for no limit.
	LimitBytes *int64
}

// OpenLog reads a log in order. Without Follow it returns ErrNoLog if nothing is kept, and reads to where the log ended at the call. Reads
// end with ctx's error once ctx has ended, and with ErrClosed once the archive is closed. The reader is for one goroutine; Close may be called
// from another one and ends a Read that waits.
func (a *Archive) OpenLog(ctx context.Context, run LogRun, options LogOptions) (io.ReadCloser, error) {
	if options.TailLines != nil && *options.TailLines < 0 {
		return nil, fmt.Errorf("tailLines is %d; it must not be negative", *options.TailLines)
	}
	if options.LimitBytes != nil && *options.LimitBytes < 1 {
		return nil, fmt.Errorf("limitBytes is %d; it must be at least 1", *options.LimitBytes)
	}
	s, err := a.acquire(run)
	if err != nil {
		return nil, err
	}
	r, err := a.open(ctx, run, s, options)
	if err != nil {
		a.release(run, s)
		return nil, err
	}
	return r, nil
}

func (a *Archive) open(ctx context.Context, run LogRun, s *logState, options LogOptions) (*reader, error) {
	if err := a.load(ctx, run, s); err != nil {
		return nil, err
	}
	next, ended := s.position()
	if next == 0 && !ended && !options.Follow {
		return nil, fmt.Errorf("%s: %w", run, ErrNoLog)
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &reader{archive: a, ctx: ctx, cancel: cancel, run: run, log: s, stop: next, follow: options.Follow, closed: make(chan struct{})}
	if options.TailLines != nil {
		offset, err := a.tail(ctx, run, s, next, *options.TailLines)
		if err != nil {
			cancel()
			return nil, err
		}
		r.offset = offset
	}
	if options.LimitBytes != nil {
		r.limited, r.left = true, *options.LimitBytes
	}
	return r, nil
}

// reader is a place in a log.
type reader struct {
	archive *Archive
	ctx     context.Context
	cancel  context.CancelFunc
	run     LogRun
	log     *logState

	// mu is held by a Read; Close ends that Read before it takes it.
	mu sync.Mutex
	// offset of the next byte to read.
	offset int64
	// stop is where a reader that does not follow ends.
	stop   int64
	follow bool
	// left counts down to the limit, where there is one.
	limited bool
	left    int64

	// object is the one being read; nil between two.
	object io.ReadCloser

	closeOnce sync.Once
	closed    chan struct{}
}

func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if r.limited && r.left == 0 {
			return 0, io.EOF
		}
		if r.object == nil {
			if err := r.nextObject(); err != nil {
				return 0, err
			}
		}
		if r.limited && int64(len(p)) > r.left {
			p = p[:r.left]
		}
		n, err := r.object.Read(p)
		r.offset += int64(n)
		r.left -= int64(n)
		if errors.Is(err, io.EOF) {
			err = r.closeObject()
		}
		if err != nil {
			return n, r.why(err)
		}
		if n > 0 {
			return n, nil
		}
	}
}

// nextObject opens what holds the next byte, waiting for it to be appended if the reader follows; io.EOF at the end.
func (r *reader) nextObject() error {
	for {
		if err := r.done(); err != nil {
			return err
		}
		r.log.mu.Lock()
		next, ended, changed := r.log.next, r.log.ended, r.log.changed
		key, from, size := r.log.find(r.offset)
		r.log.mu.Unlock()
		if !r.follow {
			next, ended = r.stop, true
		}
		if r.offset < next {
			object, err := r.archive.bucket.NewRangeReader(r.ctx, key, from, min(size, next-r.offset), nil)
			if err == nil {
				r.object = object
				return nil
			}
			// A chunk that is gone has become part of the whole object between the look and the opening.
			if notFound(err) && r.log.moved(r.offset, key) {
				continue
			}
			return r.why(err)
		}
		if ended {
			return io.EOF
		}
		select {
		case <-changed:
		case <-r.ctx.Done():
		case <-r.closed:
		case <-r.archive.closed:
		}
	}
}

// find tells which object holds the byte at offset, where in it, and how many bytes follow there. s.mu is held.
func (s *logState) find(offset int64) (key string, from, size int64) {
	if s.whole {
		return s.prefix + "whole", offset, s.next - offset
	}
	// The last chunk that begins at or before offset.
	low, high := 0, len(s.chunks)
	for low < high {
		middle := (low + high) / 2
		if s.chunks[middle].offset <= offset {
			low = middle + 1
		} else {
			high = middle
		}
	}
	if low == 0 {
		return "", 0, 0
	}
	c := s.chunks[low-1]
	return s.prefix + chunkName(c.offset), offset - c.offset, c.end() - offset
}

// moved tells whether the byte at offset is kept in another object than key by now.
func (s *logState) moved(offset int64, key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, _, _ := s.find(offset)
	return now != key
}

func (r *reader) done() error {
	select {
	case <-r.closed:
		return fmt.Errorf("%s: %w", r.run, os.ErrClosed)
	case <-r.archive.closed:
		return ErrClosed
	default:
		return r.ctx.Err()
	}
}

// why prefers the reason for which reading had to end to the bucket's words for it.
func (r *reader) why(err error) error {
	if done := r.done(); done != nil {
		return done
	}
	return fmt.Errorf("%s at offset %d: %w", r.run, r.offset, err)
}

func (r *reader) closeObject() error {
	if r.object == nil {
		return nil
	}
	object := r.object
	r.object = nil
	return object.Close()
}

// Close ends a Read that is at work and frees what the reader holds.
func (r *reader) Close() error {
	var err error
	r.closeOnce.Do(func() {
		close(r.closed)
		r.cancel()
		r.mu.Lock()
		err = r.closeObject()
		r.mu.Unlock()
		r.archive.release(r.run, r.log)
	})
	return err
}

// tail returns the offset at which the last lines before end begin.
func (a *Archive) tail(ctx context.Context, run LogRun, s *logState, end, lines int64) (int64, error) {
	const block = 64 << 10
	if lines == 0 || end == 0 {
		return end, nil
	}
	// The end of the last line separates nothing.
	searched := end - 1
	for searched > 0 {
		from := max(0, searched-block)
		r := &reader{archive: a, ctx: ctx, run: run, log: s, offset: from, stop: searched, closed: make(chan struct{})}
		content, err := io.ReadAll(r)
		if err = errors.Join(err, r.closeObject()); err != nil {
			return 0, err
		}
		for i := len(content); ; {
			if i = bytes.LastIndexByte(content[:i], '\n'); i < 0 {
				break
			}
			if lines--; lines == 0 {
				return from + int64(i) + 1, nil
			}
		}
		searched = from
	}
	return 0, nil
}
