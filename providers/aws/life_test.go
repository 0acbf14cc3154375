package aws_test

import (
	"bytes"
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nightshift-batch/nightshift/providers"
	"github.com/nightshift-batch/nightshift/providers/aws"
)

// patience is how long a test waits for an event.
const patience = 20 * time.Second

func TestTerminateWaitsUntilAnInstanceHasShutDown(t *testing.T) {
	c := newCloud(t, plenty)
	p := c.provider()
	id := launch(t, p, request(t, 1, spotOffer))[0].ID
	shuttingDown := 3
	c.locked(func() {
		c.rewrites["DescribeInstances"] = func(body []byte) []byte {
			if bytes.Contains(body, []byte("<name>terminated</name>")) && shuttingDown > 0 {
				shuttingDown--
				return bytes.ReplaceAll(body, []byte("<name>terminated</name>"), []byte("<name>shutting-down</name>"))
			}
			return body
		}
	})
	if err := p.Terminate(t.Context(), []string{id}); err != nil {
		t.Fatal(err)
	}
	c.locked(func() {
		if shuttingDown != 0 {
			t.Errorf("terminate returned while EC2 said shutting-down, %d looks too early", shuttingDown)
		}
	})
	if calls := c.count("TerminateInstances"); calls != 1 {
		t.Errorf("TerminateInstances was called %d times, want 1", calls)
	}
}

func TestTerminateFindsAnInstanceThatEC2DoesNotKnowYet(t *testing.T) {
	c := newCloud(t, plenty)
	p := c.provider()
	id := launch(t, p, request(t, 1, spotOffer))[0].ID
	c.locked(func() { c.refusals["TerminateInstances"] = []refusal{{400, "InvalidInstanceID.NotFound"}} })
	c.hide(1)
	if err := p.Terminate(t.Context(), []string{id}); err != nil {
		t.Fatal(err)
	}
	if owned := c.moto.owned(t, t.Name()); owned != 0 {
		t.Error("an instance that EC2 told of late was left running")
	}
}

func TestTerminateSendsBatchesAndSortsOutTheUnknown(t *testing.T) {
	c := newCloud(t, plenty)
	p := c.provider()
	known := ids(launch(t, p, request(t, 5, spotOffer)))
	mixed := slices.Concat([]string{"i-00000000000000001", "never an id"}, known, []string{"i-00000000000000002", known[0]})
	if err := p.Terminate(t.Context(), mixed); err != nil {
		t.Fatal(err)
	}
	if owned := c.moto.owned(t, t.Name()); owned != 0 {
		t.Errorf("%d instances are left", owned)
	}
}

func TestTerminateTellsWhyEC2Refuses(t *testing.T) {
	c := newCloud(t, plenty)
	p := c.provider()
	id := launch(t, p, request(t, 1, spotOffer))[0].ID
	c.locked(func() { c.refusals["TerminateInstances"] = []refusal{{403, "UnauthorizedOperation"}} })
	wantKind(t, p.Terminate(t.Context(), []string{id}), providers.KindUnauthorized)
}

func TestTerminateGivesUpWithItsContext(t *testing.T) {
	c := newCloud(t, plenty)
	p := c.provider()
	id := launch(t, p, request(t, 1, spotOffer))[0].ID
	ctx, cancel := context.WithCancel(t.Context())
	c.locked(func() {
		c.rewrites["DescribeInstances"] = func(body []byte) []byte {
			cancel()
			return bytes.ReplaceAll(body, []byte("<name>terminated</name>"), []byte("<name>shutting-down</name>"))
		}
	})
	wantKind(t, p.Terminate(ctx, []string{id}), providers.KindTransient)
}

func TestListReadsAllPages(t *testing.T) {
	c := newCloud(t, plenty)
	p := c.provider()
	p.SetPageSize(5)
	launched := ids(launch(t, p, request(t, 12, spotOffer))) // moto makes a reservation of each
	before := c.count("DescribeInstances")
	listed, err := p.List(t.Context(), t.Name())
	if err != nil || !slices.Equal(ids(listed), launched) {
		t.Errorf("list = %v, %v; want %v", ids(listed), err, launched)
	}
	if pages := c.count("DescribeInstances") - before; pages != 3 {
		t.Errorf("the list took %d pages, want 3", pages)
	}
}

// watched opens a watch and returns its events; they end with the watch.
func watched(t *testing.T, p *aws.Provider, owner string) (events <-chan providers.Event, result <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	told, ended := make(chan providers.Event, 100), make(chan error, 1)
	go func() {
		defer close(told)
		ended <- p.Watch(ctx, owner, func(event providers.Event) { told <- event })
	}()
	t.Cleanup(func() {
		cancel()
		for range told { // until the watch has returned
		}
	})
	return told, ended
}

