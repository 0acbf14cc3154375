package object_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/object"
)

// world is a store under random commands, with its log.
type world struct {
	t     *testing.T
	rand  *rand.Rand
	store *object.Store
	now   time.Time
	seq   uint64
	log   []*event.Fact
	// outside are UIDs that exist elsewhere.
	outside map[string]bool
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{
		t: t, rand: rand.New(rand.NewPCG(seed, 0)), store: object.NewStore(), now: time.Date(2026, 3, 1, 22, 0, 0, 0, time.UTC), seq: 1,
		outside: map[string]bool{"job": true},
	}
	w.store.Begin(1)
	return w
}

// Exists implements object.Outside.
func (w *world) Exists(uid string) bool { return w.outside[uid] }

// Holds implements object.Outside.
func (w *world) Holds(string) bool { return false }

func (w *world) apply(decided []object.Decided) {
	for _, each := range decided {
		fact := event.Of(each.Tenant, w.now, each.Fact)
		encoded, err := event.Encode(fact)
		if err != nil {
			w.t.Fatal(err)
		}
		if fact, err = event.Decode(encoded); err != nil {
			w.t.Fatal(err)
		}
		w.seq++
		w.store.Apply(fact, w.seq)
		w.log = append(w.log, fact)
	}
}

// settle applies what follows, which has to end.
func (w *world) settle() {
	for range 1000 {
		decided := w.store.Settle(w.now, w)
		if len(decided) == 0 {
			return
		}
		w.apply(decided)
	}
	w.t.Fatal("something follows for ever")
}

var finalizers = []string{"orphan", "foregroundDeletion", "example.com/busy"}

// step is one random command, or some time.
func (w *world) step() {
	namespace := []string{"default", "team"}[w.rand.IntN(2)]
	key := object.Key{Resource: []string{"configmaps", "secrets", "events"}[w.rand.IntN(3)], Namespace: namespace, Name: fmt.Sprint(w.rand.IntN(6))}
	if w.rand.IntN(8) == 0 {
		key = object.Key{Resource: object.Namespaces, Name: namespace}
	}
	known, exists := w.store.Get(key)
	put := &object.Put{Key: key, UID: fmt.Sprintf("%s/%s/%s", key.Resource, key.Namespace, key.Name), Object: make([]byte, w.rand.IntN(9)), Create: !exists}
	switch w.rand.IntN(6) {
	case 0:
		decided, err := w.store.Delete(key, "", 0)
		w.obeyed(decided, err)
	case 1:
		w.now = w.now.Add(time.Duration(w.rand.IntN(40)) * time.Minute)
	case 2:
		if w.outside["job"] = w.rand.IntN(4) > 0; !w.outside["job"] {
			w.store.OwnerChanged("job")
		}
	default:
		if exists {
			put.UID = known.UID
			put.Deleting = known.Deleting || w.rand.IntN(3) == 0
		}
		if key.Resource == object.Namespaces {
			break
		}
		if key.Resource == object.Events {
			put.Lasts = time.Hour
		}
		for _, finalizer := range finalizers {
			if w.rand.IntN(5) == 0 {
				put.Finalizers = append(put.Finalizers, finalizer)
			}
		}
		for range w.rand.IntN(3) {
			owner := object.Owner{UID: fmt.Sprintf("configmaps/%s/%d", namespace, w.rand.IntN(6)), Blocks: w.rand.IntN(2) == 0}
			if w.rand.IntN(5) == 0 {
				owner = object.Owner{UID: "job"}
			}
			put.Owners = append(put.Owners, owner)
		}
		decided, err := w.store.Put(put, w.now)
		w.obeyed(decided, err)
		return
	}
	if key.Resource == object.Namespaces {
		decided, err := w.store.Put(put, w.now)
		w.obeyed(decided, err)
	}
}

func (w *world) obeyed(decided []object.Decided, err error) {
	var refusal *object.Refusal
	if err != nil && (!errors.As(err, &refusal) || decided != nil) {
		w.t.Fatalf("%v, with %d facts", err, len(decided))
	}
	w.apply(decided)
}

