package kubeapi_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"

	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi"
	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi/access"
)

// tokensFile is the file of an operator who lets tenants in, and the log of the server that reads it.
type tokensFile struct {
	t    testing.TB
	path string
	log  *safeBuffer
}

func newTokensFile(t testing.TB) *tokensFile {
	t.Helper()
	file := &tokensFile{t: t, path: filepath.Join(t.TempDir(), "tokens"), log: &safeBuffer{}}
	file.write("# who may ask\n\n")
	return file
}

func (f *tokensFile) write(text string) {
	f.t.Helper()
	if err := os.WriteFile(f.path, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// add makes a token and appends its line.
func (f *tokensFile) add(template access.Token) (secret string) {
	f.t.Helper()
	secret, line, err := access.NewToken(template)
	if err == nil {
		err = access.AppendToken(f.path, line)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return secret
}

func (f *tokensFile) text() string {
	f.t.Helper()
	text, err := os.ReadFile(f.path)
	if err != nil {
		f.t.Fatal(err)
	}
	return string(text)
}

func (f *tokensFile) configure(config *kubeapi.Config) {
	config.Access.TokensFile = f.path
	config.Logger = slog.New(slog.NewTextHandler(f.log, nil))
}

type safeBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// bearer is a client that shows a token and no certificate.
func (p *plane) bearer(token string) *kubernetes.Clientset {
	p.t.Helper()
	client, err := kubernetes.NewForConfig(&restclient.Config{
		Host: p.config.Host, BearerToken: token, QPS: -1, TLSClientConfig: restclient.TLSClientConfig{CAData: p.config.CAData},
	})
	p.must(err)
	return client
}

func (p *plane) namespace(name string) {
	p.t.Helper()
	_, err := p.client.CoreV1().Namespaces().Create(p.t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	p.must(err)
}

func TestATenantWithATokenDoesAllInItsNamespaceAndNothingElse(t *testing.T) {
	file := newTokensFile(t)
	byNamespace := file.add(access.Token{User: "alice", UID: "a-1", Namespaces: []string{"red"}})
	byGroup := file.add(access.Token{User: "bob", Groups: []string{access.TenantGroup("red"), "staff"}})
	p := newPlaneWith(t, file.configure)
	p.namespace("red")
	p.namespace("blue")
	get, list := metav1.GetOptions{}, metav1.ListOptions{}
	for name, token := range map[string]string{"alice": byNamespace, "bob": byGroup} {
		t.Run(name+", known by namespaces or by groups", func(t *testing.T) {
			red, p := p.bearer(token), &plane{t: t}
			created, err := red.BatchV1().Jobs("red").Create(t.Context(), newJob(name, 1), metav1.CreateOptions{})
			p.must(err)
			watching, err := red.BatchV1().Jobs("red").Watch(t.Context(), metav1.ListOptions{ResourceVersion: created.ResourceVersion})
			p.must(err)
			watching.Stop()
			_, getErr := red.BatchV1().Jobs("red").Get(t.Context(), name, get)
			_, podsErr := red.CoreV1().Pods("red").List(t.Context(), list)
			_, eventsErr := red.CoreV1().Events("red").List(t.Context(), list)
			_, nodesErr := red.CoreV1().Nodes().List(t.Context(), list)
			_, namespaceErr := red.CoreV1().Namespaces().Get(t.Context(), "red", get)
			_, versionErr := red.Discovery().ServerVersion()
			_, _, resourcesErr := red.Discovery().ServerGroupsAndResources()
			deleteErr := red.BatchV1().Jobs("red").Delete(t.Context(), name, metav1.DeleteOptions{})
			for what, err := range map[string]error{
				"get": getErr, "list pods": podsErr, "events": eventsErr, "nodes": nodesErr, "its namespace": namespaceErr, "version": versionErr,
				"discovery": resourcesErr, "delete": deleteErr,
			} {
				if err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
			_, otherGet := red.BatchV1().Jobs("blue").Get(t.Context(), "any", get)
			_, otherCreate := red.BatchV1().Jobs("blue").Create(t.Context(), newJob("mine", 1), metav1.CreateOptions{})
			_, allJobs := red.BatchV1().Jobs("").List(t.Context(), list)
			_, allPods := red.CoreV1().Pods("").List(t.Context(), list)
			_, namespaces := red.CoreV1().Namespaces().List(t.Context(), list)
			_, otherNamespace := red.CoreV1().Namespaces().Get(t.Context(), "blue", get)
			_, newNamespace := red.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "more"}}, metav1.CreateOptions{})
			for what, err := range map[string]error{
				"get in another namespace": otherGet, "create in another": otherCreate, "list all Jobs": allJobs, "list all pods": allPods,
				"list namespaces": namespaces, "get another": otherNamespace, "create one": newNamespace,
				"delete its own": red.CoreV1().Namespaces().Delete(t.Context(), "red", metav1.DeleteOptions{}),
				"delete a node":  red.CoreV1().Nodes().Delete(t.Context(), "n", metav1.DeleteOptions{}),
				// Its own limits are not its to write.
				"write its quota": red.CoreV1().ResourceQuotas("red").Delete(t.Context(), "q", metav1.DeleteOptions{}),
			} {
				if !apierrors.IsForbidden(err) {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
}

func TestATokenInTheAdministratorsGroupMayDoEverythingAndImpersonateATenant(t *testing.T) {
	file := newTokensFile(t)
	token := file.add(access.Token{User: "root", Groups: []string{kubeapi.AdminGroup}})
	tenant := file.add(access.Token{User: "alice", Namespaces: []string{"red"}})
	p := newPlaneWith(t, file.configure)
	if _, err := p.bearer(token).CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("the administrator: %v", err)
	}
	as := func(token, user string, groups ...string) error {
		config := &restclient.Config{
			Host: p.config.Host, BearerToken: token, TLSClientConfig: restclient.TLSClientConfig{CAData: p.config.CAData},
			Impersonate: restclient.ImpersonationConfig{UserName: user, Groups: groups},
		}
		client, err := kubernetes.NewForConfig(config)
		p.must(err)
		_, err = client.BatchV1().Jobs("red").List(t.Context(), metav1.ListOptions{})
		return err
	}
	if err := as(token, "carol", access.TenantGroup("red")); err != nil {
		t.Errorf("an administrator as a tenant: %v", err)
	}
	if err := as(token, "carol"); !apierrors.IsForbidden(err) {
		t.Errorf("an administrator as nobody in particular: %v", err)
	}
	if err := as(tenant, "admin", kubeapi.AdminGroup); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "impersonate") {
		t.Errorf("a tenant as the administrator: %v", err)
	}
	if err := as(tenant, "system:serviceaccount:red:default"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "impersonate") {
		t.Errorf("a tenant as a service account of its namespace: %v", err)
	}
}

func TestWhoShowsNoGoodTokenGetsNothing(t *testing.T) {
	file := newTokensFile(t)
	good := file.add(access.Token{User: "alice", Groups: []string{kubeapi.AdminGroup}})
	nobody := file.add(access.Token{User: "in-no-group"})
	expired := file.add(access.Token{User: "late", Groups: []string{kubeapi.AdminGroup}, Expires: ptr(time.Now().Add(-time.Second))})
	_, digest, _ := strings.Cut(file.text(), `"sha256":"`)
	digest, _, _ = strings.Cut(digest, `"`)
	p := newPlaneWith(t, file.configure)
	last := good[len(good)-1]
	other := good[:len(good)-1] + string('a'+(last-'a'+1)%2)
	for name, token := range map[string]string{
		"a wrong secret": other, "a cut one": good[:len(good)-1], "a longer one": good + "a", "an unknown name": "nst_aaaaaaaa" + good[12:],
		"the digest": digest, "another form": "secret", "an expired one": expired, "none": "",
	} {
		if _, err := p.bearer(token).BatchV1().Jobs("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := p.bearer(nobody).Discovery().ServerVersion(); !apierrors.IsForbidden(err) {
		t.Errorf("in no group that may do anything: %v", err)
	}
	if _, err := p.bearer(good).Discovery().ServerVersion(); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

func TestAChangeOfTheTokensFileHoldsFromTheNextRequestOn(t *testing.T) {
	file := newTokensFile(t)
	first := file.add(access.Token{User: "first", Groups: []string{kubeapi.AdminGroup}})
	before := file.text()
	p := newPlaneWith(t, file.configure)
	may := func(token string) bool {
		t.Helper()
		_, err := p.bearer(token).Discovery().ServerVersion()
		if err != nil && !apierrors.IsUnauthorized(err) {
			t.Fatal(err)
		}
		return err == nil
	}
	if !may(first) {
		t.Fatal("the first token is not good")
	}
	second := file.add(access.Token{User: "second", Groups: []string{kubeapi.AdminGroup}})
	if !may(second) || !may(first) {
		t.Error("a token that was added is not good, or took another's place")
	}
	file.write(strings.Replace(file.text(), before, "", 1))
	if may(first) || !may(second) {
		t.Error("a token that was taken out is good, or took another along")
	}
	third := file.add(access.Token{User: "third", Groups: []string{kubeapi.AdminGroup}})
	file.write("{\"id\":\"oops\"\n" + file.text())
	if !may(third) {
		t.Error("a slip in one line takes the others along")
	}
	if log := file.log.String(); strings.Count(log, "line 1: not a token") != 1 {
		t.Errorf("the slip is told as\n%s", log)
	}
	if err := os.Remove(file.path); err != nil {
		t.Fatal(err)
	}
	if may(second) || may(third) {
		t.Error("tokens are good whose file is gone")
	}
	if log := file.log.String(); strings.Count(log, "no such file") != 1 {
		t.Errorf("the loss is told as\n%s", log)
	}
}

func TestATokensFileThatIsWrongIsRefusedByItsLineAndShowsNoSecret(t *testing.T) {
	secret, good, err := access.NewToken(access.Token{User: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	line := func(change func(*access.Token)) string {
		changed := good
		change(&changed)
		text, err := changed.Line()
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	fine := line(func(*access.Token) {})
	for name, test := range map[string]struct{ text, says string }{
		"not JSON":            {"# fine\n" + secret + "\n", "line 2: not a token"},
		"an unknown field":    {strings.Replace(fine, `"user"`, `"usr"`, 1), `line 1: not a token, as {"id":...,"sha256":...,"user":...}: json: unknown field "usr"`},
		"two in a line":       {strings.TrimSpace(fine) + fine, "line 1: more than one object"},
		"the same twice":      {fine + "\n" + fine, "line 3: the token " + good.ID + " is in line 1 already"},
		"no user":             {line(func(t *access.Token) { t.User = "" }), "line 1: user: it must not be empty"},
		"a system user":       {line(func(t *access.Token) { t.User = "system:node:a" }), `line 1: user "system:node:a"`},
		"a system group":      {line(func(t *access.Token) { t.Groups = []string{"system:nodes"} }), `line 1: group "system:nodes"`},
		"a bad namespace":     {line(func(t *access.Token) { t.Namespaces = []string{"Red"} }), `line 1: namespace "Red"`},
		"a token as its hash": {line(func(t *access.Token) { t.SHA256 = secret }), "line 1: sha256: not a SHA-256 digest"},
	} {
		t.Run(name, func(t *testing.T) {
			file := newTokensFile(t)
			file.write(test.text)
			err := access.Options{TokensFile: file.path}.Check()
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got  %v\nwant %s", err, test.says)
			}
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("the error shows the token: %v", err)
			}
		})
	}
	if strings.Contains(fine, secret) || strings.Contains(fine, secret[13:]) {
		t.Error("the line holds the token")
	}
}

func TestACertificateOfATenantIsOneToo(t *testing.T) {
	p := newPlane(t)
	p.namespace("red")
	certificate, key, err := p.authority.ClientCertificate("alice", access.TenantGroup("red"))
	p.must(err)
	client, err := kubernetes.NewForConfig(&restclient.Config{
		Host: p.config.Host, TLSClientConfig: restclient.TLSClientConfig{CAData: p.config.CAData, CertData: certificate, KeyData: key},
	})
	p.must(err)
	if _, err := client.BatchV1().Jobs("red").Create(t.Context(), newJob("mine", 1), metav1.CreateOptions{}); err != nil {
		t.Errorf("in its namespace: %v", err)
	}
	if _, err := client.BatchV1().Jobs("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("in another: %v", err)
	}
}
