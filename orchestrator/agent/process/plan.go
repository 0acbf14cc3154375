package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/cgroup"
)

// defaultGrace is Kubernetes' default of terminationGracePeriodSeconds.
const defaultGrace = 30 * time.Second

// plan is a pod made ready to run.
type plan struct {
	// title names the pod as the kubelet does in messages.
	title string
	// containers, init containers first, each in the order of the spec.
	containers []*container
	// grace is what sidecars get when the app containers have ended.
	grace time.Duration
	// warning says what of the pod is not as it asks for; "" for nothing.
	warning string
}

// role of a container in its pod.
type role int

const (
	app role = iota
	// initial is an init container that has to succeed before those behind it start.
	initial
	// sidecar is an init container with restartPolicy Always.
	sidecar
)

// container is one container made ready to run.
type container struct {
	name string
	role role
	args []string
	env  []string
	dir  string
	// search is the PATH of the container's own environment.
	search string
	limits cgroup.Limits
	// messagePath is the file for the termination message.
	messagePath string
	// fallbackToLogs: without a message, the end of a failed run's output is taken.
	fallbackToLogs bool
	restarts       restarts
}

// newPlan says how to run the pod, or why this runtime cannot. Such an error is for good: it names what to change in the pod. The names of the
// files for its termination messages begin with messages.
func newPlan(c Config, pod *corev1.Pod, messages string) (*plan, error) {
	if err := checkSupported(pod); err != nil {
		return nil, err
	}
	p := &plan{
		title: fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID),
		grace: defaultGrace,
	}
	if seconds := pod.Spec.TerminationGracePeriodSeconds; seconds != nil {
		p.grace = time.Duration(*seconds) * time.Second
	}
	for i := range pod.Spec.InitContainers {
		spec := &pod.Spec.InitContainers[i]
		role := initial
		if spec.RestartPolicy != nil && *spec.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			role = sidecar
		}
		if err := p.add(c, pod, spec, role, messages); err != nil {
			return nil, err
		}
	}
	for i := range pod.Spec.Containers {
		if err := p.add(c, pod, &pod.Spec.Containers[i], app, messages); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *plan) add(c Config, pod *corev1.Pod, spec *corev1.Container, role role, messages string) error {
	ready := &container{
		name: spec.Name, role: role, dir: c.Dir, limits: limitsOf(spec),
		messagePath:    fmt.Sprintf("%s.%d", messages, len(p.containers)),
		fallbackToLogs: spec.TerminationMessagePolicy == corev1.TerminationMessageFallbackToLogsOnError,
		restarts:       restartsOf(pod.Spec.RestartPolicy, spec),
	}
	vars := variables{pod: pod, machine: c.Machine, values: map[string]string{messageVariable: ready.messagePath}, names: []string{messageVariable}}
	if err := vars.declare(spec); err != nil {
		return fmt.Errorf("container %q: %w", spec.Name, err)
	}
	args, err := commandLine(c, spec, vars.lookup)
	if err != nil {
		return err
	}
	ready.args = args
	ready.env = processEnv(c.Environ, vars.names, vars.values)
	switch {
	case filepath.IsAbs(spec.WorkingDir):
		ready.dir = spec.WorkingDir
	case spec.WorkingDir != "":
		ready.dir = filepath.Join(c.Dir, spec.WorkingDir)
	}
	for _, entry := range ready.env {
		if path, ok := strings.CutPrefix(entry, "PATH="); ok {
			ready.search = path
		}
	}
	if !c.Cgroups.Enforces(ready.limits) {
		p.warning = c.Cgroups.Missing()
	}
	p.containers = append(p.containers, ready)
	return nil
}

// initializes says that the pod has init containers.
func (p *plan) initializes() bool { return p.containers[0].role != app }

func commandLine(c Config, spec *corev1.Container, lookup func(string) (string, bool)) ([]string, error) {
	var args []string
	for _, arg := range spec.Command {
		args = append(args, expand(arg, lookup))
	}
	if len(args) == 0 {
		executable, ok := c.Images[spec.Image]
		if !ok {
			return nil, fmt.Errorf("container %q names no command, and nothing says which executable image %q is: "+
				"give the container a command, or the executable by --image %s=EXECUTABLE", spec.Name, spec.Image, spec.Image)
		}
		args = append(args, executable)
	}
	for _, arg := range spec.Args {
		args = append(args, expand(arg, lookup))
	}
	for _, arg := range args {
		if strings.ContainsRune(arg, 0) {
			return nil, fmt.Errorf("the command of container %q holds a NUL byte", spec.Name)
		}
	}
	return args, nil
}

// limitsOf reads what a container may use. A request that is missing is the limit, as the kubelet has it (kuberuntime_container_linux.go,
// calculateLinuxResources).
func limitsOf(spec *corev1.Container) cgroup.Limits {
	limits, requests := spec.Resources.Limits, spec.Resources.Requests
	l := cgroup.Limits{CPUMillis: limits.Cpu().MilliValue(), MemoryBytes: limits.Memory().Value()}
	l.CPURequestMillis = l.CPUMillis
	if request, ok := requests[corev1.ResourceCPU]; ok {
		l.CPURequestMillis = request.MilliValue()
	}
	return l
}

// executable finds what args[0] means in the container's own PATH and directory; it is looked for at each start, because it may
// come later than the pod.
func (c *container) executable() (string, error) {
	name := c.args[0]
	if name == "" {
		return "", errors.New("the command is empty")
	}
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(c.search) {
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(c.dir, dir)
		}
		path := filepath.Join(dir, name)
		if unix.Access(path, unix.X_OK) != nil {
			continue // Most often it is not there, which this costs least to find out.
		}
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			return path, nil
		}
	}
	return "", fmt.Errorf("executable %q is not in the container's PATH: %w", name, fs.ErrNotExist)
}
