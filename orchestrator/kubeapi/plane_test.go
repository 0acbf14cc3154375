package kubeapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/nightshift-batch/nightshift/orchestrator/admission"
	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
	jobs "github.com/nightshift-batch/nightshift/orchestrator/job"
	"github.com/nightshift-batch/nightshift/orchestrator/journal"
	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi"
	"github.com/nightshift-batch/nightshift/orchestrator/manifest"
	"github.com/nightshift-batch/nightshift/orchestrator/pki"
	"github.com/nightshift-batch/nightshift/orchestrator/seal"
	"github.com/nightshift-batch/nightshift/orchestrator/view"
	"github.com/nightshift-batch/nightshift/orchestrator/writer"
	"github.com/nightshift-batch/nightshift/policy"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	kubeapi.LogTo(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

// plane is a control plane without a fleet: a log in memory, the writer, policy, the view and the API on a loopback port. The test
// plays the fleet.
type plane struct {
	t          testing.TB
	writer     *writer.Writer
	view       *view.View
	api        *kubeapi.Server
	authority  *pki.Authority
	logs       *memoryLogs
	address    string
	kubeconfig string
	client     *kubernetes.Clientset
	config     *restclient.Config
	// stopServing ends Serve and returns its error.
	stopServing func() error
}

// decide is the policy of the tests: Jobs that are named "denied..." are.
type decide struct{}

func (decide) Admit(_ context.Context, input policy.Input) (policy.Decision, error) {
	var job batchv1.Job
	if err := json.Unmarshal(input.Job, &job); err != nil {
		return policy.Decision{}, err
	}
	switch {
	case strings.HasPrefix(job.Name, "denied"):
		return policy.Decision{Reasons: []string{"tenant " + input.Tenant + " may use 2 vCPU", "asked for by " + input.User}, BundleDigest: "sha256:0"}, nil
	case strings.HasPrefix(job.Name, "undecided"):
		return policy.Decision{}, errors.New("policy is out of order")
	}
	return policy.Decision{Allowed: true, BundleDigest: "sha256:0", Profile: policy.Profile{Tier: "standard", Markets: []string{"spot"}}}, nil
}

type noDocuments struct{}

func (noDocuments) PutDocument(context.Context, string, any) error { return nil }

// jobCreator is the desk with its denials in the API's words.
type jobCreator struct{ desk *admission.Desk }

func (c jobCreator) Create(ctx context.Context, command engine.CreateJob) (uint64, error) {
	seq, err := c.desk.Create(ctx, command)
	var denied *admission.DeniedError
	if errors.As(err, &denied) {
		err = &kubeapi.DeniedError{Reasons: denied.Reasons}
	}
	return seq, err
}

type lateSubmitter struct{ to **writer.Writer }

func (s lateSubmitter) Submit(ctx context.Context, command engine.Command) (uint64, error) {
	return (*s.to).Submit(ctx, command)
}

func newPlane(t testing.TB) *plane {
	t.Helper()
	return newPlaneWith(t, func(*kubeapi.Config) {})
}

// newPlaneWith lets the test have its say in the server's configuration.
func newPlaneWith(t testing.TB, change func(*kubeapi.Config)) *plane {
	t.Helper()
	p := &plane{t: t, view: view.New(view.Options{}), logs: newMemoryLogs()}
	logger := slog.New(slog.NewTextHandler(io.Discard, nil))
	desk := admission.New(decide{}, lateSubmitter{&p.writer}, noDocuments{}, logger)
	var err error
	p.writer, err = writer.Open(t.Context(), writer.Config{
		Journal: journal.NewMemory().Open(), Now: time.Now, Seed: []byte("a seed of sixteen bytes"), Logger: logger,
		Followers: []writer.Follower{p.view, desk}, Want: desk.Want,
	})
	p.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	for _, run := range []func(context.Context) error{p.writer.Run, desk.Run} {
		parts.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() { cancel(); parts.Wait() })
	dir := t.TempDir()
	p.authority, err = pki.Open(filepath.Join(dir, "pki"))
	p.must(err)
	config := kubeapi.Config{
		View: p.view, Submitter: p.writer, Jobs: jobCreator{desk}, Logs: p.logs, Authority: p.authority,
		Sealer: seal.OpenOrMake(filepath.Join(dir, "pki", "secrets.key")),
		Images: func(engine.Name) manifest.Images { return manifest.Images{"data-processor:v1": "/bin/true"} }, Logger: logger,
	}
	change(&config)
	p.api, err = kubeapi.New(config)
	p.must(err)
	t.Cleanup(func() { p.must(p.api.Close()) })
	parts.Go(func() {
		if err := p.api.Furnish(ctx); err != nil {
			t.Error(err)
		}
	})
	p.serve()
	p.kubeconfig = filepath.Join(dir, "admin.kubeconfig")
	p.must(p.api.WriteKubeconfig(p.kubeconfig, p.address))
	p.config, err = clientcmd.BuildConfigFromFlags("", p.kubeconfig)
	p.must(err)
	p.config.QPS = -1
	p.client, err = kubernetes.NewForConfig(p.config)
	p.must(err)
	p.submit(engine.ObserveOffers{Provider: "local", Offers: []*event.Offer{{
		Id: "o", InstanceType: "local-2x4", Zone: "here", Market: "spot", Arch: "amd64", Available: 1000,
		Resources: map[string]int64{"cpu": 2000, "memory": 4 << 30, "pods": 10}, PriceMicrosPerHour: 36_000, OnDemandPriceMicrosPerHour: 90_000,
	}}})
	return p
}

func (p *plane) serve() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	p.must(err)
	p.address = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- p.api.Serve(ctx, listener) }()
	p.stopServing = sync.OnceValue(func() error { cancel(); return <-served })
	p.t.Cleanup(func() {
		if err := p.stopServing(); err != nil {
			p.t.Error(err)
		}
	})
}

