package aws

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	sdkconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/nightshift-batch/nightshift/providers"
)

// Provider lends EC2 instances of one region. It is safe for concurrent use.
type Provider struct {
	config Config
	logger *slog.Logger
	ec2    *ec2.Client

	// zones has the one subnet that is used in each zone; subnets is its inverse for all subnets of the configuration.
	zones   map[string]string
	subnets map[string]string
	// types are the configured instance types. What EC2 says about a type does not change while a process lives.
	types map[string]types.InstanceTypeInfo
	// pageSize bounds one page of DescribeInstances.
	pageSize      int32
	watchInterval time.Duration

	mu sync.Mutex
	// template is the launch template made from the configuration, "" until the first launch.
	template string
	// told are the reasons already logged for leaving something out.
	told map[string]bool
}

var _ providers.Provider = (*Provider)(nil)

// New connects to EC2 and resolves what the configuration names. What does not exist or fit is a KindBadConfig that names the key;
// a nil logger discards.
func New(ctx context.Context, config Config, logger *slog.Logger) (*Provider, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	interval, err := config.watchInterval()
	if err != nil {
		return nil, err
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	loaded, err := sdkconfig.LoadDefaultConfig(ctx, sdkconfig.WithRegion(config.Region))
	if err != nil {
		return nil, fail(ctx, opConfigure, err)
	}
	client := ec2.NewFromConfig(loaded, func(o *ec2.Options) {
		o.Credentials = markedCredentials(o.Credentials)
		if config.EndpointURL != "" {
			o.BaseEndpoint = sdk.String(config.EndpointURL)
		}
	})
	p := &Provider{config: config, logger: logger, ec2: client, pageSize: 500, watchInterval: interval, told: map[string]bool{}}
	for _, resolve := range []func(context.Context) error{p.resolveSubnets, p.resolveTypes, p.resolveImage} {
		if err := resolve(ctx); err != nil {
			return nil, fail(ctx, opConfigure, err)
		}
	}
	return p, nil
}

// resolveSubnets finds the subnets and their zones.
func (p *Provider) resolveSubnets(ctx context.Context) error {
	key, input := "subnetIds", &ec2.DescribeSubnetsInput{}
	if tag := p.config.SubnetTag; tag != nil {
		key = "subnetTag"
		input.Filters = []types.Filter{filter("tag:"+tag.Key, tag.Value)}
	} else {
		input.SubnetIds = p.config.SubnetIDs
	}
	p.zones, p.subnets = map[string]string{}, map[string]string{}
	for pages := ec2.NewDescribeSubnetsPaginator(p.ec2, input); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		for _, subnet := range page.Subnets {
			p.subnets[sdk.ToString(subnet.SubnetId)] = sdk.ToString(subnet.AvailabilityZone)
		}
	}
	if len(p.subnets) == 0 {
		return badConfig(key, "there is no such subnet in %s", p.config.Region)
	}
	for subnet, zone := range p.subnets {
		// A fleet takes one subnet a zone; the first by id, so that a repeated launch is the same request.
		if chosen, ok := p.zones[zone]; !ok || subnet < chosen {
			p.zones[zone] = subnet
		}
	}
	return nil
}

// resolveTypes reads what EC2 knows about the configured instance types.
func (p *Provider) resolveTypes(ctx context.Context) error {
	p.types = map[string]types.InstanceTypeInfo{}
	for names := range slices.Chunk(p.config.InstanceTypes, filterValues) {
		input := &ec2.DescribeInstanceTypesInput{Filters: []types.Filter{filter("instance-type", names...)}, MaxResults: sdk.Int32(100)}
		for pages := ec2.NewDescribeInstanceTypesPaginator(p.ec2, input); pages.HasMorePages(); {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return fmt.Errorf("instanceTypes: %w", err)
			}
			for _, info := range page.InstanceTypes {
				p.types[string(info.InstanceType)] = info
			}
		}
	}
	for _, name := range p.config.InstanceTypes {
		info, ok := p.types[name]
		if !ok {
			return badConfig("instanceTypes", "%s has no instance type %q", p.config.Region, name)
		}
		if _, ok := archOf(info); !ok {
			return badConfig("instanceTypes", "%q has no architecture that agents run on", name)
		}
	}
	return nil
}

// resolveImage checks that the launch template exists, or that the image fits the instance types.
func (p *Provider) resolveImage(ctx context.Context) error {
	if template := p.config.LaunchTemplate; template != nil {
		input := &ec2.DescribeLaunchTemplatesInput{}
		if template.ID != "" {
			input.LaunchTemplateIds = []string{template.ID}
		} else {
			input.LaunchTemplateNames = []string{template.Name}
		}
		found, err := p.ec2.DescribeLaunchTemplates(ctx, input)
		if err != nil {
			return fmt.Errorf("launchTemplate: %w", err)
		}
		if len(found.LaunchTemplates) == 0 {
			return badConfig("launchTemplate", "there is none %q in %s", template.Name+template.ID, p.config.Region)
		}
		return nil
	}
	if strings.HasPrefix(p.config.ImageID, "resolve:ssm:") {
		return nil // EC2 resolves it at each launch and only then can tell
	}
	found, err := p.ec2.DescribeImages(ctx, &ec2.DescribeImagesInput{ImageIds: []string{p.config.ImageID}})
	if err != nil {
		return fmt.Errorf("imageId: %w", err)
	}
	if len(found.Images) == 0 {
		return badConfig("imageId", "there is no image %q in %s", p.config.ImageID, p.config.Region)
	}
	arch := goArch[string(found.Images[0].Architecture)]
	for _, name := range p.config.InstanceTypes {
		if typeArch, _ := archOf(p.types[name]); typeArch != arch {
			return badConfig("instanceTypes", "%s is %s and the image %s is %s", name, typeArch, p.config.ImageID, arch)
		}
	}
	return nil
}

// leftOut logs, once in the life of the provider, why something is not offered.
func (p *Provider) leftOut(what, reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if key := what + "\x00" + reason; !p.told[key] {
		p.told[key] = true
		p.logger.Warn("not offered", "what", what, "reason", reason)
	}
}

// filterValues is how many values EC2 takes in one filter.
const filterValues = 200

// wildcards are special in the values of EC2's filters.
var wildcards = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`)

// filter matches any of the values literally.
func filter(name string, values ...string) types.Filter {
	escaped := make([]string, len(values))
	for i, value := range values {
		escaped[i] = wildcards.Replace(value)
	}
	return types.Filter{Name: sdk.String(name), Values: escaped}
}
