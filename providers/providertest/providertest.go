// Package providertest is the conformance suite of providers: each promise in the package comment of providers is a subtest here.
//
// One suite serves every provider, in process and through the plugin's wire, so it asks nothing of a provider beyond the
// contract. What only some can do (providers.Interrupter) is not part of it. What the suite needs from outside the contract, a
// Harness supplies: a fresh provider with a known capacity, a way to end an instance behind the provider's back, and a look at
// the truth that does not ask the provider. No subtest is ever skipped: the number that Run returns is the same for all.
package providertest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nightshift-batch/nightshift/providers"
)

// Plenty as a capacity means at least MostInstances.
const Plenty = -1

// MostInstances is the most instances that a subtest has at the same time.
const MostInstances = 8

// Faults is what is wrong with the source of instances that a subtest's provider draws on.
type Faults struct {
	// Capacity is how many instances all the selected offers together can lend at the same time; Plenty when it does not
	// matter. With a capacity of 1, a launch of 2 brings one instance.
	Capacity int
}

// Subject is a provider under test and two ways around it.
type Subject struct {
	Provider providers.Provider
	// Kill ends a running instance behind the provider's back, as a cloud or a broken machine does. It may return before the
	// instance is gone.
	Kill func(t testing.TB, instanceID string)
	// Alive says whether an instance can still be billed or run anything, without asking the provider.
	Alive func(t testing.TB, instanceID string) bool
}

// Harness is what a provider brings to be tested. Every field without a default is required.
type Harness struct {
	// Name is printed with the number of subtests.
	Name string
	// New makes the provider for one subtest and ends it in t.Cleanup. Subtests use owners and keys of their own, so providers
	// of several subtests may share a source.
	New func(t *testing.T, faults Faults) Subject
	// Owner begins the owner's tags and the keys: at most 20 ASCII characters. Default "providertest".
	Owner string
	// Select says which offers the suite may launch: at least two. Default all.
	Select func(providers.Offer) bool
	// Bootstrap goes with each launch.
	Bootstrap providers.Bootstrap
	// UnknownInstanceID has the shape of an instance's id and never was one. Default "no-such-instance".
	UnknownInstanceID string
	// Patience is how long the suite waits for an instance to boot, to end, or for an event to arrive. Default 20 seconds.
	Patience time.Duration
}

// subtest is one promise.
type subtest struct {
	name   string
	faults Faults
	run    func(*lab)
}

// Run runs the suite, logs the number of subtests that ran, and returns it.
func Run(t *testing.T, harness Harness) int {
	t.Helper()
	harness = withDefaults(t, harness)
	var subtests []subtest
	for _, group := range [][]subtest{offersSubtests(), launchSubtests(), terminateSubtests(), listSubtests(), watchSubtests(), callSubtests()} {
		subtests = append(subtests, group...)
	}
	run := runID(t)
	var ran atomic.Int64
	for i, s := range subtests {
		t.Run(s.name, func(t *testing.T) {
			ran.Add(1)
			t.Cleanup(func() {
				if t.Skipped() {
					t.Error("a subtest of the suite may not be skipped")
				}
			})
			s.run(newLab(t, harness, s.faults, fmt.Sprintf("%s-%s-%d", harness.Owner, run, i)))
		})
	}
	// "note: " has make test show it.
	t.Logf("note: provider %s passes %d subtests of the contract", harness.Name, ran.Load())
	return int(ran.Load())
}

func withDefaults(t *testing.T, harness Harness) Harness {
	t.Helper()
	if harness.New == nil || harness.Name == "" {
		t.Fatal("providertest: a harness needs Name and New")
	}
	if harness.Owner == "" {
		harness.Owner = "providertest"
	}
	if harness.Select == nil {
		harness.Select = func(providers.Offer) bool { return true }
	}
	if harness.UnknownInstanceID == "" {
		harness.UnknownInstanceID = "no-such-instance"
	}
	if harness.Patience == 0 {
		harness.Patience = 20 * time.Second
	}
	return harness
}

