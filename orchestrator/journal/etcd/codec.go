package etcd

import (
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

// DefaultPrefix is where the keys of an installation begin.
const DefaultPrefix = "/nightshift/"

// keys are those of one log. Numbers in them have twenty digits, as many as the largest uint64, so that etcd's byte order is the
// log's order.
type keys struct {
	writer, head string
	// batches is the prefix of the batches' keys, and batchesEnd just above all of them.
	batches, batchesEnd string
	// start has the form of head, of the last batch that was compacted away. startKnown is there, since the first snapshot, if the log
	// does begin after that: it was removed if the log was compacted when the store was too full for start to be written.
	start, startKnown string
	// snapshot names the newest whole snapshot; chunks is the prefix of all chunks of all, and chunksEnd just above them.
	snapshot, chunks, chunksEnd string
}

// keysUnder are the keys of the log of the installation with that prefix.
func keysUnder(prefix string) keys {
	prefix += "journal/"
	return keys{
		writer: prefix + "writer", head: prefix + "head", start: prefix + "start", startKnown: prefix + "start-known",
		snapshot: prefix + "snapshot",
		batches:  prefix + "batch/", batchesEnd: prefix + "batch0", chunks: prefix + "chunk/", chunksEnd: prefix + "chunk0",
	}
}

// batch names the batch whose last fact is last. By the last and not the first, because then one ascending range request from
// the key of a fact finds the batch that holds it, and deleting up to a key never takes half a batch.
func (k keys) batch(last journal.Seq) string { return fmt.Sprintf("%s%020d", k.batches, last) }

// batchLast reads a batch's key.
func (k keys) batchLast(key string) (journal.Seq, error) {
	digits, ok := strings.CutPrefix(key, k.batches)
	n, err := strconv.ParseUint(digits, 10, 64)
	if !ok || err != nil || k.batch(journal.Seq(n)) != key {
		return 0, fmt.Errorf("%w: %s is not a batch's key", journal.ErrCorrupt, key)
	}
	return journal.Seq(n), nil
}

// decodeBatch reads the batch at a key back. The error is ErrCorrupt with the key and the number of a fact.
func (k keys) decodeBatch(key string, value []byte) (journal.Batch, error) {
	last, err := k.batchLast(key)
	if err != nil {
		return journal.Batch{}, err
	}
	b, err := journal.DecodeBatch(value)
	if err == nil && b.Last() != last {
		err = fmt.Errorf("%w: it holds facts %d to %d", journal.ErrCorrupt, b.First, b.Last())
	}
	if err != nil {
		return journal.Batch{}, fmt.Errorf("the batch that ends with fact %d, key %s: %w", last, key, err)
	}
	return b, nil
}

// tail is the log's end: the number of the last fact, and the digest of the batch that ends with it.
type tail struct {
	seq    journal.Seq
	digest journal.Digest
	// linked: the digest is known. The heads of batches of the first format name none.
	linked bool
	// stored is the head key's value that says so, empty for an empty log. An append compares it as it is.
	stored string
}

// emptyTail is that of a log without facts.
func emptyTail() tail { return tail{linked: true} }

// newTail is a tail as it is stored: the twenty digits, the digest, and a CRC32C of both.
func newTail(seq journal.Seq, digest journal.Digest) tail {
	return tail{seq, digest, true, withChecksum(fmt.Sprintf("%020d %x", seq, digest[:]))}
}

// oldTail is one of the first format, without the digest.
func oldTail(seq journal.Seq) tail {
	return tail{seq: seq, stored: withChecksum(fmt.Sprintf("%020d", seq))}
}

func withChecksum(text string) string {
	return fmt.Sprintf("%s %08x", text, crc32.Checksum([]byte(text), crc32.MakeTable(crc32.Castagnoli)))
}

// decodeTail reads the value of the head key, or of start.
func decodeTail(key string, value []byte) (tail, error) {
	words := strings.Split(string(value), " ")
	n, err := strconv.ParseUint(words[0], 10, 64)
	end := oldTail(journal.Seq(n))
	if len(words) == 3 {
		var digest []byte
		if digest, err = hex.DecodeString(words[1]); len(digest) == len(end.digest) {
			end = newTail(journal.Seq(n), journal.Digest(digest))
		}
	}
	// What encodes to the same value was decoded well.
	if err != nil || n == 0 || end.stored != string(value) {
		return tail{}, fmt.Errorf("%w: what key %s holds is no end of a log: %q", journal.ErrCorrupt, key, value)
	}
	return end, nil
}
