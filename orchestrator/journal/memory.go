package journal

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
)

// Memory is a log in memory: the twin of the real one for tests and simulation. Handles from Open share it, so that writers can
// compete. It reads no clock and starts no goroutine.
type Memory struct {
	mu      sync.Mutex
	batches []stored
	// end is the number of the last fact, and digest that of the batch that ends with it.
	end    Seq
	digest Digest
	// start is the number of the last fact that was compacted away, and startDigest that of its batch.
	start       Seq
	startDigest Digest
	snapshot    *snapshot // the newest, or nil
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

// reigns tells whether a term is in force. m.mu is held.
func (m *Memory) reigns(term Term) error {
	if term == 0 || term != m.terms || !m.inForce {
		return fmt.Errorf("%w: term %d, the newest is %d", ErrFenced, term, m.terms)
	}
	return nil
}

// admit tells whether an append of this term after head may be written. m.mu is held.
func (m *Memory) admit(term Term, head Seq) error {
	if err := m.reigns(term); err != nil {
		return err
	}
	if now := m.end; now != head {
		return fmt.Errorf("%w: it is %d, not %d", ErrHeadMoved, now, head)
	}
	return nil
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
func (m *Memory) from(next Seq) (part, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if next <= m.start {
		return part{}, &CompactedError{First: m.start + 1}
	}
	i, _ := m.find(next)
	return part{slices.Clip(m.batches[i:]), m.end, m.digest, m.changed}, nil
}
