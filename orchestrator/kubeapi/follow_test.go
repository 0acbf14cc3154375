package kubeapi_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi"
)

func TestInformersSeeEverythingOverWatchListInJSONAndProtobuf(t *testing.T) {
	for _, contentType := range []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf} {
		t.Run(contentType, func(t *testing.T) {
			p := newPlane(t)
			p.create(newJob("before", 2))
			config := restclient.CopyConfig(p.config)
			config.ContentType, config.AcceptContentTypes = contentType, contentType
			var lists, watchLists atomic.Int32
			config.Wrap(func(next http.RoundTripper) http.RoundTripper {
				return roundTrip(func(request *http.Request) (*http.Response, error) {
					switch query := request.URL.Query(); {
					case query.Get("sendInitialEvents") == "true":
						watchLists.Add(1)
					case query.Get("watch") == "":
						lists.Add(1)
					}
					return next.RoundTrip(request)
				})
			})
			client, err := kubernetes.NewForConfig(config)
			p.must(err)
			factory := informers.NewSharedInformerFactory(client, 0)
			type seen struct{ kind, name string }
			deleted := make(chan seen, 100)
			complete := make(chan string, 100)
			for kind, informer := range map[string]cache.SharedIndexInformer{
				"job": factory.Batch().V1().Jobs().Informer(), "pod": factory.Core().V1().Pods().Informer(), "node": factory.Core().V1().Nodes().Informer(),
				"namespace": factory.Core().V1().Namespaces().Informer(), "event": factory.Core().V1().Events().Informer(),
			} {
				_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
					UpdateFunc: func(_, object any) {
						if job, ok := object.(*batchv1.Job); ok && job.Status.CompletionTime != nil {
							complete <- job.Name
						}
					},
					DeleteFunc: func(object any) { deleted <- seen{kind, object.(metav1.Object).GetName()} },
				})
				p.must(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			factory.Start(ctx.Done())
			for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
				if !synced {
					t.Fatalf("the informer of %v did not sync", kind)
				}
			}
			if jobs := factory.Batch().V1().Jobs().Informer().GetStore().ListKeys(); len(jobs) != 1 || jobs[0] != "default/before" {
				t.Errorf("the informer began with %v", jobs)
			}
			p.finish("before")
			await(ctx, t, complete, "before")
			p.must(p.client.BatchV1().Jobs("default").Delete(ctx, "before", metav1.DeleteOptions{PropagationPolicy: ptr(metav1.DeletePropagationForeground)}))
			p.release()
			gone := map[string]int{}
			for gone["job"] < 1 || gone["pod"] < 2 || gone["node"] < 1 {
				select {
				case one := <-deleted:
					gone[one.kind]++
				case <-ctx.Done():
					t.Fatalf("deleted so far: %v", gone)
				}
			}
			if lists.Load() != 0 || watchLists.Load() != 5 {
				t.Errorf("the informers began with %d lists and %d watch-lists", lists.Load(), watchLists.Load())
			}
			cancel()
			factory.Shutdown()
		})
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }

func await(ctx context.Context, t *testing.T, names <-chan string, want string) {
	t.Helper()
	for {
		select {
		case name := <-names:
			if name == want {
				return
			}
		case <-ctx.Done():
			t.Fatalf("%s never came", want)
		}
	}
}

func TestVersionsInRequestsMeanWhatTheyMeanInKubernetes(t *testing.T) {
	p := newPlane(t)
	p.create(newJob("a", 1))
	jobs := p.client.BatchV1().Jobs("default")
	list, err := jobs.List(t.Context(), metav1.ListOptions{})
	p.must(err)
	exact, err := jobs.List(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact})
	if err != nil || len(exact.Items) != 1 {
		t.Errorf("the current version, exactly: %v", err)
	}
	p.create(newJob("b", 1))
	old, err := jobs.List(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact})
	if err != nil || len(old.Items) != 1 || old.Items[0].ResourceVersion != list.Items[0].ResourceVersion || old.ResourceVersion != list.ResourceVersion {
		t.Errorf("an old version, exactly: %v, %v", old, err)
	}
	if newer, err := jobs.List(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion}); err != nil || len(newer.Items) != 2 {
		t.Errorf("not older than an old version: %v", err)
	}
	// Without this, client-go asks again and again.
	err = p.client.BatchV1().RESTClient().Get().MaxRetries(0).Namespace("default").Resource("jobs").Param("resourceVersion", "99999999").Do(t.Context()).Error()
	if !apierrors.IsTimeout(err) || !strings.Contains(err.Error(), "Too large resource version") {
		t.Errorf("a version that is not there yet: %v", err)
	}
	if _, err := jobs.List(t.Context(), metav1.ListOptions{ResourceVersion: "x"}); err == nil {
		t.Error("a version that is none was taken")
	}
	if _, err := jobs.List(t.Context(), metav1.ListOptions{FieldSelector: "spec.parallelism=1"}); !apierrors.IsBadRequest(err) {
		t.Errorf("a field that cannot be selected by: %v", err)
	}
	watching, err := jobs.Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	p.must(err)
	defer watching.Stop()
	if e := <-watching.ResultChan(); e.Type != watch.Added || e.Object.(*batchv1.Job).Name != "b" {
		t.Errorf("a watch after the list begins with %v", e)
	}
}

