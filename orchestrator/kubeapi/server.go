// Package kubeapi is the Kubernetes API face of Nightshift: k8s.io/apiserver as a library over the read model.
//
// Reads come from view. A create or change goes: decoded by the library, admitted by manifest, then handed to the engine by
// the small interfaces of this package; it is answered when its facts are durable, when policy has decided and when the view
// shows it, so that who wrote reads what they wrote. What an engine refuses becomes the Kubernetes error of the same
// meaning: 404, 409, 403. Nothing is kept here.
//
// Who asks, and what they may do, is said by package access; requests from within the process go through the same Handler with an Identity in their
// context. Package body bounds what a request may hold, Limits how many there are and how long they take. Their order is the library's: known,
// noted, counted, allowed, held against the bounds, and then decoded.
//
// Served are batch/v1 jobs and cronjobs, core/v1 pods, pods/log and nodes, and what package objects serves, with watches, tables, server-side apply, dry run
// and strict validation as the library gives them. A method that a resource lacks answers 405.
package kubeapi

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/version"
	apinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/filters"
	restclient "k8s.io/client-go/rest"
	"k8s.io/component-base/compatibility"
	"k8s.io/klog/v2"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi/access"
	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi/objects"
	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi/openapi"
	"github.com/nightshift-batch/nightshift/orchestrator/manifest"
	"github.com/nightshift-batch/nightshift/orchestrator/view"
)

// maxRequestBytes bounds what a client may send in one request. What is stored of it is bounded again, by package object.
const maxRequestBytes = 3 << 20

// KubernetesVersion is that of the API which is served.
const KubernetesVersion = "1.37.2"

// Submitter hands a command to the engine and returns when its facts are durable: the number of the log's head then. An
// *engine.Rejection means that nothing has changed.
type Submitter interface {
	Submit(ctx context.Context, command engine.Command) (seq uint64, err error)
}

// JobCreator submits a new Job and waits for policy's decision: a *DeniedError if that is no, an *engine.Rejection if the engine refuses.
type JobCreator interface {
	Create(ctx context.Context, command engine.CreateJob) (seq uint64, err error)
}

// DeniedError is policy's no to a Job, with its reasons for the user.
type DeniedError struct{ Reasons []string }

// Authority signs the certificates by which the server and its clients know each other.
type Authority interface {
	CAPEM() []byte
	ServerCertificate(hosts ...string) (tls.Certificate, error)
	ClientCertificate(cn string, orgs ...string) (certificatePEM, keyPEM []byte, err error)
}

// Logs reads what containers have written.
type Logs interface {
	// OpenLog reads from the beginning, or as the options say. It returns ErrNoLog if nothing is kept and the reader does not follow.
	OpenLog(ctx context.Context, run LogRun, options LogOptions) (io.ReadCloser, error)
}

// LogRun names the output of one run of a container.
type LogRun struct {
	Tenant, JobUID, PodUID, Container string
	// Restart is how many runs of the container in this pod came before.
	Restart int32
}

// LogOptions choose what of a log is read.
type LogOptions struct {
	// Follow goes on with what is written later, until the end of the run.
	Follow bool
	// TailLines starts so many lines before the end; nil for the beginning. LimitBytes ends after so many; nil for no limit.
	TailLines, LimitBytes *int64
}

// ErrNoLog: nothing is kept of that run.
var ErrNoLog = errors.New("no log is kept")

// Config of a Server. View, Submitter, Jobs, Logs and Authority are required.
type Config struct {
	View      *view.View
	Submitter Submitter
	Jobs      JobCreator
	Logs      Logs
	Authority Authority
	// Sealer encrypts the data of Secrets; without one there are none.
	Sealer objects.Sealer
	// Images gives those that containers without a command may name now, in the Job of that name; nil for none. What it returns is not changed later.
	Images func(job engine.Name) manifest.Images
	// Access says who else may ask than those with a certificate, and where requests are noted.
	Access access.Options
	Limits Limits
	// Hosts by which the server is reached: DNS names and IP addresses. Loopback is always among them.
	Hosts []string
	// Now is the clock; nil is time.Now.
	Now    func() time.Time
	Logger *slog.Logger
}

