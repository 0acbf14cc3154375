package kubeapi_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi"
)

func ptr[T any](v T) *T { return &v }

func newJob(name string, completions int32) *batchv1.Job {
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": "red"}},
		Spec: batchv1.JobSpec{Completions: &completions, Parallelism: &completions, Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{
				Name: "main", Image: "busybox", Command: []string{"true"},
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}},
			}},
		}}},
	}
}

func (p *plane) create(job *batchv1.Job) *batchv1.Job {
	p.t.Helper()
	created, err := p.client.BatchV1().Jobs("default").Create(p.t.Context(), job, metav1.CreateOptions{})
	p.must(err)
	return created
}

func TestAJobIsCreatedAdmittedWatchedAndDeletedOverTLS(t *testing.T) {
	p := newPlane(t)
	jobs := p.client.BatchV1().Jobs("default")
	watching, err := jobs.Watch(t.Context(), metav1.ListOptions{LabelSelector: "team=red"})
	p.must(err)
	defer watching.Stop()
	created := p.create(newJob("a", 2))
	if created.UID == "" || created.ResourceVersion == "" || created.CreationTimestamp.IsZero() || *created.Spec.BackoffLimit != 6 || created.Generation != 1 {
		t.Errorf("created %+v", created)
	}
	if _, err := jobs.Create(t.Context(), newJob("a", 2), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("the second create: %v", err)
	}
	got, err := jobs.Get(t.Context(), "a", metav1.GetOptions{})
	p.must(err)
	if got.UID != created.UID {
		t.Errorf("got another Job than was created")
	}
	p.finish("a")
	pods, err := p.client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "job-name=a", FieldSelector: "status.phase=Succeeded"})
	p.must(err)
	if len(pods.Items) != 2 || pods.Items[0].Kind != "" || pods.Items[0].Status.Phase != corev1.PodSucceeded {
		t.Errorf("%d pods, %+v", len(pods.Items), pods.Items)
	}
	status, err := p.client.BatchV1().RESTClient().Get().Namespace("default").Resource("jobs").Name("a").SubResource("status").DoRaw(t.Context())
	p.must(err)
	if !strings.Contains(string(status), `"type":"Complete"`) {
		t.Errorf("status %s", status)
	}
	p.must(jobs.Delete(t.Context(), "a", metav1.DeleteOptions{PropagationPolicy: ptr(metav1.DeletePropagationBackground)}))
	p.until("the Job is gone", func(s *engine.State) bool { _, ok := s.JobOf("default", "a"); return !ok })
	if _, err := jobs.Get(t.Context(), "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("get after delete: %v", err)
	}
	var types []watch.EventType
	complete := false
	for e := range watching.ResultChan() {
		types = append(types, e.Type)
		for _, condition := range e.Object.(*batchv1.Job).Status.Conditions {
			complete = complete || condition.Type == batchv1.JobComplete
		}
		if e.Type == watch.Deleted {
			break
		}
	}
	if len(types) < 3 || types[0] != watch.Added || !complete {
		t.Errorf("the watch saw %v, complete %v", types, complete)
	}
}

func TestWhatPolicyDeniesIsForbiddenWithItsReasons(t *testing.T) {
	p := newPlane(t)
	_, err := p.client.BatchV1().Jobs("default").Create(t.Context(), newJob("denied", 1), metav1.CreateOptions{})
	const want = `jobs.batch "denied" is forbidden: denied by policy: tenant default may use 2 vCPU; asked for by admin`
	if !apierrors.IsForbidden(err) || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if _, err := p.client.BatchV1().Jobs("default").Get(t.Context(), "denied", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the denied Job: %v", err)
	}
	events, err := p.client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "reason=Denied,involvedObject.name=denied"})
	p.must(err)
	if len(events.Items) != 1 {
		t.Errorf("%d events tell of the denial", len(events.Items))
	}
}

