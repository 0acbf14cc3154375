package view

import "sort"

// change is one object's step from one record to the next: former is nil when the object is new, current when it is gone.
type change struct {
	// seq is the number of the fact that brought it about.
	seq uint64
	// version is what a watcher who has seen the change may go on after. One fact can change several objects of a resource;
	// all but the last of these carry the number before, so that a watch that ended among them repeats some and misses none.
	version         uint64
	former, current *Record
}

// window keeps the last changes of one resource, in order. The view's lock guards it.
type window struct {
	ring []change
	// next is how many changes there have been; the i-th lies at ring[i % len(ring)].
	next uint64
	// forgotten is the number of the newest fact of which a change has been overwritten: nobody can go on after a version
	// before it.
	forgotten uint64
}

func newWindow(size int) *window { return &window{ring: make([]change, size)} }

// add appends changes that are sorted by seq and newer than all before.
func (w *window) add(changes []change) {
	for i, c := range changes {
		c.version = c.seq
		if i+1 < len(changes) && changes[i+1].seq == c.seq {
			c.version--
		}
		slot := &w.ring[w.next%uint64(len(w.ring))]
		if w.next >= uint64(len(w.ring)) {
			w.forgotten = slot.seq
		}
		*slot = c
		w.next++
	}
}

// oldest is the number of the first change that is still there.
func (w *window) oldest() uint64 {
	if w.next < uint64(len(w.ring)) {
		return 0
	}
	return w.next - uint64(len(w.ring))
}

// after returns the place of the first change that is newer than the version; false when changes after it are gone.
func (w *window) after(version uint64) (place uint64, whole bool) {
	if version < w.forgotten {
		return 0, false
	}
	oldest := w.oldest()
	n := sort.Search(int(w.next-oldest), func(i int) bool {
		return w.ring[(oldest+uint64(i))%uint64(len(w.ring))].seq > version
	})
	return oldest + uint64(n), true
}

// from copies up to limit changes from the place on; false when some of them are gone.
func (w *window) from(place uint64, limit int) (changes []change, whole bool) {
	if place < w.oldest() {
		return nil, false
	}
	for ; place < w.next && len(changes) < limit; place++ {
		changes = append(changes, w.ring[place%uint64(len(w.ring))])
	}
	return changes, true
}