// runID keeps the owners and keys of two runs against one source apart.
func runID(t *testing.T) string {
	t.Helper()
	var id [4]byte
	if _, err := rand.Read(id[:]); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(id[:])
}

// lab is where one subtest works.
type lab struct {
	*testing.T
	Subject
	harness Harness
	// ctx ends when the subtest has run out of patience several times over.
	ctx context.Context
	// owner is the subtest's own.
	owner string
	// offers are the ids of the selected offers.
	offers []string
}

func newLab(t *testing.T, harness Harness, faults Faults, owner string) *lab {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*harness.Patience)
	t.Cleanup(cancel)
	l := &lab{T: t, Subject: harness.New(t, faults), harness: harness, ctx: ctx, owner: owner}
	if l.Provider == nil || l.Kill == nil || l.Alive == nil {
		t.Fatal("providertest: Harness.New must give Provider, Kill and Alive")
	}
	for _, offer := range l.allOffers() {
		if harness.Select(offer) {
			l.offers = append(l.offers, offer.ID)
		}
	}
	if len(l.offers) < 2 {
		t.Fatalf("providertest: Harness.Select must select at least two offers, it selects %d", len(l.offers))
	}
	t.Cleanup(func() { l.giveBack(owner); l.giveBack(l.otherOwner()) })
	return l
}

func (l *lab) otherOwner() string { return l.owner + "x" }

// giveBack ends whatever the subtest left running.
func (l *lab) giveBack(owner string) {
	l.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), l.harness.Patience)
	defer cancel()
	left, err := l.Provider.List(ctx, owner)
	if err != nil {
		l.Errorf("list what is left over: %v", err)
	}
	if err := l.Provider.Terminate(ctx, ids(left)); err != nil {
		l.Errorf("terminate what is left over: %v", err)
	}
}

func (l *lab) allOffers() []providers.Offer {
	l.Helper()
	offers, err := l.Provider.Offers(l.ctx)
	if err != nil {
		l.Fatalf("offers: %v", err)
	}
	return offers
}

// request asks for count instances under a key of the subtest's own.
func (l *lab) request(key string, count int) providers.LaunchRequest {
	return providers.LaunchRequest{Key: l.owner + "-" + key, Owner: l.owner, OfferIDs: l.offers, Count: count, Bootstrap: l.harness.Bootstrap}
}

// launch launches and expects to get all that it asked for.
func (l *lab) launch(key string, count int) []providers.Instance {
	l.Helper()
	return l.launchRequest(l.request(key, count))
}

func (l *lab) launchRequest(request providers.LaunchRequest) []providers.Instance {
	l.Helper()
	result, err := l.Provider.Launch(l.ctx, request)
	if err != nil {
		l.Fatalf("launch %s: %v", request.Key, err)
	}
	if len(result.Instances) != request.Count {
		l.Fatalf("launch %s brought %d instances, want %d", request.Key, len(result.Instances), request.Count)
	}
	return result.Instances
}

func (l *lab) terminate(instanceIDs ...string) {
	l.Helper()
	if err := l.Provider.Terminate(l.ctx, instanceIDs); err != nil {
		l.Fatalf("terminate %v: %v", instanceIDs, err)
	}
}

func (l *lab) list(owner string) []providers.Instance {
	l.Helper()
	instances, err := l.Provider.List(l.ctx, owner)
	if err != nil {
		l.Fatalf("list %s: %v", owner, err)
	}
	return instances
}

// eventually polls a condition that nothing signals, at least once, for as long as the harness has patience.
func (l *lab) eventually(what string, condition func() bool) {
	l.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(l.harness.Patience)
	for !condition() {
		select {
		case <-ticker.C:
		case <-deadline:
			l.Fatalf("not within %v: %s", l.harness.Patience, what)
		}
	}
}

func ids(instances []providers.Instance) []string {
	names := make([]string, 0, len(instances))
	for _, instance := range instances {
		names = append(names, instance.ID)
	}
	return names
}