func TestACreateThatPolicyCannotDecideTimesOutAndTheJobWaits(t *testing.T) {
	p := newPlane(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	answered := make(chan error, 1)
	go func() {
		_, err := p.client.BatchV1().RESTClient().Post().Namespace("default").Resource("jobs").Timeout(time.Second).Body(newJob("undecided", 1)).Do(ctx).Get()
		answered <- err
	}()
	p.until("the Job is stored", func(s *engine.State) bool { _, ok := s.JobOf("default", "undecided"); return ok })
	if err := <-answered; err == nil {
		t.Error("the create was answered without a decision")
	}
	if _, err := p.client.BatchV1().Jobs("default").Get(t.Context(), "undecided", metav1.GetOptions{}); err != nil {
		t.Errorf("the Job that waits: %v", err)
	}
}

func TestInvalidJobsAreRefusedInKubernetesWords(t *testing.T) {
	p := newPlane(t)
	post := func(validation, body string) (int, metav1.Status) {
		t.Helper()
		raw := p.client.BatchV1().RESTClient().Post().AbsPath("/apis/batch/v1/namespaces/default/jobs").
			Param("fieldValidation", validation).SetHeader("Content-Type", "application/yaml").Body([]byte(body)).Do(t.Context())
		var code int
		raw.StatusCode(&code)
		text, _ := raw.Raw()
		var status metav1.Status
		if err := json.Unmarshal(text, &status); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return code, status
	}
	const head = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: x}\n"
	bomb := "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
	for i := 1; i < 12; i++ {
		bomb += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10), ","))
	}
	const template = "  template: {spec: {restartPolicy: Never, containers: [{name: c, image: i, command: [x]}]}}\n"
	for name, c := range map[string]struct {
		validation, body string
		code             int
		want             string
	}{
		"negative": {"Warn", head + "spec:\n  completions: -1\n" + template, 422,
			`Job.batch "x" is invalid: spec.completions: Invalid value: -1: must be greater than or equal to 0`},
		"unknown field, strict": {"Strict", head + "spec:\n  foo: 1\n" + template, 400,
			`Job in version "v1" cannot be handled as a Job: strict decoding error: unknown field "spec.foo"`},
		"unsupported": {"Warn", head + "spec:\n  template: {spec: {hostNetwork: true, restartPolicy: Never, containers: [{name: c, image: i, command: [x]}]}}\n", 422,
			`Job.batch "x" is invalid: spec.template.spec.hostNetwork: Forbidden: not supported by this version of Nightshift`},
		"no command": {"Warn", head + "spec:\n  template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}\n", 422, "--image i=EXECUTABLE"},
		"wrong type": {"Warn", head + "spec:\n  completions: many\n" + template, 400, `cannot unmarshal string into Go struct field JobSpec.spec.completions of type int32`},
		"alias bomb": {"Warn", head + bomb, 413, "the request holds too much: limit is 100000 values"},
		"too large":  {"", head + "x: " + strings.Repeat("y", 4<<20), 413, "limit is 3145728"},
	} {
		t.Run(name, func(t *testing.T) {
			code, status := post(c.validation, c.body)
			if code != c.code || !strings.Contains(status.Message, c.want) {
				t.Errorf("got %d %s\nwant %d %s", code, status.Message, c.code, c.want)
			}
		})
	}
	_, err := p.client.BatchV1().Jobs("nowhere").Create(t.Context(), newJob("x", 1), metav1.CreateOptions{})
	if !apierrors.IsNotFound(err) || err.Error() != `namespaces "nowhere" not found` {
		t.Errorf("a namespace that does not exist: %v", err)
	}
}

func TestNamesAreGeneratedAndDryRunsLeaveNothing(t *testing.T) {
	p := newPlane(t)
	job := newJob("", 1)
	job.GenerateName = "batch-"
	if created := p.create(job); !strings.HasPrefix(created.Name, "batch-") || len(created.Name) != len("batch-")+5 {
		t.Errorf("generated %q", created.Name)
	}
	jobs := p.client.BatchV1().Jobs("default")
	dry := []string{metav1.DryRunAll}
	tried, err := jobs.Create(t.Context(), newJob("dry", 1), metav1.CreateOptions{DryRun: dry})
	p.must(err)
	if *tried.Spec.BackoffLimit != 6 {
		t.Error("the dry run shows no defaults")
	}
	if _, err := jobs.Get(t.Context(), "dry", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a dry run left a Job: %v", err)
	}
	p.create(newJob("wet", 1))
	p.must(jobs.Delete(t.Context(), "wet", metav1.DeleteOptions{DryRun: dry}))
	patched, err := jobs.Patch(t.Context(), "wet", types.MergePatchType, []byte(`{"spec":{"parallelism":7}}`), metav1.PatchOptions{DryRun: dry})
	p.must(err)
	if got, err := jobs.Get(t.Context(), "wet", metav1.GetOptions{}); err != nil || *got.Spec.Parallelism != 1 || *patched.Spec.Parallelism != 7 {
		t.Errorf("after dry runs: %v, %v", got, err)
	}
}

