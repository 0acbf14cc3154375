package main_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	batchclient "k8s.io/client-go/kubernetes/typed/batch/v1"
	restclient "k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/attach"
)

// jobs of the default namespace, as a client sees them that comes over the socket of a data directory.
func (w *world) jobs(dataDir string) batchclient.JobInterface {
	w.t.Helper()
	transport, ok := attach.Transport(w.path(dataDir))
	if !ok {
		w.t.Fatalf("nobody serves the socket in %s", dataDir)
	}
	w.t.Cleanup(transport.CloseIdleConnections)
	client, err := batchclient.NewForConfigAndClient(&restclient.Config{Host: "http://localhost"}, &http.Client{Transport: transport})
	if err != nil {
		w.t.Fatal(err)
	}
	return client.Jobs("default")
}

// created is the Job of a manifest, created over the socket of a data directory, with a pod that runs.
func (w *world) created(dataDir, manifest string) *batchv1.Job {
	w.t.Helper()
	var wanted batchv1.Job
	if err := yaml.UnmarshalStrict([]byte(manifest), &wanted); err != nil {
		w.t.Fatal(err)
	}
	made, err := w.jobs(dataDir).Create(w.t.Context(), &wanted, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.await("its pod is ready", func() bool { return w.said(dataDir, string(made.UID), "ready") == 1 })
	return made
}

func (w *world) patch(dataDir, name, patch string) {
	w.t.Helper()
	if _, err := w.jobs(dataDir).Patch(w.t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

func TestAJobThatARunHasOnlyJoinedGoesOnWithoutIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	host := w.nightshift("run", "-f", w.write("host.yaml", waiter("host", w.path("go-host"))), "--data-dir", "state")
	host.awaitOutput(host.stdout, "started on")
	manifest := waiter("others", w.path("go"))
	made := w.created("state", manifest)
	joined := w.nightshift("run", "-f", w.write("others.yaml", manifest), "--data-dir", "state")
	joined.awaitOutput(joined.stdout, "job others goes on, uid "+string(made.UID))
	joined.signal(syscall.SIGINT)
	joined.mustEnd(130)
	if w.said("state", string(made.UID), "told to stop") != 0 {
		t.Error("the interrupted run has stopped what it had not brought")
	}
	again := w.nightshift("run", "-f", "others.yaml", "--data-dir", "state", "-o", "json")
	again.awaitOutput(again.stderr, "goes on")
	w.write("go", "")
	again.mustEnd(0)
	if got := again.result(); got.UID != string(made.UID) || got.Evicted != 0 || got.Failed != 0 {
		t.Errorf("the Job came to %+v, want %s without an eviction", got, made.UID)
	}
	w.write("go-host", "")
	host.mustEnd(0)
}

func TestOfAJobThatWasDeletedTheResultTellsWhatIsKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	manifests := waiter("deleted", w.path("never")) + "---\n" + waiter("kept", w.path("go"))
	run := w.nightshift("run", "-f", w.write("jobs.yaml", manifests), "--data-dir", "state", "-o", "json")
	run.awaitOutput(run.stderr, "pod deleted-")
	run.awaitOutput(run.stderr, "pod kept-")
	w.await("both run", func() bool { return strings.Count(run.stderr.String(), "started on") == 2 })
	background := metav1.DeletePropagationBackground
	if err := w.jobs("state").Delete(t.Context(), "deleted", metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		t.Fatal(err)
	}
	w.write("go", "")
	run.mustEnd(1)
	var got struct{ Jobs []result }
	if err := json.Unmarshal([]byte(run.stdout.String()), &got); err != nil {
		t.Fatalf("%v\n%s", err, run.stdout)
	}
	if len(got.Jobs) != 2 || got.Jobs[0].Name != "deleted" || got.Jobs[0].Status != "Deleted" || got.Jobs[0].CompletionTime != "" ||
		got.Jobs[0].Cost.Spot <= "0.000000" || got.Jobs[1].Name != "kept" || got.Jobs[1].Status != "Complete" {
		t.Errorf("the Jobs came to %+v", got.Jobs)
	}
	if !strings.Contains(run.stderr.String(), "nightshift: deleted before the end: deleted") {
		t.Errorf("standard error does not say so: %s", run.stderr)
	}
}

func TestAJobThatIsBeingDeletedIsWaitedForAndThenCreatedAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	host := w.nightshift("run", "-f", w.write("host.yaml", waiter("host", w.path("go-host"))), "--data-dir", "state")
	host.awaitOutput(host.stdout, "started on")
	manifest := job("again", `[ -e second ] && exit 0; trap "" TERM; echo ready; while [ ! -e second ]; do sleep 0.05; done`)
	made := w.created("state", manifest)
	background := metav1.DeletePropagationBackground
	if err := w.jobs("state").Delete(t.Context(), "again", metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		t.Fatal(err)
	}
	run := w.nightshift("run", "-f", w.write("again.yaml", manifest), "--data-dir", "state", "-o", "json")
	run.awaitOutput(run.stderr, "job again is being deleted; it is created anew when its pods have ended")
	w.write("second", "")
	run.mustEnd(0)
	if got := run.result(); got.UID == string(made.UID) || got.Status != "Complete" {
		t.Errorf("the Job came to %+v, want another UID than %s", got, made.UID)
	}
	w.write("go-host", "")
	host.mustEnd(0)
}

