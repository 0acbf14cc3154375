package main_test

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/client-go/tools/clientcmd"
)

// server is a nightshift serve, over its restarts.
type server struct {
	w       *world
	args    []string
	current *command
}

// serve starts a server and waits until it serves.
func (w *world) serve(args ...string) *server {
	w.t.Helper()
	s := &server{w: w, args: args}
	s.start("127.0.0.1:0")
	return s
}

func (s *server) start(listen string) {
	s.w.t.Helper()
	s.current = s.w.nightshift(append([]string{"serve", "--data-dir", "state", "--listen", listen}, s.args...)...)
	s.current.awaitOutput(s.current.stderr, "kubectl --kubeconfig")
}

// restart starts the server again at the address that clients know.
func (s *server) restart() {
	s.w.t.Helper()
	s.start(strings.TrimPrefix(s.url(), "https://"))
}

// url of the API, from the kubeconfig.
func (s *server) url() string {
	s.w.t.Helper()
	config, err := clientcmd.LoadFromFile(s.w.path("state", "admin.kubeconfig"))
	if err != nil {
		s.w.t.Fatal(err)
	}
	return config.Clusters[config.Contexts[config.CurrentContext].Cluster].Server
}

// kubectl starts the kubectl on the PATH as the administrator.
func (s *server) kubectl(args ...string) *command {
	s.w.t.Helper()
	path, err := exec.LookPath("kubectl")
	if err != nil {
		s.w.t.Fatal("no kubectl on the PATH: make test builds one, in .cache/bin")
	}
	return s.w.start(path, append([]string{"--kubeconfig", s.w.path("state", "admin.kubeconfig")}, args...)...)
}

// must runs a kubectl that succeeds, and returns what it printed.
func (s *server) must(args ...string) string {
	s.w.t.Helper()
	kubectl := s.kubectl(args...)
	kubectl.mustEnd(0)
	return kubectl.stdout.String()
}

func (s *server) job(name string) (job batchv1.Job) {
	s.w.t.Helper()
	if err := json.Unmarshal([]byte(s.must("get", "job", name, "-o", "json")), &job); err != nil {
		s.w.t.Fatal(err)
	}
	return job
}

func TestKubectlDrivesServe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("limits.yaml", "tenants:\n  default:\n    vcpu: 2\n")
	s := w.serve("--nodes", "2", "--policy-data", "limits.yaml", "--image", "data-processor:v1="+built.processor)
	if info, err := os.Stat(w.path("state", "admin.kubeconfig")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the kubeconfig can be read by others: %v, %v", info.Mode(), err)
	}
	w.write("job.yaml", job("greet", `echo "hello $JOB_COMPLETION_INDEX"; while [ ! -e go ]; do sleep 0.05; done; echo bye`, "completionMode: Indexed", "completions: 3", "parallelism: 3"))
	if out := s.must("apply", "-f", "job.yaml"); out != "job.batch/greet created\n" {
		t.Errorf("apply: %s", out)
	}
	w.await("all three run", func() bool { return *s.job("greet").Status.Ready == 3 })
	logs := s.kubectl("logs", "--follow", "--selector", "batch.kubernetes.io/job-completion-index=1")
	for _, test := range []struct {
		args  []string
		shows []string
	}{
		{[]string{"get", "jobs"}, []string{"greet", "Running", "0/3"}},
		{[]string{"get", "pods", "-o", "wide"}, []string{"greet-0-", "greet-2-", "1/1", "Running", "local-"}},
		{[]string{"get", "nodes"}, []string{"local-", "Ready", "spot"}},
		{[]string{"get", "namespaces"}, []string{"default", "Active"}},
		{[]string{"get", "events"}, []string{"SuccessfulCreate", "job/greet", "Scheduled", "Launching"}},
		{[]string{"describe", "job", "greet"}, []string{"Completion Mode:    Indexed", "3 Active", "Created pod: greet-0-"}},
	} {
		out := s.must(test.args...)
		for _, words := range test.shows {
			if !strings.Contains(out, words) {
				t.Errorf("kubectl %s does not show %q:\n%s", strings.Join(test.args, " "), words, out)
			}
		}
	}
	w.write("go", "")
	s.must("wait", "--for=condition=complete", "--timeout=120s", "job/greet")
	logs.mustEnd(0)
	if out := logs.stdout.String(); out != "hello 1\nbye\n" {
		t.Errorf("the followed log is %q", out)
	}
	if out := s.must("logs", "--selector", "job-name=greet", "--tail=1"); strings.Count(out, "bye\n") != 3 {
		t.Errorf("the last lines are %q", out)
	}
	status := s.job("greet").Status
	if status.Succeeded != 3 || status.Failed != 0 || status.CompletedIndexes != "0-2" || status.Active != 0 || status.CompletionTime == nil {
		t.Errorf("the status is %+v", status)
	}
	denied := s.kubectl("apply", "-f", w.example("data-processing"))
	denied.mustEnd(1)
	if words := denied.stderr.String(); !strings.Contains(words, "forbidden: denied by policy") || !strings.Contains(words, "vCPU") {
		t.Errorf("a Job over its tenant's limit: %s", words)
	}
	s.must("delete", "job", "greet", "--wait", "--timeout=60s")
	if out := s.must("get", "jobs,pods"); out != "" {
		t.Errorf("after the deletion there is\n%s", out)
	}
	checkAnonymous(t, s.url())
	s.current.signal(syscall.SIGTERM)
	s.current.mustEnd(0)
	if left := w.awaitNothingLeft(); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
}

