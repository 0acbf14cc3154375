package fleet

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
)

// board shows the latest effects to whoever asks. It is level-triggered: those between two looks are never seen.
type board struct {
	mu      sync.Mutex
	effects engine.Effects
	// posted is false until the engine has spoken.
	posted bool
	// changed is closed and replaced by each post.
	changed chan struct{}
	// waiters for emptiness.
	waiters []chan struct{}
	// nodes are watched each by itself: most posts concern few of them.
	nodes map[*nodeWatch]bool
}

// nodeWatch holds a token in changed when what a node shall hold, or that it is on record, has changed since it was taken.
type nodeWatch struct {
	node    string
	changed chan struct{}
	// held and recorded are as they were told last; guarded by the board's mu.
	held     []engine.Assignment
	recorded bool
}

func newBoard() *board { return &board{changed: make(chan struct{}), nodes: make(map[*nodeWatch]bool)} }

// watch follows one node, until leave is called.
func (b *board) watch(node string) (w *nodeWatch, leave func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w = &nodeWatch{node: node, changed: make(chan struct{}, 1)}
	b.nodes[w] = true
	w.look(b.effects)
	return w, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.nodes, w)
	}
}

// look tells if the node has changed.
func (w *nodeWatch) look(effects engine.Effects) {
	held := effects.Assignments.Of(w.node)
	_, recorded := instanceOf(effects, w.node)
	if sameList(w.held, held) && w.recorded == recorded {
		return
	}
	w.held, w.recorded = held, recorded
	select {
	case w.changed <- struct{}{}:
	default: // It has yet to look at the change before.
	}
}

func (b *board) post(effects engine.Effects) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.effects, b.posted = effects, true
	close(b.changed)
	b.changed = make(chan struct{})
	for w := range b.nodes {
		w.look(effects)
	}
	if isEmpty(effects) {
		for _, waiter := range b.waiters {
			close(waiter)
		}
		b.waiters = nil
	}
}

// read returns the latest effects, which nobody changes, and a channel that the next post closes. It is not ok before the first one.
func (b *board) read() (effects engine.Effects, changed <-chan struct{}, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.effects, b.changed, b.posted
}

// first waits for the first effects.
func (b *board) first(ctx context.Context) (engine.Effects, error) {
	for {
		effects, changed, ok := b.read()
		if ok {
			return effects, nil
		}
		select {
		case <-ctx.Done():
			return engine.Effects{}, ctx.Err()
		case <-changed:
		}
	}
}

// each calls do with the effects as they are and after every change, until the context ends.
func (b *board) each(ctx context.Context, do func(engine.Effects)) {
	for {
		effects, changed, ok := b.read()
		if ok {
			do(effects)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

func (b *board) idle() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	waiter := make(chan struct{})
	if b.posted && isEmpty(b.effects) {
		close(waiter)
	} else {
		b.waiters = append(b.waiters, waiter)
	}
	return waiter
}

func isEmpty(effects engine.Effects) bool {
	return len(effects.Instances) == 0 && len(effects.Launches) == 0
}

// instanceOf returns the node's instance, if it is on record. The effects hold them in order of their nodes.
func instanceOf(effects engine.Effects, node string) (engine.Instance, bool) {
	at, ok := slices.BinarySearchFunc(effects.Instances, node, func(instance engine.Instance, node string) int {
		return strings.Compare(instance.Node, node)
	})
	if !ok {
		return engine.Instance{}, false
	}
	return effects.Instances[at], true
}
