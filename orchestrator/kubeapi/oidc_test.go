package kubeapi_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi"
	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi/access"
)

// issuer is an OpenID Connect issuer over TLS: it tells where its keys are and gives them, and the test signs with them.
type issuer struct {
	t      testing.TB
	key    *rsa.PrivateKey
	server *httptest.Server
	caFile string
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{t: t, key: key, caFile: filepath.Join(t.TempDir(), "ca.pem")}
	mux := http.NewServeMux()
	answer := func(path string, object func() any) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if err := json.NewEncoder(w).Encode(object()); err != nil {
				t.Error(err)
			}
		})
	}
	answer("/.well-known/openid-configuration", func() any {
		return map[string]any{"issuer": i.server.URL, "jwks_uri": i.server.URL + "/keys", "id_token_signing_alg_values_supported": []string{"RS256"}}
	})
	answer("/keys", func() any {
		return map[string]any{"keys": []map[string]string{{
			"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "one",
			"n": part(key.N.Bytes()), "e": part(big.NewInt(int64(key.E)).Bytes()),
		}}}
	})
	i.server = httptest.NewTLSServer(mux)
	t.Cleanup(i.server.Close)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.server.Certificate().Raw})
	if err := os.WriteFile(i.caFile, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return i
}

func part(text []byte) string { return base64.RawURLEncoding.EncodeToString(text) }

// sign makes an ID token of the claims, by the issuer's key or another one.
func (i *issuer) sign(key *rsa.PrivateKey, claims map[string]any) string {
	i.t.Helper()
	all := map[string]any{"iss": i.server.URL, "aud": "nightshift", "sub": "42", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix()}
	for name, value := range claims {
		all[name] = value
	}
	body, err := json.Marshal(all)
	if err != nil {
		i.t.Fatal(err)
	}
	signed := part([]byte(`{"alg":"RS256","typ":"JWT","kid":"one"}`)) + "." + part(body)
	digest := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	if err != nil {
		i.t.Fatal(err)
	}
	return signed + "." + part(signature)
}

func TestAnIssuersTokensMakeTenantsAndNeverAdministrators(t *testing.T) {
	i := newIssuer(t)
	file := newTokensFile(t)
	static := file.add(access.Token{User: "alice", Namespaces: []string{"red"}})
	p := newPlaneWith(t, func(config *kubeapi.Config) {
		config.Access.TokensFile = file.path
		config.Access.OIDC = &access.Issuer{
			URL: i.server.URL, ClientID: "nightshift", UsernameClaim: "email", GroupsClaim: "groups", CAFile: i.caFile,
		}
	})
	p.namespace("red")
	list := func(token, namespace string) error {
		_, err := p.bearer(token).BatchV1().Jobs(namespace).List(t.Context(), metav1.ListOptions{})
		return err
	}
	tenant := map[string]any{"email": "carol@example.com", "groups": []string{access.TenantGroup("red"), "staff"}}
	good := i.sign(i.key, tenant)
	// The server finds the issuer's keys in the background.
	for deadline := time.Now().Add(patience); list(good, "red") != nil; {
		if time.Now().After(deadline) {
			t.Fatalf("the issuer's token is not taken: %v", list(good, "red"))
		}
	}
	if err := list(good, "default"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `User "carol@example.com" cannot list`) {
		t.Errorf("in another namespace: %v", err)
	}
	if err := list(static, "red"); err != nil {
		t.Errorf("a static token beside: %v", err)
	}
	with := func(name string, value any) map[string]any {
		changed := map[string]any{name: value}
		for claim, given := range tenant {
			if claim != name {
				changed[claim] = given
			}
		}
		return changed
	}
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	p.must(err)
	for name, token := range map[string]string{
		"of another key":            i.sign(stranger, tenant),
		"for another client":        i.sign(i.key, with("aud", "other")),
		"of another issuer":         i.sign(i.key, with("iss", "https://issuer.example.com")),
		"that has expired":          i.sign(i.key, with("exp", time.Now().Add(-time.Minute).Unix())),
		"without a user":            i.sign(i.key, map[string]any{"groups": []string{access.TenantGroup("red")}}),
		"for an administrator":      i.sign(i.key, with("groups", []string{kubeapi.AdminGroup})),
		"for a user of Kubernetes'": i.sign(i.key, with("email", "system:admin")),
		"without its signature":     good[:strings.LastIndex(good, ".")+1],
	} {
		if err := list(token, "red"); !apierrors.IsUnauthorized(err) {
			t.Errorf("a token %s: %v", name, err)
		}
	}
}

func TestAnIssuerThatCannotBeUsedIsRefused(t *testing.T) {
	i := newIssuer(t)
	for name, test := range map[string]struct {
		change func(*access.Issuer)
		says   string
	}{
		"not https": {func(i *access.Issuer) { i.URL = "http://issuer.example.com" }, "https"},
		"no file":   {func(i *access.Issuer) { i.CAFile = "/nowhere.pem" }, "read its authority"},
		"no PEM":    {func(i *access.Issuer) { i.CAFile = os.Args[0] }, "data does not contain any valid"},
		"no claim":  {func(i *access.Issuer) { i.UsernameClaim = "" }, "username"},
	} {
		issuer := access.Issuer{URL: i.server.URL, ClientID: "nightshift", UsernameClaim: "sub", CAFile: i.caFile}
		test.change(&issuer)
		if err := (access.Options{OIDC: &issuer}).Check(); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
