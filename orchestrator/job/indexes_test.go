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
	for i := int32(0); i < 400; i++ {
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

func (s plainSet) countFrom(limit int32) (count int32) {
	for index := range s {
		if index >= limit {
			count++
		}
	}
	return count
}

func (s plainSet) free(from int32, other plainSet) int32 {
	for s[from] || other[from] {
		from++
	}
	return from
}

func TestIndexSetAgreesWithAPlainSet(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 9))
	for round := range 500 {
		plain, set := plainSet{}, IndexSet{}
		otherPlain, other := plainSet{}, IndexSet{}
		for range random.IntN(300) {
			index := random.Int32N(300)
			switch random.IntN(5) {
			case 0:
				set.Remove(index)
				delete(plain, index)
			case 1:
				other.Add(index)
				otherPlain[index] = true
			default:
				set.Add(index)
				plain[index] = true
			}
			if random.IntN(50) == 0 {
				set.Truncate(index)
				for each := range plain {
					if each >= index {
						delete(plain, each)
					}
				}
			}
			probe := random.Int32N(320)
			if set.Has(probe) != plain[probe] || set.CountFrom(probe) != plain.countFrom(probe) {
				t.Fatalf("round %d: %s has %d: %v, from there on %d", round, &set, probe, set.Has(probe), set.CountFrom(probe))
			}
			if got, want := nextOutside(probe, &set, &other), plain.free(probe, otherPlain); got != want {
				t.Fatalf("round %d: the first index from %d on outside %s and %s is %d, want %d", round, probe, &set, &other, got, want)
			}
		}
		if set.String() != plain.String() || int(set.Len()) != len(plain) {
			t.Fatalf("round %d: %s of %d, want %s of %d", round, &set, set.Len(), plain, len(plain))
		}
		both := 0
		for index := range plain {
			if otherPlain[index] {
				both++
			}
		}
		if int(set.CountIn(&other)) != both {
			t.Fatalf("round %d: %s and %s share %d, want %d", round, &set, &other, set.CountIn(&other), both)
		}
		again := parseIndexes(set.String(), 300)
		if again.String() != set.String() {
			t.Fatalf("round %d: %s is read as %s", round, &set, &again)
		}
	}
}

func TestIndexesAreWrittenAsKubernetesDoes(t *testing.T) {
	set := IndexSet{}
	for _, index := range []int32{7, 0, 3, 2, 4, 8} {
		set.Add(index)
	}
	if set.String() != "0,2-4,7,8" {
		t.Errorf("the set reads %q", &set)
	}
	beyond := parseIndexes("1,3-5", 5)
	if beyond.String() != "1,3,4" {
		t.Errorf("of five indexes, 1 and 3 to 5 are read as %q", &beyond)
	}
}
