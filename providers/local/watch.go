package local

import (
	"context"
	"errors"

	"github.com/nightshift-batch/nightshift/providers"
)

// maxBehind is how many events a watcher may be behind before its watch is ended. It opens another and is told the present state.
const maxBehind = 100_000

// watcher is the queue of one Watch. All of it is guarded by Provider.mu.
type watcher struct {
	owner  string
	queue  []providers.Event
	behind bool
	more   chan struct{} // has one element while queue is not empty
}

func (w *watcher) push(event providers.Event) {
	if len(w.queue) == maxBehind {
		w.behind = true
		w.queue = nil
	}
	if !w.behind {
		w.queue = append(w.queue, event)
	}
	select {
	case w.more <- struct{}{}:
	default:
	}
}

// tell gives an event to all watchers of an owner. The caller holds p.mu, so all are told in one order.
func (p *Provider) tell(owner string, event providers.Event) {
	for w := range p.watchers {
		if w.owner == owner {
			w.push(event)
		}
	}
}

// Watch implements providers.Provider. It begins with what is known: the last event of each of the owner's instances, also of
// those that ended a short while ago (the last 100), and the notices that stand.
func (p *Provider) Watch(ctx context.Context, owner string, sink func(providers.Event)) error {
	const op = "watch"
	if err := p.usable(ctx, op); err != nil {
		return err
	}
	w := &watcher{owner: owner, more: make(chan struct{}, 1)}
	p.mu.Lock()
	for _, i := range p.inOrder() {
		if i.Owner == owner {
			i.retell(w)
		}
	}
	p.watchers[w] = struct{}{}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.watchers, w)
	}()
	for {
		select {
		case <-w.more:
		case <-ctx.Done():
			return fail(op, providers.KindTransient, ctx.Err())
		case <-p.closed:
			return p.usable(ctx, op)
		}
		p.mu.Lock()
		events, behind := w.queue, w.behind
		w.queue = nil
		p.mu.Unlock()
		for _, event := range events {
			if ctx.Err() != nil {
				break // the select above returns its error
			}
			sink(event)
		}
		if behind {
			return fail(op, providers.KindTransient, errors.New("the watcher is too slow and has lost events"))
		}
	}
}

// retell tells a new watcher where the instance stands. The caller holds Provider.mu.
func (i *instance) retell(w *watcher) {
	switch i.state {
	case providers.Terminated:
		w.push(i.farewell())
		return
	case providers.Running:
		w.push(providers.Event{Kind: providers.InstanceRunning, InstanceID: i.ID})
	}
	if i.notice != nil {
		w.push(*i.notice)
	}
}
