package view

import (
	"context"
	"fmt"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// WatchOptions say where a watch begins and what it is told.
type WatchOptions struct {
	// After is the version to go on after; ignored with Initial.
	After uint64
	// Initial begins with an ADDED for each object there is.
	Initial bool
	// InitialEnd marks the end of these with a bookmark (WatchList).
	InitialEnd bool
	// BookmarkEvery is how often a watcher that has seen nothing new is told the version; 0 is never.
	BookmarkEvery time.Duration
	// New makes an empty object, for bookmarks.
	New func() runtime.Object
}

// takeAtOnce is how many changes a watcher takes out of the window in one go.
const takeAtOnce = 256

// Watch tells the changes of the objects that are selected, until the context ends or Stop is called. It fails with 410
// Expired when the window no longer holds what comes after the version.
func (v *View) Watch(ctx context.Context, resource Resource, selection Selection, options WatchOptions) (watch.Interface, error) {
	ctx, cancel := context.WithCancel(ctx)
	w := &watcher{
		view: v, window: v.windows[resource], selection: selection, options: options, ctx: ctx, cancel: cancel, results: make(chan watch.Event),
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	if options.Initial {
		w.initial, w.seen, w.place = v.pick(resource, selection), v.state.Seq, w.window.next
	} else {
		whole := false
		if w.place, whole = w.window.after(options.After); !whole {
			cancel()
			return nil, expired(options.After, w.window.forgotten)
		}
		w.seen = options.After
	}
	go w.run()
	return w, nil
}

func expired(version, forgotten uint64) *apierrors.StatusError {
	return apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", version, forgotten))
}

// watcher reads the window at its own pace.
type watcher struct {
	view      *View
	window    *window
	selection Selection
	options   WatchOptions
	ctx       context.Context
	cancel    context.CancelFunc
	results   chan watch.Event

	initial []*Record
	// place of the next change to look at.
	place uint64
	// seen is the version up to which all has been told, told the newest one that the client was given.
	seen, told uint64
}

// Stop implements watch.Interface.
func (w *watcher) Stop() { w.cancel() }

// ResultChan implements watch.Interface.
func (w *watcher) ResultChan() <-chan watch.Event { return w.results }

func (w *watcher) run() {
	defer close(w.results)
	defer w.cancel()
	if !w.tellInitial() {
		return
	}
	var bookmarks <-chan time.Time
	if w.options.BookmarkEvery > 0 {
		ticker := time.NewTicker(w.options.BookmarkEvery)
		defer ticker.Stop()
		bookmarks = ticker.C
	}
	for {
		changes, changed, whole := w.take()
		if !whole {
			status := expired(w.seen, 0).Status()
			w.send(watch.Event{Type: watch.Error, Object: &status})
			return
		}
		for _, c := range changes {
			if !w.tell(c) {
				return
			}
		}
		if len(changes) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-bookmarks:
			if w.told < w.seen && !w.bookmark(false) {
				return
			}
		case <-w.ctx.Done():
			return
		}
	}
}

// take returns the next changes and a channel that closes when there may be more; whole is false when some are gone.
func (w *watcher) take() (changes []change, changed <-chan struct{}, whole bool) {
	w.view.mu.RLock()
	defer w.view.mu.RUnlock()
	changes, whole = w.window.from(w.place, takeAtOnce)
	w.place += uint64(len(changes))
	if len(changes) == 0 {
		w.seen = w.view.state.Seq
	}
	return changes, w.view.changed, whole
}

func (w *watcher) tellInitial() bool {
	for _, record := range w.selection.sorted(w.initial) {
		if !w.send(watch.Event{Type: watch.Added, Object: record.Object()}) {
			return false
		}
	}
	w.initial = nil
	return !w.options.InitialEnd || w.bookmark(true)
}

// tell sends what a change means for the selection.
func (w *watcher) tell(c change) bool {
	w.seen = c.version
	was := c.former != nil && w.selection.Matches(c.former)
	is := c.current != nil && w.selection.Matches(c.current)
	var what watch.Event
	switch {
	case is && was:
		what = watch.Event{Type: watch.Modified, Object: c.current.objectAt(c.version)}
	case is:
		what = watch.Event{Type: watch.Added, Object: c.current.objectAt(c.version)}
	case was:
		// An object that is gone, or is selected no more, is shown as it last was.
		what = watch.Event{Type: watch.Deleted, Object: c.former.objectAt(c.version)}
	default:
		return true
	}
	w.told = c.version
	return w.send(what)
}

func (w *watcher) bookmark(endOfInitial bool) bool {
	object := w.options.New()
	accessor, err := meta.Accessor(object)
	if err != nil {
		panic(fmt.Sprintf("view: %T has no metadata: %v", object, err))
	}
	accessor.SetResourceVersion(strconv.FormatUint(w.seen, 10))
	if endOfInitial {
		accessor.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	w.told = w.seen
	return w.send(watch.Event{Type: watch.Bookmark, Object: object})
}

func (w *watcher) send(what watch.Event) bool {
	select {
	case w.results <- what:
		return true
	case <-w.ctx.Done():
		return false
	}
}