func (p *plane) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *plane) submit(command engine.Command) {
	p.t.Helper()
	if _, err := p.writer.Submit(p.t.Context(), command); err != nil {
		p.t.Fatalf("%T: %v", command, err)
	}
}

// until waits for a condition on the state, looking at it after each fact.
func (p *plane) until(what string, holds func(*engine.State) bool) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	for {
		done, seq := false, uint64(0)
		p.view.Read(func(s *engine.State) { done, seq = holds(s), s.Seq })
		if done {
			return
		}
		if err := p.view.WaitFor(ctx, seq+1); err != nil {
			p.t.Fatalf("waiting until %s: %v", what, err)
		}
	}
}

// supply gives all nodes that are wanted, until every live pod has a joined one.
func (p *plane) supply() {
	p.t.Helper()
	for {
		var commands []engine.Command
		p.view.Read(func(s *engine.State) {
			for key, launch := range s.Launches {
				settled := engine.SettleLaunch{Key: key}
				for i := range launch.Count {
					settled.Instances = append(settled.Instances, engine.LaunchedInstance{ID: fmt.Sprintf("i-%s-%d", key[:6], i), OfferID: "o"})
				}
				commands = append(commands, settled)
			}
			for name, node := range s.Nodes {
				if node.Joined.IsZero() {
					commands = append(commands, engine.JoinNode{Node: name})
				}
			}
		})
		if len(commands) == 0 {
			return
		}
		for _, command := range commands {
			p.submit(command)
		}
	}
}

// reported is a pod of which something was told.
type reported struct {
	jobs.Pod
	JobUID string
	Epoch  uint64
}

// report tells the same of all live pods of a Job that have a node.
func (p *plane) report(job string, phase engine.ReportPhase, exitCode int32) (pods []reported) {
	p.t.Helper()
	return p.reportSome(job, -1, phase, exitCode)
}

