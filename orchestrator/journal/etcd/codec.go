package etcd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

// The keys. Numbers have twenty digits, as many as the largest uint64, so that etcd's byte order is the log's order.
const (
	keyPrefix   = "/nightshift/journal/"
	writerKey   = keyPrefix + "writer"
	headKey     = keyPrefix + "head"
	batchPrefix = keyPrefix + "batch/"
)

// batchKey names the batch whose last fact is last. By the last and not the first, because then one ascending range request from
// the key of a fact finds the batch that holds it, and deleting up to a key never takes half a batch.
func batchKey(last journal.Seq) string { return fmt.Sprintf("%s%020d", batchPrefix, last) }

// batchEnd is just above the key of every batch.
const batchEnd = keyPrefix + "batch0"

// batchLast reads a batch's key.
func batchLast(key string) (journal.Seq, error) {
	digits, ok := strings.CutPrefix(key, batchPrefix)
	n, err := strconv.ParseUint(digits, 10, 64)
	if !ok || err != nil || batchKey(journal.Seq(n)) != key {
		return 0, fmt.Errorf("%w: %s is not a batch's key", journal.ErrCorrupt, key)
	}
	return journal.Seq(n), nil
}

// A head is stored as its twenty digits and their CRC32C. It tells nothing else, so that an append can compare it by value.
func encodeHead(head journal.Seq) string {
	digits := fmt.Sprintf("%020d", head)
	return fmt.Sprintf("%s %08x", digits, crc32.Checksum([]byte(digits), castagnoli()))
}

func decodeHead(value []byte) (journal.Seq, error) {
	digits, _, _ := strings.Cut(string(value), " ")
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n == 0 || encodeHead(journal.Seq(n)) != string(value) {
		return 0, fmt.Errorf("%w: the head at key %s is %q", journal.ErrCorrupt, headKey, value)
	}
	return journal.Seq(n), nil
}

// A batch is stored as
//
//	format   1 byte, batchFormat
//	first    8 bytes, the number of the first fact
//	term     8 bytes
//	count    4 bytes
//	facts    count times: the length as a uvarint, and the bytes
//	crc      4 bytes, CRC32C of all of the above
//
// with fixed numbers big-endian. bbolt keeps no checksum of its data pages, so this one is what notices damage on disk.
const (
	batchFormat   = 1
	batchHeader   = 1 + 8 + 8 + 4
	batchChecksum = 4
)

// castagnoli is CRC32C's polynomial; the standard library makes its table once and answers from hardware.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

func encodeBatch(b journal.Batch) string {
	size := batchHeader + batchChecksum
	for _, fact := range b.Facts {
		size += binary.MaxVarintLen32 + len(fact)
	}
	buf := make([]byte, 0, size)
	buf = append(buf, batchFormat)
	buf = binary.BigEndian.AppendUint64(buf, uint64(b.First))
	buf = binary.BigEndian.AppendUint64(buf, uint64(b.Term))
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(b.Facts)))
	for _, fact := range b.Facts {
		buf = binary.AppendUvarint(buf, uint64(len(fact)))
		buf = append(buf, fact...)
	}
	buf = binary.BigEndian.AppendUint32(buf, crc32.Checksum(buf, castagnoli()))
	return string(buf)
}

// decodeBatch reads a batch back. Its facts share value's memory. The error is ErrCorrupt with the key and the number of a fact.
func decodeBatch(key string, value []byte) (journal.Batch, error) {
	last, err := batchLast(key)
	if err != nil {
		return journal.Batch{}, err
	}
	b, err := unpackBatch(value)
	if err == nil && b.Last() != last {
		err = fmt.Errorf("it holds facts %d to %d", b.First, b.Last())
	}
	if err != nil {
		return journal.Batch{}, fmt.Errorf("%w: the batch that ends with fact %d, key %s: %w", journal.ErrCorrupt, last, key, err)
	}
	return b, nil
}

func unpackBatch(value []byte) (journal.Batch, error) {
	if len(value) < batchHeader+batchChecksum {
		return journal.Batch{}, fmt.Errorf("%d bytes are too few", len(value))
	}
	body, sum := value[:len(value)-batchChecksum], binary.BigEndian.Uint32(value[len(value)-batchChecksum:])
	if is := crc32.Checksum(body, castagnoli()); is != sum {
		return journal.Batch{}, fmt.Errorf("the checksum is %08x, written as %08x", is, sum)
	}
	if body[0] != batchFormat {
		return journal.Batch{}, fmt.Errorf("format %d is unknown to this version, which reads %d", body[0], batchFormat)
	}
	b := journal.Batch{
		First: journal.Seq(binary.BigEndian.Uint64(body[1:])),
		Term:  journal.Term(binary.BigEndian.Uint64(body[9:])),
	}
	count := binary.BigEndian.Uint32(body[17:])
	if count == 0 || count > journal.MaxBatchFacts || b.First == 0 {
		return journal.Batch{}, fmt.Errorf("%d facts from %d", count, b.First)
	}
	b.Facts = make([][]byte, count)
	rest := body[batchHeader:]
	for i := range b.Facts {
		size, n := binary.Uvarint(rest)
		if n <= 0 || size > uint64(len(rest)-n) {
			return journal.Batch{}, fmt.Errorf("fact %d runs over the end", b.First+journal.Seq(i))
		}
		end := n + int(size)
		b.Facts[i] = rest[n:end:end]
		rest = rest[end:]
	}
	if len(rest) > 0 {
		return journal.Batch{}, errors.New("bytes follow the last fact")
	}
	return b, nil
}
