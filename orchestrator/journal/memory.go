package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
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
	batches []stored
	// end is the number of the last fact, and digest that of the batch that ends with it.
	end    Seq
	digest Digest
	// changed is closed and replaced when a batch has been written.
	changed chan struct{}
	// terms counts the terms given; the newest is in force while inForce.
	terms   Term
	inForce bool

	appends uint64
	choose  func(n uint64) Fault
	late    *Batch
	// stalled, if not nil, is closed when appends may go on; held is closed when one waits for that.
	stalled, held chan struct{}
	// size of what is stored, and limit of it in bytes; 0 for none.
	size, limit int64
}

// stored is a batch as it is kept: the bytes, under the number of the last fact.
type stored struct {
	last  Seq
	value []byte
}

// NewMemory returns an empty log.
func NewMemory() *Memory {
	return &Memory{changed: make(chan struct{})}
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

// Lapse ends the term in force, as a store does with that of a writer which it has not heard of for long. For tests.
func (m *Memory) Lapse() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inForce = false
}

// Stall holds appends up until resume is called. held is closed when one is. An append whose context ends meanwhile is as one with
// FaultLate. For tests.
func (m *Memory) Stall() (held <-chan struct{}, resume func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	stalled := make(chan struct{})
	m.stalled, m.held = stalled, make(chan struct{})
	return m.held, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.stalled = nil
		close(stalled)
	}
}

// Limit bounds what is stored, in bytes: a batch beyond it is ErrFull. 0 lifts the bound. For tests.
func (m *Memory) Limit(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.limit = bytes
}

// Stored returns the bytes of the batch that ends with fact last, nil if there is none. For tests.
func (m *Memory) Stored(last Seq) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i, found := m.find(last); found {
		return m.batches[i].value
	}
	return nil
}

// Overwrite puts these bytes in the place of the batch that ends with fact last, behind the journal's back; nil removes it. For tests.
func (m *Memory) Overwrite(last Seq, value []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, found := m.find(last)
	end := i
	if found {
		end++
	}
	var with []stored
	if value != nil {
		with = []stored{{last, value}}
	}
	m.batches = slices.Concat(m.batches[:i], with, m.batches[end:])
}

// find returns where the batch that ends with fact last is or would be. m.mu is held.
func (m *Memory) find(last Seq) (int, bool) {
	return slices.BinarySearchFunc(m.batches, last, func(s stored, last Seq) int { return cmp.Compare(s.last, last) })
}

// write adds the batch and wakes the followers. m.mu is held.
func (m *Memory) write(b Batch) {
	b.Previous = m.digest
	value, digest := EncodeBatch(b)
	m.batches = append(m.batches, stored{b.Last(), value})
	m.end, m.digest, m.size = b.Last(), digest, m.size+int64(len(value))
	close(m.changed)
	m.changed = make(chan struct{})
}

// admit tells whether an append of this term after head may be written. m.mu is held.
func (m *Memory) admit(term Term, head Seq) error {
	if term == 0 || term != m.terms || !m.inForce {
		return fmt.Errorf("%w: term %d, the newest is %d", ErrFenced, term, m.terms)
	}
	if now := m.end; now != head {
		return fmt.Errorf("%w: it is %d, not %d", ErrHeadMoved, now, head)
	}
	return nil
}

// pass waits while the log is stalled. If the context ends first, the batch lands late.
func (m *Memory) pass(ctx context.Context, b Batch) error {
	m.mu.Lock()
	stalled := m.stalled
	if stalled == nil {
		m.mu.Unlock()
		return nil
	}
	select {
	case <-m.held:
	default:
		close(m.held)
	}
	m.mu.Unlock()
	select {
	case <-stalled:
		return nil
	case <-ctx.Done():
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.late = b.clone()
	return fmt.Errorf("%w: %w", ErrUnknownOutcome, ctx.Err())
}

// append is Append but for what belongs to a handle. It does not keep the batch.
func (m *Memory) append(ctx context.Context, b Batch) error {
	if err := m.pass(ctx, b); err != nil {
		return err
	}
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
	if m.limit > 0 && m.size+b.size() > m.limit {
		return fmt.Errorf("%w: %d bytes of %d", ErrFull, m.size, m.limit)
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
		m.late = b.clone()
	case FaultLost:
	default:
		panic(fmt.Sprintf("journal: unknown fault %d", fault))
	}
	return fmt.Errorf("%w: by the test's choice", ErrUnknownOutcome)
}

// clone copies the batch with its facts.
func (b Batch) clone() *Batch {
	facts := make([][]byte, len(b.Facts))
	for i, fact := range b.Facts {
		facts[i] = slices.Clone(fact)
	}
	b.Facts = facts
	return &b
}

// size of the facts in bytes.
func (b Batch) size() (bytes int64) {
	for _, fact := range b.Facts {
		bytes += int64(len(fact))
	}
	return bytes
}

// part is some of the log, as it was at one moment.
type part struct {
	batches []stored
	end     Seq
	digest  Digest
	// more is closed when there is more.
	more <-chan struct{}
}

// from returns the log from the batch on that holds the fact numbered next.
func (m *Memory) from(next Seq) part {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, _ := m.find(next)
	return part{slices.Clip(m.batches[i:]), m.end, m.digest, m.changed}
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
	b := Batch{First: head + 1, Term: term, Facts: facts}
	err := j.log.append(ctx, b)
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
	return j.log.end, nil
}

// Read implements Journal.
func (j *MemoryJournal) Read(ctx context.Context, from Seq, yield func(Batch) error) error {
	if err := j.alive(ctx); err != nil {
		return err
	}
	chain := ChainFrom(max(from, 1))
	return j.yieldAll(ctx, chain, j.log.from(chain.Next()), yield)
}

// yieldAll yields the batches that follow in the chain, and checks that they go to the part's end.
func (j *MemoryJournal) yieldAll(ctx context.Context, chain *Chain, p part, yield func(Batch) error) error {
	for _, s := range p.batches {
		if err := j.alive(ctx); err != nil {
			return err
		}
		b, err := DecodeBatch(s.value)
		if err == nil && b.Last() != s.last {
			err = fmt.Errorf("%w: it holds facts %d to %d", ErrCorrupt, b.First, b.Last())
		}
		if err != nil {
			return fmt.Errorf("the batch that ends with fact %d: %w", s.last, err)
		}
		if err := chain.Add(b); err != nil {
			return err
		}
		if b.Last() == p.end && b.Digest != p.digest {
			return fmt.Errorf("%w: the batch of facts %d to %d has digest %v, but the head names %v: the batch was replaced",
				ErrCorrupt, b.First, b.Last(), b.Digest, p.digest)
		}
		if err := yield(b); err != nil {
			return err
		}
	}
	if chain.Next() <= p.end {
		return fmt.Errorf("%w: the batch with fact %d is missing: the head is %d", ErrCorrupt, chain.Next(), p.end)
	}
	return nil
}

// Follow implements Journal.
func (j *MemoryJournal) Follow(ctx context.Context, from Seq, yield func(Batch) error) error {
	chain := ChainFrom(max(from, 1))
	for {
		if err := j.alive(ctx); err != nil {
			return err
		}
		p := j.log.from(chain.Next())
		if err := j.yieldAll(ctx, chain, p, yield); err != nil {
			return err
		}
		select {
		case <-p.more:
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
