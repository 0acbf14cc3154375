package journal

import (
	"context"
	"fmt"
	"iter"
	"slices"
)

// snapshot is one in memory.
type snapshot struct {
	at     Seq
	chunks [][]byte
}

// Snapshot implements Journal.
func (j *MemoryJournal) Snapshot(ctx context.Context, term Term, at Seq, chunks iter.Seq2[[]byte, error]) error {
	if err := j.alive(ctx); err != nil {
		return err
	}
	if err := j.log.maySnapshot(term, at); err != nil {
		return err
	}
	taken := &snapshot{at: at}
	for chunk, err := range chunks {
		if err == nil {
			err = CheckChunk(chunk)
		}
		if err == nil {
			err = j.alive(ctx)
		}
		if err != nil {
			return err
		}
		taken.chunks = append(taken.chunks, slices.Clone(chunk))
	}
	return j.log.show(term, taken)
}

// maySnapshot tells whether one of this term, after this fact, has a place. m.mu is not held.
func (m *Memory) maySnapshot(term Term, at Seq) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.reigns(term); err != nil {
		return err
	}
	if m.snapshot != nil && at <= m.snapshot.at {
		return fmt.Errorf("journal: there is a snapshot after fact %d already, and none is taken after fact %d", m.snapshot.at, at)
	}
	if _, found := m.find(at); !found {
		return fmt.Errorf("journal: no batch ends with fact %d, and a snapshot is taken between batches", at)
	}
	return nil
}

// show puts a snapshot in the place of the one before.
func (m *Memory) show(term Term, taken *snapshot) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.reigns(term); err != nil {
		return err
	}
	size := taken.size() - m.snapshot.size()
	if m.limit > 0 && m.size+size > m.limit {
		return fmt.Errorf("%w: %d bytes of %d", ErrFull, m.size, m.limit)
	}
	m.snapshot = taken
	m.size += size
	return nil
}

// size of a snapshot in bytes, 0 for none.
func (s *snapshot) size() (bytes int64) {
	if s == nil {
		return 0
	}
	for _, chunk := range s.chunks {
		bytes += int64(len(chunk))
	}
	return bytes
}

// ReadSnapshot implements Journal.
func (j *MemoryJournal) ReadSnapshot(ctx context.Context, yield func(chunk []byte) error) (Seq, error) {
	if err := j.alive(ctx); err != nil {
		return 0, err
	}
	newest := j.log.newest()
	if newest == nil {
		return 0, nil
	}
	for _, chunk := range newest.chunks {
		if err := j.alive(ctx); err != nil {
			return 0, err
		}
		if j.log.newest() != newest {
			return 0, ErrReplaced
		}
		if err := yield(chunk); err != nil {
			return 0, err
		}
	}
	return newest.at, nil
}

func (m *Memory) newest() *snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.snapshot
}

// Compact implements Journal.
func (j *MemoryJournal) Compact(ctx context.Context, term Term, upTo Seq, archiver Archiver) error {
	for {
		if err := j.alive(ctx); err != nil {
			return err
		}
		going, segment, err := j.log.oldest(term, upTo)
		if err != nil || len(going) == 0 {
			return err
		}
		first, last := going[0].First, going[len(going)-1]
		if err := archiver.Keep(ctx, uint64(first), uint64(last.Last()), segment); err != nil {
			return fmt.Errorf("keep facts %d to %d of the log before they are removed: %w", first, last.Last(), err)
		}
		if err := j.log.drop(term, last); err != nil {
			return err
		}
	}
}

// oldest returns what a compaction removes next. The last batch of the log stays.
func (m *Memory) oldest(term Term, upTo Seq) (going []Batch, segment []byte, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.reigns(term); err != nil {
		return nil, nil, err
	}
	if m.snapshot == nil || upTo > m.snapshot.at {
		return nil, nil, fmt.Errorf("%w up to fact %d", ErrNoSnapshot, upTo)
	}
	chain := ChainAfter(m.start, m.startDigest)
	for _, s := range m.batches {
		if s.last > upTo || s.last == m.end || len(segment) >= SegmentBytes {
			break
		}
		b, err := DecodeBatch(s.value)
		if err == nil {
			err = chain.Add(b)
		}
		if err != nil {
			return nil, nil, err
		}
		going, segment = append(going, b), AppendToSegment(segment, s.value)
	}
	return going, segment, nil
}

// drop removes the batches up to one.
func (m *Memory) drop(term Term, last Batch) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.reigns(term); err != nil {
		return err
	}
	i, _ := m.find(last.Last() + 1)
	for _, s := range m.batches[:i] {
		m.size -= int64(len(s.value))
	}
	m.batches = slices.Clone(m.batches[i:])
	m.start, m.startDigest = last.Last(), last.Digest
	return nil
}

// Space implements Journal.
func (j *MemoryJournal) Space(ctx context.Context) (Space, error) {
	if err := j.alive(ctx); err != nil {
		return Space{}, err
	}
	j.log.mu.Lock()
	defer j.log.mu.Unlock()
	return Space{Used: j.log.size, Quota: j.log.limit}, nil
}