// Limits bound the requests that are worked on. Zero is Kubernetes' own value for each, which the comments name.
type Limits struct {
	// Reads and Writes are how many requests are worked on at the same time, watches and followed logs not counted: 400 and 200. Others get 429;
	// administrators are let in all the same.
	Reads, Writes int
	// Timeout is how long a request may take, watches and followed logs excepted: a minute.
	Timeout time.Duration
}

// Server is the API. New makes one and Close ends it.
type Server struct {
	config Config
	// audit notes requests, nil if nobody does.
	audit *access.Audit
	// bodyWithin is how long the body of a request may take to come.
	bodyWithin time.Duration
	handler    http.Handler
	tls        *tls.Config
	// lastWords is how long a follower waits for more of a log after its run has ended, if the log's own end never comes: a
	// node that is taken away may not have sent it.
	lastWords time.Duration
	// stopping ends watches and followed logs, so that the rest can finish.
	stopping context.Context
	stop     context.CancelFunc
}

// New returns a server that is ready: its handler may be used at once.
func New(config Config) (*Server, error) {
	if config.View == nil || config.Submitter == nil || config.Jobs == nil || config.Logs == nil || config.Authority == nil {
		return nil, errors.New("API server: the view, the submitter, the job creator, the logs and the authority are required")
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Images == nil {
		config.Images = func(engine.Name) manifest.Images { return nil }
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{config: config, lastWords: 10 * time.Second}
	s.stopping, s.stop = context.WithCancel(context.Background())
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(config.Authority.CAPEM()) {
		return nil, errors.New("API server: the authority has no certificate")
	}
	certificate, err := config.Authority.ServerCertificate(append([]string{"localhost", "127.0.0.1", "::1"}, config.Hosts...)...)
	if err != nil {
		return nil, fmt.Errorf("API server: %w", err)
	}
	s.tls = &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2", "http/1.1"},
		// Asked for and not demanded, so that who has none is told so by the API and not by a broken connection.
		ClientAuth: tls.RequestClientCert, ClientCAs: pool,
	}
	generic, err := s.assemble(pool)
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("API server: %w", err)
	}
	generic.PrepareRun()
	generic.RunPostStartHooks(s.stopping)
	s.handler = generic.Handler
	return s, nil
}

// LogTo sends what the library logs, which it does by one logger for the whole process, to this one. It is called before anything of the
// library runs: gRPC, which others use too, logs through it.
func LogTo(logger *slog.Logger) { klog.SetSlogLogger(logger) }

