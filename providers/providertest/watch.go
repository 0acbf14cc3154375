package providertest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nightshift-batch/nightshift/providers"
)

func watchSubtests() []subtest {
	plenty := Faults{Capacity: Plenty}
	return []subtest{
		{"watch tells when an instance runs", plenty, func(l *lab) { w := l.watch(l.owner); w.wantRunning(ids(l.launch("a", 2))...) }},
		{"watch tells when an instance was terminated and it is gone then", plenty, watchTellsTerminate},
		{"watch tells when an instance died by itself and it is gone then", plenty, watchTellsDeath},
		{"watch tells the changes of one instance in order", plenty, watchKeepsOrder},
		{"every watcher is told every change", plenty, watchTellsEverybody},
		{"watch leaves out the instances of another owner", plenty, watchKeepsOwnersApart},
		{"a watch that opens late begins with the running instances", plenty, watchBeginsWithRunning},
		{"a watch that follows an ended one tells on", plenty, watchAgain},
		{"watch calls its sink from one goroutine and not after it returned", plenty, watchCallsOneAtATime},
		{"watch returns the error of the context that ended it", plenty, watchReturnsContextError},
	}
}

// watcher collects the events of one Watch.
type watcher struct {
	l      *lab
	cancel context.CancelFunc
	done   chan struct{}
	err    error // of Watch, set before done closes
	inside atomic.Int32

	mu     sync.Mutex
	events []providers.Event
	more   chan struct{} // closed and renewed with each event
}

// watch opens a watch that ends with the subtest.
func (l *lab) watch(owner string) *watcher {
	ctx, cancel := context.WithCancel(l.ctx)
	w := &watcher{l: l, cancel: cancel, done: make(chan struct{}), more: make(chan struct{})}
	go func() {
		defer close(w.done)
		w.err = l.Provider.Watch(ctx, owner, w.sink)
	}()
	l.Cleanup(func() { w.stop() })
	return w
}

func (w *watcher) sink(event providers.Event) {
	if w.inside.Add(1) != 1 {
		w.l.Error("watch calls its sink from two goroutines at the same time")
	}
	defer w.inside.Add(-1)
	select {
	case <-w.done:
		w.l.Error("watch calls its sink after it has returned")
	default:
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, event)
	close(w.more)
	w.more = make(chan struct{})
}

// stop ends the watch and returns its error.
func (w *watcher) stop() error {
	w.l.Helper()
	w.cancel()
	select {
	case <-w.done:
	case <-time.After(w.l.harness.Patience):
		w.l.Fatalf("watch does not return within %v of its context's end", w.l.harness.Patience)
	}
	return w.err
}

// kinds returns the kinds of the events of an instance in order, and a channel that closes when there is another event.
func (w *watcher) kinds(id string) ([]providers.EventKind, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var kinds []providers.EventKind
	for _, event := range w.events {
		if event.InstanceID == id {
			kinds = append(kinds, event.Kind)
		}
	}
	return kinds, w.more
}

func (w *watcher) want(kind providers.EventKind, instanceIDs ...string) {
	w.l.Helper()
	deadline := time.After(w.l.harness.Patience)
	for _, id := range instanceIDs {
		for {
			kinds, more := w.kinds(id)
			if contains(kinds, kind) {
				break
			}
			select {
			case <-more:
			case <-w.done:
				w.l.Fatalf("watch ended (%v) before it told that %s is %s", w.err, id, kind)
			case <-deadline:
				w.l.Fatalf("watch did not tell within %v that %s is %s; it told %v", w.l.harness.Patience, id, kind, kinds)
			}
		}
	}
}

func contains(kinds []providers.EventKind, kind providers.EventKind) bool {
	for _, k := range kinds {
		if k == kind {
			return true
		}
	}
	return false
}

func (w *watcher) wantRunning(instanceIDs ...string) {
	w.l.Helper()
	w.want(providers.InstanceRunning, instanceIDs...)
}

