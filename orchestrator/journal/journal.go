// Package journal is the contract for the one ordered log: fenced appends of batches of opaque facts, reading, and following.
//
// A journal has at most one writer at a time, by terms. Campaign gives the caller a term higher than every one before and
// deposes the writer of the former one. Each Append carries the term and the head that the caller believes in; if either is no
// longer so, nothing is written. A batch is written whole or not at all.
//
// Sequence numbers count facts from 1, without gaps. The head is the number of the last fact, 0 for an empty journal.
//
// A reader sees only whole batches, in order, and only durable ones. Each batch holds a digest of its own bytes and that of the batch
// before, and the head holds that of the last: what is missing, altered, swapped or cut off is an ErrCorrupt that names the
// place; nothing is skipped.
//
// The package holds the contract, a twin in memory for tests and simulation, and in journaltest the suite that every
// implementation passes. All methods are safe for concurrent use.
package journal

import (
	"context"
	"errors"
	"fmt"
	"iter"
)

// Journal is a handle on the log. See the package comment. After Close every method fails with ErrClosed.
type Journal interface {
	// Campaign waits until the caller can be the writer and returns its term. Writers of former terms are fenced from then
	// on. It fails with the context's error.
	Campaign(ctx context.Context) (Term, error)
	// Append writes the facts, at least one, after head as one batch and returns the new head. It fails with ErrFenced when
	// the term is not the newest, ErrHeadMoved when the head is another, ErrTooLarge when the batch cannot be stored, and
	// ErrFull when the store has no room, and ErrUnknownOutcome when the batch may or may not have been written: the caller reads
	// Head before it decides anything. Such a batch can still land after that Head, in a store that spans machines, as long as the
	// term is the newest; a new Campaign before the Head rules it out. After any other error nothing was written.
	// The caller may use the facts' memory again when Append has returned.
	Append(ctx context.Context, term Term, head Seq, facts [][]byte) (Seq, error)
	// Head returns the sequence number of the last fact, confirmed with the store.
	Head(ctx context.Context) (Seq, error)
	// Read calls yield for each batch that holds a fact numbered from or later, in order, up to the head at the time of the
	// call. The first batch may begin before from; from 0 means 1. An error of yield ends it and is returned as it is. It fails with
	// ErrCorrupt at the first batch that is missing or damaged, after all batches before that one were yielded, and with a
	// *CompactedError if the fact was compacted away.
	Read(ctx context.Context, from Seq, yield func(Batch) error) error
	// Follow is Read that goes on with new batches as they become durable, until the context ends; then it returns the
	// context's error. A slow yield delays nobody else.
	Follow(ctx context.Context, from Seq, yield func(Batch) error) error
	// Snapshot keeps a state as it is after the fact numbered at, with which a batch ends, in place of the snapshot before, which is of
	// an earlier fact. The chunks are opaque, in order, 1 to MaxChunkBytes each, and are written one by one while appends go on; their
	// memory may be used again for the next one. When Snapshot returns without an error it is there for readers, whole, and otherwise it is
	// not there, or not there yet; after ErrUnknownOutcome it may be. An error beside a chunk ends it and is returned as it is. Remains of
	// a snapshot that was not finished are removed when the next term begins. It fails with ErrFenced, ErrFull and ErrTooLarge as Append does.
	Snapshot(ctx context.Context, term Term, at Seq, chunks iter.Seq2[[]byte, error]) error
	// ReadSnapshot calls yield for each chunk of the newest whole snapshot and returns the number of the fact that it was taken after: a
	// reader goes on from the one that follows. Without a snapshot it returns 0 and yields nothing. An error of yield ends it and is
	// returned as it is. It fails with ErrReplaced when a newer one has come meanwhile, and with ErrCorrupt when it is damaged.
	ReadSnapshot(ctx context.Context, yield func(chunk []byte) error) (at Seq, err error)
	// Compact removes the batches that end with upTo or before, but never the log's last one, after the archiver has kept them. A snapshot must
	// have been taken after upTo or later. What was removed when it ends with an error is removed, and was kept; to go on, call it again.
	// It fails with ErrFenced when the term is not the newest.
	Compact(ctx context.Context, term Term, upTo Seq, archiver Archiver) error
	// Space tells how much the store holds and may hold.
	Space(ctx context.Context) (Space, error)
	// Close gives up the term, if any, ends this handle's Follows, and frees what the handle holds. It is not called from yield.
	Close() error
}

// The errors that a caller decides by.
var (
	// ErrFenced: another writer has been elected since; the caller must stop deciding.
	ErrFenced = errors.New("journal: this writer's term is over")
	// ErrHeadMoved: the log has another head than the caller believes.
	ErrHeadMoved = errors.New("journal: the log's head is not where the writer believes")
	// ErrUnknownOutcome: the store did not say whether the batch was written.
	ErrUnknownOutcome = errors.New("journal: the outcome of the append is unknown")
	// ErrTooLarge: the batch exceeds what one append can hold.
	ErrTooLarge = errors.New("journal: batch too large")
	// ErrFull: the store has no room for the batch, and nothing was written.
	ErrFull = errors.New("journal: the store is full")
	// ErrClosed: the handle was closed.
	ErrClosed = errors.New("journal: closed")
	// ErrCorrupt: what is stored is not what was written.
	ErrCorrupt = errors.New("journal: corrupt")
)

// The bounds of one batch.
const (
	// MaxBatchBytes bounds the sum of the sizes of a batch's facts; etcd takes 1.5 MiB a request.
	MaxBatchBytes = 1 << 20
	// MaxBatchFacts bounds the number of a batch's facts, so that their framing, at most three bytes each, fits beside them.
	MaxBatchFacts = 1 << 16
)

// CheckBatch tells whether an append of these facts can be stored at all: ErrTooLarge beyond the bounds, another error when
// there is none. Implementations call it first.
func CheckBatch(facts [][]byte) error {
	if len(facts) == 0 {
		return errors.New("journal: an append holds at least one fact")
	}
	if len(facts) > MaxBatchFacts {
		return fmt.Errorf("%w: %d facts, at most %d", ErrTooLarge, len(facts), MaxBatchFacts)
	}
	size := 0
	for _, fact := range facts {
		size += len(fact)
	}
	if size > MaxBatchBytes {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, size, MaxBatchBytes)
	}
	return nil
}

// Stats counts what a handle has appended since it was opened.
type Stats struct {
	// Appends that succeeded; each is one transaction of the store.
	Appends uint64
	// Facts in those appends.
	Facts uint64
	// Bytes of those facts, without framing.
	Bytes uint64
	// Unknown counts the appends that ended with ErrUnknownOutcome; they are in no other number.
	Unknown uint64
}

// Count adds one append of these facts that ended with err.
func (s *Stats) Count(facts [][]byte, err error) {
	switch {
	case err == nil:
		s.Appends++
		s.Facts += uint64(len(facts))
		for _, fact := range facts {
			s.Bytes += uint64(len(fact))
		}
	case errors.Is(err, ErrUnknownOutcome):
		s.Unknown++
	}
}
