package journal

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Seq is the sequence number of a fact: 1 for the first one.
type Seq uint64

// Term numbers the writers, rising. 0 is none.
type Term uint64

// Digest stands for a stored batch and, since each batch holds the digest of the one before, for the whole log up to it. It is the SHA-256
// of the stored bytes. A checksum such as CRC32C would find a flipped bit as well, but two values with the same checksum are easily
// found, even by chance in a log of a year's length; this one also tells whoever has kept a log's last digest that nobody has changed
// what is before it. It costs some 10 microseconds on a batch of 20 KB, where the disk takes hundreds.
type Digest [sha256.Size]byte

// String is the digest's beginning, enough to tell two apart.
func (d Digest) String() string { return fmt.Sprintf("%x", d[:8]) }

// Batch is a group of facts that were appended together. Whoever gets one from Read or Follow may keep it, but does not change
// the bytes: other readers may hold the same.
type Batch struct {
	// First is the sequence number of Facts[0].
	First Seq
	// Term in which the batch was written.
	Term  Term
	Facts [][]byte
	// Previous is the digest of the batch before: zero for the log's first one, and for those written before batches held one.
	Previous Digest
	// Digest of this batch as it is stored. DecodeBatch sets it.
	Digest Digest

	// unchained: it is of format 1 and holds no digest of the one before.
	unchained bool
}

// Last returns the sequence number of the batch's last fact.
func (b Batch) Last() Seq { return b.First + Seq(len(b.Facts)) - 1 }

// Chained tells whether the batch holds the digest of the one before, as all do but those of the first format.
func (b Batch) Chained() bool { return !b.unchained }

// A batch is stored as
//
//	format    1 byte, formatChained
//	first     8 bytes, the number of the first fact
//	term      8 bytes
//	count     4 bytes
//	previous  32 bytes, the digest of the batch before; zero in the log's first one
//	facts     count times: the length as a uvarint, and the bytes
//	digest    32 bytes, SHA-256 of all of the above
//
// with fixed numbers big-endian. In the first format, which is still read, there was no previous, and in place of the digest
// a CRC32C; the digest of such a batch is the SHA-256 of the whole of it.
const (
	formatUnchained = 1
	formatChained   = 2
	batchHeader     = 1 + 8 + 8 + 4
)

// castagnoli is CRC32C's polynomial; the standard library makes its table once.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// EncodeBatch returns a batch as it is stored, after one with the digest b.Previous, and its own digest.
func EncodeBatch(b Batch) ([]byte, Digest) {
	size := batchHeader + 2*sha256.Size
	for _, fact := range b.Facts {
		size += binary.MaxVarintLen32 + len(fact)
	}
	buf := make([]byte, 0, size)
	buf = append(buf, formatChained)
	buf = binary.BigEndian.AppendUint64(buf, uint64(b.First))
	buf = binary.BigEndian.AppendUint64(buf, uint64(b.Term))
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(b.Facts)))
	buf = append(buf, b.Previous[:]...)
	for _, fact := range b.Facts {
		buf = binary.AppendUvarint(buf, uint64(len(fact)))
		buf = append(buf, fact...)
	}
	digest := Digest(sha256.Sum256(buf))
	return append(buf, digest[:]...), digest
}