// assemble puts the library together with the storage of the resources.
func (s *Server) assemble(pool *x509.CertPool) (*genericapiserver.GenericAPIServer, error) {
	wire := wire()
	config := genericapiserver.NewConfig(wire.codecs)
	config.EffectiveVersion = servedVersion{compatibility.NewEffectiveVersionFromString(KubernetesVersion, "", "")}
	config.ExternalAddress = "localhost:443"
	config.LoopbackClientConfig = &restclient.Config{Host: "https://localhost"}
	if err := s.guard(config, pool); err != nil {
		return nil, err
	}
	config.EnableProfiling, config.EnableMetrics = false, false
	config.MaxRequestBodyBytes = maxRequestBytes
	config.LongRunningFunc = filters.BasicLongRunningRequestCheck(sets.NewString("watch"), sets.NewString("log"))
	namer := apinamer.NewDefinitionNamer(wire.scheme)
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(openapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIConfig.Info.Title, config.OpenAPIConfig.Info.Version = "Nightshift", "v"+KubernetesVersion
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(openapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIV3Config.Info.Title, config.OpenAPIV3Config.Info.Version = "Nightshift", "v"+KubernetesVersion
	generic, err := config.Complete(nil).New("nightshift", genericapiserver.NewEmptyDelegate())
	if err != nil {
		return nil, err
	}
	for group, resources := range s.storage() {
		info := genericapiserver.NewDefaultAPIGroupInfo(group, wire.scheme, wire.parameters, wire.codecs)
		info.VersionedResourcesStorageMap["v1"] = resources
		if group == corev1.GroupName {
			err = generic.InstallLegacyAPIGroup(genericapiserver.DefaultLegacyAPIPrefix, &info)
		} else {
			err = generic.InstallAPIGroup(&info)
		}
		if err != nil {
			return nil, fmt.Errorf("install %s: %w", cmp.Or(group, "core"), err)
		}
	}
	return generic, nil
}

// servedVersion tells clients the version of the API. The library would tell what the linker put into k8s.io/component-base, and
// without that nothing that kubectl can read.
type servedVersion struct{ compatibility.EffectiveVersion }

// Info implements compatibility.EffectiveVersion.
func (v servedVersion) Info() *version.Info {
	info := v.EffectiveVersion.Info()
	info.GitVersion, info.GitCommit, info.GitTreeState, info.BuildDate = "v"+KubernetesVersion, "", "", ""
	return info
}

// storage returns what serves each resource, by group.
func (s *Server) storage() map[string]map[string]rest.Storage {
	served := objects.Storage(s.objects())
	jobs, cronJobs, pods := newJobs(s), newCronJobs(s), newPods(s)
	served[batchv1.GroupName] = map[string]rest.Storage{
		"jobs": jobs, "jobs/status": &jobStatus{jobs}, "cronjobs": cronJobs, "cronjobs/status": &cronJobStatus{cronJobs},
	}
	served[authorizationv1.GroupName] = map[string]rest.Storage{"selfsubjectaccessreviews": accessReviews{}, "selfsubjectrulesreviews": rulesReviews{}}
	core := served[corev1.GroupName]
	core["pods"], core["pods/status"], core["pods/log"], core["pods/eviction"] = pods, &podStatus{pods}, newPodLog(s, pods), &podEviction{pods}
	core["nodes"] = newNodes(s)
	return served
}

// objects is what the objects are served with that the engine does not interpret.
func (s *Server) objects() objects.Config {
	wire := wire()
	return objects.Config{
		View: s.config.View, Submitter: s.config.Submitter, Sealer: s.config.Sealer, Scheme: wire.scheme, Now: s.config.Now, WhileServing: s.whileServing,
		Codec: func(version schema.GroupVersion) runtime.Codec { return wire.codecs.LegacyCodec(version) },
	}
}

// Furnish keeps what is in every namespace in its place until the context ends: the service account "default" and the configmap with the
// certificate by which this server is known.
func (s *Server) Furnish(ctx context.Context) error {
	return objects.Furnish(ctx, s.objects(), s.config.Authority.CAPEM(), s.config.Logger)
}

// Handler serves the API in this process; see WithIdentity.
func (s *Server) Handler() http.Handler { return s.handler }

// stopWithin bounds how long requests that are under way may take to end.
const stopWithin = 5 * time.Second

// Serve serves the API on the listener with TLS until the context ends, which is no error. It closes the listener.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler: s.hurryBodies(s.handler), TLSConfig: s.tls, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ErrorLog: slog.NewLogLogger(s.config.Logger.Handler(), slog.LevelDebug),
	}
	var zones sync.WaitGroup
	following, unfollow := context.WithCancel(ctx)
	zones.Go(func() { s.followZones(following) })
	defer zones.Wait()
	defer unfollow()
	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(listener, "", "") }()
	select {
	case err := <-served:
		return fmt.Errorf("serve the API on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	s.stop()
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
	defer cancel()
	err := server.Shutdown(limit)
	if errors.Is(err, context.DeadlineExceeded) {
		// A client that does not read its answer is no failure of the server.
		err = server.Close()
	}
	if end := <-served; !errors.Is(end, http.ErrServerClosed) {
		err = errors.Join(err, end)
	}
	return err
}

// Close ends what the server runs in the background, watches too. The handler must not be used any more.
func (s *Server) Close() error {
	s.stop()
	if s.audit == nil {
		return nil
	}
	return s.audit.Close()
}

// whileServing returns a context that also ends when the server stops.
func (s *Server) whileServing(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.stopping, cancel)
	return ctx, func() { stop(); cancel() }
}