// reportOne tells it of one of them.
func (p *plane) reportOne(job string, phase engine.ReportPhase, exitCode int32) {
	p.t.Helper()
	p.reportSome(job, 1, phase, exitCode)
}

// reportSome tells it of so many, of all if that is negative.
func (p *plane) reportSome(job string, count int, phase engine.ReportPhase, exitCode int32) (pods []reported) {
	p.t.Helper()
	var reports []engine.ReportPod
	p.view.Read(func(s *engine.State) {
		for pod := range s.Pods() {
			if pod.IsLive() && pod.Node() != "" && pod.Job().Object.Name == job && len(reports) != count {
				pods = append(pods, reported{pod.Render(), pod.Job().UID, pod.Epoch})
				reports = append(reports, engine.ReportPod{Node: pod.Node(), UID: pod.UID(), Epoch: pod.Epoch, Phase: phase, ExitCode: exitCode})
			}
		}
	})
	for _, report := range reports {
		p.submit(report)
	}
	return pods
}

// finish plays the fleet until the Job has ended and its nodes are given back.
func (p *plane) finish(job string) {
	p.t.Helper()
	for ended := false; !ended; {
		p.supply()
		p.report(job, engine.ReportSucceeded, 0)
		p.view.Read(func(s *engine.State) {
			found, ok := s.JobOf("default", job)
			ended = ok && found.Ended()
		})
	}
	p.release()
}

// release lets the instances that were given back be gone.
func (p *plane) release() {
	p.t.Helper()
	var gone []engine.Command
	p.view.Read(func(s *engine.State) {
		for _, node := range s.Nodes {
			if !node.Released.IsZero() {
				gone = append(gone, engine.InstanceGone{Provider: node.Provider, InstanceID: node.InstanceID, Cause: "released"})
			}
		}
	})
	for _, command := range gone {
		p.submit(command)
	}
}

// memoryLogs keeps logs that tests write.
type memoryLogs struct {
	mu      sync.Mutex
	logs    map[kubeapi.LogRun]*memoryLog
	changed chan struct{}
}

type memoryLog struct {
	text []byte
	end  bool
}

func newMemoryLogs() *memoryLogs {
	return &memoryLogs{logs: make(map[kubeapi.LogRun]*memoryLog), changed: make(chan struct{})}
}

func (m *memoryLogs) write(run kubeapi.LogRun, text string, end bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.logs[run] == nil {
		m.logs[run] = &memoryLog{}
	}
	m.logs[run].text = append(m.logs[run].text, text...)
	m.logs[run].end = end
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *memoryLogs) OpenLog(ctx context.Context, run kubeapi.LogRun, options kubeapi.LogOptions) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	log := m.logs[run]
	if log == nil && !options.Follow {
		return nil, kubeapi.ErrNoLog
	}
	r := &memoryReader{ctx: ctx, logs: m, run: run, follow: options.Follow}
	if n := options.TailLines; log != nil && n != nil {
		lines := bytes.SplitAfter(log.text, []byte("\n"))
		for _, line := range lines[:max(0, len(lines)-1-int(*n))] {
			r.offset += len(line)
		}
	}
	return r, nil
}

type memoryReader struct {
	ctx    context.Context
	logs   *memoryLogs
	run    kubeapi.LogRun
	follow bool
	offset int
}

func (r *memoryReader) Read(p []byte) (int, error) {
	for {
		r.logs.mu.Lock()
		log, changed := r.logs.logs[r.run], r.logs.changed
		if log == nil {
			log = &memoryLog{}
		}
		n := copy(p, log.text[r.offset:])
		r.offset += n
		end := log.end || !r.follow
		r.logs.mu.Unlock()
		switch {
		case n > 0:
			return n, nil
		case end:
			return 0, io.EOF
		}
		select {
		case <-changed:
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		}
	}
}

func (r *memoryReader) Close() error { return nil }
