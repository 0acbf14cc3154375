package manifest_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/manifest"
)

const uid = "5ca2fde1-7e5f-4a1c-8a54-6a01fc9e7d5a"

// base is a Job that works; each case of a test changes one thing in it.
const base = `apiVersion: batch/v1
kind: Job
metadata:
  name: x
spec:
  completions: 3
  template:
    spec:
      restartPolicy: OnFailure
      containers:
      - name: main
        image: busybox
        command: [echo, hello]
`

func decodeOne(t *testing.T, text string) *batchv1.Job {
	t.Helper()
	jobs, err := manifest.DecodeAll(strings.NewReader(text), "job.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(jobs) != 1 {
		t.Fatalf("%d jobs, want 1", len(jobs))
	}
	return jobs[0]
}

// admit returns the admitted Job, or the errors as the user reads them.
func admit(t *testing.T, text string, images manifest.Images) (*batchv1.Job, string) {
	t.Helper()
	job := decodeOne(t, text)
	before := job.DeepCopy()
	out, errs := manifest.Admit(job, manifest.Options{UID: uid, Created: metav1.Unix(1_700_000_000, 0), Images: images})
	if !apiequality.Semantic.DeepEqual(job, before) {
		t.Errorf("Admit changed its argument")
	}
	if len(errs) > 0 {
		return nil, manifest.Invalid(job.Name, errs).Error()
	}
	return out, ""
}

// with replaces one piece of base, which must be there.
func with(t testing.TB, old, new string) string {
	t.Helper()
	if !strings.Contains(base, old) {
		t.Fatalf("%q is not in the base manifest", old)
	}
	return strings.Replace(base, old, new, 1)
}

func spec(t *testing.T, lines string) string {
	return with(t, "  completions: 3\n", "  completions: 3\n"+indent(2, lines))
}

func podSpec(t *testing.T, lines string) string {
	return with(t, "      restartPolicy: OnFailure\n", "      restartPolicy: OnFailure\n"+indent(6, lines))
}

func container(t *testing.T, lines string) string {
	return base + indent(8, lines)
}

func indent(n int, lines string) string {
	pad := strings.Repeat(" ", n)
	return pad + strings.ReplaceAll(strings.TrimSuffix(lines, "\n"), "\n", "\n"+pad) + "\n"
}

func TestAdmittedJobIsDefaultedLabelledAndSelectedAsKubernetesDoes(t *testing.T) {
	job, refusal := admit(t, base, nil)
	if refusal != "" {
		t.Fatal(refusal)
	}
	got, err := json.MarshalIndent(job, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "admitted.json")
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(want)) != string(got) {
		t.Errorf("admitted Job differs from %s; got\n%s", golden, got)
	}
}

