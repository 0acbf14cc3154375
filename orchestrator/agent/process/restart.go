package process

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// restarts says which runs of a container are followed by another one: by its own policy and rules, or else by the pod's.
type restarts struct {
	policy corev1.ContainerRestartPolicy
	rules  []corev1.ContainerRestartRule
}

// again is what is started again after a run.
type again int

const (
	nothing again = iota
	// itself: the container, in place.
	itself
	// everything: the whole pod from its first init container on.
	everything
)

// restartsOf reads a container. A container without a policy of its own has that of its pod and no rules.
func restartsOf(pod corev1.RestartPolicy, spec *corev1.Container) restarts {
	if spec.RestartPolicy == nil {
		return restarts{policy: corev1.ContainerRestartPolicy(pod)}
	}
	return restarts{policy: *spec.RestartPolicy, rules: spec.RestartPolicyRules}
}

// after says what follows a run: the first rule that matches the exit code, else the policy (pkg/api/v1/pod/util.go,
// ContainerShouldRestart). A rule with an action that is not known is passed over for the policy. An init container that has succeeded has done
// its work, unless a rule wants everything again (kuberuntime_container.go, computeInitContainerActions).
func (r *restarts) after(role role, exitCode int32) again {
	next := nothing
	switch r.policy {
	case corev1.ContainerRestartPolicyAlways:
		next = itself
	case corev1.ContainerRestartPolicyOnFailure:
		if exitCode != 0 {
			next = itself
		}
	}
	for i := range r.rules {
		if codes := r.rules[i].ExitCodes; codes == nil || !matches(codes, exitCode) {
			continue
		}
		switch r.rules[i].Action {
		case corev1.ContainerRestartRuleActionRestart:
			next = itself
		case corev1.ContainerRestartRuleActionRestartAllContainers:
			return everything
		}
		break
	}
	if role == initial && exitCode == 0 {
		return nothing
	}
	return next
}

func matches(codes *corev1.ContainerRestartRuleOnExitCodes, exitCode int32) bool {
	listed := slices.Contains(codes.Values, exitCode)
	switch codes.Operator {
	case corev1.ContainerRestartRuleOnExitCodesOpIn:
		return listed
	case corev1.ContainerRestartRuleOnExitCodesOpNotIn:
		return !listed
	}
	return false
}
