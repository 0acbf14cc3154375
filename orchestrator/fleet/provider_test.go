package fleet_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/fleet"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
	"github.com/nightshift-batch/nightshift/providers"
)

func TestAPassingFaultIsTriedAgainUnderTheSameKeyWithTheSameRequest(t *testing.T) {
	w := prepareWorld(t)
	w.cloud.refuse = func(call int) error {
		switch call {
		case 1:
			return refusal(providers.KindThrottled, "slow down")
		case 2:
			return errors.New("connection reset")
		}
		return nil
	}
	w.start()
	w.control.createJob(t, "one", 1)
	launch := receive(t, "a launch", w.cloud.launched)
	w.control.await(t, "the node", func(s *engine.State) bool { return len(s.Nodes) == 1 })
	w.cloud.set(func(c *cloud) {
		if len(c.requests) != 3 {
			t.Errorf("%d calls, want 3", len(c.requests))
		}
		for _, request := range c.requests {
			if !reflect.DeepEqual(request, launch.request) {
				t.Errorf("request %+v differs from %+v", request, launch.request)
			}
		}
	})
	request := launch.request
	if request.Owner != owner || request.Count != 1 || !slices.Equal(request.OfferIDs, []string{"zone-a/small/spot"}) ||
		request.Bootstrap.Token != fleet.JoinToken(w.authority.Secret(), request.Key) || request.Bootstrap.Address == "" {
		t.Errorf("the request is %+v", request)
	}
	if settled := w.control.settled(); len(settled) != 1 || settled[0].GetErrorKind() != "" {
		t.Errorf("the outcomes are %v", settled)
	}
}

func TestALaunchIsGivenUpAfterTheTriesAndSettledByWhatIsThere(t *testing.T) {
	for name, late := range map[string]bool{"nothing came of it": false, "an instance came of it": true} {
		t.Run(name, func(t *testing.T) {
			w := prepareWorld(t)
			w.cloud.afterLaunch = func(context.Context, []providers.Instance) ([]providers.Instance, error) {
				return nil, errors.New("the answer was lost")
			}
			w.cloud.refuse = func(call int) error {
				if call < fleet.DefaultLaunchTries || !late {
					return errors.New("connection reset")
				}
				return nil
			}
			w.start()
			w.control.createJob(t, "one", 1)
			w.control.await(t, "the launch to be settled", func(s *engine.State) bool { return s.Launched > 0 && len(s.Launches) == 0 })
			settled := w.control.settled()[0]
			switch {
			case late && (len(settled.GetNodes()) != 1 || settled.GetErrorKind() != ""):
				t.Errorf("the outcome is %v, want the instance that is there", settled)
			case !late && (len(settled.GetNodes()) != 0 || settled.GetErrorKind() != "transient" || !strings.Contains(settled.GetError(), "connection reset")):
				t.Errorf("the outcome is %v, want the error", settled)
			}
			w.cloud.set(func(c *cloud) {
				if len(c.requests) != fleet.DefaultLaunchTries {
					t.Errorf("%d calls, want %d", len(c.requests), fleet.DefaultLaunchTries)
				}
			})
		})
	}
}

func TestNoCapacityIsAnOutcomeAtOnceAndOffersAreAskedForAgain(t *testing.T) {
	w := prepareWorld(t)
	w.cloud.refuse = func(int) error { return refusal(providers.KindNoCapacity, "zone-a has none left") }
	cheaper := w.cloud.offers[0]
	cheaper.PriceMicrosPerHour = 1
	w.start()
	w.control.await(t, "offers", func(s *engine.State) bool { return len(s.Offers["cloud"]) == 1 })
	w.cloud.set(func(c *cloud) { c.offers = []providers.Offer{cheaper} })
	w.control.createJob(t, "one", 1)
	w.control.await(t, "the new price", func(s *engine.State) bool { return s.Offers["cloud"][0].GetPriceMicrosPerHour() == 1 })
	settled := w.control.settled()
	if len(settled) != 1 || settled[0].GetErrorKind() != "no-capacity" || settled[0].GetPauseUntilUnixNano() == 0 {
		t.Errorf("the outcomes are %v", settled)
	}
}

