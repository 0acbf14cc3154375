package aws

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nightshift-batch/nightshift/providers"
)

// The tags of an instance.
const (
	tagOwner   = "nightshift-owner"
	tagKey     = "nightshift-key"
	tagRequest = "nightshift-request"
)

// createFleet launches count instances in one market. The instances it returns exist, also beside an error.
func (p *Provider) createFleet(ctx context.Context, o order, market marketOrder, count int) ([]providers.Instance, error) {
	template, err := p.templateSpecification(ctx, o)
	if err != nil {
		return nil, fail(ctx, opLaunch, err)
	}
	answer, err := p.ec2.CreateFleet(ctx, p.fleetInput(o, market, count, template))
	if err != nil {
		return nil, fail(ctx, opLaunch, err)
	}
	instances, err := p.fleetInstances(o, market, answer.Instances)
	if err != nil || len(answer.Instances)+len(answer.Errors) == 0 {
		// The answer tells nothing of use (a replayed one may be that short): the tags do.
		p.logger.Warn("looking for what a fleet has launched", "fleet", sdk.ToString(answer.FleetId), "key", o.Key, "error", err)
		if instances, err = p.lookFor(ctx, o); err != nil {
			return nil, err
		}
		instances = slices.DeleteFunc(instances, func(i providers.Instance) bool { return !strings.HasSuffix(i.OfferID, "/"+string(market.market)) })
	}
	if len(instances) < count {
		return instances, shortfall(count, len(instances), answer.Errors)
	}
	return instances, nil
}

// fleetInput is the same for the same order: EC2 compares it under the client token.
func (p *Provider) fleetInput(o order, market marketOrder, count int, template *types.FleetLaunchTemplateSpecificationRequest) *ec2.CreateFleetInput {
	input := &ec2.CreateFleetInput{
		Type:        types.FleetTypeInstant,
		ClientToken: sdk.String(o.clientToken(market.market)),
		LaunchTemplateConfigs: []types.FleetLaunchTemplateConfigRequest{{
			LaunchTemplateSpecification: template,
			Overrides:                   p.overrides(market.offers),
		}},
		TargetCapacitySpecification: &types.TargetCapacitySpecificationRequest{
			TotalTargetCapacity:       sdk.Int32(int32(count)), // at most maxCount
			DefaultTargetCapacityType: types.DefaultTargetCapacityTypeOnDemand,
		},
		TagSpecifications: p.tagSpecifications(o),
	}
	if market.market == providers.Spot {
		input.TargetCapacitySpecification.DefaultTargetCapacityType = types.DefaultTargetCapacityTypeSpot
		input.SpotOptions = &types.SpotOptionsRequest{AllocationStrategy: types.SpotAllocationStrategyPriceCapacityOptimized}
	} else {
		input.OnDemandOptions = &types.OnDemandOptionsRequest{AllocationStrategy: types.FleetOnDemandAllocationStrategyLowestPrice}
	}
	return input
}

// overrides are the offers as EC2 takes them. Priority tells the caller's order; the strategies in use weigh price and capacity first.
func (p *Provider) overrides(offers []offer) []types.FleetLaunchTemplateOverridesRequest {
	overrides := make([]types.FleetLaunchTemplateOverridesRequest, len(offers))
	for i, o := range offers {
		overrides[i] = types.FleetLaunchTemplateOverridesRequest{
			InstanceType: types.InstanceType(o.instanceType),
			SubnetId:     sdk.String(p.zones[o.zone]),
			Priority:     sdk.Float64(float64(i)),
			// IMDSv2 alone, and out of reach for a container behind a bridge.
			MetadataOptions: &types.FleetInstanceMetadataOptionsRequest{
				HttpEndpoint:            types.FleetInstanceMetadataEndpointStateEnabled,
				HttpTokens:              types.FleetHttpTokensStateRequired,
				HttpPutResponseHopLimit: sdk.Int32(1),
			},
		}
	}
	return overrides
}

