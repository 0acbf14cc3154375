package local_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nightshift-batch/nightshift/providers"
	"github.com/nightshift-batch/nightshift/providers/local"
	"github.com/nightshift-batch/nightshift/providers/plugin"
	"github.com/nightshift-batch/nightshift/providers/providertest"
)

// patience is how long a test waits for another process.
const patience = 15 * time.Second

func executable(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// config lends small instances whose agent is this test binary.
func config(t testing.TB, instances int, env ...string) local.Config {
	t.Helper()
	return local.Config{
		Dir: t.TempDir(), AgentCommand: []string{executable(t), roleAgent}, Env: env,
		Types: []local.Type{{
			Name: "small", CPUMillis: 1000, MemoryBytes: 1 << 30, PriceMicrosPerHour: 10_000, OnDemandPriceMicrosPerHour: 30_000,
			BootSeconds: 0.01, Max: instances, Extended: map[string]int64{"example.com/gpu": 1},
		}},
	}
}

func testLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func open(t testing.TB, config local.Config) *local.Provider {
	t.Helper()
	p, err := local.New(config, testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return p
}

func openPlugin(t testing.TB, config local.Config) *plugin.Client {
	t.Helper()
	encoded, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	client, err := plugin.Open(t.Context(), plugin.Config{
		Name: "local", Command: []string{executable(t), rolePlugin}, Config: encoded, Logger: testLogger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return client
}

func TestLocalKeepsThePromisesOfAProvider(t *testing.T) {
	// The subtests that do not need a capacity of their own share one provider: to start a plugin takes a second under the race
	// detector, for its keys.
	harness := func(t *testing.T, name string, open func(testing.TB, local.Config) providers.Provider) providertest.Harness {
		sharedConfig := config(t, providertest.MostInstances)
		shared := open(t, sharedConfig)
		return providertest.Harness{
			Name:      name,
			Bootstrap: bootstrap(),
			New: func(t *testing.T, faults providertest.Faults) providertest.Subject {
				c, p := sharedConfig, shared
				if faults.Capacity != providertest.Plenty {
					c = config(t, max(faults.Capacity, 1))
					p = open(t, c)
				}
				if faults.Capacity == 0 {
					fill(t, p)
				}
				return providertest.Subject{Provider: p, Kill: func(t testing.TB, id string) { killGuardian(t, c.Dir, id) }, Alive: alive}
			},
		}
	}
	var inProcess, throughPlugin int
	t.Run("in process", func(t *testing.T) {
		inProcess = providertest.Run(t, harness(t, "local in process", func(t testing.TB, c local.Config) providers.Provider { return open(t, c) }))
	})
	t.Run("through the plugin", func(t *testing.T) {
		throughPlugin = providertest.Run(t, harness(t, "local through the plugin", func(t testing.TB, c local.Config) providers.Provider { return openPlugin(t, c) }))
	})
	if inProcess != throughPlugin {
		t.Errorf("%d subtests in process, %d through the plugin", inProcess, throughPlugin)
	}
}

// fill takes the one instance that there is, for somebody else.
func fill(t testing.TB, p providers.Provider) {
	t.Helper()
	request := providers.LaunchRequest{Key: "fill", Owner: "somebody-else", OfferIDs: []string{"local/small/spot"}, Count: 1, Bootstrap: bootstrap()}
	if _, err := p.Launch(t.Context(), request); err != nil {
		t.Fatal(err)
	}
}

// guardian reads the pid of an instance's agent from the provider's record.
func guardian(t testing.TB, dir, id string) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "instances", id, "record.json"))
	if err != nil {
		t.Fatal(err)
	}
	var record struct {
		Guardian struct {
			PID int `json:"pid"`
		} `json:"guardian"`
	}
	if err := json.Unmarshal(data, &record); err != nil {
		t.Fatal(err)
	}
	if record.Guardian.PID <= 1 {
		t.Fatalf("record without a process: %s", data)
	}
	return record.Guardian.PID
}

func killGuardian(t testing.TB, dir, id string) {
	t.Helper()
	if err := syscall.Kill(guardian(t, dir, id), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// alive says whether any process names the instance in its arguments, as agents and their pods do.
func alive(_ testing.TB, id string) bool { return len(having("cmdline", id)) > 0 }

// having returns the processes whose cmdline or environ contains a string. A zombie has neither.
func having(file, what string) []int {
	var found []int
	paths, _ := filepath.Glob("/proc/[0-9]*")
	for _, path := range paths {
		data, err := os.ReadFile(filepath.Join(path, file))
		if err != nil || !bytes.Contains(data, []byte(what)) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(path)); err == nil {
			found = append(found, pid)
		}
	}
	return found
}

// eventually polls a condition that nothing signals: it is about other processes.
func eventually(t testing.TB, within time.Duration, what string, condition func() bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(within)
	for !condition() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// events watches until the test ends.
func events(t testing.TB, p providers.Provider) <-chan providers.Event {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out := make(chan providers.Event, 1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.Watch(ctx, owner, func(event providers.Event) { out <- event })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return out
}

// next returns the next event of a kind.
func next(t testing.TB, from <-chan providers.Event, kind providers.EventKind) providers.Event {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case event := <-from:
			if event.Kind == kind {
				return event
			}
		case <-deadline:
			t.Fatalf("no event %s within %v", kind, patience)
		}
	}
}

func launchOne(t testing.TB, p providers.Provider) string {
	t.Helper()
	request := threeInstances()
	request.Key, request.Count = "one", 1
	result, err := p.Launch(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	return result.Instances[0].ID
}

func listed(t testing.TB, p providers.Provider) int {
	t.Helper()
	instances, err := p.List(t.Context(), owner)
	if err != nil {
		t.Fatal(err)
	}
	return len(instances)
}

func TestOffersOfATypeDifferInMarketAndPriceAndShareItsMax(t *testing.T) {
	p := open(t, config(t, 2))
	launchOne(t, p)
	offers, err := p.Offers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(offers) != 2 {
		t.Fatalf("offers %+v", offers)
	}
	for i, want := range []struct {
		id    string
		price int64
	}{{"local/small/spot", 10_000}, {"local/small/on-demand", 30_000}} {
		got := offers[i]
		if got.ID != want.id || got.PriceMicrosPerHour != want.price || got.OnDemandPriceMicrosPerHour != 30_000 || got.Available != 1 ||
			got.Zone != "local" || got.Arch != runtime.GOARCH || got.Resources["pods"] != 110 || got.Resources["cpu"] != 1000 || got.Resources["example.com/gpu"] != 1 {
			t.Errorf("offer %+v, want %s at %d with one available", got, want.id, want.price)
		}
	}
}

func TestAnAgentGetsItsBootstrapASessionAndNothingOfThePlugin(t *testing.T) {
	t.Setenv("FROM_THE_HOST", "kept")
	c := config(t, 1, "FROM_THE_CONFIG=kept too")
	p := openPlugin(t, c)
	id := launchOne(t, p)
	path := filepath.Join(c.Dir, "instances", id, "state", "seen")
	var seen string
	eventually(t, patience, "the agent tells what it sees", func() bool {
		data, err := os.ReadFile(path)
		seen = string(data)
		return err == nil
	})
	for _, want := range []string{"address 127.0.0.1:9", "ca the certificate", "token the token", "leads its session true", "FROM_THE_HOST=kept", "FROM_THE_CONFIG=kept too"} {
		if !strings.Contains(seen+"\n", want+"\n") {
			t.Errorf("the agent does not see %q", want)
		}
	}
	for _, unwanted := range []string{"PLUGIN_", "NIGHTSHIFT_PROVIDER_"} {
		if strings.Contains(seen, "\n"+unwanted) {
			t.Errorf("the agent sees %s variables: %s", unwanted, seen)
		}
	}
}

func TestABootingInstanceIsTerminatedWithoutEverStarting(t *testing.T) {
	c := config(t, 1)
	c.Types[0].BootSeconds = 3600
	p := open(t, c)
	id := launchOne(t, p)
	if err := p.Terminate(t.Context(), []string{id}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(c.Dir, "instances", id, "agent.log")); !os.IsNotExist(err) {
		t.Errorf("the agent was started: %v", err)
	}
	if got := listed(t, p); got != 0 {
		t.Errorf("%d instances are listed", got)
	}
}

func TestAnAgentThatCannotBeStartedEndsItsInstanceWithTheReason(t *testing.T) {
	c := config(t, 1)
	notExecutable := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(notExecutable, []byte("this is no program"), 0o700); err != nil {
		t.Fatal(err)
	}
	c.AgentCommand = []string{notExecutable}
	p := open(t, c)
	from := events(t, p)
	launchOne(t, p)
	if event := next(t, from, providers.InstanceTerminated); !strings.Contains(event.Cause, "exec format error") {
		t.Errorf("cause %q", event.Cause)
	}
}

func TestOnlyTheLastEndedInstancesKeepTheirDirectory(t *testing.T) {
	c := config(t, 1)
	c.Types[0].BootSeconds = 3600
	p := open(t, c)
	for n := range 110 {
		request := threeInstances()
		request.Key, request.Count = "n"+strconv.Itoa(n), 1
		result, err := p.Launch(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Terminate(t.Context(), []string{result.Instances[0].ID}); err != nil {
			t.Fatal(err)
		}
	}
	directories, err := os.ReadDir(filepath.Join(c.Dir, "instances"))
	if err != nil {
		t.Fatal(err)
	}
	if len(directories) != 100 {
		t.Errorf("%d directories are kept, want 100", len(directories))
	}
}
