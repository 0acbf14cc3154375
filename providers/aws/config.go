package aws

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/nightshift-batch/nightshift/providers"
)

// Config is what an operator says about one EC2 region. Credentials are not part of it: they come from the SDK's default chain.
//
// The machine image comes either with LaunchTemplate or with ImageID and its companions.
type Config struct {
	// Region, as "eu-central-1". Required.
	Region string `json:"region"`
	// SubnetIDs or SubnetTag say where instances may run; exactly one of them. Of several subnets in one zone the first by id is used.
	SubnetIDs []string `json:"subnetIds,omitempty"`
	SubnetTag *Tag     `json:"subnetTag,omitempty"`
	// InstanceTypes may be launched. Required.
	InstanceTypes []string `json:"instanceTypes"`
	// LaunchTemplate is the operator's own. Instance type, subnet, user data, tags and metadata options are overridden.
	LaunchTemplate *LaunchTemplate `json:"launchTemplate,omitempty"`
	// ImageID is an AMI, or "resolve:ssm:NAME". All instance types must have its architecture.
	ImageID string `json:"imageId,omitempty"`
	// SecurityGroupIDs go with ImageID; required then.
	SecurityGroupIDs []string `json:"securityGroupIds,omitempty"`
	// InstanceProfile goes with ImageID: a name or an ARN. Default none.
	InstanceProfile string `json:"instanceProfile,omitempty"`
	// Agent says where an instance fetches the agent, by architecture (GOARCH). Without it the image starts the agent itself once
	// the bootstrap files are there.
	Agent map[string]AgentBinary `json:"agent,omitempty"`
	// OnDemandPricesMicrosPerHour is the on-demand price of each instance type, micro-dollars an hour. A type that is missing
	// here is not offered.
	OnDemandPricesMicrosPerHour map[string]int64 `json:"onDemandPricesMicrosPerHour"`
	// ReservedMemoryBytes is kept for the system and the agent on each instance. Default 256 MiB.
	ReservedMemoryBytes *int64 `json:"reservedMemoryBytes,omitempty"`
	// EphemeralStorageBytes is what pods may use of an instance's disk. Default: none is offered.
	EphemeralStorageBytes int64 `json:"ephemeralStorageBytes,omitempty"`
	// Tags go on every instance and volume beside our own.
	Tags map[string]string `json:"tags,omitempty"`
	// WatchInterval is how often Watch looks, a Go duration as "30s". Default 15s, at least 10ms.
	WatchInterval string `json:"watchInterval,omitempty"`
	// EndpointURL replaces EC2's own endpoint, for tests.
	EndpointURL string `json:"endpointURL,omitempty"`
}

// Tag is an EC2 tag.
type Tag struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// LaunchTemplate names an EC2 launch template by exactly one of name and id.
type LaunchTemplate struct {
	Name string `json:"name,omitempty"`
	ID   string `json:"id,omitempty"`
	// Version is a number, "$Default" or "$Latest". Default "$Default".
	Version string `json:"version,omitempty"`
}

// AgentBinary is where to fetch an agent and what it must be.
type AgentBinary struct {
	// URL is https, or http on a private network.
	URL string `json:"url"`
	// SHA256 of the binary, 64 hexadecimal digits.
	SHA256 string `json:"sha256"`
}

const (
	defaultWatchInterval  = 15 * time.Second
	shortestWatchInterval = 10 * time.Millisecond
	defaultReservedMemory = 256 << 20
)

var (
	sha256Pattern = regexp.MustCompile(`^[0-9a-f]{64}$`)
	// EC2 allows such characters in tags (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html).
	tagKeyPattern = regexp.MustCompile(`^[\pL\pZ\pN_.:/=+\-@]{1,128}$`)
)

// ParseConfig reads a configuration strictly from JSON. The error has KindBadConfig and names the key that is wrong.
func ParseConfig(data []byte) (Config, error) {
	var config Config
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&config); err != nil {
		var wrongType *json.UnmarshalTypeError
		switch {
		case errors.As(err, &wrongType) && wrongType.Field != "":
			return Config{}, badConfig(wrongType.Field, "is a %s, want a %s", wrongType.Value, wrongType.Type)
		case errors.As(err, &wrongType):
			return Config{}, badConfig("configuration", "is a %s, want an object", wrongType.Value)
		case errors.Is(err, io.EOF):
			return Config{}, badConfig("configuration", "is empty, want an object")
		}
		return Config{}, &providers.Error{Kind: providers.KindBadConfig, Op: opConfigure, Err: err}
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return Config{}, badConfig("configuration", "something follows the object")
	}
	return config, config.validate()
}

// badConfig is an error about one key.
func badConfig(key, format string, args ...any) error {
	return &providers.Error{Kind: providers.KindBadConfig, Op: opConfigure, Err: fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...))}
}

