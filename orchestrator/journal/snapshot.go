package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxChunkBytes bounds a chunk of a snapshot.
const MaxChunkBytes = 1 << 20

// SegmentBytes is about how much of the log an Archiver is given at a time.
const SegmentBytes = 4 << 20

// Archiver keeps parts of the log before they are removed.
type Archiver interface {
	// Keep keeps a segment, the stored batches of the facts numbered first to last: ReadSegment reads it. It is durable when Keep
	// returns. After a crash a segment that was kept may come again, longer or not.
	Keep(ctx context.Context, first, last uint64, segment []byte) error
}

// CompactedError refuses to read facts that were removed: they are in the newest snapshot, and in the archive.
type CompactedError struct {
	// First is the number of the first fact that is still in the log.
	First Seq
}

// Error implements error.
func (e *CompactedError) Error() string {
	return fmt.Sprintf("journal: facts before number %d are no longer in the log", e.First)
}

// ErrReplaced: a newer snapshot has taken the place of the one that was being read. Whoever reads it begins anew.
var ErrReplaced = errors.New("journal: a newer snapshot took the place of the one that was being read")

// ErrNoSnapshot refuses to compact what no snapshot holds.
var ErrNoSnapshot = errors.New("journal: no snapshot has been taken that covers the log")

// Space is how much a store holds.
type Space struct {
	// Used and Quota are in bytes. Used is what counts against the quota, which may be more than what the log needs. A quota of 0 or less
	// is none, or one that the store does not tell.
	Used, Quota int64
}

// Share is the part of the quota that is used: 1 when the store is full, 0 without a quota.
func (s Space) Share() float64 {
	if s.Quota <= 0 {
		return 0
	}
	return float64(s.Used) / float64(s.Quota)
}

// CheckChunk refuses a chunk that cannot be stored.
func CheckChunk(chunk []byte) error {
	if len(chunk) == 0 || len(chunk) > MaxChunkBytes {
		return fmt.Errorf("%w: a snapshot's chunk of %d bytes, and not 1 to %d", ErrTooLarge, len(chunk), MaxChunkBytes)
	}
	return nil
}

// AppendToSegment adds a stored batch to a segment of the log.
func AppendToSegment(segment, batch []byte) []byte {
	return append(binary.AppendUvarint(segment, uint64(len(batch))), batch...)
}

// ReadSegment yields the batches of a segment, as they follow in the chain. An error of yield ends it and is returned as it is; what is
// damaged is ErrCorrupt.
func ReadSegment(segment []byte, chain *Chain, yield func(Batch) error) error {
	for len(segment) > 0 {
		size, n := binary.Uvarint(segment)
		if n <= 0 || size > uint64(len(segment)-n) {
			return fmt.Errorf("%w: the segment ends within the batch with fact %d", ErrCorrupt, chain.Next())
		}
		b, err := DecodeBatch(segment[n : n+int(size)])
		if err != nil {
			return fmt.Errorf("the batch with fact %d: %w", chain.Next(), err)
		}
		if err := chain.Add(b); err != nil {
			return err
		}
		if err := yield(b); err != nil {
			return err
		}
		segment = segment[n+int(size):]
	}
	return nil
}
