package kubeapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/nightshift-batch/nightshift/orchestrator/view"
)

// podLog serves pods/log.
type podLog struct {
	server *Server
	pods   *pods
}

func newPodLog(s *Server, pods *pods) *podLog { return &podLog{server: s, pods: pods} }

// New implements rest.Storage.
func (l *podLog) New() runtime.Object { return &corev1.Pod{} }

// Destroy implements rest.Storage.
func (l *podLog) Destroy() {}

// ProducesMIMETypes implements rest.StorageMetadata.
func (l *podLog) ProducesMIMETypes(string) []string { return []string{"text/plain"} }

// ProducesObject implements rest.StorageMetadata.
func (l *podLog) ProducesObject(string) any { return "" }

// NewGetOptions implements rest.GetterWithOptions.
func (l *podLog) NewGetOptions() (runtime.Object, bool, string) {
	return &corev1.PodLogOptions{}, false, ""
}

// OverrideMetricsVerb implements rest.StorageMetricsOverride: a log is not got but connected to.
func (l *podLog) OverrideMetricsVerb(verb string) string {
	if verb == "GET" {
		return "CONNECT"
	}
	return verb
}

// Get implements rest.GetterWithOptions: it returns what streams the log.
func (l *podLog) Get(ctx context.Context, name string, options runtime.Object) (runtime.Object, error) {
	wanted, ok := options.(*corev1.PodLogOptions)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("log options are a %T", options))
	}
	record, found := l.pods.view().Get(view.Pods, l.pods.key(ctx, name))
	if !found {
		return nil, apierrors.NewNotFound(l.pods.group, name)
	}
	pod := record.Object().(*corev1.Pod)
	run, err := logRun(pod, wanted)
	if err != nil {
		return nil, err
	}
	if err := supportedLogOptions(wanted); err != nil {
		return nil, err
	}
	return &logStream{log: l, pod: record.Key(), run: run, options: LogOptions{Follow: wanted.Follow, TailLines: wanted.TailLines, LimitBytes: wanted.LimitBytes}}, nil
}

// supportedLogOptions refuses by name what would change what is read and does not work yet.
func supportedLogOptions(options *corev1.PodLogOptions) error {
	for name, set := range map[string]bool{
		"sinceSeconds": options.SinceSeconds != nil, "sinceTime": options.SinceTime != nil, "timestamps": options.Timestamps,
		"stream": options.Stream != nil && *options.Stream != corev1.LogStreamAll,
	} {
		if set {
			return apierrors.NewBadRequest(name + " is not supported by this version of Nightshift")
		}
	}
	if n := options.TailLines; n != nil && *n < 0 {
		return apierrors.NewBadRequest("tailLines must be greater than or equal to 0")
	}
	if n := options.LimitBytes; n != nil && *n < 1 {
		return apierrors.NewBadRequest("limitBytes must be greater than 0")
	}
	return nil
}

// logRun finds the run of the container that is meant, with the errors of pkg/registry/core/pod/strategy.go and the kubelet.
func logRun(pod *corev1.Pod, options *corev1.PodLogOptions) (LogRun, error) {
	container := options.Container
	if container == "" {
		container = pod.Spec.Containers[0].Name
	}
	for _, status := range containerStatuses(pod) {
		if status.Name != container {
			continue
		}
		run := LogRun{Tenant: pod.Namespace, PodUID: string(pod.UID), Container: container, Restart: status.RestartCount}
		if owner := metav1.GetControllerOf(pod); owner != nil {
			run.JobUID = string(owner.UID)
		}
		switch {
		case options.Previous && status.RestartCount == 0:
			return LogRun{}, apierrors.NewBadRequest(fmt.Sprintf("previous terminated container %q in pod %q not found", container, pod.Name))
		case options.Previous:
			run.Restart--
		case status.State.Waiting != nil:
			return LogRun{}, apierrors.NewBadRequest(fmt.Sprintf("container %q in pod %q is waiting to start: %s", container, pod.Name, status.State.Waiting.Reason))
		}
		return run, nil
	}
	return LogRun{}, apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", container, pod.Name))
}

