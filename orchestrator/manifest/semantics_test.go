package manifest_test

import (
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/manifest"
)

// never is base with restartPolicy Never and lines in its spec.
func never(t *testing.T, lines string) string {
	return strings.Replace(spec(t, lines), "OnFailure", "Never", 1)
}

// many is a Job of more indexes than may all fail.
func many(t *testing.T, lines string) string {
	return strings.Replace(never(t, "completionMode: Indexed\nbackoffLimitPerIndex: 1"+lines), "completions: 3", "completions: 100001", 1)
}

func TestAllThatAJobMaySayIsTaken(t *testing.T) {
	for name, text := range map[string]string{
		"a work queue":            with(t, "completions: 3", "parallelism: 3"),
		"a queue that ends early": strings.Replace(with(t, "completions: 3", "parallelism: 3"), "  name: x\n", "  name: x\n  annotations: {nightshift.dev/on-first-success: terminate}\n", 1),
		"a suspended Job":         spec(t, "suspend: true"),
		"a short life":            spec(t, "ttlSecondsAfterFinished: 0"),
		"limits per index":        never(t, "completionMode: Indexed\nbackoffLimitPerIndex: 1\nmaxFailedIndexes: 2"),
		// Kubernetes' documentation says Never, its validation does not.
		"a limit per index and restarts in place": spec(t, "completionMode: Indexed\nbackoffLimitPerIndex: 1"),
		"waiting for the failure":                 spec(t, "podReplacementPolicy: Failed"),
		"another controller":                      spec(t, "managedBy: example.com/other"),
		"a policy on failures":                    never(t, "podFailurePolicy:\n  rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}, {action: FailJob, onExitCodes: {containerName: main, operator: In, values: [42]}}]"),
		"a policy on successes":                   spec(t, "completionMode: Indexed\nsuccessPolicy:\n  rules: [{succeededIndexes: \"0,2\", succeededCount: 1}]"),
		"restarts of a container":                 container(t, "restartPolicy: Never\nrestartPolicyRules:\n- {action: Restart, exitCodes: {operator: In, values: [42]}}\n- {action: RestartAllContainers, exitCodes: {operator: NotIn, values: [0]}}"),
		"of one of init":                          podSpec(t, "initContainers: [{name: i, image: b, command: [x], restartPolicy: Never}]"),
		"Kubernetes' own accounts":                with(t, "  name: x\n", "  name: x\n  annotations: {nightshift.dev/strict-upstream: \"true\"}\n"),
	} {
		t.Run(name, func(t *testing.T) {
			if _, refusal := admit(t, text, nil); refusal != "" {
				t.Errorf("%s\nfor\n%s", refusal, text)
			}
		})
	}
}

func TestASelectorOfTheUsersOwnMustMatchTheTemplate(t *testing.T) {
	text := strings.Replace(spec(t, "manualSelector: true\nselector: {matchLabels: {app: z}}"), "  template:\n", "  template:\n    metadata: {labels: {app: z}}\n", 1)
	job, refusal := admit(t, text, nil)
	if refusal != "" {
		t.Fatal(refusal)
	}
	if labels := job.Spec.Template.Labels; len(labels) != 1 || len(job.Spec.Selector.MatchLabels) != 1 {
		t.Errorf("labels %v were given, and the selector is %v", labels, job.Spec.Selector)
	}
	_, refusal = admit(t, strings.Replace(text, "{app: z}}\n    spec", "{app: other}}\n    spec", 1), nil)
	if !strings.Contains(refusal, "spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: `selector` does not match template `labels`") {
		t.Errorf("another label: %s", refusal)
	}
}

func TestDefaultsOfPoliciesAreThoseOfKubernetes(t *testing.T) {
	job, refusal := admit(t, never(t, "completionMode: Indexed\nbackoffLimitPerIndex: 1\npodFailurePolicy:\n  rules: [{action: FailIndex, onPodConditions: [{type: DisruptionTarget}]}]"), nil)
	if refusal != "" {
		t.Fatal(refusal)
	}
	if limit := *job.Spec.BackoffLimit; limit != 2147483647 {
		t.Errorf("backoffLimit is %d", limit)
	}
	if policy := *job.Spec.PodReplacementPolicy; policy != batchv1.Failed {
		t.Errorf("podReplacementPolicy is %s", policy)
	}
	if status := job.Spec.PodFailurePolicy.Rules[0].OnPodConditions[0].Status; status != corev1.ConditionTrue {
		t.Errorf("the pattern's status is %q", status)
	}
}

