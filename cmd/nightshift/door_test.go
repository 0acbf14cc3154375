package main_test

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

// as starts a kubectl that shows a token and no certificate.
func (s *server) as(token string, args ...string) *command {
	s.w.t.Helper()
	ca := s.must("config", "view", "--raw", "-o", "jsonpath={.clusters[0].cluster.certificate-authority-data}")
	kubeconfig := s.w.write("bearer.kubeconfig", "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n"+
		"clusters: [{name: c, cluster: {server: \""+s.url()+"\", certificate-authority-data: "+ca+"}}]\nusers: [{name: u, user: {token: "+token+"}}]\n")
	if err := os.Chmod(kubeconfig, 0o600); err != nil {
		s.w.t.Fatal(err)
	}
	return s.kubectl(append([]string{"--kubeconfig", kubeconfig}, args...)...)
}

// newToken makes a token as an operator does.
func (w *world) newToken(args ...string) string {
	w.t.Helper()
	made := w.nightshift(append([]string{"token", "new", "--tokens-file", "tokens"}, args...)...)
	made.mustEnd(0)
	return strings.TrimSpace(made.stdout.String())
}

func TestATenantWithATokenAndKubectlWorksInItsNamespace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.newToken("--user", "alice", "--namespace", "red", "--valid-for", "1h")
	s := w.serve("--tokens-file", "tokens", "--audit-log", "audit.log")
	s.must("create", "namespace", "red")
	w.write("job.yaml", job("hers", "echo done by $JOB; exit 0"))
	s.as(alice, "apply", "--namespace", "red", "-f", "job.yaml").mustEnd(0)
	s.as(alice, "wait", "--namespace", "red", "--for=condition=complete", "--timeout=120s", "job/hers").mustEnd(0)
	s.as(alice, "get", "nodes").mustEnd(0)
	refused := s.as(alice, "get", "jobs")
	refused.mustEnd(1)
	if words := refused.stderr.String(); !strings.Contains(words, `User "alice" cannot list resource "jobs" in API group "batch" in the namespace "default"`) {
		t.Errorf("in another namespace: %s", words)
	}
	// A token that is made while it serves is known at once, and one whose line is taken out is not any more.
	bob := w.newToken("--user", "bob", "--group", "system:masters")
	s.as(bob, "get", "namespaces").mustEnd(0)
	s.as(alice, "get", "jobs", "--namespace", "red").mustEnd(0)
	w.write("tokens", "")
	for _, token := range []string{alice, bob} {
		late := s.as(token, "get", "jobs", "--namespace", "red")
		late.mustEnd(1)
		if words := late.stderr.String(); !strings.Contains(words, "Unauthorized") && !strings.Contains(words, "must be logged in") {
			t.Errorf("with a token that was taken out: %s", words)
		}
	}
	s.current.signal(syscall.SIGTERM)
	s.current.mustEnd(0)
	audit, err := os.ReadFile(w.path("audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	if text := string(audit); !strings.Contains(text, `"verb":"create","user":{"username":"alice"`) || strings.Contains(text, alice) || strings.Contains(text, bob) {
		t.Errorf("the audit log tells\n%s", tail(text))
	}
}

func TestTokensAreMadeForWhomTheyMayBe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	made := w.nightshift("token", "new", "--user", "alice", "--group", "staff")
	made.mustEnd(0)
	secret := strings.TrimSpace(made.stdout.String())
	if line := made.stderr.String(); !strings.HasPrefix(secret, "nst_") || !strings.Contains(line, `"user":"alice","groups":["staff"]}`) || strings.Contains(line, secret) {
		t.Errorf("the token is %q and its line %s", secret, line)
	}
	for _, test := range []struct {
		args []string
		says string
	}{
		{nil, "user: it must not be empty"},
		{[]string{"--user", "system:admin"}, "begin with system:"},
		{[]string{"--user", "alice", "--group", "system:nodes"}, "only system:masters"},
		{[]string{"--user", "alice", "--namespace", "Red"}, `namespace "Red"`},
		{[]string{"--user", "alice", "--valid-for", "-1h"}, "must be positive"},
	} {
		refused := w.nightshift(append([]string{"token", "new", "--tokens-file", "tokens"}, test.args...)...)
		refused.mustEnd(2)
		if !strings.Contains(refused.stderr.String(), test.says) || refused.stdout.String() != "" {
			t.Errorf("token new %q does not say %q: %s%s", test.args, test.says, refused.stderr, refused.stdout)
		}
	}
	if _, err := os.Stat(w.path("tokens")); !os.IsNotExist(err) {
		t.Errorf("a token that was refused is in the file: %v", err)
	}
	lost := w.nightshift("token", "new", "--user", "alice", "--tokens-file", "no/such/folder/tokens")
	lost.mustEnd(3)
}

func TestServeRefusesToLetOthersInByWhatIsWrong(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("tokens", "# a slip\nalice\n")
	for _, test := range []struct {
		args []string
		says string
	}{
		{[]string{"--tokens-file", "tokens"}, "tokens: line 2: not a token"},
		{[]string{"--tokens-file", "none"}, "no such file"},
		{[]string{"--oidc-client-id", "x"}, "--oidc-issuer-url and --oidc-client-id go together"},
		{[]string{"--oidc-issuer-url", "http://issuer.example.com", "--oidc-client-id", "x"}, "https"},
		{[]string{"--oidc-groups-claim", "groups"}, "need --oidc-issuer-url"},
		{[]string{"--audit-log", "tokens/audit.log"}, "open the audit log"},
		{[]string{"--audit-log-maxsize", "0"}, "--audit-log-maxsize"},
		{[]string{"--max-requests-inflight", "0"}, "must be at least 1"},
		{[]string{"--request-timeout", "0s"}, "must be positive"},
	} {
		serve := w.nightshift(append([]string{"serve", "--data-dir", "state"}, test.args...)...)
		serve.mustEnd(2)
		if !strings.Contains(serve.stderr.String(), test.says) {
			t.Errorf("serve %q does not say %q: %s", test.args, test.says, serve.stderr)
		}
	}
	if _, err := os.Stat(w.path("state")); !os.IsNotExist(err) {
		t.Errorf("a serve that was refused has begun its data directory: %v", err)
	}
}
