package aws

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nightshift-batch/nightshift/providers"
)

const (
	resourceCPU     = "cpu"
	resourceMemory  = "memory"
	resourceStorage = "ephemeral-storage"
	resourcePods    = "pods"
	resourceNVIDIA  = "nvidia.com/gpu"

	// podsPerInstance is the kubelet's own default (--max-pods).
	podsPerInstance = 110
	// The hypervisor and the firmware keep a part of the memory that EC2 states; on small types it comes near 7.5 %.
	memoryOverheadPerMille = 75
)

// goArch has the GOARCH of the architectures that agents run on, by EC2's words.
var goArch = map[string]string{
	string(types.ArchitectureTypeX8664): "amd64",
	string(types.ArchitectureTypeArm64): "arm64",
}

// archOf returns the GOARCH of an instance type. A type that also runs i386 is amd64.
func archOf(info types.InstanceTypeInfo) (string, bool) {
	if info.ProcessorInfo == nil {
		return "", false
	}
	for _, architecture := range info.ProcessorInfo.SupportedArchitectures {
		if arch, ok := goArch[string(architecture)]; ok {
			return arch, true
		}
	}
	return "", false
}

// place is an instance type in a zone.
type place struct{ instanceType, zone string }

// offer is what an offer's id says: TYPE/ZONE/MARKET.
type offer struct {
	place
	market providers.Market
}

func (o offer) id() string { return o.instanceType + "/" + o.zone + "/" + string(o.market) }

// parseOffer reads an offer's id; ok is false for one that this provider has never given.
func (p *Provider) parseOffer(id string) (o offer, ok bool) {
	parts := strings.Split(id, "/")
	if len(parts) != 3 {
		return offer{}, false
	}
	o = offer{place{parts[0], parts[1]}, providers.Market(parts[2])}
	_, knownType := p.types[o.instanceType]
	_, knownZone := p.zones[o.zone]
	return o, knownType && knownZone && (o.market == providers.Spot || o.market == providers.OnDemand)
}

// Offers returns each configured type in each zone of the subnets where EC2 sells it, spot and on demand, by id. How many are left and
// how likely an interruption is are not known. What has no known price is left out, with the reason in the log.
func (p *Provider) Offers(ctx context.Context) ([]providers.Offer, error) {
	places, err := p.places(ctx)
	if err != nil {
		return nil, fail(ctx, opOffers, err)
	}
	prices, err := p.spotPrices(ctx)
	if err != nil {
		return nil, fail(ctx, opOffers, err)
	}
	var offers []providers.Offer
	for _, at := range places {
		info := p.types[at.instanceType]
		onDemand, ok := p.config.OnDemandPricesMicrosPerHour[at.instanceType]
		if !ok {
			p.leftOut(at.instanceType, "it has no price in onDemandPricesMicrosPerHour")
			continue
		}
		resources := p.resources(info)
		if resources[resourceMemory] <= 0 {
			p.leftOut(at.instanceType, "reservedMemoryBytes leaves pods no memory on it")
			continue
		}
		arch, _ := archOf(info) // resolveTypes has seen that there is one
		base := providers.Offer{InstanceType: at.instanceType, Zone: at.zone, Arch: arch, Resources: resources,
			OnDemandPriceMicrosPerHour: onDemand, Available: -1}
		if slices.Contains(info.SupportedUsageClasses, types.UsageClassTypeOnDemand) {
			o := base
			o.ID, o.Market, o.PriceMicrosPerHour = offer{at, providers.OnDemand}.id(), providers.OnDemand, onDemand
			offers = append(offers, o)
		}
		if !slices.Contains(info.SupportedUsageClasses, types.UsageClassTypeSpot) {
			continue
		}
		spot, ok := prices[at]
		if !ok {
			p.leftOut(offer{at, providers.Spot}.id(), "EC2 tells no spot price of it")
			continue
		}
		o := base
		o.ID, o.Market, o.PriceMicrosPerHour, o.InterruptionsPerMillionHours = offer{at, providers.Spot}.id(), providers.Spot, spot, -1
		offers = append(offers, o)
	}
	slices.SortFunc(offers, func(a, b providers.Offer) int { return strings.Compare(a.ID, b.ID) })
	return offers, nil
}

