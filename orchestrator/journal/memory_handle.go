package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
)

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
	p, err := j.log.from(chain.Next())
	if err != nil {
		return err
	}
	return j.yieldAll(ctx, chain, p, yield)
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
		p, err := j.log.from(chain.Next())
		if err != nil {
			return err
		}
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