func TestLabelsAndParallelismCanBeChangedAndTheRestAsInKubernetes(t *testing.T) {
	p := newPlane(t)
	jobs := p.client.BatchV1().Jobs("default")
	created := p.create(newJob("a", 4))
	patched, err := jobs.Patch(t.Context(), "a", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"x":"y"}},"spec":{"parallelism":2}}`), metav1.PatchOptions{})
	p.must(err)
	if patched.Labels["x"] != "y" || patched.Labels["team"] != "red" || *patched.Spec.Parallelism != 2 || patched.Generation != 2 || patched.UID != created.UID {
		t.Errorf("patched %+v", patched.ObjectMeta)
	}
	p.until("the engine has the change", func(s *engine.State) bool { job, _ := s.JobOf("default", "a"); return job.Spec.Parallelism == 2 })
	again, err := jobs.Patch(t.Context(), "a", types.MergePatchType, []byte(`{"spec":{"parallelism":2}}`), metav1.PatchOptions{})
	p.must(err)
	if again.ResourceVersion != patched.ResourceVersion || again.Generation != 2 {
		t.Errorf("a patch without a change made generation %d", again.Generation)
	}
	stale := created.DeepCopy()
	stale.Labels["z"] = "z"
	if _, err := jobs.Update(t.Context(), stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("an update of an old version: %v", err)
	}
	for patch, want := range map[string]string{
		`{"spec":{"completions":9}}`:                                   "spec.completions: Invalid value: 9: field is immutable",
		`{"spec":{"podFailurePolicy":{"rules":[]}}}`:                   "spec.podFailurePolicy: Invalid value: ",
		`{"spec":{"template":{"spec":{"restartPolicy":"OnFailure"}}}}`: "spec.template: Invalid value: ",
		`{"metadata":{"finalizers":["example.com/x"]}}`:                "metadata.finalizers: Forbidden",
	} {
		if _, err := jobs.Patch(t.Context(), "a", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", patch, err)
		}
	}
	if _, err := jobs.Patch(t.Context(), "a", types.MergePatchType, []byte(`{"status":{"succeeded":4}}`), metav1.PatchOptions{}); err != nil {
		t.Errorf("a patch of the status, which is dropped: %v", err)
	}
	if got, err := jobs.Get(t.Context(), "a", metav1.GetOptions{}); err != nil || got.Status.Succeeded != 0 {
		t.Errorf("a client wrote the status: %v, %v", got, err)
	}
}

func TestServerSideApplyCreatesChangesAndConflicts(t *testing.T) {
	p := newPlane(t)
	jobs := p.client.BatchV1().Jobs("default")
	apply := func(manager string, force bool, parallelism int) (*batchv1.Job, error) {
		body := `{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"ssa"},"spec":{"completions":4,"parallelism":` + strconv.Itoa(parallelism) +
			`,"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"i","command":["x"]}]}}}}`
		return jobs.Patch(t.Context(), "ssa", types.ApplyPatchType, []byte(body), metav1.PatchOptions{FieldManager: manager, Force: &force})
	}
	first, err := apply("one", false, 1)
	p.must(err)
	if len(first.ManagedFields) != 1 || first.ManagedFields[0].Manager != "one" || *first.Spec.BackoffLimit != 6 {
		t.Errorf("created by apply: %+v", first.ManagedFields)
	}
	second, err := apply("one", false, 3)
	p.must(err)
	if *second.Spec.Parallelism != 3 || second.UID != first.UID {
		t.Errorf("applied %+v", second.Spec)
	}
	if same, err := apply("one", false, 3); err != nil || same.ResourceVersion != second.ResourceVersion || same.Generation != second.Generation {
		t.Errorf("the same applied again: %v", err)
	}
	if _, err := apply("two", false, 4); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "one"`) {
		t.Errorf("another manager: %v", err)
	}
	if forced, err := apply("two", true, 4); err != nil || *forced.Spec.Parallelism != 4 {
		t.Errorf("forced: %v", err)
	}
}

func TestDeletionsFollowTheirOptions(t *testing.T) {
	p := newPlane(t)
	jobs := p.client.BatchV1().Jobs("default")
	created := p.create(newJob("a", 2))
	p.create(newJob("b", 1))
	if err := jobs.Delete(t.Context(), "a", metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions("other")}); !apierrors.IsConflict(err) {
		t.Errorf("another UID: %v", err)
	}
	if err := jobs.Delete(t.Context(), "a", metav1.DeleteOptions{PropagationPolicy: ptr(metav1.DeletePropagationOrphan)}); !apierrors.IsBadRequest(err) {
		t.Errorf("orphaning the pods: %v", err)
	}
	p.supply()
	running := p.report("a", engine.ReportRunning, 0)
	// A pod that is deleted is told to end, and counts as failed.
	p.must(p.client.CoreV1().Pods("default").Delete(t.Context(), running[0].Name, metav1.DeleteOptions{}))
	pod, err := p.client.CoreV1().Pods("default").Get(t.Context(), running[0].Name, metav1.GetOptions{})
	p.must(err)
	if pod.DeletionTimestamp == nil {
		t.Error("the deleted pod does not end")
	}
	p.must(jobs.DeleteCollection(t.Context(), metav1.DeleteOptions{PropagationPolicy: ptr(metav1.DeletePropagationBackground)}, metav1.ListOptions{LabelSelector: "team=red"}))
	// The Job is shown until its pods have ended.
	ending, err := jobs.Get(t.Context(), "a", metav1.GetOptions{})
	p.must(err)
	if ending.DeletionTimestamp == nil || ending.UID != created.UID {
		t.Errorf("the Job that is being deleted shows %+v", ending.ObjectMeta)
	}
	p.report("a", engine.ReportFailed, 143)
	p.report("b", engine.ReportFailed, 143)
	p.release()
	p.until("both Jobs are gone", func(s *engine.State) bool { return len(s.Jobs) == 0 })
}

func TestNamespacesAreTenantsAndTakeWhatIsInThemAlong(t *testing.T) {
	p := newPlane(t)
	namespaces := p.client.CoreV1().Namespaces()
	created, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team", Labels: map[string]string{"a": "b"}}}, metav1.CreateOptions{})
	p.must(err)
	if created.UID == "" || created.Status.Phase != corev1.NamespaceActive || created.Labels["kubernetes.io/metadata.name"] != "team" {
		t.Errorf("created %+v", created)
	}
	for _, name := range []string{"team", "default"} {
		if _, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
			t.Errorf("the second %s: %v", name, err)
		}
	}
	if _, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "Bad_Name"}}, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a bad name: %v", err)
	}
	_, err = p.client.BatchV1().Jobs("team").Create(t.Context(), newJob("a", 1), metav1.CreateOptions{})
	p.must(err)
	p.supply()
	_, err = p.client.CoreV1().ConfigMaps("team").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{})
	p.must(err)
	p.must(namespaces.Delete(t.Context(), "team", metav1.DeleteOptions{}))
	ending, err := namespaces.Get(t.Context(), "team", metav1.GetOptions{})
	p.must(err)
	if ending.Status.Phase != corev1.NamespaceTerminating || ending.DeletionTimestamp == nil {
		t.Errorf("the namespace that is being deleted shows %+v", ending)
	}
	if labelled, err := namespaces.Patch(t.Context(), "team", types.MergePatchType, []byte(`{"metadata":{"labels":{"going":"yes"}}}`), metav1.PatchOptions{}); err != nil || labelled.Labels["going"] != "yes" {
		t.Errorf("a label for the namespace that is being deleted: %v", err)
	}
	for what, create := range map[string]func() error{
		"a configmap": func() error {
			_, err := p.client.CoreV1().ConfigMaps("team").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "b"}}, metav1.CreateOptions{})
			return err
		},
		"a Job": func() error {
			_, err := p.client.BatchV1().Jobs("team").Create(t.Context(), newJob("b", 1), metav1.CreateOptions{})
			return err
		},
	} {
		if err := create(); !apierrors.IsForbidden(err) || !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			t.Errorf("%s comes in while it is being deleted: %v", what, err)
		}
	}
	if _, err := p.client.CoreV1().ConfigMaps("nowhere").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "b"}}, metav1.CreateOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a configmap in no namespace: %v", err)
	}
	if maps, err := p.client.CoreV1().ConfigMaps("team").List(t.Context(), metav1.ListOptions{}); err != nil || len(maps.Items) != 0 {
		t.Errorf("left in it are %v, %v", maps, err)
	}
	p.report("a", engine.ReportFailed, 143)
	p.release()
	p.until("the Job is gone", func(s *engine.State) bool { return len(s.Jobs) == 0 })
	if list, err := namespaces.List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 1 || list.Items[0].Name != "default" {
		t.Errorf("left are %v, %v", list, err)
	}
	if err := namespaces.Delete(t.Context(), "default", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("delete default: %v", err)
	}
}

func TestOnlyTheAuthoritysAdministratorsMayAsk(t *testing.T) {
	p := newPlane(t)
	get := func(pair *tls.Certificate, path string) int {
		t.Helper()
		config := &tls.Config{RootCAs: p.authority.CertPool()}
		if pair != nil {
			config.Certificates = []tls.Certificate{*pair}
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
		defer client.CloseIdleConnections()
		answer, err := client.Get("https://" + p.address + path)
		p.must(err)
		p.must(answer.Body.Close())
		return answer.StatusCode
	}
	certificate := func(cn string, orgs ...string) *tls.Certificate {
		t.Helper()
		text, key, err := p.authority.ClientCertificate(cn, orgs...)
		p.must(err)
		pair, err := tls.X509KeyPair(text, key)
		p.must(err)
		return &pair
	}
	admin, other := certificate("admin", kubeapi.AdminGroup), certificate("someone", "staff")
	for _, path := range []string{"/healthz", "/readyz", "/livez", "/version", "/openapi/v3", "/apis", "/apis/batch/v1/jobs"} {
		for who, c := range map[string]struct {
			pair *tls.Certificate
			want int
		}{"nobody": {nil, 401}, "someone else": {other, 403}, "an administrator": {admin, 200}} {
			if got := get(c.pair, path); got != c.want {
				t.Errorf("%s by %s: %d, want %d", path, who, got, c.want)
			}
		}
	}
	info, err := os.Stat(p.kubeconfig)
	p.must(err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the kubeconfig has mode %v", info.Mode())
	}
}

func TestTheHandlerServesTheProcessItselfWithoutAPort(t *testing.T) {
	p := newPlane(t)
	post := func(ctx context.Context, name string) *httptest.ResponseRecorder {
		body, err := json.Marshal(newJob(name, 1))
		p.must(err)
		request := httptest.NewRequestWithContext(ctx, http.MethodPost, "/apis/batch/v1/namespaces/default/jobs", strings.NewReader(string(body)))
		request.Header.Set("Content-Type", "application/json")
		answer := httptest.NewRecorder()
		p.api.Handler().ServeHTTP(answer, request)
		return answer
	}
	ctx := kubeapi.WithIdentity(t.Context(), kubeapi.Identity{User: "nightshift-run", Groups: []string{kubeapi.AdminGroup}, ReplaceEnded: true})
	if answer := post(t.Context(), "a"); answer.Code != 401 {
		t.Errorf("without an identity: %d", answer.Code)
	}
	if answer := post(ctx, "a"); answer.Code != 201 {
		t.Errorf("created: %d %s", answer.Code, answer.Body)
	}
	if answer := post(ctx, "a"); answer.Code != 409 {
		t.Errorf("created again: %d %s", answer.Code, answer.Body)
	}
	p.finish("a")
	p.until("the receipt is issued", func(s *engine.State) bool { job, _ := s.JobOf("default", "a"); return job.Receipt != nil })
	if answer := post(ctx, "a"); answer.Code != 201 {
		t.Errorf("created in place of the one that has ended: %d %s", answer.Code, answer.Body)
	}
	if answer := post(ctx, "denied"); answer.Code != 403 || !strings.Contains(answer.Body.String(), "asked for by nightshift-run") {
		t.Errorf("denied: %d %s", answer.Code, answer.Body)
	}
}

func TestWatchesAndFollowedLogsEndWhenTheServerStops(t *testing.T) {
	p := newPlane(t)
	p.create(newJob("a", 1))
	p.supply()
	pods := p.report("a", engine.ReportRunning, 0)
	watching, err := p.client.CoreV1().Pods("default").Watch(t.Context(), metav1.ListOptions{})
	p.must(err)
	stream, err := p.client.CoreV1().Pods("default").GetLogs(pods[0].Name, &corev1.PodLogOptions{Follow: true}).Stream(t.Context())
	p.must(err)
	defer stream.Close()
	begun := time.Now()
	if err := p.stopServing(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if took := time.Since(begun); took > 4*time.Second {
		t.Errorf("stopping took %s: something held on", took)
	}
	for range watching.ResultChan() {
	}
}