// resources is what pods can use of an instance.
func (p *Provider) resources(info types.InstanceTypeInfo) providers.Resources {
	resources := providers.Resources{resourcePods: podsPerInstance}
	if info.VCpuInfo != nil {
		resources[resourceCPU] = int64(sdk.ToInt32(info.VCpuInfo.DefaultVCpus)) * 1000
	}
	if info.MemoryInfo != nil {
		stated := sdk.ToInt64(info.MemoryInfo.SizeInMiB) << 20
		resources[resourceMemory] = stated - stated/1000*memoryOverheadPerMille - p.config.reservedMemory()
	}
	if p.config.EphemeralStorageBytes > 0 {
		resources[resourceStorage] = p.config.EphemeralStorageBytes
	}
	if info.GpuInfo != nil {
		for _, gpu := range info.GpuInfo.Gpus {
			if strings.EqualFold(sdk.ToString(gpu.Manufacturer), "NVIDIA") {
				resources[resourceNVIDIA] += int64(sdk.ToInt32(gpu.Count))
			}
		}
	}
	return resources
}

// places returns where EC2 sells the configured types, within the zones of the subnets.
func (p *Provider) places(ctx context.Context) ([]place, error) {
	var places []place
	for names := range slices.Chunk(p.config.InstanceTypes, filterValues) {
		input := &ec2.DescribeInstanceTypeOfferingsInput{
			LocationType: types.LocationTypeAvailabilityZone,
			Filters:      []types.Filter{filter("instance-type", names...), filter("location", p.zoneNames()...)},
		}
		for pages := ec2.NewDescribeInstanceTypeOfferingsPaginator(p.ec2, input); pages.HasMorePages(); {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, fmt.Errorf("instance type offerings: %w", err)
			}
			for _, offering := range page.InstanceTypeOfferings {
				places = append(places, place{string(offering.InstanceType), sdk.ToString(offering.Location)})
			}
		}
	}
	return places, nil
}

func (p *Provider) zoneNames() []string {
	names := make([]string, 0, len(p.zones))
	for zone := range p.zones {
		names = append(names, zone)
	}
	slices.Sort(names)
	return names
}

// spotPrices returns the newest price of each place, micro-dollars an hour.
func (p *Provider) spotPrices(ctx context.Context) (map[place]int64, error) {
	prices := map[place]int64{}
	newest := map[place]time.Time{}
	// From now on: EC2 answers with the prices that hold at that time.
	now := time.Now()
	for names := range slices.Chunk(p.config.InstanceTypes, filterValues) {
		input := &ec2.DescribeSpotPriceHistoryInput{
			StartTime:           &now,
			ProductDescriptions: []string{"Linux/UNIX", "Linux/UNIX (Amazon VPC)"},
			Filters:             []types.Filter{filter("availability-zone", p.zoneNames()...), filter("instance-type", names...)},
		}
		for pages := ec2.NewDescribeSpotPriceHistoryPaginator(p.ec2, input); pages.HasMorePages(); {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, fmt.Errorf("spot price history: %w", err)
			}
			for _, entry := range page.SpotPriceHistory {
				at := place{string(entry.InstanceType), sdk.ToString(entry.AvailabilityZone)}
				since := sdk.ToTime(entry.Timestamp)
				if known, ok := newest[at]; ok && !since.After(known) {
					continue
				}
				price, err := microDollars(sdk.ToString(entry.SpotPrice))
				if err != nil {
					return nil, fmt.Errorf("spot price of %s in %s: %w", at.instanceType, at.zone, err)
				}
				newest[at], prices[at] = since, price
			}
		}
	}
	return prices, nil
}

// microDollars reads a decimal amount of dollars as "0.034500", rounding a part of a micro-dollar up: a price is never understated.
func microDollars(text string) (int64, error) {
	whole, fraction, _ := strings.Cut(text, ".")
	dollars, err := strconv.ParseUint(whole, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is no amount of dollars", text)
	}
	if strings.Trim(fraction, "0123456789") != "" {
		return 0, fmt.Errorf("%q is no amount of dollars", text)
	}
	padded := fraction + "000000"
	micros, err := strconv.ParseUint(padded[:6], 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is no amount of dollars", text)
	}
	if strings.Trim(padded[6:], "0") != "" {
		micros++
	}
	total := int64(dollars)*1_000_000 + int64(micros)
	if total == 0 {
		return 0, fmt.Errorf("%q is nothing", text)
	}
	return total, nil
}