func next(t *testing.T, events <-chan providers.Event) providers.Event {
	t.Helper()
	select {
	case event, ok := <-events:
		if !ok {
			t.Fatal("the watch ended")
		}
		return event
	case <-time.After(patience):
		t.Fatal("no event")
	}
	return providers.Event{}
}

func TestASpotInterruptionIsTheCauseOfTheEnd(t *testing.T) {
	c := newCloud(t, plenty)
	p := c.provider()
	id := launch(t, p, request(t, 1, spotOffer))[0].ID
	c.locked(func() {
		c.rewrites["DescribeInstances"] = func(body []byte) []byte {
			return bytes.ReplaceAll(body, []byte("Client.UserInitiatedShutdown"), []byte("Server.SpotInstanceTermination"))
		}
	})
	events, _ := watched(t, p, t.Name())
	if event := next(t, events); event.Kind != providers.InstanceRunning || event.InstanceID != id {
		t.Errorf("the first event is %+v", event)
	}
	c.moto.kill(t, id)
	if event := next(t, events); event.Kind != providers.InstanceTerminated || event.InstanceID != id || !strings.HasPrefix(event.Cause, "Server.SpotInstanceTermination") {
		t.Errorf("the second event is %+v", event)
	}
}

func TestWatchTellsOfWhatEndedBeforeItWasOpened(t *testing.T) {
	c := newCloud(t, plenty)
	p := c.provider()
	id := launch(t, p, request(t, 1, spotOffer))[0].ID
	c.moto.kill(t, id)
	events, _ := watched(t, p, t.Name())
	if event := next(t, events); event.Kind != providers.InstanceTerminated || event.InstanceID != id {
		t.Errorf("the first event is %+v", event)
	}
}

func TestWatchIsNotMisledByALookThatLagsBehind(t *testing.T) {
	c := newCloud(t, plenty)
	p := c.provider()
	id := launch(t, p, request(t, 1, spotOffer))[0].ID
	events, _ := watched(t, p, t.Name())
	next(t, events)
	c.hide(2)
	looks := c.count("DescribeInstances")
	eventually(t, "watch has looked on", func() bool { return c.count("DescribeInstances") > looks+5 })
	select {
	case event := <-events:
		t.Fatalf("watch tells %+v of an instance that EC2 did not show for two looks", event)
	default:
	}
	c.hide(1 << 30)
	if event := next(t, events); event.Kind != providers.InstanceTerminated || event.InstanceID != id {
		t.Errorf("of an instance that EC2 has forgotten, watch tells %+v", event)
	}
}

func TestWatchTellsAnEndOnceAndNothingAfterIt(t *testing.T) {
	c := newCloud(t, plenty)
	p := c.provider()
	c.moto.kill(t, launch(t, p, request(t, 1, spotOffer))[0].ID)
	events, _ := watched(t, p, t.Name())
	if event := next(t, events); event.Kind != providers.InstanceTerminated {
		t.Fatalf("watch tells %+v", event)
	}
	for _, answer := range []string{"terminated", "running"} { // the second is an answer that lags behind
		c.locked(func() {
			c.rewrites["DescribeInstances"] = func(body []byte) []byte {
				return bytes.ReplaceAll(body, []byte("<name>terminated</name>"), []byte("<name>"+answer+"</name>"))
			}
		})
		looks := c.count("DescribeInstances")
		eventually(t, "watch has looked again", func() bool { return c.count("DescribeInstances") > looks+2 })
		select {
		case event := <-events:
			t.Errorf("after the end, with EC2 saying %s, watch tells %+v", answer, event)
		default:
		}
	}
}

func TestWatchTellsOfAStoppedInstanceAsEnded(t *testing.T) {
	c := newCloud(t, plenty)
	p := c.provider()
	launch(t, p, request(t, 1, onDemandOffer))
	running := regexp.MustCompile(`<name>running</name>`)
	c.locked(func() {
		c.rewrites["DescribeInstances"] = func(body []byte) []byte { return running.ReplaceAll(body, []byte("<name>stopped</name>")) }
	})
	events, _ := watched(t, p, t.Name())
	if event := next(t, events); event.Kind != providers.InstanceTerminated {
		t.Errorf("watch tells %+v", event)
	}
}

func TestWatchEndsWithTheErrorOfItsSource(t *testing.T) {
	c := newCloud(t, plenty)
	p := c.provider()
	c.locked(func() { c.refusals["DescribeInstances"] = []refusal{{403, "UnauthorizedOperation"}} })
	_, result := watched(t, p, t.Name())
	select {
	case err := <-result:
		wantKind(t, err, providers.KindUnauthorized)
	case <-time.After(patience):
		t.Fatal("the watch goes on without a source")
	}
}

// eventually polls a condition that nothing signals.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(patience)
	for !condition() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}
