package main

// Two passages are alike from alikePercent; two functions are near-duplicates if duplicatePercent of their passages are
// alike to one of the other's.
const (
	alikePercent     = 70
	duplicatePercent = 50
)

// report is what is published for one file. It depends on the text of the file alone: not on the time, the machine, or
// which attempt made it.
type report struct {
	File           string    `json:"file"`
	Functions      int       `json:"functions"`
	LeftOut        int       `json:"leftOut"`
	Passages       int       `json:"passages"`
	Compared       int       `json:"passagePairsCompared"`
	MeanPercent    int       `json:"meanLikenessPercent"`
	NearDuplicates []pair    `json:"nearDuplicates"`
	Closest        []closest `json:"closest"`
}

// pair is two functions of a file that share much of their code.
type pair struct {
	A      string `json:"a"`
	LineA  int    `json:"lineA"`
	B      string `json:"b"`
	LineB  int    `json:"lineB"`
	Shared int    `json:"sharedPercent"`
}

// closest names the function with the passage that is most like one of this function's; the first in the file wins a tie.
type closest struct {
	Function string `json:"function"`
	Line     int    `json:"line"`
	To       string `json:"to"`
	ToLine   int    `json:"toLine"`
	Percent  int    `json:"likenessPercent"`
}

// comparison is the state of comparing the functions of one file.
type comparison struct {
	functions []function
	distance  distance
	total     int // of the likeness of all pairs of passages, in percent
	compared  int // pairs of passages
}

// compare compares each function of a file with each other one. It calls done with the number of functions that are
// through, so that an interruption can tell how far it was.
func compare(file string, functions []function, leftOut int, done func(int)) report {
	c := comparison{functions: functions}
	r := report{File: file, Functions: len(functions), LeftOut: leftOut, NearDuplicates: []pair{}, Closest: []closest{}}
	best := make([]int, len(functions)) // the index of the closest function so far
	percent := make([]int, len(functions))
	for i := range functions {
		best[i], percent[i] = -1, -1
	}
	for i, a := range functions {
		r.Passages += len(a.passages)
		for j := i + 1; j < len(functions); j++ {
			b := functions[j]
			shared, highest := c.pair(a, b)
			if shared >= duplicatePercent {
				r.NearDuplicates = append(r.NearDuplicates, pair{a.Name, a.Line, b.Name, b.Line, shared})
			}
			if highest > percent[i] {
				best[i], percent[i] = j, highest
			}
			if highest > percent[j] {
				best[j], percent[j] = i, highest
			}
		}
		done(i + 1)
	}
	for i, to := range best {
		if to >= 0 {
			r.Closest = append(r.Closest, closest{functions[i].Name, functions[i].Line, functions[to].Name, functions[to].Line, percent[i]})
		}
	}
	r.Compared = c.compared
	if c.compared > 0 {
		r.MeanPercent = c.total / c.compared
	}
	return r
}

// pair compares the passages of two functions. It gives the share of all their passages that are alike to one of the
// other's, and the highest likeness of any two.
func (c *comparison) pair(a, b function) (sharedPercent, highestPercent int) {
	shared := 0
	inB := make([]bool, len(b.passages))
	for _, p := range a.passages {
		inA := false
		for n, q := range b.passages {
			longer := max(len(p), len(q))
			percent := 100 * (longer - c.distance.between(p, q)) / longer
			c.total += percent
			c.compared++
			highestPercent = max(highestPercent, percent)
			if percent >= alikePercent {
				inA, inB[n] = true, true
			}
		}
		if inA {
			shared++
		}
	}
	for _, alike := range inB {
		if alike {
			shared++
		}
	}
	return 100 * shared / (len(a.passages) + len(b.passages)), highestPercent
}

// distance computes edit distances and keeps its row between calls.
type distance struct{ row []int32 }

// between gives the least number of insertions, deletions and replacements that turn a into b, by the usual table of
// len(a) times len(b) cells, of which one row is held.
func (d *distance) between(a, b []byte) int {
	if cap(d.row) <= len(b) {
		d.row = make([]int32, len(b)+1)
	}
	row := d.row[:len(b)+1]
	for j := range row {
		row[j] = int32(j)
	}
	for i, x := range a {
		diagonal := row[0]
		left := int32(i + 1)
		row[0] = left
		for j, y := range b {
			above := row[j+1]
			cost := diagonal
			if x != y {
				cost = 1 + min(diagonal, above, left)
			}
			diagonal, left = above, cost
			row[j+1] = cost
		}
	}
	return int(row[len(b)])
}
