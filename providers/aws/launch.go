package aws

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nightshift-batch/nightshift/providers"
)

const (
	maxKey = 64
	// maxTagValue is EC2's limit on a tag's value, in characters.
	maxTagValue = 256
	// maxOverrides is how many pairs of type and subnet one fleet takes
	// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/fleet-quotas.html).
	maxOverrides = 300
	// maxCount keeps a launch within what one fleet takes and one look can tell.
	maxCount = 1000
)

// order is a valid launch request in EC2's terms.
type order struct {
	providers.LaunchRequest
	// digest tells two requests with one key apart.
	digest   string
	userData string
	// markets in the order in which they are to be tried, each with its offers.
	markets []marketOrder
}

type marketOrder struct {
	market providers.Market
	// offers, the preferred first.
	offers []offer
}

// Launch starts instances by one instant fleet a market; see the package comment for what a repeated key does. Within a market EC2
// chooses among the offers: spot by price and capacity, on demand by price. Missing instances come back as an error beside those
// that were launched.
func (p *Provider) Launch(ctx context.Context, request providers.LaunchRequest) (providers.LaunchResult, error) {
	o, err := p.newOrder(request)
	if err != nil {
		return providers.LaunchResult{}, err
	}
	known, err := p.lookFor(ctx, o)
	if err != nil || len(known) > 0 {
		return providers.LaunchResult{Instances: known}, err
	}
	var launched []providers.Instance
	for _, market := range o.markets {
		missing := o.Count - len(launched)
		var got []providers.Instance
		got, err = p.createFleet(ctx, o, market, missing)
		launched = append(launched, got...)
		if kind := providers.KindOf(err); kind != providers.KindNoCapacity && kind != providers.KindQuota {
			break // it is all there, or another market would not help
		}
	}
	if providers.KindOf(err) == providers.KindBadRequest && len(launched) == 0 {
		return p.settle(ctx, o, err)
	}
	slices.SortFunc(launched, func(a, b providers.Instance) int { return cmp.Compare(a.ID, b.ID) })
	return providers.LaunchResult{Instances: launched}, err
}

// settle decides about a client token that EC2 knows from other parameters. If our own tag says that it was the same request (a control
// plane at another address, a changed configuration, another version of ours), the instances of that time are the answer. EC2 may tell
// of them late, so one look is not enough.
func (p *Provider) settle(ctx context.Context, o order, refused error) (providers.LaunchResult, error) {
	ticker := time.NewTicker(p.lookInterval())
	defer ticker.Stop()
	for range missesUntilGone {
		if known, err := p.lookFor(ctx, o); err != nil || len(known) > 0 {
			return providers.LaunchResult{Instances: known}, err
		}
		select {
		case <-ctx.Done():
			return providers.LaunchResult{}, fail(ctx, opLaunch, ctx.Err())
		case <-ticker.C:
		}
	}
	return providers.LaunchResult{}, refused
}

// lookFor returns the instances that the key has launched before, ended ones included, and refuses if they were launched by
// another request.
func (p *Provider) lookFor(ctx context.Context, o order) ([]providers.Instance, error) {
	found, err := p.describe(ctx, filter("tag:"+tagOwner, o.Owner), filter("tag:"+tagKey, o.Key))
	if err != nil {
		return nil, fail(ctx, opLaunch, err)
	}
	var known []providers.Instance
	for _, instance := range found {
		if tagOf(instance, tagOwner) != o.Owner || tagOf(instance, tagKey) != o.Key {
			continue
		}
		if tagOf(instance, tagRequest) != o.digest {
			return nil, badRequest(opLaunch, "the key %s was used for another request", o.Key)
		}
		known = append(known, instanceOf(instance))
	}
	slices.SortFunc(known, func(a, b providers.Instance) int { return cmp.Compare(a.ID, b.ID) })
	return known, nil
}

// newOrder checks a request before anything is sent.
func (p *Provider) newOrder(request providers.LaunchRequest) (order, error) {
	switch {
	case !isASCII(request.Key) || len(request.Key) > maxKey || request.Key == "":
		return order{}, badRequest(opLaunch, "the key %q is not 1 to %d printable ASCII characters", request.Key, maxKey)
	case !isOwner(request.Owner):
		return order{}, badRequest(opLaunch, "the owner %q is not 1 to %d characters", request.Owner, maxTagValue)
	case request.Count < 1 || request.Count > maxCount:
		return order{}, badRequest(opLaunch, "the count %d is not 1 to %d", request.Count, maxCount)
	case len(request.OfferIDs) == 0:
		return order{}, badRequest(opLaunch, "no offer is named")
	}
	o := order{LaunchRequest: request}
	seen := map[string]bool{}
	for _, id := range request.OfferIDs {
		parsed, ok := p.parseOffer(id)
		if !ok {
			return order{}, badRequest(opLaunch, "%q is no offer of this provider", id)
		}
		if seen[id] {
			continue
		}
		seen[id] = true
		at := slices.IndexFunc(o.markets, func(m marketOrder) bool { return m.market == parsed.market })
		if at < 0 {
			at = len(o.markets)
			o.markets = append(o.markets, marketOrder{market: parsed.market})
		}
		if market := &o.markets[at]; len(market.offers) < maxOverrides {
			market.offers = append(market.offers, parsed)
		}
	}
	var err error
	if o.userData, err = p.config.userData(request.Bootstrap); err != nil {
		return order{}, badRequest(opLaunch, "%w", err)
	}
	o.digest, err = requestDigest(request)
	return o, err
}

// requestDigest is the same for the same request and no other. The bootstrap is left out: a control plane that came back at another
// address must be able to repeat what it asked for.
func requestDigest(request providers.LaunchRequest) (string, error) {
	request.Bootstrap = providers.Bootstrap{}
	encoded, err := json.Marshal(request)
	if err != nil {
		return "", &providers.Error{Kind: providers.KindBadRequest, Op: opLaunch, Err: err}
	}
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:16]), nil
}

// clientToken is EC2's idempotency token of one fleet: 64 ASCII characters.
func (o order) clientToken(market providers.Market) string {
	sum := sha256.Sum256([]byte("nightshift launch\x00" + o.Owner + "\x00" + o.Key + "\x00" + string(market)))
	return hex.EncodeToString(sum[:])
}

func isASCII(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

func isOwner(owner string) bool { return owner != "" && len([]rune(owner)) <= maxTagValue }

// fleetInstances reads the instances of a fleet's answer. EC2 names type, market, and where; moto and older answers name the subnet
// in the override alone.
func (p *Provider) fleetInstances(o order, market marketOrder, answered []types.CreateFleetInstance) ([]providers.Instance, error) {
	var instances []providers.Instance
	for _, group := range answered {
		zone := sdk.ToString(group.AvailabilityZone)
		if zone == "" {
			zone = p.subnets[sdk.ToString(group.SubnetId)]
		}
		if used := group.LaunchTemplateAndOverrides; zone == "" && used != nil && used.Overrides != nil {
			zone = cmp.Or(sdk.ToString(used.Overrides.AvailabilityZone), p.subnets[sdk.ToString(used.Overrides.SubnetId)])
		}
		chosen := offer{place{string(group.InstanceType), zone}, market.market}
		if !slices.Contains(market.offers, chosen) {
			return nil, errors.New("EC2's answer does not tell which offer it chose: " + chosen.id())
		}
		for _, id := range group.InstanceIds {
			instances = append(instances, providers.Instance{ID: id, Key: o.Key, OfferID: chosen.id(), State: providers.Pending})
		}
	}
	return instances, nil
}