// containerStatuses are those of all containers of a pod, whose names are all different, those of init first.
func containerStatuses(pod *corev1.Pod) []corev1.ContainerStatus {
	return slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses)
}

// logStream streams one run's log into a response; it implements rest.ResourceStreamer.
type logStream struct {
	log     *podLog
	pod     view.Key
	run     LogRun
	options LogOptions
}

// GetObjectKind implements runtime.Object.
func (s *logStream) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject implements runtime.Object; a stream is read once and never copied.
func (s *logStream) DeepCopyObject() runtime.Object { return s }

// InputStream implements rest.ResourceStreamer.
func (s *logStream) InputStream(ctx context.Context, _, _ string) (io.ReadCloser, bool, string, error) {
	ctx, cancel := s.log.server.whileServing(ctx)
	reader, err := s.open(ctx)
	if errors.Is(err, ErrNoLog) {
		// The container has started and written nothing yet, or what it wrote has not come in.
		reader, err = io.NopCloser(eof{}), nil
	}
	if err != nil {
		cancel()
		return nil, false, "", apierrors.NewInternalError(err)
	}
	stream := &endingStream{reader: reader, cancel: cancel, server: s.log.server}
	if s.options.Follow {
		go stream.endWith(ctx, s.pod, s.run)
	}
	return stream, s.options.Follow, "text/plain", nil
}

// open opens the log. One of a run that has ended and of which nothing is kept is not followed: nothing tells that it will never come.
func (s *logStream) open(ctx context.Context) (io.ReadCloser, error) {
	if record, ok := s.log.server.config.View.Get(view.Pods, s.pod); s.options.Follow && ok && runEnded(record.Object().(*corev1.Pod), s.run) {
		now := s.options
		now.Follow = false
		reader, err := s.log.server.config.Logs.OpenLog(ctx, s.run, now)
		if err != nil {
			return nil, err
		}
		// There is something, and its end may still be on its way.
		if err := reader.Close(); err != nil {
			return nil, err
		}
	}
	return s.log.server.config.Logs.OpenLog(ctx, s.run, s.options)
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// endingStream ends a followed log some time after its run has, even if the log's own end never comes.
type endingStream struct {
	reader io.ReadCloser
	cancel context.CancelFunc
	server *Server

	mu    sync.Mutex
	timer *time.Timer
	// over is set when the wait for last words is.
	over bool
}

// Read implements io.Reader.
func (s *endingStream) Read(p []byte) (int, error) {
	n, err := s.reader.Read(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n > 0 && s.timer != nil && !s.over {
		s.timer.Reset(s.server.lastWords)
	}
	if err != nil && (s.over || s.server.stopping.Err() != nil) {
		err = io.EOF
	}
	return n, err
}

// Close implements io.Closer.
func (s *endingStream) Close() error {
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer != nil {
		s.timer.Stop()
	}
	return s.reader.Close()
}

// endWith waits for the end of the run and then starts the clock.
func (s *endingStream) endWith(ctx context.Context, key view.Key, run LogRun) {
	v := s.server.config.View
	var last *view.Record
	for {
		seq := v.Seq()
		record, ok := v.Get(view.Pods, key)
		if !ok || (record != last && runEnded(record.Object().(*corev1.Pod), run)) {
			break
		}
		last = record
		if err := v.WaitFor(ctx, seq+1); err != nil {
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() == nil {
		s.timer = time.AfterFunc(s.server.lastWords, func() {
			s.mu.Lock()
			s.over = true
			s.mu.Unlock()
			s.cancel()
		})
	}
}

func runEnded(pod *corev1.Pod, run LogRun) bool {
	if string(pod.UID) != run.PodUID {
		return true
	}
	for _, status := range containerStatuses(pod) {
		if status.Name == run.Container {
			return status.RestartCount > run.Restart || status.State.Terminated != nil
		}
	}
	return true
}
