package kubeapi

import (
	"context"
	"net/http"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
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

// newAuthenticator knows requests from within the process by their context, and leaves those from outside to others. Who is not known gets 401.
func newAuthenticator(outside authenticator.Request) authenticator.Request {
	return authenticator.RequestFunc(func(request *http.Request) (*authenticator.Response, bool, error) {
		if who, ok := identityFrom(request.Context()); ok {
			return &authenticator.Response{User: &user.DefaultInfo{Name: who.User, Groups: who.Groups}}, true, nil
		}
		return outside.AuthenticateRequest(request)
	})
}
