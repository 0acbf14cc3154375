package providertest

import (
	"slices"
	"strings"
	"sync"

	"github.com/nightshift-batch/nightshift/providers"
)

func launchSubtests() []subtest {
	plenty := Faults{Capacity: Plenty}
	return []subtest{
		{"launched instances exist and carry key and offer", plenty, launchedInstancesExist},
		{"two keys launch different instances", plenty, twoKeysLaunchTwice},
		{"launch with a seen key returns the same instances and launches nothing", plenty, replayLaunchesNothing},
		{"launches with one key at the same time launch once", plenty, parallelReplayLaunchesOnce},
		{"launch with a seen key whose instances have ended launches nothing", plenty, replayAfterEndLaunchesNothing},
		{"launch with a seen key and another count is a bad request", plenty, otherCountIsRefused},
		{"launch with a seen key and other offers is a bad request", plenty, otherOffersAreRefused},
		{"launch brings fewer where capacity is short and those exist", Faults{Capacity: 1}, partialLaunch},
		{"launch with the key of a partial launch returns the same instances", Faults{Capacity: 1}, partialReplay},
		{"launch without capacity fails with no-capacity and leaves nothing", Faults{Capacity: 0}, launchWithoutCapacity},
		{"launch of an unknown offer is a bad request", plenty, refusedLaunch(func(r *providers.LaunchRequest) { r.OfferIDs = []string{"no/such/offer"} })},
		{"launch of no offer is a bad request", plenty, refusedLaunch(func(r *providers.LaunchRequest) { r.OfferIDs = nil })},
		{"launch of no instance is a bad request", plenty, refusedLaunch(func(r *providers.LaunchRequest) { r.Count = 0 })},
		{"launch without an owner is a bad request", plenty, refusedLaunch(func(r *providers.LaunchRequest) { r.Owner = "" })},
		{"launch without a key is a bad request", plenty, refusedLaunch(func(r *providers.LaunchRequest) { r.Key = "" })},
		{"launch with a key of 65 characters is a bad request", plenty, refusedLaunch(func(r *providers.LaunchRequest) { r.Key = strings.Repeat("k", 65) })},
		{"launch with a key outside ASCII is a bad request", plenty, refusedLaunch(func(r *providers.LaunchRequest) { r.Key = "schlüssel" })},
	}
}

func launchedInstancesExist(l *lab) {
	request := l.request("a", 2)
	instances := l.launchRequest(request)
	if instances[0].ID == instances[1].ID {
		l.Errorf("two instances have the id %s", instances[0].ID)
	}
	for _, instance := range instances {
		if instance.ID == "" || instance.Key != request.Key || !slices.Contains(request.OfferIDs, instance.OfferID) {
			l.Errorf("launch %s of %v brought %+v", request.Key, request.OfferIDs, instance)
		}
		if instance.State != providers.Pending && instance.State != providers.Running {
			l.Errorf("a new instance is %s", instance.State)
		}
	}
	l.wantListed(l.owner, ids(instances))
}

func twoKeysLaunchTwice(l *lab) {
	all := append(ids(l.launch("a", 1)), ids(l.launch("b", 1))...)
	if all[0] == all[1] {
		l.Errorf("two launches brought the same instance %s", all[0])
	}
	l.wantListed(l.owner, all)
}

func replayLaunchesNothing(l *lab) {
	first := ids(l.launch("a", 2))
	l.wantSame(first, ids(l.launch("a", 2)))
	l.wantListed(l.owner, first)
}

func parallelReplayLaunchesOnce(l *lab) {
	const callers = 4
	var got [callers][]string
	var errs [callers]error
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			result, err := l.Provider.Launch(l.ctx, l.request("a", 2))
			got[i], errs[i] = ids(result.Instances), err
		})
	}
	wg.Wait()
	var launched []string
	for i := range callers {
		// A caller that came second may be asked to come again; it then finds what the first has launched.
		if kind := providers.KindOf(errs[i]); kind == providers.KindTransient || kind == providers.KindThrottled {
			got[i] = ids(l.launch("a", 2))
		} else if errs[i] != nil {
			l.Fatalf("caller %d: %v", i, errs[i])
		}
		if i == 0 {
			launched = got[0]
		}
		l.wantSame(launched, got[i])
	}
	l.wantListed(l.owner, launched)
}

func replayAfterEndLaunchesNothing(l *lab) {
	first := ids(l.launch("a", 1))
	l.terminate(first...)
	result, err := l.Provider.Launch(l.ctx, l.request("a", 1))
	if err != nil {
		l.Fatalf("launch again: %v", err)
	}
	l.wantSame(first, ids(result.Instances))
	for _, instance := range result.Instances {
		if instance.State != providers.Terminated {
			l.Errorf("the instance that ended is told to be %s", instance.State)
		}
	}
	l.wantListed(l.owner, nil)
}

func otherCountIsRefused(l *lab) {
	first := ids(l.launch("a", 1))
	result, err := l.Provider.Launch(l.ctx, l.request("a", 2))
	l.wantRefused(result, err, providers.KindBadRequest)
	l.wantListed(l.owner, first)
}

func otherOffersAreRefused(l *lab) {
	request := l.request("a", 1)
	request.OfferIDs = l.offers[:1]
	first := ids(l.launchRequest(request))
	request.OfferIDs = l.offers[1:2]
	result, err := l.Provider.Launch(l.ctx, request)
	l.wantRefused(result, err, providers.KindBadRequest)
	l.wantListed(l.owner, first)
}

func partialLaunch(l *lab) {
	result, err := l.Provider.Launch(l.ctx, l.request("a", 3))
	if err != nil {
		l.wantKind(err, providers.KindNoCapacity)
	}
	if len(result.Instances) != 1 {
		l.Fatalf("with a capacity of 1, a launch of 3 brought %d (error %v)", len(result.Instances), err)
	}
	l.wantListed(l.owner, ids(result.Instances))
}

func partialReplay(l *lab) {
	first, firstErr := l.Provider.Launch(l.ctx, l.request("a", 3))
	if len(first.Instances) != 1 {
		l.Fatalf("with a capacity of 1, a launch of 3 brought %d (error %v)", len(first.Instances), firstErr)
	}
	second, err := l.Provider.Launch(l.ctx, l.request("a", 3))
	if err != nil {
		l.wantKind(err, providers.KindNoCapacity)
	}
	l.wantSame(ids(first.Instances), ids(second.Instances))
	l.wantListed(l.owner, ids(first.Instances))
}

func launchWithoutCapacity(l *lab) {
	result, err := l.Provider.Launch(l.ctx, l.request("a", 2))
	l.wantRefused(result, err, providers.KindNoCapacity)
	l.wantListed(l.owner, nil)
}

func refusedLaunch(spoil func(*providers.LaunchRequest)) func(*lab) {
	return func(l *lab) {
		request := l.request("a", 1)
		spoil(&request)
		result, err := l.Provider.Launch(l.ctx, request)
		l.wantRefused(result, err, providers.KindBadRequest)
		l.wantListed(l.owner, nil)
	}
}