// TestRandomHistoriesLeaveNothingThatShouldHaveGone holds the store against its invariants after each step, and a second one that has read the log
// against the first.
func TestRandomHistoriesLeaveNothingThatShouldHaveGone(t *testing.T) {
	seeds := uint64(300)
	if testing.Short() {
		seeds = 30
	}
	kinds := make(map[string]int)
	for seed := range seeds {
		w := newWorld(t, seed)
		for range 120 {
			w.step()
			w.settle()
			if broken := w.store.Check(w); len(broken) > 0 {
				t.Fatalf("seed %d, after fact %d: %v", seed, w.seq, broken)
			}
		}
		again := object.NewStore()
		again.Begin(1)
		for i, fact := range w.log {
			again.Apply(fact, uint64(i)+2)
			kinds[fact.GetKind()]++
		}
		if got, want := written(again), written(w.store); got != want {
			t.Fatalf("seed %d: the log gives\n%s\nnot\n%s", seed, got, want)
		}
		if decided := again.Settle(w.now, w); len(decided) > 0 {
			t.Fatalf("seed %d: the store that has read the log is not at rest: %v", seed, decided)
		}
		if got, want := again.Wake(w.now), w.store.Wake(w.now); !got.Equal(want) {
			t.Fatalf("seed %d: the store that has read the log wakes at %v, the other at %v", seed, got, want)
		}
	}
	for _, kind := range []string{"object_put", "object_deleted", "object_deletion_requested", "object_released"} {
		if kinds[kind] < int(seeds) {
			t.Errorf("there were %d facts of kind %s: the histories say little", kinds[kind], kind)
		}
	}
}

func written(store *object.Store) string {
	var lines []string
	for _, o := range store.Sorted() {
		lines = append(lines, fmt.Sprintf("%v uid %s version %d bytes %d finalizers %q owners %v deleting %v expires %v",
			o.Key, o.UID, o.Version, o.Bytes, o.Finalizers, o.Owners, o.Deleting, o.Expires))
	}
	return strings.Join(lines, "\n")
}

func TestANamespaceHoldsSoMuch(t *testing.T) {
	w := newWorld(t, 0)
	put := func(resource, namespace, name string, bytes int, create bool) error {
		decided, err := w.store.Put(&object.Put{Key: object.Key{Resource: resource, Namespace: namespace, Name: name}, Object: make([]byte, bytes), Create: create}, w.now)
		w.obeyed(decided, err)
		w.settle()
		return err
	}
	problem := func(err error) object.Problem {
		var refusal *object.Refusal
		if errors.As(err, &refusal) {
			return refusal.Problem
		}
		return 0
	}
	if err := put("configmaps", "default", "large", object.MaxBytes+1, true); problem(err) != object.TooLarge {
		t.Errorf("one that is too large: %v", err)
	}
	for i := range object.MaxTenantBytes / object.MaxBytes {
		if err := put("configmaps", "default", fmt.Sprint("large", i), object.MaxBytes, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := put("secrets", "default", "more", object.MaxBytes, true); problem(err) != object.Forbidden || !strings.Contains(err.Error(), "exceeded quota") {
		t.Errorf("more bytes than a namespace holds: %v", err)
	}
	if err := put("configmaps", "default", "large0", 1, false); err != nil {
		t.Errorf("one becomes smaller: %v", err)
	}
	if err := put("secrets", "default", "more", object.MaxBytes, true); err != nil {
		t.Errorf("then there is room: %v", err)
	}
	if err := put(object.Namespaces, "", "team", 0, true); err != nil {
		t.Fatal(err)
	}
	for i := range object.MaxObjects {
		if err := put("leases", "team", fmt.Sprint(i), 1, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := put("leases", "team", "more", 1, true); problem(err) != object.Forbidden || !strings.Contains(err.Error(), "exceeded quota") {
		t.Errorf("more objects than a namespace holds: %v", err)
	}
	if err := put("leases", "team", "0", 2, false); err != nil {
		t.Errorf("one is replaced: %v", err)
	}
	for i := range object.MaxEvents + 2 {
		if err := put(object.Events, "team", fmt.Sprint(i), 1, true); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			continue
		}
		// The first one is seen again and again, so it is never the oldest.
		if err := put(object.Events, "team", "0", 1, false); err != nil {
			t.Fatal(err)
		}
	}
	left := make(map[string]bool)
	for _, o := range w.store.Sorted() {
		left[o.Name] = left[o.Name] || o.Resource == object.Events
	}
	maps.DeleteFunc(left, func(_ string, event bool) bool { return !event })
	if len(left) != object.MaxEvents || !left["0"] || left["1"] || left["2"] || !left["3"] {
		t.Errorf("of the events there are %d: %v", len(left), slices.Sorted(maps.Keys(left))[:5])
	}
	if broken := w.store.Check(w); len(broken) > 0 {
		t.Error(broken)
	}
}
