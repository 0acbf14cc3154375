package kubeapi

import (
	"context"
	"crypto/x509"
	"net/http"
	"slices"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	requestx509 "k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// The administrator: the client certificate that WriteKubeconfig makes, and the one group that may do everything.
const (
	AdminUser  = "admin"
	AdminGroup = user.SystemPrivilegedGroup
)

// Identity is who makes a request that comes from within this process.
type Identity struct {
	User   string
	Groups []string
	// ReplaceEnded lets a Job that this request creates take the place of one of the same name that has ended.
	ReplaceEnded bool
}

type identityKey struct{}

// WithIdentity returns a context under which a request served by Handler is made by who. It cannot be had over the network.
func WithIdentity(ctx context.Context, who Identity) context.Context {
	return context.WithValue(ctx, identityKey{}, who)
}

func identityFrom(ctx context.Context) (Identity, bool) {
	who, ok := ctx.Value(identityKey{}).(Identity)
	return who, ok
}

// newAuthenticator knows requests from within the process by their context and those from outside by a certificate of the
// authority alone. All others get 401.
func newAuthenticator(pool *x509.CertPool) authenticator.Request {
	verify := requestx509.DefaultVerifyOptions()
	verify.Roots = pool
	certificates := requestx509.New(verify, requestx509.CommonNameUserConversion)
	return authenticator.RequestFunc(func(request *http.Request) (*authenticator.Response, bool, error) {
		if who, ok := identityFrom(request.Context()); ok {
			return &authenticator.Response{User: &user.DefaultInfo{Name: who.User, Groups: who.Groups}}, true, nil
		}
		return certificates.AuthenticateRequest(request)
	})
}

// adminsOnly lets the administrators' group do everything and everybody else nothing. Nodes have certificates of the same
// authority and are in no group.
func adminsOnly(_ context.Context, attributes authorizer.Attributes) (authorizer.Decision, string, error) {
	if who := attributes.GetUser(); who != nil && slices.Contains(who.GetGroups(), AdminGroup) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionDeny, "only members of " + AdminGroup + " may use this API", nil
}
