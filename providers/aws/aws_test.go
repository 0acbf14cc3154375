package aws_test

import (
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/nightshift-batch/nightshift/providers"
	"github.com/nightshift-batch/nightshift/providers/aws"
	"github.com/nightshift-batch/nightshift/providers/plugin"
	"github.com/nightshift-batch/nightshift/providers/providertest"
)

// config is a configuration that works against a cloud.
func (c *cloud) config() aws.Config {
	return aws.Config{
		Region:                      region,
		SubnetIDs:                   c.moto.subnets,
		InstanceTypes:               []string{"m5.large", "c5.xlarge"},
		ImageID:                     c.moto.image,
		SecurityGroupIDs:            []string{"sg-0123456789abcdef0"},
		OnDemandPricesMicrosPerHour: map[string]int64{"m5.large": 96_000, "c5.xlarge": 170_000},
		WatchInterval:               "20ms",
		EndpointURL:                 c.URL,
	}
}

// provider opens a provider on a cloud.
func (c *cloud) provider(change ...func(*aws.Config)) *aws.Provider {
	c.t.Helper()
	config := c.config()
	for _, f := range change {
		f(&config)
	}
	provider, err := aws.New(c.t.Context(), config, slog.New(slog.NewTextHandler(c.t.Output(), nil)))
	if err != nil {
		c.t.Fatal(err)
	}
	return provider
}

func TestEC2KeepsTheContractInProcess(t *testing.T) {
	providertest.Run(t, harness(t, "aws", func(t *testing.T, c *cloud) providers.Provider { return c.provider() }))
}

func TestEC2KeepsTheContractThroughThePlugin(t *testing.T) {
	providertest.Run(t, harness(t, "aws (plugin)", func(t *testing.T, c *cloud) providers.Provider {
		config, err := json.Marshal(c.config())
		if err != nil {
			t.Fatal(err)
		}
		return openPlugin(t, config)
	}))
}

func harness(t *testing.T, name string, open func(*testing.T, *cloud) providers.Provider) providertest.Harness {
	t.Helper()
	moto(t) // the suite is skipped as a whole or not at all
	return providertest.Harness{
		Name: name,
		New: func(t *testing.T, faults providertest.Faults) providertest.Subject {
			c := newCloud(t, faults.Capacity) // providertest.Plenty is plenty
			return providertest.Subject{
				Provider: open(t, c),
				Kill:     func(t testing.TB, id string) { c.moto.kill(t, id) },
				Alive: func(t testing.TB, id string) bool {
					instance, ok := c.moto.instance(t, id)
					return ok && instance.State.Name != "terminated"
				},
			}
		},
		Bootstrap:         providers.Bootstrap{Address: "control.example:7443", CACertificate: []byte("certificate"), Token: "token"},
		UnknownInstanceID: "i-0123456789abcdef0",
	}
}

// openPlugin runs the real executable.
func openPlugin(t *testing.T, config []byte) *plugin.Client {
	t.Helper()
	client, err := plugin.Open(t.Context(), pluginConfig(t, config))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Errorf("close the plugin: %v", err)
		}
	})
	return client
}

func pluginConfig(t *testing.T, config []byte) plugin.Config {
	t.Helper()
	var env []string
	for name, value := range fakeEnvironment {
		env = append(env, name+"="+value)
	}
	return plugin.Config{Name: "aws", Command: []string{executable(t)}, Env: env, Config: config,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

var built struct {
	once sync.Once
	path string
	err  error
}

// executable is nightshift-provider-aws: the one that was built for all end-to-end tests, or built here.
func executable(t *testing.T) string {
	t.Helper()
	const name = "nightshift-provider-aws"
	if directory := os.Getenv("NIGHTSHIFT_BIN_DIR"); directory != "" {
		return filepath.Join(directory, name)
	}
	built.once.Do(func() {
		var directory string
		if directory, built.err = os.MkdirTemp("", name); built.err != nil {
			return
		}
		built.path = filepath.Join(directory, name)
		var output []byte
		if output, built.err = exec.Command("go", "build", "-o", built.path, "../../cmd/"+name).CombinedOutput(); built.err != nil {
			t.Logf("%s", output)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}
