package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/attach"
	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/swarm"
	"github.com/nightshift-batch/nightshift/orchestrator/admission"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/entry"
	"github.com/nightshift-batch/nightshift/orchestrator/archive"
	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/fleet"
	"github.com/nightshift-batch/nightshift/orchestrator/journal/etcd"
	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi"
	"github.com/nightshift-batch/nightshift/orchestrator/pki"
	"github.com/nightshift-batch/nightshift/orchestrator/seal"
	"github.com/nightshift-batch/nightshift/orchestrator/view"
	"github.com/nightshift-batch/nightshift/orchestrator/writer"
	"github.com/nightshift-batch/nightshift/policy"
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
	decider   policy.Decider
	plugins   []*plugin.Client
	opening   opening
	narrator  *narrator
	view      *view.View
	writer    *writer.Writer
	desk      *admission.Desk
	fleet     *fleet.Fleet
	api       *kubeapi.Server
	// socket is where other commands reach this one; guests and waiting are what it knows of runs that are attached.
	socket  *attach.Server
	guests  guests
	waiting waiting

	// running ends with stop, or when a part ends by itself; failed says which.
	running context.Context
	stop    context.CancelCauseFunc
	parts   sync.WaitGroup
	mu      sync.Mutex
	failed  error
}

// openControlPlane joins the parts on a data directory and reads the log. Nothing is carried out before start. Close must follow, also
// after an error.
func openControlPlane(ctx context.Context, settings *resolved, logger *slog.Logger) (*controlPlane, error) {
	kubeapi.LogTo(logger)
	c := &controlPlane{settings: settings, logger: logger}
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"make the data directory", func(context.Context) error { return os.MkdirAll(c.path("telemetry"), 0o700) }},
		{"open the log", c.takeDirectory}, // The log and the providers take their time; they begin here, beside the rest.
		{"open the archive", c.openArchive},
		{"open the certificate authority", c.openAuthority},
		{"prepare telemetry", c.openTelemetry},
		{"read the policy", c.openPolicy},
		{"prepare the API", c.openAPI},
		{"open the log", func(context.Context) error { return c.opening.log.await() }},
		{"read the log", c.openWriter},
		{"start the providers", func(context.Context) error { return c.opening.providers.await() }},
		{"prepare the fleet", c.openFleet},
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

// openJournal opens the log; locked is called once the data directory is this process's own.
func (c *controlPlane) openJournal(ctx context.Context, locked func()) (err error) {
	c.journal, err = etcd.Open(ctx, etcd.Options{Dir: c.path("journal"), Logger: c.logger, Cluster: etcd.Cluster(c.settings.etcd), Locked: locked})
	switch {
	case errors.Is(err, etcd.ErrInUse):
		return fmt.Errorf("%w: %w; give another --data-dir", errInUse, err)
	case errors.Is(err, etcd.ErrElsewhere):
		return fmt.Errorf("%w; start serve with the --etcd- options that it was started with first, or give another --data-dir", err)
	}
	return adviseOnLog(err)
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
	c.narrator = newNarrator(c.settings.dataDir)
	c.telemetry, err = telemetry.New(ctx, telemetry.Options{
		TraceFile: c.settings.traceFile, ServiceVersion: version, Cursor: telemetry.CursorDir(c.path("telemetry")), Costs: c.narrator, Logger: c.logger,
	})
	c.narrator.spans = c.telemetry
	return err
}

func (c *controlPlane) openPolicy(ctx context.Context) (err error) {
	if c.decider, err = opa.New(ctx, opa.Options{PolicyDataFile: c.settings.policyData}); err != nil {
		return usage(err)
	}
	c.view = view.New(view.Options{Each: c.narrator.each})
	c.desk = admission.New(c.decider, submitter{c}, c.archive, c.logger)
	return nil
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
			config.Config, err = json.Marshal(localConfig(c.path("providers", "local"), executable, c.settings.nodes, c.settings.startAhead))
		case "swarm":
			config.Command = []string{executable, "provider", "swarm"}
			config.Config, err = os.ReadFile(choice.configFile)
		default:
			config.Command = []string{besides(executable, "nightshift-provider-"+choice.name)}
			config.Config, err = readConfig(choice.configFile)
		}
		if err != nil {
			return usage(fmt.Errorf("provider %s: %w", choice.name, err))
		}
		client, err := plugin.Open(ctx, config)
		switch {
		case providers.KindOf(err) == providers.KindBadConfig:
			return usage(fmt.Errorf("provider %s: %w", choice.name, err))
		case err != nil:
			return fmt.Errorf("provider %s: %w", choice.name, err)
		}
		c.plugins = append(c.plugins, client)
	}
	return nil
}

