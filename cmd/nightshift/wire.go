package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/nightshift-batch/nightshift/orchestrator/admission"
	"github.com/nightshift-batch/nightshift/orchestrator/archive"
	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/fleet"
	"github.com/nightshift-batch/nightshift/orchestrator/journal/etcd"
	"github.com/nightshift-batch/nightshift/orchestrator/pki"
	"github.com/nightshift-batch/nightshift/orchestrator/writer"
	"github.com/nightshift-batch/nightshift/policy/opa"
	"github.com/nightshift-batch/nightshift/providers"
	"github.com/nightshift-batch/nightshift/providers/local"
	"github.com/nightshift-batch/nightshift/providers/plugin"
	"github.com/nightshift-batch/nightshift/telemetry"
)

// controlPlane is all parts of one control plane, joined. This file alone knows the concrete ones.
type controlPlane struct {
	settings *resolved
	logger   *slog.Logger

	journal   *etcd.Journal
	archive   *archive.Archive
	authority *pki.Authority
	telemetry *telemetry.Telemetry
	plugins   []*plugin.Client
	tracker   *tracker
	writer    *writer.Writer
	desk      *admission.Desk
	fleet     *fleet.Fleet

	// running ends with stop, or when a part ends by itself; failed says which.
	running context.Context
	stop    context.CancelCauseFunc
	parts   sync.WaitGroup
	mu      sync.Mutex
	failed  error
}

// openControlPlane joins the parts on a data directory, reads the log and starts deciding. Close must follow, also after an error.
func openControlPlane(ctx context.Context, settings *resolved, logger *slog.Logger) (*controlPlane, error) {
	c := &controlPlane{settings: settings, logger: logger, tracker: newTracker()}
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"make the data directory", func(context.Context) error { return os.MkdirAll(c.path("telemetry"), 0o700) }},
		{"open the log", c.openJournal},
		{"open the archive", c.openArchive},
		{"open the certificate authority", c.openAuthority},
		{"prepare telemetry", c.openTelemetry},
		{"start the providers", c.openProviders},
		{"begin deciding", c.begin},
	} {
		if err := step.do(ctx); err != nil {
			return c, fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return c, nil
}

func (c *controlPlane) path(parts ...string) string {
	return filepath.Join(append([]string{c.settings.dataDir}, parts...)...)
}

func (c *controlPlane) openJournal(ctx context.Context) (err error) {
	c.journal, err = etcd.Open(ctx, etcd.Options{Dir: c.path("journal"), Logger: c.logger})
	return err
}

func (c *controlPlane) openArchive(context.Context) (err error) {
	c.archive, err = archive.OpenDir(c.path("archive"))
	return err
}

func (c *controlPlane) openAuthority(context.Context) (err error) {
	c.authority, err = pki.Open(c.path("pki"))
	return err
}

func (c *controlPlane) openTelemetry(ctx context.Context) (err error) {
	c.telemetry, err = telemetry.New(ctx, telemetry.Options{
		TraceFile: c.settings.traceFile, ServiceVersion: version, Cursor: telemetry.CursorDir(c.path("telemetry")), Costs: c.tracker, Logger: c.logger,
	})
	return err
}

// openProviders starts each provider as a plugin process.
func (c *controlPlane) openProviders(ctx context.Context) error {
	executable, err := self()
	if err != nil {
		return fmt.Errorf("find this executable: %w", err)
	}
	for _, choice := range c.settings.providers {
		config := plugin.Config{Name: choice.name, Logger: c.logger.With("provider", choice.name)}
		switch choice.name {
		case "local":
			config.Command = []string{executable, "provider", "local"}
			config.Config, err = json.Marshal(localConfig(c.path("providers", "local"), executable, c.settings.nodes))
		default:
			config.Command = []string{besides(executable, "nightshift-provider-"+choice.name)}
			config.Config, err = readConfig(choice.configFile)
		}
		if err != nil {
			return usage(fmt.Errorf("provider %s: %w", choice.name, err))
		}
		client, err := plugin.Open(ctx, config)
		if err != nil {
			return fmt.Errorf("provider %s: %w", choice.name, err)
		}
		c.plugins = append(c.plugins, client)
	}
	return nil
}

// besides returns the executable of that name beside this one, or else its name, for PATH.
func besides(executable, name string) string {
	path := filepath.Join(filepath.Dir(executable), name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	return name
}

func readConfig(file string) ([]byte, error) {
	written, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return yaml.YAMLToJSON(written)
}

// Prices of the simulated types, micro-dollars an hour: those of a c-family large instance, so that receipts look like a cloud's.
const (
	simulatedSpotPrice     = 34_000
	simulatedOnDemandPrice = 85_000
	simulatedBootSeconds   = 0.5
)

// evictNotice is how long before its end an instance that --evict-every takes is told. EC2 gives two minutes.
const evictNotice = 30 * time.Second

// serveLocalProvider is the main function of a local provider's plugin process.
func serveLocalProvider() error { return plugin.Serve(local.Open) }

// localConfig offers the number of nodes that was asked for, of a simulated shape; or else the machine itself, once.
func localConfig(dir, executable string, nodes int) local.Config {
	offered := local.Type{
		Name: "local-2x4", CPUMillis: 2000, MemoryBytes: 4 << 30, Max: nodes, BootSeconds: simulatedBootSeconds,
		PriceMicrosPerHour: simulatedSpotPrice, OnDemandPriceMicrosPerHour: simulatedOnDemandPrice,
	}
	if nodes == 0 {
		cores := int64(runtime.NumCPU())
		offered.Name, offered.Max, offered.BootSeconds = "this-machine", 1, 0
		offered.CPUMillis, offered.MemoryBytes = 1000*cores, machineMemory()
		offered.PriceMicrosPerHour, offered.OnDemandPriceMicrosPerHour = cores*simulatedSpotPrice/2, cores*simulatedOnDemandPrice/2
	}
	return local.Config{Dir: dir, AgentCommand: []string{executable, "agent"}, Types: []local.Type{offered}}
}

// machineMemory is the machine's memory in bytes, or 1 GiB if the kernel does not tell.
func machineMemory() int64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 1 << 30
	}
	return int64(info.Totalram) * int64(info.Unit)
}