// tagSpecifications tags the fleet, its instances and their volumes.
func (p *Provider) tagSpecifications(o order) []types.TagSpecification {
	all := maps.Clone(p.config.Tags)
	if all == nil {
		all = map[string]string{}
	}
	all[tagOwner], all[tagKey], all[tagRequest] = o.Owner, o.Key, o.digest
	tags := sdkTags(all)
	var specifications []types.TagSpecification
	for _, resource := range []types.ResourceType{types.ResourceTypeFleet, types.ResourceTypeInstance, types.ResourceTypeVolume} {
		specifications = append(specifications, types.TagSpecification{ResourceType: resource, Tags: tags})
	}
	return specifications
}

// sdkTags are tags in the order of their keys.
func sdkTags(all map[string]string) []types.Tag {
	var tags []types.Tag
	for _, key := range slices.Sorted(maps.Keys(all)) {
		tags = append(tags, types.Tag{Key: sdk.String(key), Value: sdk.String(all[key])})
	}
	return tags
}

// templateSpecification is the launch template of the configuration with the user data of the order. User data is no part of the
// template: it holds the launch's token.
func (p *Provider) templateSpecification(ctx context.Context, o order) (*types.FleetLaunchTemplateSpecificationRequest, error) {
	specification := &types.FleetLaunchTemplateSpecificationRequest{
		Version:                             sdk.String("$Default"),
		LaunchTemplateSpecificationUserData: sdk.String(base64.StdEncoding.EncodeToString([]byte(o.userData))),
	}
	configured := p.config.LaunchTemplate
	if configured == nil {
		name, err := p.ownTemplate(ctx)
		specification.LaunchTemplateName = &name
		return specification, err
	}
	if configured.ID != "" {
		specification.LaunchTemplateId = &configured.ID
	} else {
		specification.LaunchTemplateName = &configured.Name
	}
	if configured.Version != "" {
		specification.Version = &configured.Version
	}
	return specification, nil
}

// ownTemplate returns the name of the launch template that holds image, security groups and instance profile of the configuration, and
// makes it when it is not there. The name derives from the content, so another process finds the same one.
func (p *Provider) ownTemplate(ctx context.Context) (string, error) {
	p.mu.Lock()
	known := p.template
	p.mu.Unlock()
	if known != "" {
		return known, nil
	}
	data := &types.RequestLaunchTemplateData{
		ImageId:          sdk.String(p.config.ImageID),
		SecurityGroupIds: p.config.SecurityGroupIDs,
		// A node that has lost its control plane for good powers itself off, and that must end its bill.
		InstanceInitiatedShutdownBehavior: types.ShutdownBehaviorTerminate,
	}
	if profile := p.config.InstanceProfile; strings.HasPrefix(profile, "arn:") {
		data.IamInstanceProfile = &types.LaunchTemplateIamInstanceProfileSpecificationRequest{Arn: &profile}
	} else if profile != "" {
		data.IamInstanceProfile = &types.LaunchTemplateIamInstanceProfileSpecificationRequest{Name: &profile}
	}
	encoded, err := json.Marshal([]any{data, p.config.Tags})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(encoded)
	name := "nightshift-" + hex.EncodeToString(sum[:12])
	input := &ec2.CreateLaunchTemplateInput{LaunchTemplateName: &name, LaunchTemplateData: data}
	if tags := sdkTags(p.config.Tags); len(tags) > 0 {
		input.TagSpecifications = []types.TagSpecification{{ResourceType: types.ResourceTypeLaunchTemplate, Tags: tags}}
	}
	if _, err := p.ec2.CreateLaunchTemplate(ctx, input); err != nil && !hasCode(err, "InvalidLaunchTemplateName.AlreadyExistsException") {
		return "", fmt.Errorf("launch template %s: %w", name, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.template = name
	return name, nil
}
