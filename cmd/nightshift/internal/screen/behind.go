package screen

import (
	"context"
	"sync"
)

// What waits to be shown: changes, a hundred bytes or two each, and lines of pods.
const (
	maxChanges  = 1 << 16
	maxLogLines = 1 << 8
)

// behind shows what it is told in a goroutine of its own, so that nobody waits for a terminal that is stopped or a pipe that is not read; only who
// brings a pod's line does when there are many. Of counts it keeps the newest. Changes for which there is no room are counted, and it says so.
type behind struct {
	shown Display
	// room holds a token for each line of a pod that waits.
	room chan struct{}

	mu sync.Mutex
	// waiting is to be done in order; changes of it are as many.
	waiting []func()
	changes int
	missed  int
	now     *Tally
	// idle is closed when nothing waits any more; nil if nobody is at work.
	idle chan struct{}
}

// Behind returns a display that is shown on another one, at the pace of that.
func Behind(shown Display) Display {
	return &behind{shown: shown, room: make(chan struct{}, maxLogLines)}
}

func (b *behind) Tell(change Change) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changes == maxChanges {
		b.missed++
		return
	}
	b.tellMissed()
	b.changes++
	b.waiting = append(b.waiting, func() { b.shown.Tell(change) })
	b.work()
}

// tellMissed says how many changes are left out here. It needs the lock.
func (b *behind) tellMissed() {
	if missed := b.missed; missed > 0 {
		b.missed = 0
		b.waiting = append(b.waiting, func() {
			b.shown.Tell(Say("(%d changes are left out here: what came before them was not read in time)", missed))
		})
	}
}

func (b *behind) Log(ctx context.Context, pod, line string) {
	select {
	case b.room <- struct{}{}: // also when the context has ended
	default:
		select {
		case b.room <- struct{}{}:
		case <-ctx.Done():
			return
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting = append(b.waiting, func() {
		b.shown.Log(ctx, pod, line)
		<-b.room
	})
	b.work()
}

func (b *behind) Count(now Tally) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = &now
	b.work()
}

// Close shows all that waits before.
func (b *behind) Close() {
	b.mu.Lock()
	idle := b.idle
	b.mu.Unlock()
	if idle != nil {
		<-idle
	}
	b.shown.Close()
}

// work begins to show what waits, unless somebody is at it. It needs the lock.
func (b *behind) work() {
	if b.idle == nil {
		b.idle = make(chan struct{})
		go b.show()
	}
}

func (b *behind) show() {
	for {
		b.mu.Lock()
		if len(b.waiting) == 0 {
			b.tellMissed()
		}
		batch, now := b.waiting, b.now
		b.waiting, b.changes, b.now = nil, 0, nil
		if len(batch) == 0 && now == nil {
			close(b.idle)
			b.idle = nil
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
		for _, show := range batch {
			show()
		}
		if now != nil {
			b.shown.Count(*now)
		}
	}
}
