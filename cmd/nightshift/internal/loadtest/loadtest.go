// Package loadtest measures what a control plane takes: it starts a real server, with TLS and an embedded log that is synced, and simulated
// agents (package swarm) over the real connection, and runs one Indexed Job whose pods end at once.
//
// What it says about pods comes from the facts that the server has recorded, and what it says about processes from the kernel.
package loadtest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/swarm"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
)

// Config of a measurement. All fields are required.
type Config struct {
	// Executable is the server's.
	Executable string
	// Dir is an empty directory for the server's data.
	Dir string
	// Pods that the Job has, agents that there are, and pods that one agent holds at a time.
	Pods, Agents, PodsPerAgent int
	// ReadLog gives the facts of a data directory that nobody works on any more.
	ReadLog func(ctx context.Context, dataDir string, observe func(first uint64, facts []*event.Fact)) error
	// Progress is told how many pods have succeeded, some times a second.
	Progress func(succeeded int)
}

// Result of a measurement.
type Result struct {
	Pods   int `json:"pods"`
	Agents int `json:"agents"`
	// PodsPerSecond is from the creation of the Job to its completion.
	PodsPerSecond float64 `json:"podsPerSecond"`
	// SubmitToRunningSeconds is from the record of a pod to the record that it runs: placing it, telling its agent, and hearing from it.
	SubmitToRunningSeconds Quantiles `json:"submitToRunningSeconds"`
	// CPUSeconds, PeakRSSBytes and JournalBytes, which is on the disk, are the server's own.
	CPUSeconds   float64 `json:"cpuSeconds"`
	PeakRSSBytes int64   `json:"peakRSSBytes"`
	JournalBytes int64   `json:"journalBytes"`
	// AgentsProcess is what all agents used together.
	AgentsProcess Usage `json:"agentsProcess"`
}

// Quantiles of a duration, seconds.
type Quantiles struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

// Run measures once. The server that it starts has ended when it returns.
func Run(ctx context.Context, config Config) (*Result, error) {
	server, err := begin(ctx, &config)
	if err != nil {
		return nil, err
	}
	result := &Result{Pods: config.Pods, Agents: config.Agents}
	err = server.measure(ctx, &config, result)
	if err := errors.Join(err, server.end()); err != nil {
		return nil, err
	}
	if err := result.readFacts(ctx, &config); err != nil {
		return nil, fmt.Errorf("read what the server has recorded: %w", err)
	}
	return result, nil
}

// server is the one that is measured.
type server struct {
	command *exec.Cmd
	client  kubernetes.Interface
	// said is what it wrote.
	said *strings.Builder
	read chan struct{}
}

func begin(ctx context.Context, config *Config) (*server, error) {
	lent, err := json.Marshal(swarm.Config{Agents: config.Agents, PodsPerAgent: int64(config.PodsPerAgent)})
	if err != nil {
		return nil, err
	}
	file := filepath.Join(config.Dir, "swarm.json")
	if err := os.WriteFile(file, lent, 0o600); err != nil {
		return nil, err
	}
	data := dataDir(config)
	s := &server{said: new(strings.Builder), read: make(chan struct{})}
	s.command = exec.Command(config.Executable, "serve", "--listen", "127.0.0.1:0", "--data-dir", data, "--provider", "swarm="+file)
	s.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output, err := s.command.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := s.command.Start(); err != nil {
		return nil, err
	}
	ready := make(chan struct{})
	go s.listen(output, ready)
	select {
	case <-ready:
	case <-s.read:
		return nil, errors.Join(errors.New("the server did not serve"), s.end())
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), s.end())
	}
	access, err := clientcmd.BuildConfigFromFlags("", filepath.Join(data, "admin.kubeconfig"))
	if err == nil {
		s.client, err = kubernetes.NewForConfig(access)
	}
	if err != nil {
		return nil, errors.Join(err, s.end())
	}
	return s, nil
}

func dataDir(config *Config) string { return filepath.Join(config.Dir, "server") }

// listen keeps what the server writes; ready is closed when it says that it serves.
func (s *server) listen(output io.Reader, ready chan struct{}) {
	defer close(s.read)
	for lines := bufio.NewScanner(output); lines.Scan(); {
		fmt.Fprintln(s.said, lines.Text())
		if strings.Contains(lines.Text(), "kubectl --kubeconfig") {
			close(ready)
		}
	}
}

// end stops the server in good order. What it said is the error if it failed.
func (s *server) end() error {
	err := s.command.Process.Signal(syscall.SIGTERM)
	<-s.read
	if waitErr := s.command.Wait(); waitErr != nil {
		return fmt.Errorf("the server: %w\n%s", waitErr, s.said)
	}
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// lookEvery is how often the Job is looked at.
const lookEvery = 200 * time.Millisecond

// measure runs the Job, and then takes what the processes have used.
func (s *server) measure(ctx context.Context, config *Config, result *Result) error {
	jobs := s.client.BatchV1().Jobs(metav1.NamespaceDefault)
	if _, err := jobs.Create(ctx, load(config), metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create the Job: %w", err)
	}
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for ended := false; !ended; {
		select {
		case <-look.C:
		case <-s.read:
			return errors.New("the server ended while it was measured")
		case <-ctx.Done():
			return ctx.Err()
		}
		job, err := jobs.Get(ctx, jobName, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("look at the Job: %w", err)
		}
		config.Progress(int(job.Status.Succeeded))
		for _, condition := range job.Status.Conditions {
			if condition.Type == batchv1.JobFailed {
				return fmt.Errorf("the Job failed: %s", condition.Message)
			}
			ended = ended || condition.Type == batchv1.JobComplete
		}
	}
	usage, err := usageOf(s.command.Process.Pid)
	if err != nil {
		return err
	}
	result.CPUSeconds, result.PeakRSSBytes = usage.CPUSeconds, usage.PeakRSSBytes
	if result.AgentsProcess, err = usageOfChildren(s.command.Process.Pid); err != nil {
		return err
	}
	result.JournalBytes, err = sizeOf(filepath.Join(dataDir(config), "journal"))
	return err
}

const jobName = "load"

// load is the Job.
func load(config *Config) *batchv1.Job {
	pods, atOnce, retries, mode := int32(config.Pods), int32(min(config.Pods, config.Agents*config.PodsPerAgent, maxParallelism)), int32(0), batchv1.IndexedCompletion
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: jobName},
		Spec: batchv1.JobSpec{
			Completions: &pods, Parallelism: &atOnce, BackoffLimit: &retries, CompletionMode: &mode,
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
				RestartPolicy: corev1.RestartPolicyNever,
				Containers:    []corev1.Container{{Name: "main", Image: "none", Command: []string{"true"}}},
			}},
		},
	}
}

// maxParallelism is Kubernetes' bound for an Indexed Job (pkg/apis/batch/validation).
const maxParallelism = 100_000

// blockBytes is the unit of st_blocks, see inode(7).
const blockBytes = 512

// sizeOf is what a directory takes on the disk: the log makes room ahead.
func sizeOf(dir string) (bytes int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			bytes += stat.Blocks * blockBytes
		}
		return nil
	})
	return bytes, err
}
