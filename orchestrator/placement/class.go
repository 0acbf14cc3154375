package placement

import "slices"

// Class is a need and the nodes that could take a pod of it.
type Class struct {
	Need
	// text of the requests, in words.
	text     string
	requests amounts
	users    int
	key      string
	entries  entries
}

// entry is a node with room for so many pods of the class.
type entry struct {
	times int64
	node  *node
	stamp uint32
}

// entries is a heap: the node on which a pod leaves least free comes first, so that others can empty.
type entries []entry

func (e entry) before(other entry) bool {
	if e.times != other.times {
		return e.times < other.times
	}
	return e.node.name < other.node.name
}

func (e *entries) push(added entry) {
	*e = append(*e, added)
	heap := *e
	for at := len(heap) - 1; at > 0; {
		parent := (at - 1) / 2
		if !heap[at].before(heap[parent]) {
			break
		}
		heap[at], heap[parent] = heap[parent], heap[at]
		at = parent
	}
}

func (e *entries) pop() {
	heap := *e
	last := len(heap) - 1
	heap[0] = heap[last]
	heap[last] = entry{}
	*e = heap[:last]
	e.sink(0)
}

func (e *entries) sink(at int) {
	heap := *e
	for {
		least := at
		for child := 2*at + 1; child <= 2*at+2 && child < len(heap); child++ {
			if heap[child].before(heap[least]) {
				least = child
			}
		}
		if least == at {
			return
		}
		heap[at], heap[least] = heap[least], heap[at]
		at = least
	}
}

// enter adds the node as it is, if it could take a pod.
func (c *Class) enter(of *node) {
	if times := of.free.times(c.requests); times > 0 && c.allows(&of.machine) {
		c.entries.push(entry{times, of, of.stamp})
	}
}

// clean drops the entries that are not as their nodes are.
func (c *Class) clean() {
	c.entries = slices.DeleteFunc(c.entries, func(e entry) bool { return e.stamp != e.node.stamp })
	for at := len(c.entries)/2 - 1; at >= 0; at-- {
		c.entries.sink(at)
	}
}

// best is the node that a pod of the class goes to; nil for none.
func (c *Class) best() *node {
	for len(c.entries) > 0 {
		if first := c.entries[0]; first.stamp == first.node.stamp {
			return first.node
		}
		c.entries.pop()
	}
	return nil
}