func (w *watcher) wantTerminated(instanceIDs ...string) {
	w.l.Helper()
	w.want(providers.InstanceTerminated, instanceIDs...)
}

func watchTellsTerminate(l *lab) {
	w := l.watch(l.owner)
	id := l.launch("a", 1)[0].ID
	w.wantRunning(id)
	l.terminate(id)
	w.wantTerminated(id)
	l.wantGone(id)
	l.wantListed(l.owner, nil)
}

func watchTellsDeath(l *lab) {
	w := l.watch(l.owner)
	id := l.launch("a", 1)[0].ID
	w.wantRunning(id)
	l.Kill(l, id)
	w.wantTerminated(id)
	l.wantGone(id)
	l.wantListed(l.owner, nil)
}

func watchKeepsOrder(l *lab) {
	w := l.watch(l.owner)
	instances := ids(l.launch("a", 3))
	w.wantRunning(instances...)
	l.terminate(instances...)
	w.wantTerminated(instances...)
	for _, id := range instances {
		kinds, _ := w.kinds(id)
		ended := false
		for _, kind := range kinds {
			if kind == providers.InstanceTerminated {
				ended = true
			} else if ended {
				l.Errorf("%s: %s was told after its end: %v", id, kind, kinds)
			}
		}
		if kinds[0] != providers.InstanceRunning {
			l.Errorf("%s: the first event is %s, want running: %v", id, kinds[0], kinds)
		}
	}
}

func watchTellsEverybody(l *lab) {
	first, second := l.watch(l.owner), l.watch(l.owner)
	instances := ids(l.launch("a", 2))
	first.wantRunning(instances...)
	second.wantRunning(instances...)
	l.terminate(instances[0])
	l.Kill(l, instances[1])
	first.wantTerminated(instances...)
	second.wantTerminated(instances...)
}

func watchKeepsOwnersApart(l *lab) {
	ours, theirs := l.watch(l.owner), l.watch(l.otherOwner())
	mine := l.launch("a", 1)[0].ID
	request := l.request("b", 1)
	request.Owner = l.otherOwner()
	other := l.launchRequest(request)[0].ID
	ours.wantRunning(mine)
	theirs.wantRunning(other)
	l.terminate(other, mine)
	theirs.wantTerminated(other)
	ours.wantTerminated(mine)
	if kinds, _ := ours.kinds(other); len(kinds) != 0 {
		l.Errorf("our watch tells %v of another owner's instance", kinds)
	}
	if kinds, _ := theirs.kinds(mine); len(kinds) != 0 {
		l.Errorf("another owner's watch tells %v of our instance", kinds)
	}
}

func watchBeginsWithRunning(l *lab) {
	early := l.watch(l.owner)
	id := l.launch("a", 1)[0].ID
	early.wantRunning(id)
	late := l.watch(l.owner)
	late.wantRunning(id)
	l.terminate(id)
	late.wantTerminated(id)
}

func watchAgain(l *lab) {
	first := l.watch(l.owner)
	instances := ids(l.launch("a", 2))
	first.wantRunning(instances...)
	_ = first.stop() // its error has a subtest of its own
	second := l.watch(l.owner)
	second.wantRunning(instances...)
	l.terminate(instances[0])
	l.Kill(l, instances[1])
	second.wantTerminated(instances...)
}

func watchCallsOneAtATime(l *lab) {
	w := l.watch(l.owner)
	instances := ids(l.launch("a", MostInstances))
	w.wantRunning(instances...)
	_ = w.stop() // the sink itself fails the subtest
	l.terminate(instances...)
}

func watchReturnsContextError(l *lab) {
	w := l.watch(l.owner)
	w.wantRunning(l.launch("a", 1)[0].ID)
	err := w.stop()
	if !errors.Is(err, context.Canceled) {
		l.Errorf("watch returned %v, want the context's error", err)
	}
	l.wantKind(err, providers.KindTransient)
}