// validate finds what can be found wrong without asking EC2.
func (c Config) validate() error {
	switch {
	case c.Region == "":
		return badConfig("region", "is missing")
	case len(c.SubnetIDs) == 0 && c.SubnetTag == nil:
		return badConfig("subnetIds", "either subnetIds or subnetTag is needed")
	case len(c.SubnetIDs) > 0 && c.SubnetTag != nil:
		return badConfig("subnetTag", "subnetIds and subnetTag exclude each other")
	case c.SubnetTag != nil && c.SubnetTag.Key == "":
		return badConfig("subnetTag.key", "is missing")
	case len(c.InstanceTypes) == 0:
		return badConfig("instanceTypes", "is empty")
	case c.EphemeralStorageBytes < 0:
		return badConfig("ephemeralStorageBytes", "is negative")
	case c.ReservedMemoryBytes != nil && *c.ReservedMemoryBytes < 0:
		return badConfig("reservedMemoryBytes", "is negative")
	}
	for key, list := range map[string][]string{"subnetIds": c.SubnetIDs, "instanceTypes": c.InstanceTypes, "securityGroupIds": c.SecurityGroupIDs} {
		if slices.Contains(list, "") {
			return badConfig(key, "holds an empty name")
		}
	}
	for _, instanceType := range c.InstanceTypes {
		if strings.ContainsAny(instanceType, "*/ ") {
			return badConfig("instanceTypes", "%q is no instance type", instanceType)
		}
	}
	for instanceType, price := range c.OnDemandPricesMicrosPerHour {
		if price <= 0 {
			return badConfig("onDemandPricesMicrosPerHour."+instanceType, "is %d, want more than 0", price)
		}
	}
	if c.EndpointURL != "" && !isURL(c.EndpointURL) {
		return badConfig("endpointURL", "%q is no http or https URL", c.EndpointURL)
	}
	_, err := c.watchInterval()
	return errors.Join(err, c.validateImage(), c.validateAgent(), c.validateTags())
}

func (c Config) validateImage() error {
	template := c.LaunchTemplate
	switch {
	case template == nil && c.ImageID == "":
		return badConfig("launchTemplate", "either launchTemplate or imageId is needed")
	case template == nil && len(c.SecurityGroupIDs) == 0:
		return badConfig("securityGroupIds", "is needed with imageId")
	case template == nil:
		return nil
	case (template.Name == "") == (template.ID == ""):
		return badConfig("launchTemplate", "needs one of name and id")
	case c.ImageID != "":
		return badConfig("imageId", "comes from the launchTemplate")
	case len(c.SecurityGroupIDs) > 0:
		return badConfig("securityGroupIds", "come from the launchTemplate")
	case c.InstanceProfile != "":
		return badConfig("instanceProfile", "comes from the launchTemplate")
	}
	return nil
}

func (c Config) validateAgent() error {
	for arch, binary := range c.Agent {
		switch key := "agent." + arch; {
		case arch != "amd64" && arch != "arm64":
			return badConfig(key, "is no architecture, want amd64 or arm64")
		case !isURL(binary.URL):
			return badConfig(key+".url", "%q is no http or https URL", binary.URL)
		case !sha256Pattern.MatchString(binary.SHA256):
			return badConfig(key+".sha256", "want 64 hexadecimal digits in lower case")
		}
	}
	return nil
}

func (c Config) validateTags() error {
	for tag, value := range c.Tags {
		switch key := "tags." + tag; {
		case strings.HasPrefix(tag, "nightshift-") || strings.HasPrefix(strings.ToLower(tag), "aws:"):
			return badConfig(key, "the prefix is taken")
		case !tagKeyPattern.MatchString(tag):
			return badConfig(key, "is no tag that EC2 allows")
		case len([]rune(value)) > maxTagValue:
			return badConfig(key, "the value has more than %d characters", maxTagValue)
		}
	}
	return nil
}

func isURL(text string) bool {
	parsed, err := url.Parse(text)
	return err == nil && (parsed.Scheme == "http" || parsed.Scheme == "https") && parsed.Host != ""
}

func (c Config) watchInterval() (time.Duration, error) {
	if c.WatchInterval == "" {
		return defaultWatchInterval, nil
	}
	interval, err := time.ParseDuration(c.WatchInterval)
	if err != nil {
		return 0, badConfig("watchInterval", "%v", err)
	}
	if interval < shortestWatchInterval {
		return 0, badConfig("watchInterval", "%v is shorter than %v", interval, shortestWatchInterval)
	}
	return interval, nil
}

func (c Config) reservedMemory() int64 {
	if c.ReservedMemoryBytes == nil {
		return defaultReservedMemory
	}
	return *c.ReservedMemoryBytes
}
