package aws_test

import (
	"encoding/json"
	"log/slog"
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/nightshift-batch/nightshift/providers"
	"github.com/nightshift-batch/nightshift/providers/aws"
	"github.com/nightshift-batch/nightshift/providers/plugin"
)

const goodConfig = `{
	"region": "eu-central-1",
	"subnetIds": ["subnet-1"],
	"instanceTypes": ["m5.large"],
	"imageId": "ami-1",
	"securityGroupIds": ["sg-1"],
	"onDemandPricesMicrosPerHour": {"m5.large": 96000},
	"agent": {"amd64": {"url": "https://agents.example/agent", "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}},
	"tags": {"team": "night"},
	"watchInterval": "30s"
}`

func TestAConfigurationIsRead(t *testing.T) {
	config, err := aws.ParseConfig([]byte(goodConfig))
	if err != nil {
		t.Fatal(err)
	}
	if config.Region != "eu-central-1" || config.WatchInterval != "30s" || config.OnDemandPricesMicrosPerHour["m5.large"] != 96_000 {
		t.Errorf("read %+v", config)
	}
	again, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := aws.ParseConfig(again); err != nil {
		t.Errorf("what was read does not read again: %v", err)
	}
}

func TestTheConfigurationInTheDocumentsIsRead(t *testing.T) {
	page, err := os.ReadFile("../../docs/AWS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(page), "```yaml\n")
	example, _, closed := strings.Cut(after, "```")
	if !found || !closed {
		t.Fatal("docs/AWS.md shows no configuration")
	}
	asJSON, err := yaml.YAMLToJSONStrict([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := aws.ParseConfig(asJSON); err != nil {
		t.Error(err)
	}
}

func TestAWrongConfigurationNamesTheKey(t *testing.T) {
	for name, test := range map[string]struct{ old, new, key string }{
		"unknown key":                {`"region"`, `"regoin": 1, "region"`, "regoin"},
		"wrong type":                 {`["m5.large"]`, `"m5.large"`, "instanceTypes"},
		"wrong type within":          {`96000`, `"96000"`, "onDemandPricesMicrosPerHour"},
		"no object":                  {goodConfig, `[]`, "want an object"},
		"something follows":          {"\"30s\"\n}", "\"30s\"\n} {}", "configuration"},
		"no region":                  {`"eu-central-1"`, `""`, "region"},
		"no subnet":                  {`["subnet-1"]`, `[]`, "subnetIds"},
		"two ways to name subnets":   {`"subnetIds"`, `"subnetTag": {"key": "a", "value": "b"}, "subnetIds"`, "subnetTag"},
		"empty subnet":               {`"subnet-1"`, `""`, "subnetIds"},
		"no instance type":           {`["m5.large"]`, `[]`, "instanceTypes"},
		"pattern as instance type":   {`["m5.large"]`, `["m5.*"]`, "instanceTypes"},
		"no image":                   {`"ami-1"`, `""`, "launchTemplate"},
		"no security group":          {`["sg-1"]`, `[]`, "securityGroupIds"},
		"image and template":         {`"imageId"`, `"launchTemplate": {"name": "a"}, "imageId"`, "imageId"},
		"template without name":      {`"imageId": "ami-1",`, `"launchTemplate": {},`, "launchTemplate"},
		"negative price":             {`96000`, `-1`, "onDemandPricesMicrosPerHour.m5.large"},
		"unknown architecture":       {`"amd64"`, `"mips"`, "agent.mips"},
		"wrong agent URL":            {`https://agents`, `ftp://agents`, "agent.amd64.url"},
		"wrong agent checksum":       {`e3b0c4`, `E3B0C4`, "agent.amd64.sha256"},
		"tag of ours":                {`"team"`, `"nightshift-owner"`, "tags.nightshift-owner"},
		"tag of Amazon's":            {`"team"`, `"AWS:team"`, "tags.AWS:team"},
		"no duration":                {`30s`, `soon`, "watchInterval"},
		"interval that is too short": {`30s`, `1ns`, "watchInterval"},
		"no endpoint":                {`"region"`, `"endpointURL": "localhost", "region"`, "endpointURL"},
		"negative storage":           {`"region"`, `"ephemeralStorageBytes": -1, "region"`, "ephemeralStorageBytes"},
		"negative memory":            {`"region"`, `"reservedMemoryBytes": -1, "region"`, "reservedMemoryBytes"},
	} {
		t.Run(name, func(t *testing.T) {
			wrong := strings.Replace(goodConfig, test.old, test.new, 1)
			if wrong == goodConfig {
				t.Fatalf("%q is not in the good configuration", test.old)
			}
			_, err := aws.ParseConfig([]byte(wrong))
			wantKind(t, err, providers.KindBadConfig)
			if !strings.Contains(err.Error(), test.key) {
				t.Errorf("error %v does not name %s", err, test.key)
			}
		})
	}
}

func TestAConfigurationThatDoesNotFitEC2NamesTheKey(t *testing.T) {
	c := newCloud(t, plenty)
	for name, test := range map[string]struct {
		change func(*aws.Config)
		key    string
	}{
		"unknown subnet": {func(config *aws.Config) { config.SubnetIDs = []string{"subnet-00000000000000000"} }, "subnetIds"},
		"tag of no subnet": {func(config *aws.Config) {
			config.SubnetIDs, config.SubnetTag = nil, &aws.Tag{Key: "no", Value: "subnet"}
		}, "subnetTag"},
		"unknown type":         {func(config *aws.Config) { config.InstanceTypes = []string{"m5.large", "m5.huge"} }, `instanceTypes: us-east-1 has no instance type "m5.huge"`},
		"type of another arch": {func(config *aws.Config) { config.InstanceTypes = []string{"m6g.large"} }, "instanceTypes: m6g.large is arm64"},
		"unknown image":        {func(config *aws.Config) { config.ImageID = "ami-00000000000000000" }, "imageId"},
		"unknown template": {func(config *aws.Config) {
			config.ImageID, config.SecurityGroupIDs, config.LaunchTemplate = "", nil, &aws.LaunchTemplate{Name: "no-such-template"}
		}, "launchTemplate"},
	} {
		t.Run(name, func(t *testing.T) {
			config := c.config()
			test.change(&config)
			_, err := aws.New(t.Context(), config, nil)
			wantKind(t, err, providers.KindBadConfig)
			if !strings.Contains(err.Error(), test.key) {
				t.Errorf("error %v does not name %s", err, test.key)
			}
		})
	}
}

func TestAWrongConfigurationIsToldThroughThePlugin(t *testing.T) {
	_, err := plugin.Open(t.Context(), pluginConfig(t, []byte(`{"regoin": "us-east-1"}`)))
	wantKind(t, err, providers.KindBadConfig)
	if !strings.Contains(err.Error(), "regoin") {
		t.Errorf("error %v does not name the key", err)
	}
}

func TestMissingCredentialsAreUnauthorized(t *testing.T) {
	c := newCloud(t, plenty)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	_, err := aws.New(t.Context(), c.config(), slog.New(slog.DiscardHandler))
	wantKind(t, err, providers.KindUnauthorized)
}

func TestSubnetsAreFoundByTag(t *testing.T) {
	c := newCloud(t, plenty)
	c.tagSubnet(c.moto.subnets[1], "test", t.Name())
	p := c.provider(func(config *aws.Config) {
		config.SubnetIDs, config.SubnetTag = nil, &aws.Tag{Key: "test", Value: t.Name()}
	})
	offers := offersByID(t, p)
	if len(offers) == 0 {
		t.Fatal("nothing is offered")
	}
	for id, offer := range offers {
		if offer.Zone != "us-east-1b" {
			t.Errorf("%s is not in the subnet's zone", id)
		}
	}
}