func TestErrorsReadAsThoseOfKubernetes(t *testing.T) {
	for name, c := range map[string]struct{ manifest, want string }{
		"negative completions": {with(t, "completions: 3", "completions: -1"),
			`Job.batch "x" is invalid: spec.completions: Invalid value: -1: must be greater than or equal to 0`},
		"no restart policy": {with(t, "      restartPolicy: OnFailure\n", ""),
			`Job.batch "x" is invalid: spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"`},
		"restart policy Always": {with(t, "OnFailure", "Always"),
			`Job.batch "x" is invalid: spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"`},
		"bad name": {with(t, "name: x", "name: X_y"),
			`metadata.name: Invalid value: "X_y": a lowercase RFC 1123 subdomain must consist of`},
		"indexed without completions": {with(t, "completions: 3", "parallelism: 3\n  completionMode: Indexed"),
			`spec.completions: Required value: when completion mode is Indexed`},
		"indexed with a name too long for its pods": {strings.Replace(spec(t, "completionMode: Indexed"), "name: x", "name: "+strings.Repeat("a", 63), 1),
			`will not able to create pod with invalid DNS label: `},
		"conflicting generated label": {with(t, "  template:\n", "  template:\n    metadata: {labels: {job-name: other}}\n"),
			`spec.template.metadata.labels[job-name]: Invalid value: {"batch.kubernetes.io/controller-uid":"` + uid + `","batch.kubernetes.io/job-name":"x","controller-uid":"` + uid + `","job-name":"other"}: must be 'x'`},
		"selector of the user's own": {spec(t, "selector: {matchLabels: {app: z}}"),
			"`selector` not auto-generated"},
		"request above limit": {container(t, "resources:\n  requests: {cpu: 2}\n  limits: {cpu: 1}"),
			`spec.template.spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1`},
		"no container": {strings.Split(base, "      containers:")[0] + "      containers: []\n",
			`spec.template.spec.containers: Required value`},
	} {
		t.Run(name, func(t *testing.T) {
			_, got := admit(t, c.manifest, nil)
			if !strings.Contains(got, c.want) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestWhatDoesNotWorkYetIsRefusedByItsPath(t *testing.T) {
	const no = ": Forbidden: not supported by this version of Nightshift"
	annotated := func(key, value string) string {
		return with(t, "  name: x\n", fmt.Sprintf("  name: x\n  annotations: {%s: %q}\n", key, value))
	}
	for _, c := range []struct{ manifest, want string }{
		{spec(t, "scheduling:\n  schedulingPolicy: {basic: {}}"), "spec.scheduling" + no},
		{with(t, "completions: 3", "completions: 2000000"), "spec.completions: Forbidden: more than 1000000 is not supported by this version of Nightshift"},
		{spec(t, "parallelism: 100001"), "spec.parallelism: Forbidden: more than 100000 is not supported by this version of Nightshift"},
		{podSpec(t, "volumes: [{name: v, emptyDir: {}}]"), "spec.template.spec.volumes" + no},
		{podSpec(t, "initContainers: [{name: i, image: b, command: [x], restartPolicy: Always, startupProbe: {exec: {command: [x]}}}]"),
			"spec.template.spec.initContainers[0].startupProbe" + no},
		{podSpec(t, "initContainers: [{name: i, image: b}]"), "spec.template.spec.initContainers[0].command: Required value: images are not pulled"},
		{podSpec(t, "hostNetwork: true"), "spec.template.spec.hostNetwork" + no},
		{podSpec(t, "serviceAccountName: robot"), "spec.template.spec.serviceAccountName" + no},
		{podSpec(t, "automountServiceAccountToken: true"), "spec.template.spec.automountServiceAccountToken" + no},
		{podSpec(t, "tolerations: [{operator: Exists}]"), "spec.template.spec.tolerations" + no},
		{podSpec(t, "priorityClassName: high"), "spec.template.spec.priorityClassName" + no},
		{podSpec(t, "activeDeadlineSeconds: 5"), "spec.template.spec.activeDeadlineSeconds" + no},
		{podSpec(t, "securityContext: {runAsUser: 1}"), "spec.template.spec.securityContext" + no},
		{podSpec(t, "schedulerName: other"), "spec.template.spec.schedulerName" + no},
		{podSpec(t, "dnsPolicy: None\ndnsConfig: {nameservers: [127.0.0.1]}"), "spec.template.spec.dnsConfig" + no},
		{podSpec(t, "hostname: h"), "spec.template.spec.hostname" + no},
		{podSpec(t, "hostUsers: false"), "spec.template.spec.hostUsers" + no},
		{podSpec(t, "nodeSelector: {zone: a}"), "spec.template.spec.nodeSelector[zone]" + no},
		{podSpec(t, "nodeSelector: {kubernetes.io/os: windows}"),
			`spec.template.spec.nodeSelector[kubernetes.io/os]: Unsupported value: "windows": supported values: "linux"`},
		{podSpec(t, "affinity:\n  nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}"),
			"spec.template.spec.affinity" + no},
		{base + strings.Repeat("      - {name: NAME, image: b, command: [x]}\n", 100), "spec.template.spec.containers[100]" + no},
		{container(t, "envFrom: [{configMapRef: {name: c}}]"), "spec.template.spec.containers[0].envFrom" + no},
		{container(t, "env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]"), "spec.template.spec.containers[0].env[0].valueFrom.secretKeyRef" + no},
		{container(t, "env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.ephemeral-storage}}}]"),
			"spec.template.spec.containers[0].env[0].valueFrom.resourceFieldRef.resource: Forbidden: limits.ephemeral-storage is not supported by this version of Nightshift"},
		{container(t, "volumeMounts: [{name: v, mountPath: /v}]"), "spec.template.spec.containers[0].volumeMounts" + no},
		{container(t, "livenessProbe: {exec: {command: [x]}}"), "spec.template.spec.containers[0].livenessProbe" + no},
		{container(t, "lifecycle: {preStop: {exec: {command: [x]}}}"), "spec.template.spec.containers[0].lifecycle" + no},
		{container(t, "ports: [{containerPort: 80}]"), "spec.template.spec.containers[0].ports" + no},
		{container(t, "stdin: true"), "spec.template.spec.containers[0].stdin" + no},
		{container(t, "terminationMessagePath: /tmp/message"), "spec.template.spec.containers[0].terminationMessagePath" + no},
		{container(t, "securityContext: {privileged: true}"), "spec.template.spec.containers[0].securityContext" + no},
		{container(t, "resources: {requests: {ephemeral-storage: 1Gi}}"), "spec.template.spec.containers[0].resources.requests[ephemeral-storage]" + no},
		{container(t, "resources: {limits: {hugepages-2Mi: 4Mi, cpu: 1}}"), "spec.template.spec.containers[0].resources.limits[hugepages-2Mi]" + no},
		{annotated("nightshift.dev/finish-by", "06:00 Europe/Berlin"), "metadata.annotations[nightshift.dev/finish-by]" + no},
		{annotated("nightshift.dev/eviction-budget", "count=2"), "metadata.annotations[nightshift.dev/eviction-budget]" + no},
		{annotated("nightshift.dev/finish", "x"), "metadata.annotations[nightshift.dev/finish]: Forbidden: not a key that Nightshift knows"},
		{annotated("nightshift.dev/capacity", "cheap"),
			`metadata.annotations[nightshift.dev/capacity]: Unsupported value: "cheap": supported values: "auto", "on-demand", "spot"`},
		{annotated("nightshift.dev/strict-upstream", "yes"),
			`metadata.annotations[nightshift.dev/strict-upstream]: Unsupported value: "yes": supported values: "false", "true"`},
		{annotated("nightshift.dev/on-first-success", "terminate"),
			"metadata.annotations[nightshift.dev/on-first-success]: Forbidden: is for work queues: Jobs with parallelism and without completions"},
		{strings.Replace(annotated("nightshift.dev/on-first-success", "stop"), "completions: 3", "parallelism: 3", 1),
			`metadata.annotations[nightshift.dev/on-first-success]: Unsupported value: "stop": supported values: "leave", "terminate"`},
		{with(t, "  template:\n", "  template:\n    metadata: {annotations: {nightshift.dev/capacity: spot}}\n"),
			"spec.template.metadata.annotations[nightshift.dev/capacity]: Forbidden: belongs to the Job's own metadata"},
		{with(t, "  name: x\n", "  name: x\n  finalizers: [example.com/hold]\n"), "metadata.finalizers" + no},
		{with(t, "  name: x\n", "  name: x\n  ownerReferences: [{apiVersion: v1, kind: Pod, name: p, uid: u}]\n"),
			"metadata.ownerReferences[0]: Forbidden: an owner of a Job other than the CronJob that controls it is not supported by this version of Nightshift"},
		{with(t, "        command: [echo, hello]\n", ""),
			"spec.template.spec.containers[0].command: Required value: images are not pulled by this version of Nightshift: name a command here, " +
				"or say which executable stands for the image with --image busybox=EXECUTABLE"},
	} {
		t.Run(strings.SplitN(c.want, ":", 2)[0], func(t *testing.T) {
			_, got := admit(t, c.manifest, nil)
			if !strings.Contains(got, c.want) {
				t.Errorf("got  %q\nwant %q\nfor\n%s", got, c.want, c.manifest)
			}
		})
	}
}

func TestHarmlessValuesOfOtherFieldsAreTaken(t *testing.T) {
	text := spec(t, "suspend: false\nmanualSelector: false\npodReplacementPolicy: TerminatingOrFailed\nbackoffLimit: 2\nactiveDeadlineSeconds: 60\nparallelism: 2")
	text = strings.Replace(text, "      restartPolicy: OnFailure\n", indent(6, `restartPolicy: Never
terminationGracePeriodSeconds: 5
dnsPolicy: ClusterFirst
schedulerName: default-scheduler
securityContext: {}
serviceAccountName: default
automountServiceAccountToken: false
enableServiceLinks: false
os: {name: linux}
nodeSelector: {kubernetes.io/arch: arm64, kubernetes.io/os: linux}
initContainers:
- {name: before, image: b, command: [x], resources: {limits: {cpu: 1}}}
- {name: beside, image: b, command: [x], restartPolicy: Always}`), 1)
	text = strings.Replace(text, "  name: x\n", "  name: x\n  creationTimestamp: null\n  labels: {team: a}\n  annotations: {nightshift.dev/capacity: spot, other: z}\n", 1)
	text += indent(8, `args: [a]
workingDir: /tmp
imagePullPolicy: Always
terminationMessagePath: /dev/termination-log
terminationMessagePolicy: FallbackToLogsOnError
securityContext: {}
resources:
  requests: {cpu: 500m, memory: 1Gi}
  limits: {example.com/gpu: 1}
env:
- {name: A, value: b}
- {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: L, valueFrom: {fieldRef: {fieldPath: "metadata.labels['team']"}}}
- {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
- {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
- {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu, containerName: before, divisor: 1m}}}`) +
		"      - {name: second, image: b, command: [x]}\nstatus: {}\n"
	if _, refusal := admit(t, text, nil); refusal != "" {
		t.Error(refusal)
	}
}

func TestAnImageWithoutCommandRunsTheExecutableItIsMappedTo(t *testing.T) {
	images, err := manifest.ParseImages([]string{"busybox=/bin/tool=1"})
	if err != nil {
		t.Fatal(err)
	}
	job, refusal := admit(t, with(t, "        command: [echo, hello]\n", ""), images)
	if refusal != "" {
		t.Fatal(refusal)
	}
	c := job.Spec.Template.Spec.Containers[0]
	if len(c.Command) != 0 {
		t.Errorf("the mapping was stored in the Job: %q", c.Command)
	}
	if command, ok := images.Command(c); !ok || len(command) != 1 || command[0] != "/bin/tool=1" {
		t.Errorf("command %q, %v", command, ok)
	}
	for _, bad := range []string{"busybox", "=x", "a="} {
		if _, err := manifest.ParseImages([]string{bad}); err == nil {
			t.Errorf("--image %q was taken", bad)
		}
	}
}

func TestDigestTellsTheSameJobFromAnother(t *testing.T) {
	digest := func(job *batchv1.Job) string {
		t.Helper()
		d, err := manifest.Digest(job)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	labelled := with(t, "  template:\n", "  template:\n    metadata: {labels: {app: z}}\n")
	for _, text := range []string{base, labelled} {
		written := decodeOne(t, text)
		admitted, refusal := admit(t, text, nil)
		if refusal != "" {
			t.Fatal(refusal)
		}
		admitted.ResourceVersion, admitted.Status.Active = "9", 3
		admitted.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m", Time: &metav1.Time{Time: time.Unix(1, 0)}}}
		if digest(written) != digest(admitted) {
			t.Errorf("the admitted Job has another digest than its manifest:\n%s", text)
		}
	}
	same := []string{
		with(t, "completions: 3", "completions: 3\n  parallelism: 1"),
		with(t, "kind: Job\nmetadata:\n", "kind: Job\nmetadata:\n  namespace: default\n"),
		with(t, "image: busybox", "image: busybox\n        imagePullPolicy: Always"),
		with(t, "  name: x\n", "  name: x\n  annotations: {kubectl.kubernetes.io/last-applied-configuration: \"{}\"}\n"),
	}
	for _, text := range same {
		if digest(decodeOne(t, text)) != digest(decodeOne(t, base)) {
			t.Errorf("digest differs for\n%s", text)
		}
	}
	other := []string{labelled, with(t, "completions: 3", "completions: 4"), with(t, "hello", "hullo"), with(t, "name: x", "name: z"),
		with(t, "  name: x\n", "  name: x\n  annotations: {nightshift.dev/capacity: spot}\n")}
	for _, text := range other {
		if digest(decodeOne(t, text)) == digest(decodeOne(t, base)) {
			t.Errorf("digest is the same for\n%s", text)
		}
	}
}
