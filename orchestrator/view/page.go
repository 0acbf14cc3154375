package view

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
)

const (
	// bookmarkEvery is how often a watch that asks for it learns the current version, as in Kubernetes.
	bookmarkEvery = time.Minute
	// newerWithin bounds how long a request waits for a version that is not shown yet, as Kubernetes' watch cache does.
	newerWithin = 3 * time.Second
)

// Reach waits until a version is shown that a client has seen elsewhere, and returns it; 0 for none, "" and "0". Its errors are the API's.
func (v *View) Reach(ctx context.Context, version string) (uint64, error) {
	if version == "" || version == "0" {
		return 0, nil
	}
	wanted, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("resourceVersion %q is not one that this server has given", version))
	}
	limit, cancel := context.WithTimeout(ctx, newerWithin)
	defer cancel()
	if err := v.WaitFor(limit, wanted); err != nil {
		return 0, storage.NewTooLargeResourceVersionError(wanted, v.Seq(), 1)
	}
	return wanted, nil
}

// WatchFrom says where a watch begins and what it is told, with the meaning that Kubernetes gives to versions and initial events
// (https://kubernetes.io/docs/reference/using-api/api-concepts/#semantics-for-watch).
func (v *View) WatchFrom(ctx context.Context, version string, initialEvents *bool, bookmarks bool, empty func() runtime.Object) (WatchOptions, error) {
	begin := WatchOptions{New: empty}
	if bookmarks {
		begin.BookmarkEvery = bookmarkEvery
	}
	after, err := v.Reach(ctx, version)
	switch {
	case err != nil:
		return WatchOptions{}, err
	case initialEvents != nil && *initialEvents:
		begin.Initial, begin.InitialEnd = true, bookmarks
	case after != 0:
		begin.After = after
	case initialEvents != nil:
		begin.After = v.Seq()
	default:
		begin.Initial = true
	}
	return begin, nil
}

// PageOptions say which part of a list is wanted, in the words of a list request.
type PageOptions struct {
	Version string
	Match   metav1.ResourceVersionMatch
	// Limit is how many objects are wanted at most; 0 for all. Continue goes on where the page ended that gave it.
	Limit    int64
	Continue string
}

// Page is a list or a part of one.
type Page struct {
	Records []*Record
	// Version at which the whole list, this page in it, was so.
	Version uint64
	// Continue is what the next page is asked for with; empty for the last one. Remaining is how many objects come after this page, if that is
	// known.
	Continue  string
	Remaining *int64
}

// Page returns a list, or a part of it. Pages that follow one another are of one version, and are answered with 410 Expired when that is kept no
// more. Its errors are the API's.
func (v *View) Page(ctx context.Context, resource Resource, selection Selection, options PageOptions) (Page, error) {
	from, version, err := v.pageBegin(ctx, options)
	if err != nil {
		return Page{}, err
	}
	page := Page{Version: version}
	if version == 0 {
		page.Records, page.Version = v.List(resource, selection)
	} else if page.Records, err = v.listAt(resource, selection, version); err != nil {
		if status, ok := err.(*apierrors.StatusError); ok && from != nil {
			// The client may go on at the current version, and be told so that it has no whole list.
			status.ErrStatus.ListMeta.Continue, _ = encodeContinue(*from, -1)
		}
		return Page{}, err
	}
	if from != nil {
		begin, _ := slices.BinarySearchFunc(page.Records, *from, func(r *Record, key Key) int {
			if order := r.key.compare(key); order != 0 {
				return order
			}
			return -1 // it was the last of the page before
		})
		page.Records = page.Records[begin:]
	}
	if left := int64(len(page.Records)) - options.Limit; options.Limit > 0 && left > 0 {
		page.Records = page.Records[:options.Limit]
		if page.Continue, err = encodeContinue(page.Records[options.Limit-1].key, int64(page.Version)); err != nil {
			return Page{}, apierrors.NewInternalError(err)
		}
		if selection.Labels == nil && selection.Fields == nil || selection.isAll() {
			page.Remaining = &left
		}
	}
	return page, nil
}

func (s Selection) isAll() bool {
	return (s.Labels == nil || s.Labels.Empty()) && (s.Fields == nil || s.Fields.Empty())
}

// pageBegin returns the key after which a page begins, nil for the beginning, and the version that it is of, 0 for the current one.
func (v *View) pageBegin(ctx context.Context, options PageOptions) (*Key, uint64, error) {
	if options.Continue == "" {
		wanted, err := v.Reach(ctx, options.Version)
		if err != nil {
			return nil, 0, err
		}
		// As storage.ValidateListOptions of k8s.io/apiserver has it, a limit alone means this version exactly.
		if options.Match == metav1.ResourceVersionMatchExact || options.Match == "" && options.Limit > 0 {
			return nil, wanted, nil
		}
		return nil, 0, nil
	}
	token, version, err := storage.DecodeContinue(options.Continue, "/")
	if err != nil {
		return nil, 0, apierrors.NewBadRequest(fmt.Sprintf("invalid continue token: %v", err))
	}
	if options.Version != "" && options.Version != "0" {
		return nil, 0, apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
	}
	namespace, name, _ := strings.Cut(strings.TrimPrefix(token, "/"), "/")
	if namespace == noNamespace {
		namespace = ""
	}
	return &Key{namespace, name}, uint64(max(0, version)), nil
}

// noNamespace stands for none in a token; no namespace has that name.
const noNamespace = "-"

func encodeContinue(last Key, version int64) (string, error) {
	if last.Namespace == "" {
		last.Namespace = noNamespace
	}
	return storage.EncodeContinue("/"+last.id(), "/", version)
}

// listAt returns the objects that were selected at a version: what has changed since is undone.
func (v *View) listAt(resource Resource, selection Selection, version uint64) ([]*Record, error) {
	v.mu.RLock()
	w := v.windows[resource]
	place, whole := w.after(version)
	if !whole {
		defer v.mu.RUnlock()
		return nil, expired(version, w.forgotten)
	}
	changes, _ := w.from(place, int(w.next-place))
	records := v.pick(resource, Selection{})
	v.mu.RUnlock()
	was := make(map[string]*Record)
	for _, c := range slices.Backward(changes) {
		if c.former != nil {
			was[c.former.id] = c.former
		} else {
			was[c.current.id] = nil
		}
	}
	if len(was) > 0 {
		records = slices.DeleteFunc(records, func(r *Record) bool { _, changed := was[r.id]; return changed })
		for _, record := range was {
			if record != nil {
				records = append(records, record)
			}
		}
	}
	return selection.sorted(records), nil
}
