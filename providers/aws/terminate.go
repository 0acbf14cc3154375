package aws

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

const (
	// slowestLook is how often a call that waits for EC2 looks; a shorter watch interval makes it look more often.
	slowestLook = 2 * time.Second
	// missesUntilGone is how many looks in a row must find nothing until an instance counts as gone: EC2 may not tell yet of an instance
	// that it has just launched (https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html).
	missesUntilGone = 3
)

// instanceIDPattern is the shape of EC2's instance ids; whatever has another was never an instance.
var instanceIDPattern = regexp.MustCompile(`^i-([0-9a-f]{8}|[0-9a-f]{17})$`)

// ending is an instance that Terminate works on.
type ending struct {
	// accepted says that EC2 has taken the request.
	accepted bool
	misses   int
}

// Terminate gives instances back and waits until EC2 shows each as terminated or, several times in a row, does not know it. EC2 lets
// the operating system shut down first, which may take minutes; the context bounds the wait.
func (p *Provider) Terminate(ctx context.Context, instanceIDs []string) error {
	if err := ctx.Err(); err != nil {
		return fail(ctx, opTerminate, err)
	}
	left := map[string]*ending{}
	for _, id := range instanceIDs {
		if instanceIDPattern.MatchString(id) {
			left[id] = &ending{}
		}
	}
	if len(left) == 0 {
		return nil
	}
	ticker := time.NewTicker(p.lookInterval())
	defer ticker.Stop()
	for {
		if err := p.terminateLeft(ctx, left); err != nil {
			return fail(ctx, opTerminate, err)
		}
		if len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fail(ctx, opTerminate, ctx.Err())
		case <-ticker.C:
		}
	}
}

// lookInterval is how often a call that waits for EC2 looks.
func (p *Provider) lookInterval() time.Duration { return min(p.watchInterval, slowestLook) }

// terminateLeft asks EC2 to end what it has not accepted yet, looks, and takes out of left what has ended.
func (p *Provider) terminateLeft(ctx context.Context, left map[string]*ending) error {
	var fresh, all []string
	for id, e := range left {
		all = append(all, id)
		if !e.accepted {
			fresh = append(fresh, id)
		}
	}
	slices.Sort(fresh)
	slices.Sort(all)
	for batch := range slices.Chunk(fresh, filterValues) {
		if err := p.requestEnd(ctx, batch, left); err != nil {
			return err
		}
	}
	seen := map[string]types.Instance{}
	for batch := range slices.Chunk(all, filterValues) {
		found, err := p.describe(ctx, filter("instance-id", batch...))
		if err != nil {
			return err
		}
		for _, instance := range found {
			seen[sdk.ToString(instance.InstanceId)] = instance
		}
	}
	for id, e := range left {
		instance, known := seen[id]
		if known {
			e.misses = 0
		} else {
			e.misses++
		}
		if known && ec2State(instance) == types.InstanceStateNameTerminated || e.misses >= missesUntilGone {
			delete(left, id)
		}
	}
	return nil
}

// requestEnd sends TerminateInstances. EC2 refuses a whole batch for one unknown id, so a refused batch is halved until the unknown ids
// stand alone.
func (p *Provider) requestEnd(ctx context.Context, batch []string, left map[string]*ending) error {
	_, err := p.ec2.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: batch})
	switch {
	case err == nil:
		for _, id := range batch {
			left[id].accepted = true
		}
		return nil
	case !hasCode(err, "InvalidInstanceID.NotFound"):
		return err
	case len(batch) == 1:
		return nil // asked again at the next look, until it counts as gone
	}
	half := len(batch) / 2
	return errors.Join(p.requestEnd(ctx, batch[:half], left), p.requestEnd(ctx, batch[half:], left))
}
