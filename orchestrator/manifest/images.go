package manifest

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Images names the executable that stands for an image, by the image as manifests write it. It serves containers that
// name no command and would rely on their image's entry point. Nil maps nothing.
type Images map[string]string

// ParseImages reads the values of --image, each NAME=EXECUTABLE. The name ends at the first '=', which no
// image name holds; a name given twice is an error.
func ParseImages(flags []string) (Images, error) {
	images := Images{}
	for _, flag := range flags {
		name, executable, ok := strings.Cut(flag, "=")
		if !ok || name == "" || executable == "" {
			return nil, fmt.Errorf("--image %q: want NAME=EXECUTABLE", flag)
		}
		if _, twice := images[name]; twice {
			return nil, fmt.Errorf("--image %q: %s is given twice", flag, name)
		}
		images[name] = executable
	}
	return images, nil
}

// Command returns what a node is told to run for the container, before its args: its own command, or else the executable that
// stands for its image. It is applied when a pod is sent to its node and never stored in the Job. ok is false when the
// container has neither; Admit lets no such Job in, but the mapping may have changed since.
func (m Images) Command(container corev1.Container) (command []string, ok bool) {
	if len(container.Command) > 0 {
		return container.Command, true
	}
	if executable, mapped := m[container.Image]; mapped {
		return []string{executable}, true
	}
	return nil, false
}