// DecodeBatch reads a stored batch back, by its own bytes alone: a Chain holds it against its neighbours. Its facts share value's
// memory. The error is ErrCorrupt and does not name the batch.
func DecodeBatch(value []byte) (Batch, error) {
	b, rest, err := openBatch(value)
	if err != nil {
		return Batch{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	for i := range b.Facts {
		size, n := binary.Uvarint(rest)
		if n <= 0 || size > uint64(len(rest)-n) {
			return Batch{}, fmt.Errorf("%w: fact %d runs over the end", ErrCorrupt, b.First+Seq(i))
		}
		end := n + int(size)
		b.Facts[i] = rest[n:end:end]
		rest = rest[end:]
	}
	if len(rest) > 0 {
		return Batch{}, fmt.Errorf("%w: bytes follow the last fact", ErrCorrupt)
	}
	return b, nil
}

// openBatch reads all but the facts, for which it makes room, and returns their bytes.
func openBatch(value []byte) (b Batch, rest []byte, err error) {
	body, err := b.seal(value)
	if err != nil {
		return Batch{}, nil, err
	}
	b.First = Seq(binary.BigEndian.Uint64(body[1:]))
	b.Term = Term(binary.BigEndian.Uint64(body[9:]))
	count := binary.BigEndian.Uint32(body[17:])
	rest = body[batchHeader:]
	if !b.unchained {
		rest = rest[copy(b.Previous[:], rest):]
	}
	if count == 0 || count > MaxBatchFacts || b.First == 0 {
		return Batch{}, nil, fmt.Errorf("%d facts from %d", count, b.First)
	}
	b.Facts = make([][]byte, count)
	return b, rest, nil
}

// seal checks the stored bytes against the sum that ends them, sets the digest, and returns what the sum is of.
func (b *Batch) seal(value []byte) (body []byte, err error) {
	if len(value) == 0 {
		return nil, errors.New("it is empty")
	}
	trailer := sha256.Size
	switch value[0] {
	case formatChained:
		if len(value) < batchHeader+2*sha256.Size {
			return nil, fmt.Errorf("%d bytes are too few", len(value))
		}
	case formatUnchained:
		trailer, b.unchained = crc32.Size, true
		if len(value) < batchHeader+crc32.Size {
			return nil, fmt.Errorf("%d bytes are too few", len(value))
		}
	default:
		return nil, fmt.Errorf("format %d is unknown to this version, which reads %d and %d", value[0], formatUnchained, formatChained)
	}
	body, sum := value[:len(value)-trailer], value[len(value)-trailer:]
	if b.unchained {
		b.Digest = sha256.Sum256(value)
		if is, written := crc32.Checksum(body, castagnoli()), binary.BigEndian.Uint32(sum); is != written {
			return nil, fmt.Errorf("the checksum is %08x, written as %08x", is, written)
		}
		return body, nil
	}
	b.Digest = sha256.Sum256(body)
	if written := Digest(sum); b.Digest != written {
		return nil, fmt.Errorf("the checksum is %v, written as %v", b.Digest, written)
	}
	return body, nil
}

// Chain holds batches that are read one after the other against each other: that none is missing, and that each follows the very one
// before it.
type Chain struct {
	next   Seq
	begun  bool   // next is where a batch begins; before that, one that holds it will do
	digest Digest // of the batch before, if linked
	linked bool
	format int // of the batch before, 0 if not known
}

// ChainFrom is a chain whose first batch is the one that holds the fact numbered from, which is at least 1.
func ChainFrom(from Seq) *Chain { return &Chain{next: from} }

// ChainAfter is a chain that goes on after the fact numbered last, the end of a batch with that digest. After 0 comes the log's first.
func ChainAfter(last Seq, digest Digest) *Chain {
	return &Chain{next: last + 1, begun: true, digest: digest, linked: true}
}

// Next returns the number of the fact that is to come.
func (c *Chain) Next() Seq { return c.next }

// Digest is that of the batch that was added last.
func (c *Chain) Digest() Digest { return c.digest }

// Add takes the next batch. It fails with ErrCorrupt, which names the facts and not the place, if it is not the one that follows.
func (c *Chain) Add(b Batch) error {
	switch {
	case b.First > c.next || b.Last() < c.next || (c.begun && b.First < c.next):
		return fmt.Errorf("%w: the batch with fact %d is missing: the next one holds facts %d to %d", ErrCorrupt, c.next, b.First, b.Last())
	case b.unchained && c.format == formatChained:
		return fmt.Errorf("%w: the batch of facts %d to %d names none before it, as older versions wrote them, but one of this version comes before it",
			ErrCorrupt, b.First, b.Last())
	case !b.unchained && c.linked && b.Previous != c.digest:
		return fmt.Errorf("%w: the batch of facts %d to %d follows a batch with digest %v, but the one before it has %v: either was replaced",
			ErrCorrupt, b.First, b.Last(), b.Previous, c.digest)
	case !b.unchained && b.First == 1 && b.Previous != Digest{}:
		return fmt.Errorf("%w: the batch of facts 1 to %d is the log's first, but follows one with digest %v", ErrCorrupt, b.Last(), b.Previous)
	}
	c.next, c.begun, c.digest, c.linked, c.format = b.Last()+1, true, b.Digest, true, formatChained
	if b.unchained {
		c.format = formatUnchained
	}
	return nil
}
