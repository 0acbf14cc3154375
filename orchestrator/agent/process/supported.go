package process

import (
	"errors"
	"fmt"
	"reflect"

	corev1 "k8s.io/api/core/v1"
)

// checkSupported refuses by name what would make the pod behave differently from what it gets here. Ports, labels and scheduling fields
// are the control plane's affair; host name and namespaces are the machine's own, as the package comment says.
func checkSupported(pod *corev1.Pod) error {
	spec := &pod.Spec
	if len(spec.Containers) == 0 {
		return errors.New("the pod has no containers")
	}
	policy := spec.RestartPolicy
	for _, field := range []struct {
		set  bool
		name string
	}{
		{policy != corev1.RestartPolicyNever && policy != corev1.RestartPolicyOnFailure, fmt.Sprintf("restartPolicy %q", policy)},
		{len(spec.EphemeralContainers) > 0, "ephemeralContainers"},
		{len(spec.Volumes) > 0, "volumes"},
		{spec.ActiveDeadlineSeconds != nil, "a pod's activeDeadlineSeconds"},
		{spec.Resources != nil, "a pod's resources"},
		{spec.SecurityContext != nil && !reflect.ValueOf(*spec.SecurityContext).IsZero(), "securityContext"},
	} {
		if field.set {
			return unsupported(field.name)
		}
	}
	names := map[string]bool{}
	for _, list := range []struct {
		name       string
		containers []corev1.Container
	}{{"initContainers", spec.InitContainers}, {"containers", spec.Containers}} {
		for i := range list.containers {
			c := &list.containers[i]
			if names[c.Name] {
				return fmt.Errorf("two containers are named %q", c.Name)
			}
			names[c.Name] = true
			if err := checkContainer(fmt.Sprintf("%s[%d]", list.name, i), c); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkContainer(path string, c *corev1.Container) error {
	for _, field := range []struct {
		set  bool
		name string
	}{
		{len(c.EnvFrom) > 0, "envFrom"},
		{len(c.VolumeMounts) > 0, "volumeMounts"},
		{len(c.VolumeDevices) > 0, "volumeDevices"},
		{c.SecurityContext != nil && !reflect.ValueOf(*c.SecurityContext).IsZero(), "securityContext"},
		{c.Lifecycle != nil, "lifecycle"},
		{c.LivenessProbe != nil, "livenessProbe"},
		{c.ReadinessProbe != nil, "readinessProbe"},
		{c.StartupProbe != nil, "startupProbe"},
		{c.TerminationMessagePath != "" && c.TerminationMessagePath != corev1.TerminationMessagePathDefault, "terminationMessagePath"},
		{c.Stdin || c.TTY, "stdin and tty"},
	} {
		if field.set {
			return unsupported(path + "." + field.name)
		}
	}
	return nil
}

func unsupported(what string) error {
	return fmt.Errorf("%s is not supported by the process runtime", what)
}
