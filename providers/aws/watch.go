package aws

import (
	"cmp"
	"context"
	"slices"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nightshift-batch/nightshift/providers"
)

// follower remembers what a watch has told of one instance.
type follower struct {
	running, terminated bool
	misses              int
}

// Watch looks at the owner's instances once in a watch interval and tells what has changed. It begins with what it finds: the
// running instances and those that ended lately (EC2 shows them for about an hour), so nothing that happens while no watch is open is lost.
//
// An interruption shows as InstanceTerminated whose cause begins with Server.SpotInstanceTermination, without a notice before it.
// An instance that both started and ended between two looks is told as terminated alone.
func (p *Provider) Watch(ctx context.Context, owner string, sink func(providers.Event)) error {
	if !isOwner(owner) {
		return badRequest(opWatch, "the owner %q is not 1 to %d characters", owner, maxTagValue)
	}
	followed := map[string]*follower{}
	ticker := time.NewTicker(p.watchInterval)
	defer ticker.Stop()
	for {
		found, err := p.describe(ctx, filter("tag:"+tagOwner, owner))
		if err != nil {
			return fail(ctx, opWatch, err)
		}
		found = slices.DeleteFunc(found, func(i types.Instance) bool { return tagOf(i, tagOwner) != owner })
		slices.SortFunc(found, func(a, b types.Instance) int {
			return cmp.Compare(sdk.ToString(a.InstanceId), sdk.ToString(b.InstanceId))
		})
		for _, event := range changes(followed, found) {
			sink(event)
		}
		select {
		case <-ctx.Done():
			return fail(ctx, opWatch, ctx.Err())
		case <-ticker.C:
		}
	}
}

// changes compares a look with what was told before, and takes note. An instance's life only moves forward, whatever an answer that
// lags behind says.
func changes(followed map[string]*follower, found []types.Instance) []providers.Event {
	var events []providers.Event
	seen := map[string]bool{}
	for _, instance := range found {
		id := sdk.ToString(instance.InstanceId)
		seen[id] = true
		f := followed[id]
		if f == nil {
			f = &follower{}
			followed[id] = f
		}
		f.misses = 0
		switch {
		case f.terminated:
		case stateOf(instance) == providers.Terminated:
			f.terminated = true
			events = append(events, providers.Event{Kind: providers.InstanceTerminated, InstanceID: id, Cause: causeOf(instance)})
		case ec2State(instance) == types.InstanceStateNameRunning && !f.running:
			f.running = true
			events = append(events, providers.Event{Kind: providers.InstanceRunning, InstanceID: id})
		}
	}
	return append(events, disappeared(followed, seen)...)
}

// disappeared tells the end of instances that EC2 has not shown several times in a row: looks were missed for so long that it has
// forgotten them.
func disappeared(followed map[string]*follower, seen map[string]bool) []providers.Event {
	var events []providers.Event
	for id, f := range followed {
		if seen[id] {
			continue
		}
		if f.misses++; f.misses < missesUntilGone {
			continue
		}
		delete(followed, id)
		if !f.terminated {
			events = append(events, providers.Event{Kind: providers.InstanceTerminated, InstanceID: id, Cause: "EC2 does not know the instance any more"})
		}
	}
	slices.SortFunc(events, func(a, b providers.Event) int { return cmp.Compare(a.InstanceID, b.InstanceID) })
	return events
}

// causeOf is EC2's word for why an instance ended, as "Server.SpotInstanceTermination: ...".
func causeOf(instance types.Instance) string {
	if reason := instance.StateReason; reason != nil && sdk.ToString(reason.Code) != "" {
		// The message repeats the code in front: "Client.UserInitiatedShutdown: User initiated shutdown".
		return cmp.Or(sdk.ToString(reason.Message), sdk.ToString(reason.Code))
	}
	return sdk.ToString(instance.StateTransitionReason)
}
