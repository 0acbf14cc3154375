package kubeapi

import (
	"crypto/x509"
	"net/http"
	"time"

	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi/access"
	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi/body"
)

// maxStreams is how many requests one HTTP/2 connection may have under way, as in Kubernetes (k8s.io/apiserver/pkg/server/secure_serving.go): each
// watch is one.
const maxStreams = 100

// guard gives the library what stands before the resources: who asks, what they may, what is noted, and the limits.
func (s *Server) guard(config *genericapiserver.Config, pool *x509.CertPool) error {
	outside, err := s.config.Access.Authenticator(s.stopping, pool, s.config.Logger)
	if err != nil {
		return err
	}
	config.Authentication.Authenticator = newAuthenticator(outside)
	config.Authorization.Authorizer = authorizer.AuthorizerFunc(access.Rules)
	if to := s.config.Access.Audit; to != nil {
		if s.audit, err = access.OpenAudit(*to); err != nil {
			return err
		}
		config.AuditBackend, config.AuditPolicyRuleEvaluator = s.audit, s.audit
	}
	limits := s.config.Limits
	if limits.Reads > 0 {
		config.MaxRequestsInFlight = limits.Reads
	}
	if limits.Writes > 0 {
		config.MaxMutatingRequestsInFlight = limits.Writes
	}
	if limits.Timeout > 0 {
		config.RequestTimeout = limits.Timeout
	}
	s.bodyWithin = config.RequestTimeout
	config.MaxRequestBodyBytes = body.MaxBytes
	config.BuildHandlerChainFunc = func(resources http.Handler, config *genericapiserver.Config) http.Handler {
		return genericapiserver.DefaultBuildHandlerChain(body.Guard(resources, config.Serializer), config)
	}
	return nil
}

// bodySlack lets the library answer first.
const bodySlack = 2 * time.Second

// hurryBodies ends a request whose body does not come in the time that a request may take. The library answers it then, but a connection of HTTP/1
// and the place among the requests in flight would stay taken until the client goes.
func (s *Server) hurryBodies(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if request.Body != nil && request.Body != http.NoBody {
			if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.bodyWithin + bodySlack)); err != nil {
				http.Error(w, "the connection cannot be bounded in time", http.StatusInternalServerError)
				return
			}
		}
		next.ServeHTTP(w, request)
	})
}
