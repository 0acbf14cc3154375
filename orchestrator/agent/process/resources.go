package process

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// resourceField reads a resource of a container, the declaring one unless another is named, in units of the divisor and rounded up
// (pkg/api/v1/resource/helpers.go, ExtractContainerResourceValue). A limit that is not set is what the machine has to give; a request
// that is not set is 0.
func (v *variables) resourceField(container *corev1.Container, ref *corev1.ResourceFieldSelector) (string, error) {
	if ref.ContainerName != "" && ref.ContainerName != container.Name {
		var err error
		if container, err = findContainer(v.pod, ref.ContainerName); err != nil {
			return "", err
		}
	}
	kind, name, _ := strings.Cut(ref.Resource, ".")
	var amounts corev1.ResourceList
	switch {
	case name != string(corev1.ResourceCPU) && name != string(corev1.ResourceMemory):
		return "", unsupported(fmt.Sprintf("resourceFieldRef %q", ref.Resource))
	case kind == "limits":
		amounts = container.Resources.Limits
		if limit := amounts[corev1.ResourceName(name)]; limit.IsZero() {
			amounts = v.machine.Allocatable
		}
	case kind == "requests":
		amounts = container.Resources.Requests
	default:
		return "", unsupported(fmt.Sprintf("resourceFieldRef %q", ref.Resource))
	}
	amount, divisor := amounts[corev1.ResourceName(name)], ref.Divisor
	if divisor.IsZero() {
		divisor = *resource.NewQuantity(1, resource.DecimalSI)
	}
	count := (*resource.Quantity).Value
	if name == string(corev1.ResourceCPU) {
		count = (*resource.Quantity).MilliValue
	}
	return strconv.FormatInt(int64(math.Ceil(float64(count(&amount))/float64(count(&divisor)))), 10), nil
}

func findContainer(pod *corev1.Pod, name string) (*corev1.Container, error) {
	for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range containers {
			if containers[i].Name == name {
				return &containers[i], nil
			}
		}
	}
	return nil, fmt.Errorf("container %s not found", name)
}
