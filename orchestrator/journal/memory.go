package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"
)

// Fault is what a test makes of one append to a Memory.
type Fault int

const (
	// FaultNone lets the append succeed.
	FaultNone Fault = iota
	// FaultWritten writes the batch and answers ErrUnknownOutcome.
	FaultWritten
	// FaultLost writes nothing and answers ErrUnknownOutcome.
	FaultLost
	// FaultLate answers ErrUnknownOutcome and writes the batch just before the next append is looked at, if its term is still
	// the newest then: a request that was held up in a network.
	FaultLate
)

// Memory is a log in memory: the twin of the real one for tests and simulation. Handles from Open share it, so that writers can
// compete. It reads no clock and starts no goroutine.
type Memory struct {
	mu      sync.Mutex
	batches []Batch
	// changed is closed and replaced when a batch has been written.
	changed chan struct{}
	// terms counts the terms given; the newest is in force while inForce.
	terms   Term
	inForce bool

	appends uint64
	choose  func(n uint64) Fault
	late    *Batch
	corrupt map[Seq]bool
}

// NewMemory returns an empty log.
func NewMemory() *Memory {
	return &Memory{changed: make(chan struct{}), corrupt: map[Seq]bool{}}
}

// Open returns another handle on the log. A handle's Campaign deposes the former writer at once.
func (m *Memory) Open() *MemoryJournal {
	return &MemoryJournal{log: m, closed: make(chan struct{})}
}

// FailAppends has choose pick the fault of each append that would succeed; they are numbered from 1. It is called under the
// log's lock and must not call the log. nil ends the faults.
func (m *Memory) FailAppends(choose func(n uint64) Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.choose = choose
}

// Corrupt damages the batch that holds seq: who reads it gets ErrCorrupt.
func (m *Memory) Corrupt(seq Seq) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.corrupt[seq] = true
}

// head returns the number of the last fact. m.mu is held.
func (m *Memory) head() Seq {
	if len(m.batches) == 0 {
		return 0
	}
	return m.batches[len(m.batches)-1].Last()
}

// write adds the batch and wakes the followers. m.mu is held.
func (m *Memory) write(b Batch) {
	m.batches = append(m.batches, b)
	close(m.changed)
	m.changed = make(chan struct{})
}

// admit tells whether an append of this term after head may be written. m.mu is held.
func (m *Memory) admit(term Term, head Seq) error {
	if term == 0 || term != m.terms || !m.inForce {
		return fmt.Errorf("%w: term %d, the newest is %d", ErrFenced, term, m.terms)
	}
	if now := m.head(); now != head {
		return fmt.Errorf("%w: it is %d, not %d", ErrHeadMoved, now, head)
	}
	return nil
}

// append is Append but for what belongs to a handle. It owns the batch.
func (m *Memory) append(b Batch) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if late := m.late; late != nil {
		m.late = nil
		if m.admit(late.Term, late.First-1) == nil {
			m.write(*late)
		}
	}
	if err := m.admit(b.Term, b.First-1); err != nil {
		return err
	}
	m.appends++
	fault := FaultNone
	if m.choose != nil {
		fault = m.choose(m.appends)
	}
	switch fault {
	case FaultNone:
		m.write(b)
		return nil
	case FaultWritten:
		m.write(b)
	case FaultLate:
		m.late = &b
	case FaultLost:
	default:
		panic(fmt.Sprintf("journal: unknown fault %d", fault))
	}
	return fmt.Errorf("%w: by the test's choice", ErrUnknownOutcome)
}

// from returns the batches that hold facts numbered next or later, and a channel that is closed when there are more.
func (m *Memory) from(next Seq) ([]Batch, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := sort.Search(len(m.batches), func(i int) bool { return m.batches[i].Last() >= next })
	return slices.Clip(m.batches[i:]), m.changed
}

// check fails when the test has damaged the batch.
func (m *Memory) check(b Batch) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for seq := range m.corrupt {
		if b.First <= seq && seq <= b.Last() {
			return fmt.Errorf("%w: fact %d in the batch of %d to %d", ErrCorrupt, seq, b.First, b.Last())
		}
	}
	return nil
}

// MemoryJournal is a handle on a Memory.
type MemoryJournal struct {
	log    *Memory
	closed chan struct{}

	mu    sync.Mutex
	term  Term // the term that Close gives up
	stats Stats
}

var _ Journal = (*MemoryJournal)(nil)

// alive fails with the context's error or ErrClosed.
func (j *MemoryJournal) alive(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-j.closed:
		return ErrClosed
	default:
		return nil
	}
}

// Campaign implements Journal. It never waits.
func (j *MemoryJournal) Campaign(ctx context.Context) (Term, error) {
	if err := j.alive(ctx); err != nil {
		return 0, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.log.mu.Lock()
	defer j.log.mu.Unlock()
	j.log.terms++
	j.log.inForce = true
	j.term = j.log.terms
	return j.term, nil
}

// Append implements Journal.
func (j *MemoryJournal) Append(ctx context.Context, term Term, head Seq, facts [][]byte) (Seq, error) {
	if err := j.alive(ctx); err != nil {
		return 0, err
	}
	if err := CheckBatch(facts); err != nil {
		return 0, err
	}
	own := make([][]byte, len(facts))
	for i, fact := range facts {
		own[i] = append(make([]byte, 0, len(fact)), fact...)
	}
	b := Batch{First: head + 1, Term: term, Facts: own}
	err := j.log.append(b)
	if errors.Is(err, ErrFenced) {
		// Close gives up the term: who is refused for that reason is refused because the handle is closed.
		err = cmp.Or(j.alive(ctx), err)
	}
	j.mu.Lock()
	j.stats.Count(facts, err)
	j.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return b.Last(), nil
}

// Stats returns what this handle has appended so far.
func (j *MemoryJournal) Stats() Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.stats
}

// Head implements Journal.
func (j *MemoryJournal) Head(ctx context.Context) (Seq, error) {
	if err := j.alive(ctx); err != nil {
		return 0, err
	}
	j.log.mu.Lock()
	defer j.log.mu.Unlock()
	return j.log.head(), nil
}

// Read implements Journal.
func (j *MemoryJournal) Read(ctx context.Context, from Seq, yield func(Batch) error) error {
	if err := j.alive(ctx); err != nil {
		return err
	}
	batches, _ := j.log.from(max(from, 1))
	return j.yieldAll(ctx, batches, yield)
}

func (j *MemoryJournal) yieldAll(ctx context.Context, batches []Batch, yield func(Batch) error) error {
	for _, b := range batches {
		if err := j.alive(ctx); err != nil {
			return err
		}
		if err := j.log.check(b); err != nil {
			return err
		}
		if err := yield(b); err != nil {
			return err
		}
	}
	return nil
}

// Follow implements Journal.
func (j *MemoryJournal) Follow(ctx context.Context, from Seq, yield func(Batch) error) error {
	next := max(from, 1)
	for {
		if err := j.alive(ctx); err != nil {
			return err
		}
		batches, changed := j.log.from(next)
		if err := j.yieldAll(ctx, batches, yield); err != nil {
			return err
		}
		if len(batches) > 0 {
			next = batches[len(batches)-1].Last() + 1
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
		case <-j.closed:
		}
	}
}

// Close implements Journal.
func (j *MemoryJournal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	select {
	case <-j.closed:
		return nil
	default:
	}
	close(j.closed)
	j.log.mu.Lock()
	defer j.log.mu.Unlock()
	if j.term == j.log.terms {
		j.log.inForce = false
	}
	return nil
}
