package access

import (
	"context"
	"fmt"
	"os"

	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/oidc"
	"k8s.io/client-go/util/cert"
)

// Issuer is an OpenID Connect issuer whose ID tokens are taken, in the terms of kube-apiserver's flags.
type Issuer struct {
	// URL, https, is the iss of its tokens; its keys are found from there. ClientID must be among their aud.
	URL, ClientID string
	// UsernameClaim and GroupsClaim of a token give user and groups; without the latter there are no groups.
	UsernameClaim, GroupsClaim string
	// UsernamePrefix and GroupsPrefix go before each. An empty UsernamePrefix is "URL#", but nothing if the claim is email; "-" is nothing.
	UsernamePrefix, GroupsPrefix string
	// CAFile holds the certificates by which the issuer is trusted, PEM; empty for those of the machine.
	CAFile string
}

// Kubernetes' own advice for issuers (Authenticating, "user validation rules"): names that Kubernetes gives a meaning are not theirs to give.
var issuerBounds = []apiserver.UserValidationRule{
	{Expression: "!user.username.startsWith('system:')", Message: "an issuer cannot name a user system:"},
	{Expression: "user.groups.all(group, !group.startsWith('system:'))", Message: "an issuer cannot name a group system:"},
}

// authenticator begins to look for the issuer's keys and goes on until the context ends. Until they are found its tokens are not known.
func (i *Issuer) authenticator(ctx context.Context) (authenticator.Token, error) {
	options, err := i.options()
	if err != nil {
		return nil, err
	}
	return oidc.New(ctx, options)
}

// check holds the issuer against the library's rules, and contacts nobody.
func (i *Issuer) check() error {
	options, err := i.options()
	if err != nil {
		return err
	}
	if len(options.JWTAuthenticator.Issuer.CertificateAuthority) > 0 {
		if _, err := cert.ParseCertsPEM([]byte(options.JWTAuthenticator.Issuer.CertificateAuthority)); err != nil {
			return fmt.Errorf("%s: %w", i.CAFile, err)
		}
	}
	_, errs := validation.CompileAndValidateJWTAuthenticator(authenticationcel.NewDefaultCompiler(), options.JWTAuthenticator, nil)
	return errs.ToAggregate()
}

func (i *Issuer) options() (oidc.Options, error) {
	prefix := i.UsernamePrefix
	switch {
	case prefix == "-":
		prefix = ""
	case prefix == "" && i.UsernameClaim != "email":
		prefix = i.URL + "#"
	}
	config := apiserver.JWTAuthenticator{
		Issuer:              apiserver.Issuer{URL: i.URL, Audiences: []string{i.ClientID}},
		ClaimMappings:       apiserver.ClaimMappings{Username: apiserver.PrefixedClaimOrExpression{Claim: i.UsernameClaim, Prefix: &prefix}},
		UserValidationRules: issuerBounds,
	}
	if i.GroupsClaim != "" {
		config.ClaimMappings.Groups = apiserver.PrefixedClaimOrExpression{Claim: i.GroupsClaim, Prefix: &i.GroupsPrefix}
	}
	options := oidc.Options{JWTAuthenticator: config, SupportedSigningAlgs: oidc.AllValidSigningAlgorithms()}
	if i.CAFile != "" {
		text, err := os.ReadFile(i.CAFile)
		if err != nil {
			return oidc.Options{}, fmt.Errorf("read its authority: %w", err)
		}
		options.JWTAuthenticator.Issuer.CertificateAuthority = string(text)
		options.CAContentProvider = certificates(text)
	}
	return options, nil
}

// certificates are PEM that does not change.
type certificates []byte

// CurrentCABundleContent implements oidc.CAContentProvider.
func (c certificates) CurrentCABundleContent() []byte { return c }
