package process

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// ownPrefix marks variables that speak to Nightshift and not to a pod.
const ownPrefix = "NIGHTSHIFT_"

// variables are those of one container, in their order.
type variables struct {
	pod     *corev1.Pod
	machine Machine
	names   []string
	values  map[string]string
}

func (v *variables) lookup(name string) (string, bool) {
	value, ok := v.values[name]
	return value, ok
}

// declare resolves the variables that a container declares. References reach the variables declared before, as in the kubelet
// (pkg/kubelet/kubelet_pods.go, makeEnvironmentVariables), and not those that the pod inherits.
func (v *variables) declare(container *corev1.Container) error {
	for _, declared := range container.Env {
		value := declared.Value
		switch {
		case value != "":
			value = expand(value, v.lookup)
		case declared.ValueFrom != nil:
			var err error
			if value, err = v.fromSource(container, declared.ValueFrom); err != nil {
				return fmt.Errorf("variable %s: %w", declared.Name, err)
			}
		}
		if strings.ContainsRune(declared.Name+value, 0) {
			return fmt.Errorf("variable %s holds a NUL byte", declared.Name)
		}
		if _, again := v.values[declared.Name]; !again {
			v.names = append(v.names, declared.Name)
		}
		v.values[declared.Name] = value
	}
	return nil
}

func (v *variables) fromSource(container *corev1.Container, source *corev1.EnvVarSource) (string, error) {
	switch {
	case source.FieldRef != nil:
		return v.podField(source.FieldRef.FieldPath)
	case source.ResourceFieldRef != nil:
		return v.resourceField(container, source.ResourceFieldRef)
	case source.ConfigMapKeyRef != nil:
		return "", unsupported("valueFrom.configMapKeyRef")
	case source.SecretKeyRef != nil:
		return "", unsupported("valueFrom.secretKeyRef")
	case source.FileKeyRef != nil:
		return "", unsupported("valueFrom.fileKeyRef")
	}
	return "", errors.New("valueFrom names no source")
}

// podField reads a field by the paths of the downward API (pkg/fieldpath/fieldpath.go). A label or annotation that is not there
// is empty. A pod has the machine's address, as with hostNetwork.
func (v *variables) podField(path string) (string, error) {
	pod := v.pod
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		// Kubernetes' admission gives every pod one.
		return cmp.Or(pod.Spec.ServiceAccountName, "default"), nil
	case "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs":
		return v.machine.Address()
	}
	if field, key, ok := strings.Cut(path, "['"); ok && strings.HasSuffix(key, "']") {
		key = strings.TrimSuffix(key, "']")
		switch field {
		case "metadata.labels":
			return pod.Labels[key], nil
		case "metadata.annotations":
			return pod.Annotations[key], nil
		}
	}
	return "", unsupported(fmt.Sprintf("fieldRef %q", path))
}

// processEnv lays the container's variables over those of the agent, without the ones that are Nightshift's own.
func processEnv(inherited, names []string, values map[string]string) []string {
	env := make([]string, 0, len(inherited)+len(names))
	for _, entry := range inherited {
		name, _, _ := strings.Cut(entry, "=")
		if _, set := values[name]; !set && !strings.HasPrefix(name, ownPrefix) {
			env = append(env, entry)
		}
	}
	for _, name := range names {
		env = append(env, name+"="+values[name])
	}
	return env
}