// begin reads the log and starts all that works on it.
func (c *controlPlane) begin(ctx context.Context) error {
	decider, err := opa.New(ctx, opa.Options{PolicyDataFile: c.settings.policyData})
	if err != nil {
		return usage(err)
	}
	seed := make([]byte, 16)
	if _, err := rand.Read(seed); err != nil {
		return fmt.Errorf("draw the log's seed: %w", err)
	}
	c.desk = admission.New(decider, submitter{c}, c.archive, c.logger)
	c.writer, err = writer.Open(ctx, writer.Config{
		Journal: c.journal, Now: time.Now, Seed: seed, Logger: c.logger,
		Followers: []writer.Follower{c.tracker, c.desk, telemetryFollower{c.telemetry}},
		Want:      func(effects engine.Effects) { c.desk.Want(effects); c.fleet.Want(effects) },
	})
	if err != nil {
		return err
	}
	lent := make(map[string]providers.Provider)
	for i, choice := range c.settings.providers {
		lent[choice.name] = c.plugins[i]
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen for agents: %w", err)
	}
	c.fleet, err = fleet.New(fleet.Config{
		Submit: c.writer, Providers: lent, Authority: c.authority, Logs: logSink{c.archive}, Owner: hex.EncodeToString(c.writer.Seed()),
		Listener: listener, Images: c.resolveImages, EvictEvery: c.settings.evictEvery, EvictNotice: evictNotice, Pods: c.tracker, Logger: c.logger,
	})
	if err != nil {
		return err
	}
	c.start()
	return nil
}

// start runs the parts until close.
func (c *controlPlane) start() {
	ctx, stop := context.WithCancelCause(context.Background())
	c.running, c.stop = ctx, stop
	for name, part := range map[string]func(context.Context) error{"the writer": c.writer.Run, "admission": c.desk.Run, "the fleet": c.fleet.Run} {
		c.parts.Go(func() {
			err := part(ctx)
			if ctx.Err() == nil {
				err = fmt.Errorf("%s has ended: %w", name, err)
				c.mu.Lock()
				c.failed = errors.Join(c.failed, err)
				c.mu.Unlock()
				stop(err)
			}
		})
	}
}

// submitter lets parts that are made before the writer submit to it.
type submitter struct{ plane *controlPlane }

func (s submitter) Submit(ctx context.Context, command engine.Command) (uint64, error) {
	return s.plane.writer.Submit(ctx, command)
}

// logSink keeps what agents send in the archive.
type logSink struct{ archive *archive.Archive }

func (s logSink) AppendLog(ctx context.Context, run fleet.LogRun, offset int64, data []byte, end bool) error {
	return s.archive.AppendLog(ctx, archive.LogRun(run), offset, data, end)
}

// resolveImages gives containers that name no command the executable that --image names.
func (c *controlPlane) resolveImages(pod *corev1.Pod) error {
	for i := range pod.Spec.Containers {
		container := &pod.Spec.Containers[i]
		command, ok := c.settings.images.Command(*container)
		if !ok {
			return fmt.Errorf("image %q names no command here; give --image %s=EXECUTABLE", container.Image, container.Image)
		}
		container.Command = command
	}
	return nil
}
