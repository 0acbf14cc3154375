package journal

import (
	"context"
	"fmt"
	"slices"
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

// clone copies the batch with its facts.
func (b Batch) clone() *Batch {
	facts := make([][]byte, len(b.Facts))
	for i, fact := range b.Facts {
		facts[i] = slices.Clone(fact)
	}
	b.Facts = facts
	return &b
}
