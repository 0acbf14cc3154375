package job

import (
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

func onExit(action batchv1.PodFailurePolicyAction, container string, operator batchv1.PodFailurePolicyOnExitCodesOperator, values ...int32) batchv1.PodFailurePolicyRule {
	rule := batchv1.PodFailurePolicyRule{Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: operator, Values: values}}
	if container != "" {
		rule.OnExitCodes.ContainerName = &container
	}
	return rule
}

func onCondition(action batchv1.PodFailurePolicyAction, kind corev1.PodConditionType, status corev1.ConditionStatus) batchv1.PodFailurePolicyRule {
	return batchv1.PodFailurePolicyRule{Action: action, OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: kind, Status: status}}}
}

// Each case is one row of the table of podFailurePolicy, pod_failure_policy_test.go of Kubernetes gives the order of containers.
func TestFailuresAreJudgedByTheFirstRuleThatMatches(t *testing.T) {
	exits := []Exit{{Container: "setup", Code: 3, Init: true}, {Container: "side", Code: 42}, {Container: "main", Code: 7}, {Container: "done"}}
	const in, notIn = batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn
	rules := func(rules ...batchv1.PodFailurePolicyRule) []batchv1.PodFailurePolicyRule { return rules }
	for name, c := range map[string]struct {
		rules   []batchv1.PodFailurePolicyRule
		failure Failure
		strict  bool
		limit   int32
		want    Ruling
	}{
		"no policy":                             {nil, Failure{Exits: exits}, false, Unlimited, Ruling{Counted: true}},
		"no rule that matches":                  {rules(onExit("Ignore", "", in, 99)), Failure{Exits: exits}, false, Unlimited, Ruling{Counted: true}},
		"ignore":                                {rules(onExit("Ignore", "", in, 7)), Failure{Exits: exits}, false, Unlimited, Ruling{}},
		"the first of two":                      {rules(onExit("Count", "", in, 7), onExit("Ignore", "", in, 7)), Failure{Exits: exits}, false, Unlimited, Ruling{Counted: true}},
		"another container's code":              {rules(onExit("Ignore", "main", in, 42)), Failure{Exits: exits}, false, Unlimited, Ruling{Counted: true}},
		"an init container's code":              {rules(onExit("Ignore", "", in, 3)), Failure{Exits: exits}, false, Unlimited, Ruling{}},
		"0 is no failure for NotIn either":      {rules(onExit("Ignore", "done", notIn, 1)), Failure{Exits: exits}, false, Unlimited, Ruling{Counted: true}},
		"an index that has no more tries":       {nil, Failure{Exits: exits, Index: 1, IndexFailures: 2}, false, 2, Ruling{Counted: true, IndexFailed: true}},
		"an index that has one more":            {nil, Failure{Exits: exits, Index: 1, IndexFailures: 1}, false, 2, Ruling{Counted: true}},
		"ignored on the last try":               {rules(onExit("Ignore", "", in, 7)), Failure{Exits: exits, IndexFailures: 2}, false, 2, Ruling{}},
		"an index that is given up":             {rules(onExit("FailIndex", "", in, 7)), Failure{Exits: exits}, false, 2, Ruling{Counted: true, IndexFailed: true}},
		"an eviction":                           {nil, Failure{Exits: exits, Evicted: true}, false, Unlimited, Ruling{}},
		"an eviction, strictly":                 {nil, Failure{Exits: exits, Evicted: true}, true, Unlimited, Ruling{Counted: true}},
		"an eviction and its exit code":         {rules(onExit("FailJob", "", in, 7)), Failure{Exits: exits, Evicted: true}, false, Unlimited, Ruling{}},
		"an eviction that the rules count":      {rules(onCondition("Count", corev1.DisruptionTarget, "True")), Failure{Evicted: true}, false, Unlimited, Ruling{Counted: true}},
		"ignored evictions, strictly":           {rules(onCondition("Ignore", corev1.DisruptionTarget, "True")), Failure{Evicted: true}, true, Unlimited, Ruling{}},
		"a condition that does not hold":        {rules(onCondition("Ignore", corev1.DisruptionTarget, "True")), Failure{Exits: exits}, false, Unlimited, Ruling{Counted: true}},
		"a pod that no node held":               {rules(onCondition("Ignore", corev1.PodScheduled, "False")), Failure{Unbound: true}, false, Unlimited, Ruling{}},
		"a pod that a node held":                {rules(onCondition("Ignore", corev1.PodScheduled, "False")), Failure{}, false, Unlimited, Ruling{Counted: true}},
		"a rule that this version is not up to": {rules(onExit("Pray", "", in, 7), onExit("Ignore", "", in, 7)), Failure{Exits: exits}, false, Unlimited, Ruling{}},
		"an app container before one of init": {rules(onExit("FailJob", "", notIn, 99)), Failure{Namespace: "ns", Pod: "p", Exits: exits}, false, Unlimited,
			Ruling{Counted: true, FailJob: "Container side for pod ns/p failed with exit code 42 matching FailJob rule at index 0"}},
		"a condition that fails the Job": {rules(onExit("Ignore", "", in, 99), onCondition("FailJob", corev1.DisruptionTarget, "True")),
			Failure{Namespace: "ns", Pod: "p", Evicted: true}, false, Unlimited,
			Ruling{Counted: true, FailJob: "Pod ns/p has condition DisruptionTarget matching FailJob rule at index 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			spec := Spec{BackoffLimitPerIndex: c.limit, StrictUpstream: c.strict}
			if c.rules != nil {
				spec.FailurePolicy = &batchv1.PodFailurePolicy{Rules: c.rules}
			}
			if got := spec.Judge(&c.failure); got != c.want {
				t.Errorf("the ruling is %+v, want %+v", got, c.want)
			}
		})
	}
}
