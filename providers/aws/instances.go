package aws

import (
	"cmp"
	"context"
	"slices"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nightshift-batch/nightshift/providers"
)

// List returns the pending and running instances that carry the owner's tag, by id.
func (p *Provider) List(ctx context.Context, owner string) ([]providers.Instance, error) {
	if !isOwner(owner) {
		return nil, badRequest(opList, "the owner %q is not 1 to %d characters", owner, maxTagValue)
	}
	found, err := p.describe(ctx, filter("tag:"+tagOwner, owner),
		filter("instance-state-name", string(types.InstanceStateNamePending), string(types.InstanceStateNameRunning)))
	if err != nil {
		return nil, fail(ctx, opList, err)
	}
	var instances []providers.Instance
	for _, instance := range found {
		if tagOf(instance, tagOwner) == owner {
			instances = append(instances, instanceOf(instance))
		}
	}
	slices.SortFunc(instances, func(a, b providers.Instance) int { return cmp.Compare(a.ID, b.ID) })
	return instances, nil
}

// describe returns all instances that pass the filters.
func (p *Provider) describe(ctx context.Context, filters ...types.Filter) ([]types.Instance, error) {
	var instances []types.Instance
	input := &ec2.DescribeInstancesInput{Filters: filters, MaxResults: sdk.Int32(p.pageSize)}
	for pages := ec2.NewDescribeInstancesPaginator(p.ec2, input); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, reservation := range page.Reservations {
			instances = append(instances, reservation.Instances...)
		}
	}
	return instances, nil
}

// instanceOf reads an instance in the contract's terms.
func instanceOf(instance types.Instance) providers.Instance {
	chosen := offer{place: place{instanceType: string(instance.InstanceType)}, market: providers.OnDemand}
	if instance.InstanceLifecycle == types.InstanceLifecycleTypeSpot {
		chosen.market = providers.Spot
	}
	if instance.Placement != nil {
		chosen.zone = sdk.ToString(instance.Placement.AvailabilityZone)
	}
	return providers.Instance{ID: sdk.ToString(instance.InstanceId), Key: tagOf(instance, tagKey), OfferID: chosen.id(), State: stateOf(instance)}
}

// stateOf maps EC2's states. An instance that is shutting down may still run something
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-lifecycle.html); a stopped one runs nothing, and we start none again.
func stateOf(instance types.Instance) providers.InstanceState {
	switch ec2State(instance) {
	case types.InstanceStateNamePending:
		return providers.Pending
	case types.InstanceStateNameTerminated, types.InstanceStateNameStopped:
		return providers.Terminated
	}
	return providers.Running
}

func ec2State(instance types.Instance) types.InstanceStateName {
	if instance.State == nil {
		return types.InstanceStateNamePending
	}
	return instance.State.Name
}

func tagOf(instance types.Instance, key string) string {
	for _, tag := range instance.Tags {
		if sdk.ToString(tag.Key) == key {
			return sdk.ToString(tag.Value)
		}
	}
	return ""
}
