package journaltest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

// FormatOne returns a batch as the first format stored it: without the digest of the batch before.
func FormatOne(b journal.Batch) []byte {
	value := []byte{1}
	value = binary.BigEndian.AppendUint64(value, uint64(b.First))
	value = binary.BigEndian.AppendUint64(value, uint64(b.Term))
	value = binary.BigEndian.AppendUint32(value, uint32(len(b.Facts)))
	for _, fact := range b.Facts {
		value = append(binary.AppendUvarint(value, uint64(len(fact))), fact...)
	}
	return binary.BigEndian.AppendUint32(value, crc32.Checksum(value, crc32.MakeTable(crc32.Castagnoli)))
}

// damaged is one way in which a log of ten batches of two facts can be wrong.
type damaged struct {
	name string
	// values in the place of those of batches, by the last fact; nil for none.
	values map[journal.Seq][]byte
	// last is the number of the last fact that can be read before it.
	last journal.Seq
	// names must be in the error.
	names string
}

// damages makes them of what is stored.
func damages(t *testing.T, l *log) []damaged {
	t.Helper()
	at := func(last journal.Seq) (value []byte, b journal.Batch) {
		value = bytes.Clone(l.under.Stored(t, last))
		b, err := journal.DecodeBatch(value)
		if err != nil || b.Last() != last || len(b.Facts) != 2 {
			t.Fatalf("what is stored for fact %d is a batch of %d to %d: %v", last, b.First, b.Last(), err)
		}
		return value, b
	}
	value, third := at(6)
	next, fourth := at(8)
	_, last := at(20)
	with := func(b journal.Batch, facts ...[]byte) []byte {
		b.Facts = facts
		encoded, _ := journal.EncodeBatch(b)
		return encoded
	}
	flipped := bytes.Clone(value)
	flipped[len(flipped)/2] ^= 0x10
	stranger := third
	stranger.Previous[7] ^= 1
	one := func(last journal.Seq, value []byte) map[journal.Seq][]byte {
		return map[journal.Seq][]byte{last: value}
	}
	return []damaged{
		{"ATornRecord", one(6, value[:len(value)*2/3]), 4, "ends with fact 6"},
		{"ARecordTornInItsHeader", one(6, value[:9]), 4, "ends with fact 6"},
		{"AnEmptyRecord", one(6, []byte{}), 4, "ends with fact 6"},
		{"AFlippedBit", one(6, flipped), 4, "ends with fact 6"},
		{"AFormatToCome", one(6, append([]byte{9}, value[1:]...)), 4, "ends with fact 6"},
		{"TwoBatchesSwapped", map[journal.Seq][]byte{6: next, 8: value}, 4, "ends with fact 6"},
		{"TwoBatchesSwappedAndNumberedAnew", map[journal.Seq][]byte{6: with(third, fourth.Facts...), 8: with(fourth, third.Facts...)}, 6, "facts 7 to 8"},
		{"ABatchWrittenAnewWithOtherFacts", one(6, with(third, []byte("another"), nil)), 6, "facts 7 to 8"},
		{"ABatchOfAnotherLog", one(6, with(stranger, third.Facts...)), 4, "facts 5 to 6"},
		{"ABatchInTheFormatThatNamesNoneBeforeIt", one(6, FormatOne(third)), 4, "facts 5 to 6"},
		{"AHole", one(6, nil), 4, "fact 5 is missing"},
		{"AHoleAtTheBeginning", one(2, nil), 0, "fact 1 is missing"},
		{"TwoBatchesMadeOne", map[journal.Seq][]byte{6: nil, 8: with(third, append(third.Facts[:2:2], fourth.Facts...)...)}, 8, "facts 9 to 10"},
		{"ABatchWithinAnother", one(5, with(third, nil)), 5, "facts 5 to 6"},
		{"ATailCutOffBehindTheHead", map[journal.Seq][]byte{18: nil, 20: nil}, 16, "fact 17 is missing"},
		{"ALastBatchWrittenAnew", one(20, with(last, []byte("another"), nil)), 18, "facts 19 to 20"},
	}
}

func damage(t *testing.T, l *log) {
	j, term := l.writer(t)
	l.append(t, j, term, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2)
	for _, d := range damages(t, l) {
		t.Run(d.name, func(t *testing.T) {
			for seq, value := range d.values {
				whole := l.under.Stored(t, seq)
				l.under.Overwrite(t, seq, value)
				defer l.under.Overwrite(t, seq, whole)
			}
			d.check(t, "Read", 1, func(yield func(journal.Batch) error) error { return j.Read(l.ctx, 1, yield) })
			d.check(t, "Follow", 1, func(yield func(journal.Batch) error) error { return j.Follow(l.ctx, 1, yield) })
			if d.last > 4 { // the chain shows it from wherever the reading begins before it
				d.check(t, "Read from fact 4", 3, func(yield func(journal.Batch) error) error { return j.Read(l.ctx, 4, yield) })
			}
		})
	}
	l.wantSizes(t, j, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2)
}

// check wants a reading that begins with the fact numbered next to end where the damage is.
func (d damaged) check(t *testing.T, what string, next journal.Seq, read func(func(journal.Batch) error) error) {
	t.Helper()
	last := next - 1
	err := read(func(b journal.Batch) error { last = b.Last(); return nil })
	if !errors.Is(err, journal.ErrCorrupt) || !strings.Contains(err.Error(), d.names) {
		t.Errorf("%s: %v, want one that names %q", what, err, d.names)
	}
	if last != d.last {
		t.Errorf("%s yielded up to fact %d, want %d", what, last, d.last)
	}
}

// everyByte flips a bit in each byte of a batch, one after the other.
func everyByte(t *testing.T, l *log) {
	j, term := l.writer(t)
	l.append(t, j, term, 2, 2, 2)
	whole := l.under.Stored(t, 4)
	for i := range whole {
		flipped := bytes.Clone(whole)
		flipped[i] ^= 1 << (i % 8)
		l.under.Overwrite(t, 4, flipped)
		var last journal.Seq
		err := j.Read(l.ctx, 1, func(b journal.Batch) error { last = b.Last(); return nil })
		if !errors.Is(err, journal.ErrCorrupt) || last != 2 {
			t.Fatalf("with a bit flipped in byte %d of %d, Read ended after fact %d with %v", i, len(whole), last, err)
		}
	}
}