// readAndLetGo reads the log and leaves the directory to whoever wants to work on it.
func (c *controlPlane) readAndLetGo(ctx context.Context) error {
	err := errors.Join(writer.Read(ctx, c.journal, c.view.Observe), c.journal.Close())
	c.journal = nil
	return err
}

// readLog gives the facts of a data directory on which nobody works.
func readLog(ctx context.Context, dataDir string, observe func(first uint64, facts []*event.Fact)) error {
	log, err := etcd.Open(ctx, etcd.Options{Dir: filepath.Join(dataDir, "journal"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	return errors.Join(writer.Read(ctx, log, observe), log.Close())
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

func serveSwarm() error { return plugin.Serve(swarm.Open) }

// localConfig offers the number of nodes that was asked for, of a simulated shape; or else the machine itself, once, with its agent started
// ahead if it is sure to be needed.
func localConfig(dir, executable string, nodes int, startAhead bool) local.Config {
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
	config := local.Config{Dir: dir, AgentCommand: []string{executable, "agent"}, Types: []local.Type{offered}, StartAhead: startAhead && nodes == 0}
	if os.Getenv("GOGC") == "" {
		config.Env = []string{"GOGC=off", entry.GCLater + "=true"}
	}
	return config
}

// openWriter becomes the writer of the log and reads it.
func (c *controlPlane) openWriter(ctx context.Context) (err error) {
	seed := make([]byte, 16)
	if _, err := rand.Read(seed); err != nil {
		return fmt.Errorf("draw the log's seed: %w", err)
	}
	c.writer, err = writer.Open(ctx, writer.Config{
		Journal: c.journal, Now: time.Now, Seed: seed, Closed: c.settings.closed, Only: c.settings.only, Logger: c.logger,
		Followers: []writer.Follower{c.view, c.desk},
		Want:      func(effects engine.Effects) { c.desk.Want(effects); c.fleet.Want(effects) },
	})
	return err
}

func (c *controlPlane) openFleet(context.Context) error {
	lent := make(map[string]providers.Provider)
	for i, choice := range c.settings.providers {
		lent[choice.name] = c.plugins[i]
		if interrupter, can := c.plugins[i].Interrupter(); can {
			lent[choice.name] = interruptible{c.plugins[i], interrupter}
		}
	}
	listener, err := net.Listen("tcp", c.settings.agentsListen)
	if err != nil {
		return fmt.Errorf("listen for agents: %w", err)
	}
	c.fleet, err = fleet.New(fleet.Config{
		Submit: c.writer, Providers: lent, Authority: c.authority, Logs: logSink{c.archive}, Owner: hex.EncodeToString(c.writer.Seed()),
		Listener: listener, AgentAddress: c.settings.agentsAddress, Images: c.resolveImages, Warn: c.warn,
		EvictEvery: c.settings.evictEvery, EvictNotice: evictNotice, Pods: podLookup{c.view}, Logger: c.logger,
	})
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	return nil
}

func (c *controlPlane) openAPI(context.Context) (err error) {
	sealer := seal.OpenOrMake(c.path("pki", "secrets.key"))
	if file := c.settings.secretsKeyFile; file != "" {
		if sealer, err = seal.Open(file); err != nil {
			return usage(err)
		}
	}
	c.api, err = kubeapi.New(kubeapi.Config{
		Sealer: sealer,
		View:   c.view, Submitter: submitter{c}, Jobs: jobCreator{c.desk}, Logs: logSource{c.archive}, Authority: c.authority,
		Images: c.imagesOf, Hosts: c.settings.hosts, Logger: c.logger,
		Access: c.settings.door.Access, Limits: c.settings.door.Limits,
	})
	if err != nil {
		return err
	}
	inside := kubeapi.Identity{User: whoRuns(), Groups: []string{kubeapi.AdminGroup}}
	c.socket = &attach.Server{Host: c.host, Logger: c.logger, API: http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		c.api.Handler().ServeHTTP(w, request.WithContext(kubeapi.WithIdentity(request.Context(), inside)))
	})}
	return nil
}

// client asks the API in this process. A Job that it creates takes the place of one of the same name that has ended.
func (c *controlPlane) client(user string) (kubernetes.Interface, error) {
	return c.api.Client(kubeapi.Identity{User: user, Groups: []string{kubeapi.AdminGroup}, ReplaceEnded: true})
}

// transport carries requests to the API in this process.
func (c *controlPlane) transport(user string) http.RoundTripper {
	return c.api.Transport(kubeapi.Identity{User: user, Groups: []string{kubeapi.AdminGroup}})
}

// readControlPlane opens what is in a data directory to be read: nothing is decided, and nothing carried out.
func readControlPlane(ctx context.Context, dataDir string) (*controlPlane, error) {
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	kubeapi.LogTo(logger)
	c := &controlPlane{settings: &resolved{options: options{dataDir: dataDir}}, logger: logger, view: view.New(view.Options{})}
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"open the log", func(ctx context.Context) error { return c.openJournal(ctx, nil) }},
		{"open the archive", c.openArchive},
		{"open the certificate authority", c.openAuthority},
		{"read the log", c.readAndLetGo},
		{"prepare the API", c.openAPI},
	} {
		if err := step.do(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", step.what, err), c.close())
		}
	}
	return c, nil
}