func TestLogsAreReadPerRunOfTheContainer(t *testing.T) {
	p := newPlane(t)
	p.api.SetLastWords(50 * time.Millisecond)
	job := newJob("a", 1)
	job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
	p.create(job)
	pods, err := p.client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	p.must(err)
	name := pods.Items[0].Name
	read := func(options corev1.PodLogOptions) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		stream, err := p.client.CoreV1().Pods("default").GetLogs(name, &options).Stream(ctx)
		if err != nil {
			return "", err
		}
		defer stream.Close()
		text, err := io.ReadAll(stream)
		return string(text), err
	}
	refused := func(options corev1.PodLogOptions, want string) {
		t.Helper()
		if text, err := read(options); !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %q, %v; want %s", options, text, err, want)
		}
	}
	reads := func(options corev1.PodLogOptions, want string) {
		t.Helper()
		if text, err := read(options); err != nil || text != want {
			t.Errorf("%+v: %q, %v; want %q", options, text, err, want)
		}
	}
	refused(corev1.PodLogOptions{}, "is waiting to start: ContainerCreating")
	p.supply()
	running := p.report("a", engine.ReportRunning, 0)[0]
	run := kubeapi.LogRun{Tenant: "default", JobUID: running.JobUID, PodUID: running.UID, Container: "main"}
	reads(corev1.PodLogOptions{}, "")
	p.logs.write(run, "1\n2\n3\n", true)
	reads(corev1.PodLogOptions{Follow: true}, "1\n2\n3\n")
	refused(corev1.PodLogOptions{Previous: true}, `previous terminated container "main" in pod`)
	refused(corev1.PodLogOptions{Container: "other"}, "container other is not valid for pod")
	refused(corev1.PodLogOptions{Timestamps: true}, "timestamps is not supported by this version of Nightshift")
	refused(corev1.PodLogOptions{TailLines: ptr(int64(-1))}, "tailLines")
	p.submit(engine.ReportPod{Node: running.Node, UID: running.UID, Epoch: running.Epoch, Phase: engine.ReportRunning, Restarts: 1, ExitCode: 3})
	again := run
	again.Restart = 1
	p.logs.write(again, "second run\n", false)
	reads(corev1.PodLogOptions{Previous: true, TailLines: ptr(int64(1))}, "3\n")
	reads(corev1.PodLogOptions{}, "second run\n")
	// Its node dies with the end of the log unsent: whoever follows is let go after the last words.
	following := make(chan string, 1)
	go func() {
		text, err := read(corev1.PodLogOptions{Follow: true})
		if err != nil {
			text = err.Error()
		}
		following <- text
	}()
	p.submit(engine.ReportPod{Node: running.Node, UID: running.UID, Epoch: running.Epoch, Phase: engine.ReportSucceeded, Restarts: 1})
	if text := <-following; text != "second run\n" {
		t.Errorf("followed to the end: %q", text)
	}
}

func TestManyClientsWriteAtOnceAndAWatcherSeesEachChangeInOrder(t *testing.T) {
	p := newPlane(t)
	const clients, each = 8, 12
	jobs := p.client.BatchV1().Jobs("default")
	watching, err := jobs.Watch(t.Context(), metav1.ListOptions{})
	p.must(err)
	defer watching.Stop()
	var writers sync.WaitGroup
	for c := range clients {
		writers.Go(func() {
			for n := range each {
				name := fmt.Sprintf("job-%d-%d", c, n)
				if _, err := jobs.Create(t.Context(), newJob(name, 1), metav1.CreateOptions{}); err != nil {
					t.Error(err)
					return
				}
				if _, err := jobs.Patch(t.Context(), name, types.MergePatchType, []byte(`{"metadata":{"labels":{"patched":"yes"}}}`), metav1.PatchOptions{}); err != nil {
					t.Error(err)
				}
				// All clients change this one; none of the changes is lost.
				label := fmt.Sprintf(`{"metadata":{"labels":{"c%d-%d":"yes"}}}`, c, n)
				if _, err := jobs.Patch(t.Context(), "job-0-0", types.MergePatchType, []byte(label), metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	want, err := jobs.List(t.Context(), metav1.ListOptions{})
	p.must(err)
	if len(want.Items) != clients*each {
		t.Errorf("%d Jobs were made, want %d", len(want.Items), clients*each)
	}
	held, last := map[string]string{}, uint64(0)
	for missing := len(want.Items); missing > 0; {
		e := <-watching.ResultChan()
		job := e.Object.(*batchv1.Job)
		version, err := strconv.ParseUint(job.ResourceVersion, 10, 64)
		if err != nil || version < last {
			t.Fatalf("version %s after %d", job.ResourceVersion, last)
		}
		held[job.Name], last = job.ResourceVersion, version
		missing = 0
		for _, one := range want.Items {
			if held[one.Name] != one.ResourceVersion {
				missing++
			}
		}
	}
	first, err := jobs.Get(t.Context(), "job-0-0", metav1.GetOptions{})
	p.must(err)
	for n := range each {
		if first.Labels[fmt.Sprintf("c0-%d", n)] != "yes" {
			t.Errorf("the change c0-%d was lost", n)
		}
	}
}
