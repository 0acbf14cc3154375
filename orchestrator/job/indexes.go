package job

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// IndexSet is a set of completion indexes, kept as ranges that neither touch nor overlap, in rising order. The zero value is
// empty. It is a value: With returns a new set and leaves the old as it was.
type IndexSet struct {
	ranges []indexRange
}

// indexRange holds first <= last, both included.
type indexRange struct{ first, last int32 }

// Has tells whether the index is in the set.
func (s IndexSet) Has(index int32) bool {
	at := s.search(index)
	return at < len(s.ranges) && s.ranges[at].first <= index
}

// search returns the place of the first range that ends at or after the index.
func (s IndexSet) search(index int32) int {
	return sort.Search(len(s.ranges), func(i int) bool { return s.ranges[i].last >= index })
}

// Len returns the number of indexes in the set.
func (s IndexSet) Len() int32 {
	var total int32
	for _, r := range s.ranges {
		total += r.last - r.first + 1
	}
	return total
}

// With returns the set with the index added.
func (s IndexSet) With(index int32) IndexSet {
	if s.Has(index) {
		return s
	}
	at := s.search(index)
	merged := indexRange{index, index}
	before, after := s.ranges[:at], s.ranges[at:]
	if len(before) > 0 && before[len(before)-1].last == index-1 {
		merged.first = before[len(before)-1].first
		before = before[:len(before)-1]
	}
	if len(after) > 0 && after[0].first == index+1 {
		merged.last = after[0].last
		after = after[1:]
	}
	ranges := make([]indexRange, 0, len(before)+1+len(after))
	ranges = append(ranges, before...)
	ranges = append(ranges, merged)
	return IndexSet{ranges: append(ranges, after...)}
}

// String writes the set as Kubernetes does: "0,2-4,7,8", where two neighbours stand apart and three or more make a range
// (pkg/controller/job/indexed_job_utils.go).
func (s IndexSet) String() string {
	parts := make([]string, 0, len(s.ranges))
	for _, r := range s.ranges {
		switch r.last - r.first {
		case 0:
			parts = append(parts, strconv.Itoa(int(r.first)))
		case 1:
			parts = append(parts, fmt.Sprintf("%d,%d", r.first, r.last))
		default:
			parts = append(parts, fmt.Sprintf("%d-%d", r.first, r.last))
		}
	}
	return strings.Join(parts, ",")
}
