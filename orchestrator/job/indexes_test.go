package job

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// plainSet is a slow set to hold IndexSet against.
type plainSet map[int32]bool

func (s plainSet) String() string {
	var parts []string
	for i := int32(0); i < 200; i++ {
		if !s[i] || s[i-1] {
			continue
		}
		last := i
		for s[last+1] {
			last++
		}
		switch {
		case last == i:
			parts = append(parts, fmt.Sprint(i))
		case last == i+1:
			parts = append(parts, fmt.Sprint(i), fmt.Sprint(last))
		default:
			parts = append(parts, fmt.Sprintf("%d-%d", i, last))
		}
	}
	return strings.Join(parts, ",")
}

func TestIndexSetAgreesWithAPlainSet(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 9))
	for range 500 {
		plain, ranges := plainSet{}, IndexSet{}
		for range random.IntN(120) {
			index := random.Int32N(100)
			before := ranges.String()
			next := ranges.With(index)
			if ranges.String() != before {
				t.Fatalf("With(%d) changed the set that it was called on from %s to %s", index, before, ranges)
			}
			ranges, plain[index] = next, true
			if ranges.String() != plain.String() || int(ranges.Len()) != len(plain) {
				t.Fatalf("after %d: %s of %d, want %s of %d", index, ranges, ranges.Len(), plain, len(plain))
			}
			probe := random.Int32N(100)
			if ranges.Has(probe) != plain[probe] {
				t.Fatalf("%s has %d: %v", ranges, probe, ranges.Has(probe))
			}
		}
	}
}

func TestIndexesAreWrittenAsKubernetesDoes(t *testing.T) {
	set := IndexSet{}
	for _, index := range []int32{7, 0, 3, 2, 4, 8} {
		set = set.With(index)
	}
	if set.String() != "0,2-4,7,8" {
		t.Errorf("the set reads %q", set)
	}
}