func TestFewerInstancesThanAskedForIsAShortfallOfCapacity(t *testing.T) {
	w := prepareWorld(t)
	w.cloud.afterLaunch = func(_ context.Context, instances []providers.Instance) ([]providers.Instance, error) {
		return instances[:1], nil
	}
	w.start()
	w.control.createJob(t, "two", 2)
	w.control.await(t, "one node", func(s *engine.State) bool { return len(s.Nodes) == 1 && len(s.Launches) == 0 })
	if settled := w.control.settled()[0]; settled.GetErrorKind() != "no-capacity" || settled.GetPauseUntilUnixNano() == 0 {
		t.Errorf("the outcome is %v", settled)
	}
	// The one that the provider did not name carries our tag and the launch is closed: it is nobody's.
	w.cloud.set(func(c *cloud) { close(c.breakWatch); c.breakWatch = make(chan struct{}) })
	awaitEnded(t, w.cloud, "i-2")
}

func TestALaunchWhoseOutcomeWasLostIsSettledByLookingAfterARestart(t *testing.T) {
	w := prepareWorld(t)
	w.cloud.afterLaunch = func(ctx context.Context, _ []providers.Instance) ([]providers.Instance, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	w.start()
	w.control.createJob(t, "one", 1)
	lost := receive(t, "a launch", w.cloud.launched)
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	if settled := w.control.settled(); len(settled) != 0 {
		t.Fatalf("an outcome that nobody knows is on record: %v", settled)
	}
	w.start(func(c *fleet.Config) { lost.request.Bootstrap.Address = c.Listener.Addr().String() })
	w.control.await(t, "the instance on record", func(s *engine.State) bool {
		_, ok := s.NodeOf("cloud", lost.instances[0].ID)
		return ok
	})
	w.cloud.set(func(c *cloud) {
		if len(c.requests) != 1 {
			t.Errorf("%d calls of Launch, want the one before the restart", len(c.requests))
		}
	})
	adopted := newAgent(t, lost.request.Bootstrap, lost.instances[0].ID)
	if err := adopted.join(); err != nil {
		t.Fatal(err)
	}
	adopted.session().pod()
}

func TestALaunchThatWasNeverMadeIsMadeAfterARestart(t *testing.T) {
	w := prepareWorld(t)
	w.cloud.listError = errors.New("no list today")
	w.start()
	w.control.createJob(t, "one", 1)
	w.control.await(t, "a launch", func(s *engine.State) bool { return len(s.Launches) == 1 })
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	w.cloud.set(func(c *cloud) {
		if len(c.requests) != 0 {
			t.Error("something was launched before it was known what is there")
		}
		c.listError = nil
	})
	w.start()
	w.boot()
}

func TestAfterARestartInstancesThatAreNotThereAreGone(t *testing.T) {
	w := newWorld(t)
	w.control.createJob(t, "two", 2)
	agents := w.boot()
	c := agents[0].session()
	pod := c.pod()
	c.report(pod.GetUid(), pod.GetEpoch(), wire.PodReport_RUNNING)
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	w.cloud.set(func(c *cloud) { delete(c.instances, agents[0].instanceID) })
	w.start()
	w.control.await(t, "the lost node gone", func(s *engine.State) bool { return s.Nodes[agents[0].node] == nil })
	w.control.await(t, "the other still there", func(s *engine.State) bool { return s.Nodes[agents[1].node] != nil })
	if got := w.control.pod(pod.GetUid()); got.Outcome == job.Live {
		t.Errorf("the pod is %+v", got)
	}
	w.boot()
}

func TestOnlyInstancesWithOurTagThatNoRecordKnowsAreGivenBack(t *testing.T) {
	w := prepareWorld(t)
	w.cloud.lend(owner, "a key of a log that was lost", "offer")
	w.cloud.lend("somebody else", "a key", "offer")
	w.start()
	w.control.createJob(t, "one", 1)
	node := w.boot()[0]
	awaitEnded(t, w.cloud, "i-1")
	node.session().pod()
	w.cloud.set(func(c *cloud) {
		if !slices.Equal(c.ended, []string{"i-1"}) {
			t.Errorf("given back: %v, want the stray alone", c.ended)
		}
	})
}

func TestOneInstanceThatCannotBeGivenBackKeepsNoOther(t *testing.T) {
	w := newWorld(t)
	w.control.createJob(t, "two", 2)
	agents := w.boot()
	stuck, mended := agents[0], make(chan struct{})
	w.cloud.set(func(c *cloud) {
		c.refuseEnd = func(ids []string) error {
			select {
			case <-mended:
				return nil
			default:
			}
			if slices.Contains(ids, stuck.instanceID) {
				return &providers.Error{Kind: providers.KindTransient, Op: "terminate", Err: errors.New("not now")}
			}
			return nil
		}
	})
	w.control.must(t, engine.CloseFleet{Reason: "the test is over"})
	// Both nodes hold no pod: they have not joined.
	w.control.await(t, "the other node gone", func(s *engine.State) bool { return s.Nodes[agents[1].node] == nil })
	if w.fleet.Empty() {
		t.Error("the fleet is empty while an instance cannot be given back")
	}
	close(mended)
	receive(t, "an idle fleet", w.fleet.Idle())
}

func TestWhatHappensToAnInstanceBeforeItIsOnRecordIsNotForgotten(t *testing.T) {
	w := prepareWorld(t)
	once := true
	w.cloud.afterLaunch = func(ctx context.Context, instances []providers.Instance) ([]providers.Instance, error) {
		if !once {
			return instances, nil
		}
		once = false
		w.cloud.set(func(c *cloud) { c.end(instances[0].ID, "reclaimed at once") })
		w.control.await(t, "the news of its end", func(*engine.State) bool { return w.control.asked["engine.InstanceGone"] > 0 })
		return instances, nil
	}
	w.start()
	poll(t, "an open watch", func() (open bool) {
		w.cloud.set(func(c *cloud) { open = len(c.watchers) == 1 })
		return open
	})
	// A list would find it, too, but later.
	w.cloud.set(func(c *cloud) { c.listError = errors.New("no list today") })
	w.control.createJob(t, "one", 1)
	receive(t, "a launch", w.cloud.launched)
	second := receive(t, "a launch in its place", w.cloud.launched)
	w.control.await(t, "the first node gone", func(s *engine.State) bool {
		_, there := s.NodeOf("cloud", "i-1")
		_, replaced := s.NodeOf("cloud", second.instances[0].ID)
		return !there && replaced
	})
	for _, cause := range w.control.gone() {
		if cause != "reclaimed at once" {
			t.Errorf("the node went by %q", cause)
		}
	}
}

func TestWhatHappenedWhileNobodyWatchedIsFoundByAList(t *testing.T) {
	w := newWorld(t, func(c *fleet.Config) { c.ReconcileEvery = time.Hour })
	w.control.createJob(t, "one", 1)
	node := w.boot()[0]
	c := node.session()
	c.pod()
	w.cloud.set(func(c *cloud) {
		c.instances[node.instanceID].State = providers.Terminated
		close(c.breakWatch)
		c.breakWatch = make(chan struct{})
	})
	w.control.await(t, "the node gone", func(s *engine.State) bool { return s.Nodes[node.node] == nil })
	// The watch is open again.
	second := w.boot()[0]
	second.session().pod()
	if err := w.cloud.Interrupt(t.Context(), second.instanceID, time.Minute); err != nil {
		t.Fatal(err)
	}
	w.control.await(t, "the notice", func(s *engine.State) bool { return !s.Nodes[second.node].Noticed.IsZero() })
}

func TestOffersAreCompletedAndOutliveAFault(t *testing.T) {
	w := prepareWorld(t)
	small := w.cloud.offers[0]
	large := small
	large.ID, large.Resources = "zone-a/large/spot", providers.Resources{"cpu": 8000, "pods": 12}
	w.cloud.offers = []providers.Offer{small, large}
	w.start(func(c *fleet.Config) { c.OffersEvery = time.Millisecond })
	w.control.await(t, "offers", func(s *engine.State) bool { return len(s.Offers["cloud"]) == 2 })
	w.control.await(t, "them sorted and complete", func(s *engine.State) bool {
		offers := s.Offers["cloud"]
		return offers[0].GetId() == large.ID && offers[0].GetResources()["pods"] == 12 && offers[1].GetResources()["pods"] == 110
	})
	w.cloud.set(func(c *cloud) { c.refuseOffers, c.offers = errors.New("no prices today"), nil })
	var asked int
	w.cloud.set(func(c *cloud) { asked = c.asked })
	poll(t, "another try", func() bool {
		var now int
		w.cloud.set(func(c *cloud) { now = c.asked })
		return now > asked+3
	})
	w.control.await(t, "the offers of before", func(s *engine.State) bool { return len(s.Offers["cloud"]) == 2 })
	if observed := w.control.count("offers_observed"); observed != 1 {
		t.Errorf("the same offers are on record %d times", observed)
	}
}

func TestALaunchAtAProviderThatIsNotConfiguredIsRefused(t *testing.T) {
	w := newWorld(t)
	w.control.await(t, "offers", func(s *engine.State) bool { return len(s.Offers["cloud"]) == 1 })
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	w.control.createJob(t, "one", 1)
	w.start(func(c *fleet.Config) { c.Providers = nil })
	w.control.await(t, "the launch to be refused", func(s *engine.State) bool { return len(s.Launches) == 0 && len(s.Offers["cloud"]) == 0 })
	if settled := w.control.settled(); len(settled) != 1 || settled[0].GetErrorKind() != "bad-config" {
		t.Errorf("the outcomes are %v", settled)
	}
}

func TestTheBusiestNodeIsTakenBackByTime(t *testing.T) {
	w := prepareWorld(t)
	w.cloud.offers[0].Resources["cpu"] = 4000 // Two pods a node.
	w.start()
	w.control.createJob(t, "three", 3)
	var busiest *agent
	for running := 0; running < 3; {
		for _, node := range w.boot() {
			c := node.session()
			pods := c.desired("pods", func(pods []*wire.DesiredPod) bool { return len(pods) > 0 })
			for _, pod := range pods {
				c.report(pod.GetUid(), pod.GetEpoch(), wire.PodReport_RUNNING)
			}
			if len(pods) == 2 {
				busiest = node
			}
			running += len(pods)
		}
	}
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	// The notice takes its time.
	w.cloud.set(func(c *cloud) { c.silent = true })
	w.start(func(c *fleet.Config) { c.EvictEvery, c.EvictNotice = 5*time.Millisecond, 10*time.Second })
	if id := receive(t, "an interruption", w.cloud.interrupted); id != busiest.instanceID {
		t.Errorf("instance %s was interrupted, want %s", id, busiest.instanceID)
	}
	if id := receive(t, "the next interruption", w.cloud.interrupted); id == busiest.instanceID {
		t.Errorf("instance %s was interrupted twice", id)
	}
}

func TestTheFleetEndsWithTheErrorWhenNothingCanBeSubmitted(t *testing.T) {
	w := newWorld(t)
	w.control.createJob(t, "one", 1)
	node := w.boot()[0]
	c := node.session()
	pod := c.pod()
	broken := errors.New("deposed")
	w.control.mu.Lock()
	w.control.broken = broken
	w.control.mu.Unlock()
	c.send(reports(&wire.PodReport{Uid: pod.GetUid(), Epoch: pod.GetEpoch(), Phase: wire.PodReport_RUNNING}))
	if err := receive(t, "the end of the fleet", w.ran); !errors.Is(err, broken) {
		t.Errorf("Run: %v, want %v", err, broken)
	}
	w.ran <- nil // For the clean-up.
}

func awaitEnded(t *testing.T, c *cloud, id string) {
	t.Helper()
	poll(t, "the end of "+id, func() (done bool) {
		c.set(func(c *cloud) { done = slices.Contains(c.ended, id) })
		return done
	})
}

// poll looks until it holds: for what nothing tells of.
func poll(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for expired := time.After(deadline); !holds(); {
		select {
		case <-ticker.C:
		case <-expired:
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}
