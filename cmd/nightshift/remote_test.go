package main_test

import (
	"encoding/base64"
	"strings"
	"syscall"
	"testing"
)

// runOn starts a run of a manifest on the server.
func (s *server) runOn(manifest string, args ...string) *command {
	s.w.t.Helper()
	return s.w.nightshift(append([]string{"run", "-f", manifest, "--kubeconfig", s.w.path("state", "admin.kubeconfig")}, args...)...)
}

func TestARunOnAServerShowsWhatARunHereShows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.serve("--nodes", "2")
	w.write("job.yaml", job("greet", `echo "hello $JOB_COMPLETION_INDEX"`, "completionMode: Indexed", "completions: 3", "parallelism: 3"))
	shown := s.runOn("job.yaml", "--follow")
	shown.mustEnd(0)
	out := shown.stdout.String()
	for _, words := range []string{
		"job greet created, uid " + string(s.job("greet").UID), "started on local-", "] hello 0\n", "] hello 1\n", "] hello 2\n", " succeeded\n", "job greet: Complete (",
		"job default/greet Complete after ", "3 of 3 succeeded, 0 failed, 0 evicted, 3 attempts in all", "receipt:  $0.0", "kubectl logs --namespace default --selector job-name=greet",
	} {
		if !strings.Contains(out, words) {
			t.Errorf("the run does not show %q:\n%s", words, out)
		}
	}
	w.write("fails.yaml", job("fails", "exit 3", "backoffLimit: 0"))
	failed := s.runOn("fails.yaml", "-o", "json")
	failed.mustEnd(1)
	if got := failed.result(); got.Status != "Failed" || got.Reason != "BackoffLimitExceeded" || got.Failed != 1 || got.UID != string(s.job("fails").UID) || got.Cost.Currency != "USD" || got.Cost.Spot == "" || len(got.TraceID) != 32 {
		t.Errorf("the failed Job came to %+v", got)
	}
	if !strings.Contains(failed.stderr.String(), "exit code 3") {
		t.Errorf("the failure is told as\n%s", failed.stderr)
	}
	for name, test := range map[string]struct {
		text, says string
		args       []string
	}{
		"invalid":          {job("bad", "true", "completions: -1"), "spec.completions: Invalid value: -1", nil},
		"no namespace":     {job("lost", "true"), `namespaces "nowhere" not found`, []string{"--namespace", "nowhere"}},
		"ended before":     {job("fails", "exit 3", "backoffLimit: 0"), "that has ended; run does not replace", nil},
		"a flag for here":  {job("local", "true"), "--nodes says how Jobs run here", []string{"--nodes", "2"}},
		"no such context":  {job("local", "true"), `context "none" does not exist`, []string{"--context", "none"}},
		"it would not end": {strings.Replace(job("suspended", "true"), "suspend: false", "suspend: true", 1), "is suspended", nil},
	} {
		w.write("refused.yaml", test.text)
		refused := s.runOn("refused.yaml", test.args...)
		refused.mustEnd(2)
		if !strings.Contains(refused.stderr.String(), test.says) {
			t.Errorf("%s: it does not say %q: %s", name, test.says, refused.stderr)
		}
	}
	// Kubernetes' own ways to name a cluster are none to name a server.
	ambient := w.in("here", "KUBECONFIG="+w.path("state", "admin.kubeconfig"))
	ambient.write("job.yaml", job("here-alone", "true"))
	ambient.nightshift("run", "-f", "job.yaml", "--data-dir", "own").mustEnd(0)
	if out := s.must("get", "jobs", "-o", "name"); strings.Contains(out, "here-alone") {
		t.Errorf("a Job came to the server by KUBECONFIG: %s", out)
	}
	named := w.in("named", "NIGHTSHIFT_KUBECONFIG="+w.path("state", "admin.kubeconfig"))
	named.write("job.yaml", job("by-name", "true"))
	named.nightshift("run", "-f", "job.yaml").mustEnd(0)
	s.job("by-name")
	s.current.signal(syscall.SIGTERM)
	s.current.mustEnd(0)
}

func TestARunOnAServerIsInterruptedAndTheJobGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.serve()
	w.write("job.yaml", waiter("waits", w.path("go")))
	first := s.runOn("job.yaml")
	first.awaitOutput(first.stdout, "started on")
	first.signal(syscall.SIGINT)
	first.mustEnd(130)
	if words := first.stderr.String(); !strings.Contains(words, "goes on at "+s.url()) || !strings.Contains(words, "kubectl delete job waits --namespace default") {
		t.Errorf("interrupted, it says\n%s", words)
	}
	uid := s.job("waits").UID
	w.write("other.yaml", waiter("waits", "somewhere-else"))
	other := s.runOn("other.yaml")
	other.mustEnd(2)
	if !strings.Contains(other.stderr.String(), "of another spec") {
		t.Errorf("another Job of that name: %s", other.stderr)
	}
	again := s.runOn("job.yaml", "-o", "json")
	again.awaitOutput(again.stderr, "job waits goes on, uid "+string(uid))
	again.awaitOutput(again.stderr, "started on")
	// The server is killed meanwhile: the pod is lost, which is an eviction, and the run sees the end all the same.
	s.current.signal(syscall.SIGKILL)
	s.current.mustEnd(128 + int(syscall.SIGKILL))
	s.restart()
	w.write("go", "")
	again.mustEnd(0)
	if got := again.result(); got.UID != string(uid) || got.Status != "Complete" || got.Succeeded != 1 || got.Failed != 0 || got.Evicted != 1 {
		t.Errorf("the Job came to %+v", got)
	}
	w.write("forever.yaml", waiter("forever", "never"))
	gone := s.runOn("forever.yaml")
	gone.awaitOutput(gone.stdout, "started on")
	s.must("delete", "job", "forever", "--wait=false")
	gone.mustEnd(1)
	if !strings.Contains(gone.stderr.String(), "deleted before the end") {
		t.Errorf("a Job that was deleted: %s", gone.stderr)
	}
	s.current.signal(syscall.SIGTERM)
	s.current.mustEnd(0)
}

func TestATenantRunsOnAServerByItsURLAndItsToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.newToken("--user", "alice", "--namespace", "red")
	s := w.serve("--tokens-file", "tokens")
	s.must("create", "namespace", "red")
	ca, err := base64.StdEncoding.DecodeString(s.must("config", "view", "--raw", "-o", "jsonpath={.clusters[0].cluster.certificate-authority-data}"))
	if err != nil {
		t.Fatal(err)
	}
	w.write("ca.pem", string(ca))
	w.write("job.yaml", job("hers", "true"))
	args := []string{"run", "-f", "job.yaml", "--server", s.url(), "--certificate-authority", "ca.pem"}
	tenant := &world{t: t, dir: w.dir, mark: w.mark, env: append(w.env, "NIGHTSHIFT_TOKEN="+alice)}
	tenant.nightshift(append(args, "--namespace", "red")...).mustEnd(0)
	refused := tenant.nightshift(args...)
	refused.mustEnd(2)
	if !strings.Contains(refused.stderr.String(), `User "alice" cannot create resource "jobs"`) {
		t.Errorf("in another namespace: %s", refused.stderr)
	}
	stranger := w.nightshift(args...)
	stranger.mustEnd(2)
	if words := stranger.stderr.String(); !strings.Contains(words, "nauthorized") && !strings.Contains(words, "asked for the client to provide credentials") {
		t.Errorf("without a token: %s", words)
	}
	s.current.signal(syscall.SIGTERM)
	s.current.mustEnd(0)
}
