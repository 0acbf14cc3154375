// Package journal is the contract for the one ordered log: fenced appends of batches of opaque facts, reading, and following.
//
// A journal has at most one writer at a time, by terms. Campaign gives the caller a term higher than every one before and
// deposes the writer of the former one. Each Append carries the term and the head that the caller believes in; if either is no
// longer so, nothing is written. A batch is written whole or not at all.
//
// Sequence numbers count facts from 1, without gaps. The head is the number of the last fact, 0 for an empty journal.
//
// A reader sees only whole batches, in order, and only durable ones. What cannot be read back as it was written is an
// ErrCorrupt that names the place; nothing is skipped.
//
// The package holds the contract, a twin in memory for tests and simulation, and in journaltest the suite that every
// implementation passes. All methods are safe for concurrent use.
package journal

import (
	"context"
	"errors"
)

// Seq is the sequence number of a fact: 1 for the first one.
type Seq uint64

// Term numbers the writers, rising. 0 is none.
type Term uint64

// Batch is a group of facts that were appended together.
type Batch struct {
	// First is the sequence number of Facts[0].
	First Seq
	// Term in which the batch was written.
	Term  Term
	Facts [][]byte
}

// Last returns the sequence number of the batch's last fact.
func (b Batch) Last() Seq { return b.First + Seq(len(b.Facts)) - 1 }

// Journal is the log. See the package comment.
type Journal interface {
	// Campaign waits until the caller can be the writer and returns its term. Writers of former terms are fenced from then
	// on. It fails with the context's error.
	Campaign(ctx context.Context) (Term, error)
	// Append writes the facts, at least one, after head as one batch and returns the new head. It fails with ErrFenced when
	// the term is not the newest, ErrHeadMoved when the head is another, ErrTooLarge when the batch cannot be stored, and
	// ErrUnknownOutcome when the batch may or may not have been written: the caller reads Head before it decides anything.
	Append(ctx context.Context, term Term, head Seq, facts [][]byte) (Seq, error)
	// Head returns the sequence number of the last fact, confirmed with the store.
	Head(ctx context.Context) (Seq, error)
	// Read calls yield for each batch that holds a fact numbered from or later, in order, up to the head at the time of the
	// call. The first batch may begin before from. An error of yield ends it and is returned.
	Read(ctx context.Context, from Seq, yield func(Batch) error) error
	// Follow is Read that goes on with new batches as they become durable, until the context ends.
	Follow(ctx context.Context, from Seq, yield func(Batch) error) error
	// Close gives up the term, if any, and frees what the journal holds.
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
	// ErrCorrupt: what is stored is not what was written.
	ErrCorrupt = errors.New("journal: corrupt")
)

// MaxBatchBytes bounds the sum of the sizes of a batch's facts; etcd takes 1.5 MiB a request.
const MaxBatchBytes = 1 << 20
