package process

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// ownPrefix marks variables that speak to Nightshift and not to a pod.
const ownPrefix = "NIGHTSHIFT_"

// containerEnv resolves the variables that a container declares, in their order. References reach the variables declared
// before, as in the kubelet (pkg/kubelet/kubelet_pods.go, makeEnvironmentVariables), and not those that the pod inherits.
func containerEnv(pod *corev1.Pod, container *corev1.Container) (names []string, values map[string]string, err error) {
	if len(container.EnvFrom) > 0 {
		return nil, nil, unsupported("containers[0].envFrom")
	}
	values = make(map[string]string, len(container.Env))
	lookup := func(name string) (string, bool) { v, ok := values[name]; return v, ok }
	for _, v := range container.Env {
		value := v.Value
		switch {
		case value != "":
			value = expand(value, lookup)
		case v.ValueFrom != nil:
			if value, err = fromSource(pod, v.ValueFrom); err != nil {
				return nil, nil, fmt.Errorf("variable %s: %w", v.Name, err)
			}
		}
		if strings.ContainsRune(v.Name+value, 0) {
			return nil, nil, fmt.Errorf("variable %s holds a NUL byte", v.Name)
		}
		if _, again := values[v.Name]; !again {
			names = append(names, v.Name)
		}
		values[v.Name] = value
	}
	return names, values, nil
}

func fromSource(pod *corev1.Pod, source *corev1.EnvVarSource) (string, error) {
	switch {
	case source.FieldRef != nil:
		return podField(pod, source.FieldRef.FieldPath)
	case source.ResourceFieldRef != nil:
		return "", unsupported("valueFrom.resourceFieldRef")
	case source.ConfigMapKeyRef != nil:
		return "", unsupported("valueFrom.configMapKeyRef")
	case source.SecretKeyRef != nil:
		return "", unsupported("valueFrom.secretKeyRef")
	case source.FileKeyRef != nil:
		return "", unsupported("valueFrom.fileKeyRef")
	}
	return "", fmt.Errorf("valueFrom names no source")
}

// podField reads a field by the paths of the downward API (pkg/fieldpath/fieldpath.go). A label or annotation that is not there
// is empty.
func podField(pod *corev1.Pod, path string) (string, error) {
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
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

func unsupported(what string) error {
	return fmt.Errorf("%s is not supported by the process runtime", what)
}
