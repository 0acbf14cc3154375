package job

import (
	"math/bits"
	"strconv"
	"strings"
)

// IndexSet is a set of completion indexes, which are not negative, kept as a bitmap. The zero value is empty. It is changed in place and
// belongs to one goroutine; Clone gives another one.
type IndexSet struct {
	words []uint64
	count int32
}

const wordBits = 64

// Has tells whether the index is in the set.
func (s *IndexSet) Has(index int32) bool {
	at := int(index) / wordBits
	return index >= 0 && at < len(s.words) && s.words[at]>>(uint(index)%wordBits)&1 == 1
}

// Len returns the number of indexes in the set.
func (s *IndexSet) Len() int32 { return s.count }

// Add puts the index into the set.
func (s *IndexSet) Add(index int32) {
	if s.Has(index) {
		return
	}
	at := int(index) / wordBits
	for len(s.words) <= at {
		s.words = append(s.words, 0)
	}
	s.words[at] |= 1 << (uint(index) % wordBits)
	s.count++
}

// Remove takes the index out of the set.
func (s *IndexSet) Remove(index int32) {
	if s.Has(index) {
		s.words[int(index)/wordBits] &^= 1 << (uint(index) % wordBits)
		s.count--
	}
}

// Truncate takes out all indexes from the limit on.
func (s *IndexSet) Truncate(limit int32) {
	for at := int(limit) / wordBits; at < len(s.words); at++ {
		s.words[at] &= s.below(at, limit)
	}
	s.count = 0
	for _, word := range s.words {
		s.count += int32(bits.OnesCount64(word))
	}
}

// below is a mask of the bits of a word whose indexes are less than the limit.
func (s *IndexSet) below(at int, limit int32) uint64 {
	switch first := at * wordBits; {
	case int(limit) <= first:
		return 0
	case int(limit) >= first+wordBits:
		return ^uint64(0)
	default:
		return 1<<uint(int(limit)-first) - 1
	}
}

// CountFrom returns how many indexes are in the set from the limit on.
func (s *IndexSet) CountFrom(limit int32) (count int32) {
	for at := int(limit) / wordBits; at < len(s.words); at++ {
		count += int32(bits.OnesCount64(s.words[at] &^ s.below(at, limit)))
	}
	return count
}

// CountIn returns how many indexes are in both sets.
func (s *IndexSet) CountIn(other *IndexSet) (count int32) {
	for at := range min(len(s.words), len(other.words)) {
		count += int32(bits.OnesCount64(s.words[at] & other.words[at]))
	}
	return count
}

// Clone returns a copy.
func (s *IndexSet) Clone() IndexSet {
	return IndexSet{words: append([]uint64(nil), s.words...), count: s.count}
}

func (s *IndexSet) word(at int) uint64 {
	if at < len(s.words) {
		return s.words[at]
	}
	return 0
}

// nextOutside returns the lowest index from the given one on that is in none of the sets.
func nextOutside(from int32, sets ...*IndexSet) int32 {
	at, taken := int(from)/wordBits, uint64(1)<<(uint(from)%wordBits)-1
	for ; ; at++ {
		for _, set := range sets {
			taken |= set.word(at)
		}
		if free := ^taken; free != 0 {
			return int32(at*wordBits + bits.TrailingZeros64(free))
		}
		taken = 0
	}
}

// String writes the set as Kubernetes does: "0,2-4,7,8", where two neighbours stand apart and three or more make a range
// (pkg/controller/job/indexed_job_utils.go).
func (s *IndexSet) String() string {
	var text strings.Builder
	var digits [11]byte
	write := func(separator string, index int32) {
		text.WriteString(separator)
		text.Write(strconv.AppendInt(digits[:0], int64(index), 10))
	}
	separator := ""
	limit := int32(len(s.words) * wordBits)
	for index := s.next(0); index < limit; {
		last := nextOutside(index, s) - 1
		write(separator, index)
		switch last - index {
		case 0:
		case 1:
			write(",", last)
		default:
			write("-", last)
		}
		separator = ","
		index = s.next(last + 1)
	}
	return text.String()
}

// next returns the lowest index of the set from the given one on, or one beyond all words.
func (s *IndexSet) next(from int32) int32 {
	for at := int(from) / wordBits; at < len(s.words); at++ {
		word := s.words[at]
		if at == int(from)/wordBits {
			word &^= 1<<(uint(from)%wordBits) - 1
		}
		if word != 0 {
			return int32(at*wordBits + bits.TrailingZeros64(word))
		}
	}
	return int32(len(s.words) * wordBits)
}

// parseIndexes reads what String writes, as a success policy holds it, of indexes below the limit. What Kubernetes' validation has not
// let through does not get here.
func parseIndexes(text string, limit int32) IndexSet {
	var set IndexSet
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, err := strconv.ParseInt(from, 10, 32)
		if err != nil {
			continue
		}
		last := first
		if isRange {
			if last, err = strconv.ParseInt(to, 10, 32); err != nil {
				continue
			}
		}
		for index := first; index <= last && index < int64(limit); index++ {
			set.Add(int32(index))
		}
	}
	return set
}