// checkAnonymous asks without a certificate.
func checkAnonymous(t *testing.T, url string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	for _, path := range []string{"/api/v1/nodes", "/apis/batch/v1/jobs", "/version", "/healthz", "/openapi/v3"} {
		response, err := client.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusUnauthorized {
			t.Errorf("anonymous gets %d for %s: %s", response.StatusCode, path, body)
		}
	}
}

// The indexed example: each pod holds a lock for its index and fails if it is taken.
func TestAServeThatIsKilledGoesOnAndNoIndexRunsTwice(t *testing.T) {
	w := newWorld(t)
	s := w.serve("--nodes", "3", "--image", "data-processor:v1="+built.processor)
	s.must("apply", "-f", w.example("indexed"))
	const name = "data-processing-indexed"
	uid := s.job(name).UID
	for _, done := range []int{10, 40, 70} {
		w.await("the Job has come further", func() bool {
			reports, err := readReports(w.path("out"))
			return err == nil && len(reports) >= done
		})
		s.current.signal(syscall.SIGKILL)
		s.current.mustEnd(128 + int(syscall.SIGKILL))
		if left := w.awaitNothingLeft(); len(left) > 0 {
			t.Fatalf("outlived a killed serve by %s: %q", outlive, left)
		}
		s.restart()
	}
	s.must("wait", "--for=condition=complete", "--timeout=300s", "job/"+name)
	ended := s.job(name)
	if ended.UID != uid || ended.Status.Failed != 0 || ended.Status.Succeeded != exampleFiles || ended.Status.CompletedIndexes != "0-99" {
		t.Errorf("the Job %s ended as %s with %+v", uid, ended.UID, ended.Status)
	}
	logs := w.podLogs(w.path("state"), "default", string(uid))
	for pod, log := range logs {
		if strings.Contains(log, "is already running") {
			t.Errorf("pod %s found its index running: %s", pod, log)
		}
	}
	w.checkReports(w.path("out"))
	t.Logf("note: killed three times, the Job took %d attempts for %d indexes", len(logs), exampleFiles)
	s.current.signal(syscall.SIGINT)
	s.current.mustEnd(0)
}

func TestServeRefusesWhatItCannotServe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.write("aws.yaml", "region: eu-central-1\n")
	for _, test := range []struct {
		args []string
		says string
	}{
		{[]string{"--listen", "0.0.0.0:6443"}, "listens on a loopback address alone"},
		{[]string{"--listen", "6443"}, "--listen 6443"},
		{[]string{"--provider", "aws=aws.yaml"}, "cannot reach --agents-listen 127.0.0.1:0"},
		{[]string{"--provider", "aws=aws.yaml", "--agents-listen", "0.0.0.0:7443"}, "give --agents-address"},
		{[]string{"--provider", "aws=none.yaml", "--agents-listen", "10.0.0.5:7443"}, "none.yaml"},
		{[]string{"--provider", "aws=aws.yaml", "--agents-address", "10.0.0.5:7443"}, "subnetIds"},
		{[]string{"--etcd-cacert", "aws.yaml"}, "give its members with --etcd-endpoints"},
		{[]string{"--etcd-endpoints", "https://10.0.0.5:2379", "--etcd-cert", "aws.yaml"}, "--etcd-cert and --etcd-key belong together"},
	} {
		serve := w.nightshift(slices.Concat([]string{"serve", "--data-dir", "state"}, test.args)...)
		serve.mustEnd(2)
		if !strings.Contains(serve.stderr.String(), test.says) {
			t.Errorf("serve %q does not say %q: %s", test.args, test.says, serve.stderr)
		}
	}
}

func TestServeSaysWhyItCannotUseAnEtcdClusterAndWhatToDo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// A server that is no etcd, and shows a certificate that nobody trusts.
	stranger := httptest.NewUnstartedServer(http.NotFoundHandler())
	stranger.EnableHTTP2 = true
	stranger.Config.ErrorLog = log.New(t.Output(), "", 0)
	stranger.StartTLS()
	defer stranger.Close()
	serve := w.nightshift("serve", "--data-dir", "state", "--listen", "127.0.0.1:0", "--etcd-endpoints", stranger.URL)
	serve.mustEnd(3)
	said := serve.stderr.String()
	for _, words := range []string{"open the log", stranger.URL, "unknown authority", "--etcd-cacert"} {
		if !strings.Contains(said, words) {
			t.Errorf("serve does not say %q: %s", words, said)
		}
	}
	// Nothing was decided by that: the log can still be in the data directory.
	s := w.serve()
	s.current.signal(syscall.SIGTERM)
	s.current.mustEnd(0)
	elsewhere := w.nightshift("serve", "--data-dir", "state", "--listen", "127.0.0.1:0", "--etcd-endpoints", stranger.URL)
	elsewhere.mustEnd(3)
	if said := elsewhere.stderr.String(); !strings.Contains(said, "elsewhere") || !strings.Contains(said, "--data-dir") {
		t.Errorf("serve with its log in another place says %s", said)
	}
}

// What Terraform has the control plane's instance run must be a command line that this program takes.
func TestTerraformStartsServeWithFlagsThatThereAre(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	module, err := os.ReadFile("../../terraform/modules/aws/control_plane.tf")
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(module), "exec /usr/local/bin/nightshift serve ")
	line, _, ended := strings.Cut(after, "EOT")
	flags := regexp.MustCompile(`--[a-z-]+`).FindAllString(line, -1)
	if !found || !ended || len(flags) < 4 {
		t.Fatalf("the module starts serve with %q", flags)
	}
	help := w.nightshift("serve", "--help")
	help.mustEnd(0)
	for _, flag := range flags {
		if !strings.Contains(help.stdout.String(), flag+" ") {
			t.Errorf("serve has no flag %s, with which Terraform starts it", flag)
		}
	}
}
