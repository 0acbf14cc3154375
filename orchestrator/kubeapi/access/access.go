// Package access says who asks the API and what they may do there.
//
// Who asks is known by one of: a client certificate of the installation's own authority (its common name and organizations are user and groups),
// a static token, or a JSON Web Token of an OpenID Connect issuer. Who shows none of these gets 401: there is no anonymous user. The first that
// knows the request answers for it.
//
// What they may do is Rules, one function of user, groups and request, and nothing else: members of system:masters everything, members of
// nightshift:tenant:NAMESPACE what a tenant does in its namespace. A token's namespaces are such groups. An issuer, which is somebody else's
// program, cannot make a member of a system: group.
//
// Nothing here keeps a secret: the token file holds digests, and the audit log what was asked without what was in it.
package access

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/union"
	requestx509 "k8s.io/apiserver/pkg/authentication/request/x509"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
)

// Options are the ways of an operator to let others in, and to note what they do. The zero value knows certificates alone, and notes nothing.
type Options struct {
	// TokensFile holds the digests of static tokens, empty for none; see Token.
	TokensFile string
	// OIDC is an issuer whose tokens are taken, nil for none.
	OIDC *Issuer
	// Audit is where requests are noted, nil for nowhere.
	Audit *AuditFile
}

// Check tells whether the options can be used now: files can be read and hold what they should, and the audit log can
// be written. Nobody is contacted.
func (o Options) Check() error {
	if o.TokensFile != "" {
		if _, err := readTokens(o.TokensFile); err != nil {
			return fmt.Errorf("the tokens file: %w", err)
		}
	}
	if o.OIDC != nil {
		if err := o.OIDC.check(); err != nil {
			return fmt.Errorf("the OIDC issuer: %w", err)
		}
	}
	if o.Audit != nil {
		audit, err := OpenAudit(*o.Audit)
		if err != nil {
			return err
		}
		return audit.Close()
	}
	return nil
}

// Authenticator knows who makes a request from outside. It works until the context ends.
func (o Options) Authenticator(ctx context.Context, pool *x509.CertPool, logger *slog.Logger) (authenticator.Request, error) {
	verify := requestx509.DefaultVerifyOptions()
	verify.Roots = pool
	ways := []authenticator.Request{requestx509.New(verify, requestx509.CommonNameUserConversion)}
	var tokens []authenticator.Token
	if o.TokensFile != "" {
		file, err := OpenTokens(o.TokensFile, logger)
		if err != nil {
			return nil, fmt.Errorf("the tokens file: %w", err)
		}
		tokens = append(tokens, file)
	}
	if o.OIDC != nil {
		issuer, err := o.OIDC.authenticator(ctx)
		if err != nil {
			return nil, fmt.Errorf("the OIDC issuer: %w", err)
		}
		tokens = append(tokens, issuer)
	}
	if len(tokens) > 0 {
		ways = append(ways, bearertoken.New(tokenunion.New(tokens...)))
	}
	return group.NewAuthenticatedGroupAdder(union.New(ways...)), nil
}

// errUnknownToken does not say whether the token's name is known.
var errUnknownToken = errors.New("the token is not known")