func TestARunSaysThatItsJobIsSuspendedAndThatItIsResumed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run := w.nightshift("run", "-f", w.write("job.yaml", waiter("patched", w.path("go"))), "--data-dir", "state")
	run.awaitOutput(run.stdout, "started on")
	uid := w.uidOf(run)
	w.await("its pod is ready", func() bool { return w.said("state", uid, "ready") == 1 })
	w.patch("state", "patched", `{"spec": {"suspend": true}}`)
	run.awaitOutput(run.stdout, "job patched is suspended: its pods end, and this run waits until it is resumed")
	second := w.nightshift("run", "-f", "job.yaml", "--data-dir", "state")
	second.mustEnd(2)
	for _, words := range []string{`the Job "patched"`, "is suspended (spec.suspend)", "resume it", "nightshift delete job patched"} {
		if !strings.Contains(second.stderr.String(), words) {
			t.Errorf("of a suspended Job a run does not say %q: %s", words, second.stderr)
		}
	}
	w.patch("state", "patched", `{"spec": {"suspend": false, "parallelism": 2, "backoffLimit": 9}}`)
	run.awaitOutput(run.stdout, "job patched is resumed")
	third := w.nightshift("run", "-f", "job.yaml", "--data-dir", "state")
	third.mustEnd(2)
	for _, words := range []string{"spec.backoffLimit is 9 there and 6 in the manifest", "spec.parallelism is 2 there and 1 in the manifest", "nightshift delete job patched"} {
		if !strings.Contains(third.stderr.String(), words) {
			t.Errorf("of a changed Job a run does not say %q: %s", words, third.stderr)
		}
	}
	w.write("go", "")
	run.mustEnd(0)
}

func TestTheImagesThatARunBringsAreForItsOwnJobs(t *testing.T) {
	t.Parallel()
	w, first, second, _, _ := attached(t) // the second brings the image "none"
	var others batchv1.Job
	if err := yaml.UnmarshalStrict([]byte(strings.Replace(job("others", "true"), "command: [sh, -c,", "args: [-c,", 1)), &others); err != nil {
		t.Fatal(err)
	}
	_, err := w.jobs("state").Create(t.Context(), &others, metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "--image none=EXECUTABLE") {
		t.Errorf("another client's Job with the image is answered with %v", err)
	}
	w.patch("state", "second", `{"metadata": {"annotations": {"example.com/who": "another client"}}}`)
	for _, name := range []string{"go-first", "go-second"} {
		w.write(name, "")
	}
	second.mustEnd(0)
	first.mustEnd(0)
}

func TestARunWhoseJobsAreRefusedSaysSoWhileOthersAreAttached(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// So many that another run comes before the last of them, which policy denies.
	var manifests strings.Builder
	for i := range 300 {
		manifests.WriteString(job(fmt.Sprint("none-", i), "true", "parallelism: 0") + "---\n")
	}
	manifests.WriteString(strings.Replace(job("big", "true"), "image: none", "image: none\n        resources: {requests: {cpu: 2}}", 1))
	w.write("limits.yaml", "tenants:\n  default:\n    vcpu: 1\n")
	first := w.nightshift("run", "-f", w.write("first.yaml", manifests.String()), "--data-dir", "state", "--policy-data", "limits.yaml")
	first.awaitOutput(first.stdout, "job none-0 created")
	second := w.nightshift("run", "-f", w.write("second.yaml", waiter("second", w.path("go"))), "--data-dir", "state")
	second.awaitOutput(second.stdout, "another nightshift works on this data directory")
	first.awaitOutput(first.stderr, `nightshift: jobs.batch "big" is forbidden`)
	first.awaitOutput(first.stdout, "1 more are attached")
	w.write("go", "")
	second.mustEnd(0)
	first.mustEnd(2)
	if n := strings.Count(first.stdout.String()+first.stderr.String(), "is forbidden"); n != 1 {
		t.Errorf("it says %d times why", n)
	}
}
