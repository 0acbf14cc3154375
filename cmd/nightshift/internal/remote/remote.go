// Package remote runs Jobs on a server: it creates them there, and shows what the API tells of them until they have ended.
//
// It knows nothing but the Kubernetes API: the state of a Job is its status, its course its events and those of its pods, its cost the event that
// tells of its receipt. Both are watched from the version at which the Job was created or found, over restarts of the server. Nothing at the
// server is ever deleted or stopped from here: whoever breaks off leaves the Job to it.
package remote

import (
	"context"
	"fmt"
	"os"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/screen"
	"github.com/nightshift-batch/nightshift/orchestrator/manifest"
)

// Target names a server: by a kubeconfig, by its URL, or by both, and then the URL holds.
type Target struct{ Kubeconfig, Context, Server, CAFile string }

// Environment variables that name a server and what is shown there. Kubernetes' own, KUBECONFIG, is not among them, and neither is ~/.kube/config: who
// works with a cluster has them, and a Job must not get there because somebody forgot what they name.
const (
	KubeconfigVariable = "NIGHTSHIFT_KUBECONFIG"
	TokenVariable      = "NIGHTSHIFT_TOKEN"
)

// IsGiven tells whether a server is named.
func (t Target) IsGiven() bool { return t.Server != "" || t.kubeconfig() != "" }

func (t Target) kubeconfig() string {
	if t.Kubeconfig == "" && t.Server == "" {
		return os.Getenv(KubeconfigVariable)
	}
	return t.Kubeconfig
}

// Server is one that Jobs can be run on.
type Server struct {
	client kubernetes.Interface
	// URL of the API. Namespace is where what names none belongs.
	URL, Namespace string
}

// Connect makes a client; it does not ask yet.
func (t Target) Connect() (*Server, error) {
	overrides := &clientcmd.ConfigOverrides{CurrentContext: t.Context}
	overrides.ClusterInfo.Server, overrides.ClusterInfo.CertificateAuthority = t.Server, t.CAFile
	overrides.AuthInfo.Token = os.Getenv(TokenVariable)
	// Explicit or nothing: the default loading rules would read ~/.kube/config.
	loaded := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(&clientcmd.ClientConfigLoadingRules{ExplicitPath: t.kubeconfig()}, overrides)
	config, err := loaded.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("the server's kubeconfig: %w", err)
	}
	namespace, _, err := loaded.Namespace()
	if err != nil {
		return nil, fmt.Errorf("the server's kubeconfig: %w", err)
	}
	config.UserAgent = "nightshift-run"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("the server's kubeconfig: %w", err)
	}
	return &Server{client: client, URL: config.Host, Namespace: namespace}, nil
}

// DeletedError says which Jobs somebody deleted before they had ended.
type DeletedError struct{ Names []string }

func (e *DeletedError) Error() string { return fmt.Sprintf("deleted before the end: %q", e.Names) }

// TakenError says that the server holds another Job of that name.
type TakenError struct{ Namespace, Name, Why string }

func (e *TakenError) Error() string {
	return fmt.Sprintf("the server holds a Job %s in namespace %s %s; run does not replace what is on a server: delete it, or give another name", e.Name, e.Namespace, e.Why)
}

// Run creates the Jobs that are not there yet and waits until all have ended and their receipts are issued, or until the context ends.
func (s *Server) Run(ctx context.Context, jobs []*batchv1.Job, show screen.Display, follow bool) ([]screen.Conclusion, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := newFollower(s, show, follow)
	for _, wanted := range jobs {
		job, err := s.submit(ctx, wanted, show)
		if err != nil {
			return nil, err
		}
		if err := f.add(ctx, job); err != nil {
			return nil, err
		}
	}
	return f.run(ctx)
}

// submit creates a Job, or finds that it is there and unfinished.
func (s *Server) submit(ctx context.Context, wanted *batchv1.Job, show screen.Display) (*batchv1.Job, error) {
	jobs := s.client.BatchV1().Jobs(wanted.Namespace)
	created, err := jobs.Create(ctx, wanted, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
	if err == nil {
		show.Tell(screen.Say("job %s created, uid %s, on %s", created.Name, created.UID, s.URL))
		return created, nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return nil, err
	}
	there, err := jobs.Get(ctx, wanted.Name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	ours, err := manifest.Digest(wanted)
	if err != nil {
		return nil, err
	}
	theirs, err := manifest.Digest(there)
	switch {
	case err != nil:
		return nil, err
	case ended(there) != nil:
		return nil, &TakenError{there.Namespace, there.Name, "that has ended"}
	case ours != theirs:
		return nil, &TakenError{there.Namespace, there.Name, "of another spec"}
	}
	show.Tell(screen.Say("job %s goes on, uid %s, on %s", there.Name, there.UID, s.URL))
	return there, nil
}

// ended is the condition with which a Job has ended, nil if it has not.
func ended(job *batchv1.Job) *batchv1.JobCondition {
	for i := range job.Status.Conditions {
		condition := &job.Status.Conditions[i]
		if (condition.Type == batchv1.JobComplete || condition.Type == batchv1.JobFailed) && condition.Status == corev1.ConditionTrue {
			return condition
		}
	}
	return nil
}

// watchFrom watches from a version on, over broken connections and restarts of the server.
func watchFrom(ctx context.Context, version string, begin func(context.Context, metav1.ListOptions) (watch.Interface, error)) (watch.Interface, error) {
	return watchtools.NewRetryWatcherWithContext(ctx, version, watcher(begin))
}

type watcher func(context.Context, metav1.ListOptions) (watch.Interface, error)

// WatchWithContext implements cache.WatcherWithContext.
func (w watcher) WatchWithContext(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return w(ctx, options)
}

// took is from the start to the end of a Job.
func took(job *batchv1.Job, end time.Time) time.Duration {
	if job.Status.StartTime == nil {
		return 0
	}
	return end.Sub(job.Status.StartTime.Time)
}