func TestRulesOfThePoliciesReadAsThoseOfKubernetes(t *testing.T) {
	for name, c := range map[string]struct{ manifest, want string }{
		"a failure policy and restarts in place": {spec(t, "podFailurePolicy:\n  rules: [{action: Count, onPodConditions: [{type: DisruptionTarget}]}]"),
			`spec.template.spec.restartPolicy: Invalid value: "OnFailure": only "Never" is supported when podFailurePolicy is specified`},
		"a limit per index of a Job without": {never(t, "backoffLimitPerIndex: 1"),
			`spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode`},
		"more failed indexes than indexes": {never(t, "completionMode: Indexed\nbackoffLimitPerIndex: 1\nmaxFailedIndexes: 4"),
			`spec.maxFailedIndexes: Invalid value: 4: must be less than or equal to completions`},
		"failed indexes without a limit each": {never(t, "completionMode: Indexed\nmaxFailedIndexes: 1"),
			`spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified`},
		"a success policy of a Job without indexes": {spec(t, "successPolicy:\n  rules: [{succeededCount: 1}]"),
			`: requires indexed completion mode`},
		"an index that is not there": {spec(t, "completionMode: Indexed\nsuccessPolicy:\n  rules: [{succeededIndexes: \"1,3\"}]"),
			`spec.successPolicy.rules[0].succeededIndexes: Invalid value: "1,3": error parsing succeededIndexes: too large index: "3"`},
		"a container that is not there": {never(t, "podFailurePolicy:\n  rules: [{action: Ignore, onExitCodes: {containerName: other, operator: In, values: [1]}}]"),
			`spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: "other": must be one of the container or initContainer names in the pod template`},
		"a manager without a domain": {spec(t, "managedBy: other"),
			`spec.managedBy: Invalid value: "other": must be a domain-prefixed path (such as "acme.io/foo")`},
		"rules of a container without a policy": {container(t, "restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [1]}}]"),
			`spec.template.spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used`},
		"a rule without exit codes": {container(t, "restartPolicy: Never\nrestartPolicyRules: [{action: Restart}]"),
			`spec.template.spec.containers[0].restartPolicyRules[0].exitCodes: Required value: must be specified`},
		"many indexes that may all fail": {many(t, ""),
			`spec.maxFailedIndexes: Required value: must be specified when completions is above 100000`},
		"many indexes of which too many may fail": {many(t, "\nmaxFailedIndexes: 10001"),
			`spec.maxFailedIndexes: Invalid value: 10001: must be less than or equal to 10000`},
		"many indexes and too many at a time": {many(t, "\nmaxFailedIndexes: 1\nparallelism: 10001"),
			`spec.parallelism: Invalid value: 10001: must be less than or equal to 10000`},
		"more indexes at a time than Kubernetes bears": {spec(t, "completionMode: Indexed\nparallelism: 100001"),
			`spec.parallelism: Invalid value: 100001: must be less than or equal to 100000`},
		"an unknown mode": {spec(t, "completionMode: Sideways"),
			`spec.completionMode: Unsupported value: "Sideways": supported values: "NonIndexed", "Indexed"`},
		"a rule of nothing": {never(t, "podFailurePolicy:\n  rules: [{action: Ignore}]"),
			`spec.podFailurePolicy.rules[0]: Invalid value: `},
		"a rule of both": {never(t, "podFailurePolicy:\n  rules: [{action: Ignore, onExitCodes: {operator: In, values: [1]}, onPodConditions: [{type: DisruptionTarget}]}]"),
			`spec.podFailurePolicy.rules[0]: Invalid value: `},
		"more rules than twenty": {never(t, "podFailurePolicy:\n  rules: ["+strings.Repeat("{action: Ignore, onPodConditions: [{type: DisruptionTarget}]},", 21)+"]"),
			`spec.podFailurePolicy.rules: Too many: 21: must have at most 20 items`},
		"an action that is not there": {never(t, "podFailurePolicy:\n  rules: [{action: Retry, onPodConditions: [{type: DisruptionTarget}]}]"),
			`spec.podFailurePolicy.rules[0].action: Unsupported value: "Retry": supported values: "Count", "FailIndex", "FailJob", "Ignore"`},
		"an index given up that has no limit": {never(t, "completionMode: Indexed\npodFailurePolicy:\n  rules: [{action: FailIndex, onPodConditions: [{type: DisruptionTarget}]}]"),
			`spec.podFailurePolicy.rules[0].action: Invalid value: "FailIndex": requires the backoffLimitPerIndex to be set`},
		"success as a failure": {never(t, "podFailurePolicy:\n  rules: [{action: FailJob, onExitCodes: {operator: In, values: [0, 1]}}]"),
			`spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator`},
		"codes out of order": {never(t, "podFailurePolicy:\n  rules: [{action: FailJob, onExitCodes: {operator: In, values: [2, 1]}}]"),
			`spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [2,1]: must be ordered`},
		"a code twice": {never(t, "podFailurePolicy:\n  rules: [{action: FailJob, onExitCodes: {operator: In, values: [1, 1]}}]"),
			`spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Duplicate value: 1`},
		"a success policy without rules": {spec(t, "completionMode: Indexed\nsuccessPolicy: {rules: []}"),
			`spec.successPolicy.rules: Required value: at least one rules must be specified when the successPolicy is specified`},
		"a success rule of nothing": {spec(t, "completionMode: Indexed\nsuccessPolicy: {rules: [{}]}"),
			`spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified`},
		"more successes than indexes": {spec(t, "completionMode: Indexed\nsuccessPolicy: {rules: [{succeededCount: 4}]}"),
			`spec.successPolicy.rules[0].succeededCount: Invalid value: 4: must be less than or equal to 3 (the number of specified completions)`},
		"a manager with too long a name": {spec(t, "managedBy: example.com/"+strings.Repeat("a", 52)),
			`spec.managedBy: Too long: may not be more than 63 bytes`},
		"replacement that a failure policy does not allow": {never(t, "podReplacementPolicy: TerminatingOrFailed\npodFailurePolicy:\n  rules: [{action: Count, onPodConditions: [{type: DisruptionTarget}]}]"),
			`spec.podReplacementPolicy: Unsupported value: "TerminatingOrFailed": supported values: "Failed"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, got := admit(t, c.manifest, nil)
			if !strings.Contains(got, c.want) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestUpdatesChangeWhatKubernetesLetsChange(t *testing.T) {
	plain, indexed := base, spec(t, "completionMode: Indexed\nparallelism: 3")
	suspended := spec(t, "suspend: true")
	perIndex := never(t, "completionMode: Indexed\nbackoffLimitPerIndex: 1\nmaxFailedIndexes: 1\nsuccessPolicy: {rules: [{succeededCount: 1}]}")
	set := func(active int32, condition bool, started bool) func(*batchv1.Job) {
		return func(j *batchv1.Job) {
			j.Status.Active = active
			if condition {
				j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobSuspended, Status: corev1.ConditionTrue}}
			}
			if started {
				j.Status.StartTime = &metav1.Time{Time: j.CreationTimestamp.Time}
			}
		}
	}
	cpu := func(j *batchv1.Job) {
		j.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}
	}
	arch := func(j *batchv1.Job) {
		j.Spec.Template.Spec.NodeSelector = map[string]string{corev1.LabelArchStable: "arm64"}
	}
	for name, c := range map[string]struct {
		manifest   string
		status     func(*batchv1.Job)
		change     func(*batchv1.Job)
		generation int64
		want       string
	}{
		"labels":       {plain, set(2, false, true), func(j *batchv1.Job) { j.Labels["a"] = "b" }, 1, ""},
		"status":       {plain, set(2, false, true), func(j *batchv1.Job) { j.Status.Active = 0 }, 1, ""},
		"parallelism":  {plain, set(2, false, true), func(j *batchv1.Job) { *j.Spec.Parallelism = 9 }, 2, ""},
		"backoffLimit": {plain, set(2, false, true), func(j *batchv1.Job) { *j.Spec.BackoffLimit = 1 }, 2, ""},
		"deadline":     {plain, set(2, false, true), func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = new(int64); *j.Spec.ActiveDeadlineSeconds = 9 }, 2, ""},
		"ttl":          {plain, set(2, false, true), func(j *batchv1.Job) { j.Spec.TTLSecondsAfterFinished = new(int32) }, 2, ""},
		"suspend":      {plain, set(2, false, true), func(j *batchv1.Job) { *j.Spec.Suspend = true }, 2, ""},
		"completions": {plain, set(2, false, true), func(j *batchv1.Job) { *j.Spec.Completions = 9 }, 0,
			"spec.completions: Invalid value: 9: field is immutable"},
		"completions of an Indexed Job with its parallelism": {indexed, set(2, false, true), func(j *batchv1.Job) { *j.Spec.Completions, *j.Spec.Parallelism = 9, 9 }, 2, ""},
		"completions of an Indexed Job alone": {indexed, set(2, false, true), func(j *batchv1.Job) { *j.Spec.Completions = 9 }, 0,
			"spec.completions: Invalid value: 9: can only be modified in tandem with spec.parallelism"},
		"template":                        {plain, set(2, false, true), func(j *batchv1.Job) { j.Spec.Template.Spec.Containers[0].Image = "other" }, 0, "spec.template: Invalid value: "},
		"resources while it runs":         {plain, set(2, false, true), cpu, 0, "spec.template: Invalid value: "},
		"resources before the start":      {suspended, set(0, false, false), cpu, 2, ""},
		"resources once suspended":        {suspended, set(0, true, true), cpu, 2, ""},
		"resources while pods are active": {suspended, set(1, true, true), cpu, 0, "spec.template: Invalid value: "},
		"resources before it is suspended": {suspended, set(0, false, true), cpu, 0,
			"spec.template: Invalid value: "},
		"architecture once suspended": {suspended, set(0, true, true), arch, 2, ""},
		"image once suspended": {suspended, set(0, true, true), func(j *batchv1.Job) { j.Spec.Template.Spec.Containers[0].Image = "other" }, 0,
			"spec.template.spec: Invalid value: "},
		"podReplacementPolicy": {plain, set(2, false, true), func(j *batchv1.Job) { *j.Spec.PodReplacementPolicy = batchv1.Failed }, 2, ""},
		"maxFailedIndexes":     {perIndex, set(2, false, true), func(j *batchv1.Job) { *j.Spec.MaxFailedIndexes = 2 }, 2, ""},
		"backoffLimitPerIndex": {perIndex, set(2, false, true), func(j *batchv1.Job) { *j.Spec.BackoffLimitPerIndex = 2 }, 0,
			"spec.backoffLimitPerIndex: Invalid value: 2: field is immutable"},
		"completionMode": {plain, set(0, false, false), func(j *batchv1.Job) { *j.Spec.CompletionMode = batchv1.IndexedCompletion }, 0,
			"spec.completionMode: Invalid value: \"Indexed\": field is immutable"},
		"podFailurePolicy": {never(t, "podFailurePolicy:\n  rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}]"), set(0, false, false), func(j *batchv1.Job) { j.Spec.PodFailurePolicy = nil }, 0,
			"spec.podFailurePolicy: Invalid value: null: field is immutable"},
		"successPolicy": {perIndex, set(0, false, false), func(j *batchv1.Job) {
			j.Spec.SuccessPolicy.Rules[0].SucceededCount = new(int32)
			*j.Spec.SuccessPolicy.Rules[0].SucceededCount = 2
		}, 0,
			"spec.successPolicy: Invalid value: "},
		"selector": {plain, set(0, false, false), func(j *batchv1.Job) { j.Spec.Selector.MatchLabels["a"] = "b" }, 0, "spec.selector: Invalid value: "},
		"scheduling": {plain, set(0, false, false), func(j *batchv1.Job) { j.Spec.Scheduling = &batchv1.JobSchedulingConfiguration{} }, 0,
			"spec.scheduling: Forbidden: "},
		"labels of pods before the start":    {suspended, set(0, false, false), func(j *batchv1.Job) { j.Spec.Template.Labels["a"] = "b" }, 2, ""},
		"annotations of pods once suspended": {suspended, set(0, true, true), func(j *batchv1.Job) { j.Spec.Template.Annotations = map[string]string{"a": "b"} }, 2, ""},
		"labels of pods while it runs":       {plain, set(2, false, true), func(j *batchv1.Job) { j.Spec.Template.Labels["a"] = "b" }, 0, "spec.template: Invalid value: "},
		"managedBy": {plain, set(0, false, false), func(j *batchv1.Job) { j.Spec.ManagedBy = new(string); *j.Spec.ManagedBy = "example.com/other" }, 0,
			"spec.managedBy: Invalid value: \"example.com/other\": field is immutable"},
	} {
		t.Run(name, func(t *testing.T) {
			old, refusal := admit(t, c.manifest, nil)
			if refusal != "" {
				t.Fatal(refusal)
			}
			old.ResourceVersion = "7"
			c.status(old)
			updated := old.DeepCopy()
			c.change(updated)
			out, errs := manifest.AdmitUpdate(updated, old, nil)
			if c.want != "" {
				if got := manifest.Invalid("x", errs).Error(); !strings.Contains(got, c.want) {
					t.Errorf("got %s\nwant %s", got, c.want)
				}
				return
			}
			if len(errs) > 0 {
				t.Fatal(errs.ToAggregate())
			}
			if out.Generation != c.generation || out.Status.Active != old.Status.Active {
				t.Errorf("generation %d, want %d; active %d, want %d", out.Generation, c.generation, out.Status.Active, old.Status.Active)
			}
		})
	}
}