// interruptible is a provider in a plugin that can take instances back on request.
type interruptible struct {
	providers.Provider
	providers.Interrupter
}

// submitter lets parts that are made before the writer submit to it.
type submitter struct{ plane *controlPlane }

func (s submitter) Submit(ctx context.Context, command engine.Command) (uint64, error) {
	if s.plane.writer == nil {
		return 0, errors.New("the data directory is only being read")
	}
	return s.plane.writer.Submit(ctx, command)
}

// logSink keeps what agents send in the archive.
type logSink struct{ archive *archive.Archive }

func (s logSink) AppendLog(ctx context.Context, run fleet.LogRun, offset int64, data []byte, end bool) error {
	return s.archive.AppendLog(ctx, archive.LogRun(run), offset, data, end)
}

func (s logSink) EndSilentLog(run fleet.LogRun) { s.archive.EndSilentLog(archive.LogRun(run)) }

// logSource reads from the archive for the API.
type logSource struct{ archive *archive.Archive }

func (s logSource) OpenLog(ctx context.Context, run kubeapi.LogRun, options kubeapi.LogOptions) (io.ReadCloser, error) {
	log, err := s.archive.OpenLog(ctx, archive.LogRun(run), archive.LogOptions(options))
	if errors.Is(err, archive.ErrNoLog) {
		return nil, kubeapi.ErrNoLog
	}
	return log, err
}

// containerRun names one run of a container.
type containerRun struct {
	namespace, jobUID, podUID, container string
	restart                              int32
}

// errNoLog: nothing is kept of that run.
var errNoLog = archive.ErrNoLog

// openLog reads what one run of a container has written, and goes on with what it writes later if it is to follow.
func (c *controlPlane) openLog(ctx context.Context, run containerRun, follow bool) (io.ReadCloser, error) {
	return c.archive.OpenLog(ctx, archive.LogRun{
		Tenant: run.namespace, JobUID: run.jobUID, PodUID: run.podUID, Container: run.container, Restart: run.restart,
	}, archive.LogOptions{Follow: follow})
}

// jobCreator is the desk with its denials in the API's words.
type jobCreator struct{ desk *admission.Desk }

func (j jobCreator) Create(ctx context.Context, command engine.CreateJob) (uint64, error) {
	seq, err := j.desk.Create(ctx, command)
	var denied *admission.DeniedError
	if errors.As(err, &denied) {
		err = &kubeapi.DeniedError{Reasons: denied.Reasons}
	}
	return seq, err
}

// podLookup finds pods in the view for the fleet.
type podLookup struct{ view *view.View }

func (l podLookup) PodOwner(podUID string) (node, tenant, jobUID string, ok bool) {
	l.view.Read(func(state *engine.State) {
		if pod, found := state.Pod(podUID); found {
			node, tenant, jobUID, ok = pod.Node(), pod.Namespace(), pod.Job().UID, true
		}
	})
	return node, tenant, jobUID, ok
}
