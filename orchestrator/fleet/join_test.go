package fleet_test

import (
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/fleet"
	"github.com/nightshift-batch/nightshift/providers"

	"context"
)

func TestOnlyAnInstanceOfTheTokensLaunchJoins(t *testing.T) {
	w := newWorld(t)
	w.control.createJob(t, "one", 1)
	one := w.boot()[0]
	w.control.createJob(t, "two", 1)
	two := receive(t, "a launch", w.cloud.launched)
	w.control.await(t, "both nodes", func(s *engine.State) bool { return len(s.Nodes) == 2 })

	wrong := newAgent(t, one.bootstrap, one.instanceID)
	wrong.bootstrap.Token = fleet.JoinToken([]byte("another secret"), "key")
	mustRefuse(t, "a wrong token", wrong.join(), codes.PermissionDenied)
	wrong.bootstrap.Token = ""
	mustRefuse(t, "no token", wrong.join(), codes.PermissionDenied)
	mustRefuse(t, "the token of another launch", newAgent(t, one.bootstrap, two.instances[0].ID).join(), codes.PermissionDenied)
	mustRefuse(t, "an instance that is not there", newAgent(t, one.bootstrap, "i-99").join(), codes.PermissionDenied)
	mustRefuse(t, "another key", newAgent(t, one.bootstrap, one.instanceID).join(), codes.PermissionDenied)
	if err := one.join(); err != nil {
		t.Errorf("the same key again: %v", err)
	}
	if err := newAgent(t, two.request.Bootstrap, two.instances[0].ID).join(); err != nil {
		t.Errorf("the other instance with its own token: %v", err)
	}
	stranger := newAgent(t, one.bootstrap, one.instanceID)
	stranger.session().refused(codes.Unauthenticated)
}

func TestAnAgentThatIsFasterThanTheRecordIsToldToTryAgain(t *testing.T) {
	w := prepareWorld(t)
	release := make(chan struct{})
	w.cloud.afterLaunch = func(ctx context.Context, instances []providers.Instance) ([]providers.Instance, error) {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return instances, ctx.Err()
	}
	w.start()
	w.control.createJob(t, "one", 1)
	launch := receive(t, "a launch", w.cloud.launched)
	early := newAgent(t, launch.request.Bootstrap, launch.instances[0].ID)
	mustRefuse(t, "before the record", early.join(), codes.Unavailable)
	close(release)
	w.control.await(t, "the node", func(s *engine.State) bool { return len(s.Nodes) == 1 })
	if err := early.join(); err != nil {
		t.Errorf("after the record: %v", err)
	}
}

func TestANodeThatIsGoneHasNoSession(t *testing.T) {
	w := newWorld(t)
	w.control.createJob(t, "one", 1)
	node := w.boot()[0]
	c := node.session()
	c.pod()
	w.cloud.set(func(cloud *cloud) { cloud.end(node.instanceID, "reclaimed") })
	c.refused(codes.PermissionDenied)
	node.session().refused(codes.PermissionDenied)
	if cause := w.control.gone()[node.node]; cause != "reclaimed" {
		t.Errorf("the node went by %q", cause)
	}
}

func TestAJoinedNodeIsNotJoinedAgainAfterARestart(t *testing.T) {
	w := newWorld(t)
	w.control.createJob(t, "one", 1)
	node := w.boot()[0]
	node.session().pod()
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	var address string
	w.start(func(c *fleet.Config) { address = c.Listener.Addr().String() })
	node.bootstrap.Address = address
	thief := newAgent(t, node.bootstrap, node.instanceID)
	mustRefuse(t, "another key", thief.join(), codes.PermissionDenied)
	node.session().pod()
}
