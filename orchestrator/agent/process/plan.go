package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"golang.org/x/sys/unix"
)

// plan is a pod's container made ready to run.
type plan struct {
	container string
	args      []string
	env       []string
	dir       string
	// search is the PATH of the container's own environment.
	search  string
	restart corev1.RestartPolicy
}

// newPlan says how to run the pod, or why this runtime cannot. Such an error is for good: it names what to change in the pod.
func newPlan(c Config, pod *corev1.Pod) (*plan, error) {
	if err := checkSupported(pod); err != nil {
		return nil, err
	}
	container := &pod.Spec.Containers[0]
	names, values, err := containerEnv(pod, container)
	if err != nil {
		return nil, err
	}
	lookup := func(name string) (string, bool) { v, ok := values[name]; return v, ok }
	var args []string
	for _, arg := range container.Command {
		args = append(args, expand(arg, lookup))
	}
	if len(args) == 0 {
		executable, ok := c.Images[container.Image]
		if !ok {
			return nil, fmt.Errorf("container %q names no command, and nothing says which executable image %q is: "+
				"give the container a command, or the executable by --image %s=EXECUTABLE", container.Name, container.Image, container.Image)
		}
		args = append(args, executable)
	}
	for _, arg := range container.Args {
		args = append(args, expand(arg, lookup))
	}
	for _, arg := range args {
		if strings.ContainsRune(arg, 0) {
			return nil, fmt.Errorf("the command of container %q holds a NUL byte", container.Name)
		}
	}
	p := &plan{
		container: container.Name,
		args:      args,
		env:       processEnv(c.Environ, names, values),
		dir:       c.Dir,
		restart:   pod.Spec.RestartPolicy,
	}
	switch {
	case filepath.IsAbs(container.WorkingDir):
		p.dir = container.WorkingDir
	case container.WorkingDir != "":
		p.dir = filepath.Join(c.Dir, container.WorkingDir)
	}
	for _, entry := range p.env {
		if path, ok := strings.CutPrefix(entry, "PATH="); ok {
			p.search = path
		}
	}
	return p, nil
}

// checkSupported refuses by name what would make the pod behave differently from what it gets here. Resources, ports, labels and
// scheduling fields are the control plane's affair; host name and namespaces are the machine's own, as the package comment says.
func checkSupported(pod *corev1.Pod) error {
	spec := &pod.Spec
	if len(spec.Containers) != 1 {
		return fmt.Errorf("the process runtime runs pods of one container, this one has %d", len(spec.Containers))
	}
	c := &spec.Containers[0]
	policy := spec.RestartPolicy
	for _, field := range []struct {
		set  bool
		name string
	}{
		{policy != corev1.RestartPolicyNever && policy != corev1.RestartPolicyOnFailure, fmt.Sprintf("restartPolicy %q", policy)},
		{len(spec.InitContainers) > 0, "initContainers"},
		{len(spec.EphemeralContainers) > 0, "ephemeralContainers"},
		{len(spec.Volumes) > 0, "volumes"},
		{spec.ActiveDeadlineSeconds != nil, "a pod's activeDeadlineSeconds"},
		{spec.SecurityContext != nil && !reflect.ValueOf(*spec.SecurityContext).IsZero(), "securityContext"},
		{len(c.VolumeMounts) > 0, "containers[0].volumeMounts"},
		{len(c.VolumeDevices) > 0, "containers[0].volumeDevices"},
		{c.SecurityContext != nil && !reflect.ValueOf(*c.SecurityContext).IsZero(), "containers[0].securityContext"},
		{c.Lifecycle != nil, "containers[0].lifecycle"},
		{c.LivenessProbe != nil, "containers[0].livenessProbe"},
		{c.ReadinessProbe != nil, "containers[0].readinessProbe"},
		{c.StartupProbe != nil, "containers[0].startupProbe"},
		{c.RestartPolicy != nil || len(c.RestartPolicyRules) > 0, "containers[0].restartPolicy"},
		{c.Stdin || c.TTY, "containers[0].stdin and tty"},
	} {
		if field.set {
			return unsupported(field.name)
		}
	}
	return nil
}

// executable finds what args[0] means in the container's own PATH and directory; it is looked for at each start, because it may
// come later than the pod.
func (p *plan) executable() (string, error) {
	name := p.args[0]
	if name == "" {
		return "", errors.New("the command is empty")
	}
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(p.search) {
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(p.dir, dir)
		}
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && !info.IsDir() && unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("executable %q is not in the container's PATH: %w", name, fs.ErrNotExist)
}
