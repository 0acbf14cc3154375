package kubeapi_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi"
)

// kubectl names the executable: NIGHTSHIFT_KUBECTL, or the one on the PATH.
func kubectl(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("NIGHTSHIFT_KUBECTL"); path != "" {
		return path
	}
	path, err := exec.LookPath("kubectl")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("no kubectl: set NIGHTSHIFT_KUBECTL")
		}
		t.Skip("no kubectl: set NIGHTSHIFT_KUBECTL")
	}
	return path
}

func (p *plane) command(ctx context.Context, stdin string, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, kubectl(p.t), args...)
	command.Env = append(os.Environ(), "KUBECONFIG="+p.kubeconfig, "HOME="+filepath.Dir(p.kubeconfig))
	if stdin != "" {
		command.Stdin = strings.NewReader(stdin)
	}
	return command
}

// kubectl runs a command that must succeed and returns what it printed.
func (p *plane) kubectl(stdin string, args ...string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 2*patience)
	defer cancel()
	out, err := p.command(ctx, stdin, args...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// refused runs a command that must fail and returns what it printed.
func (p *plane) refused(stdin string, args ...string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 2*patience)
	defer cancel()
	out, err := p.command(ctx, stdin, args...).CombinedOutput()
	if err == nil {
		p.t.Fatalf("kubectl %s succeeded\n%s", strings.Join(args, " "), out)
	}
	return string(out)
}

// running is a kubectl that goes on; its output is read while it does.
type running struct {
	t       testing.TB
	command *exec.Cmd
	out     *watched
	done    chan error
}

func (p *plane) start(args ...string) *running {
	p.t.Helper()
	r := &running{t: p.t, command: p.command(p.t.Context(), "", args...), out: &watched{news: make(chan struct{}, 1)}, done: make(chan error, 1)}
	r.command.Stdout, r.command.Stderr = r.out, r.out
	p.must(r.command.Start())
	go func() { r.done <- r.command.Wait() }()
	return r
}

// sees waits until the output matches.
func (r *running) sees(pattern string) {
	r.t.Helper()
	timeout := time.NewTimer(2 * patience)
	defer timeout.Stop()
	for !regexp.MustCompile(pattern).MatchString(r.out.String()) {
		select {
		case <-r.out.news:
		case <-timeout.C:
			r.t.Fatalf("kubectl %s does not print %q; it printed\n%s", strings.Join(r.command.Args[1:], " "), pattern, r.out)
		}
	}
}

// ends waits until the command ends by itself, without an error.
func (r *running) ends() {
	r.t.Helper()
	timeout := time.NewTimer(2 * patience)
	defer timeout.Stop()
	select {
	case err := <-r.done:
		if err != nil {
			r.t.Fatalf("kubectl %s: %v\n%s", strings.Join(r.command.Args[1:], " "), err, r.out)
		}
	case <-timeout.C:
		r.t.Fatalf("kubectl %s does not end; it printed\n%s", strings.Join(r.command.Args[1:], " "), r.out)
	}
}

// stop ends a command that would go on for ever.
func (r *running) stop() {
	r.t.Helper()
	if err := r.command.Process.Signal(os.Interrupt); err != nil {
		r.t.Error(err)
	}
	<-r.done
}

func (p *plane) matches(what, got string, patterns ...string) {
	p.t.Helper()
	for _, pattern := range patterns {
		if !regexp.MustCompile(pattern).MatchString(got) {
			p.t.Errorf("%s does not match %q:\n%s", what, pattern, got)
		}
	}
}

const processing = `apiVersion: batch/v1
kind: Job
metadata:
  name: data-processing
spec:
  completions: 4
  parallelism: 2
  template:
    spec:
      containers:
      - name: processor
        image: data-processor:v1
        resources:
          requests:
            cpu: "500m"
            memory: "512Mi"
      restartPolicy: OnFailure
`

func TestKubectlDrivesAJobFromApplyToDelete(t *testing.T) {
	p := newPlane(t)
	watching := p.start("get", "jobs", "-w", "--output-watch-events")
	p.matches("apply", p.kubectl(processing, "apply", "-f", "-"), `job.batch/data-processing created`)
	p.matches("the second apply", p.kubectl(processing, "apply", "-f", "-"), `job.batch/data-processing unchanged`)
	p.matches("a changed apply", p.kubectl(strings.Replace(processing, "parallelism: 2", "parallelism: 3", 1), "apply", "-f", "-"), `job.batch/data-processing configured`)
	p.matches("an apply of other work", p.refused(strings.Replace(processing, "completions: 4", "completions: 5", 1), "apply", "-f", "-"),
		`The Job "data-processing" is invalid`, `spec.completions: Invalid value: 5: field is immutable`)
	waiting := p.start("wait", "--for=condition=complete", "job/data-processing", "--timeout=60s")
	p.supply()
	pods := p.report("data-processing", engine.ReportRunning, 0)
	p.matches("get jobs", p.kubectl("", "get", "jobs"), `NAME +STATUS +COMPLETIONS +DURATION +AGE\n`, `data-processing +Running +0/4 +\d+s +\d+s\n`)
	p.matches("get pods", p.kubectl("", "get", "pods"), `NAME +READY +STATUS +RESTARTS +AGE\n`, `data-processing-\w{5} +1/1 +Running +0 +\d+s\n`)
	p.matches("get nodes -o wide", p.kubectl("", "get", "nodes", "-o", "wide"), `NAME +STATUS +ROLES +AGE +VERSION +PROVIDER`, `local-\w+ +Ready +spot`)
	p.matches("describe node", p.kubectl("", "describe", "node", pods[0].Node), `Roles: +spot`, `nightshift.dev/market=spot`, `cpu: +2`, `Normal +NodeReady`)
	p.matches("get all", p.kubectl("", "get", "all"), `pod/data-processing-\w{5}`, `job.batch/data-processing`)

	run := kubeapi.LogRun{Tenant: "default", JobUID: pods[0].JobUID, PodUID: pods[0].UID, Container: "processor"}
	p.logs.write(run, "first\n", false)
	following := p.start("logs", "-f", pods[0].Pod.Name)
	following.sees("first\n")
	p.logs.write(run, "second\n", false)
	following.sees("first\nsecond\n")
	p.logs.write(run, "third\n", true)
	following.ends()
	p.matches("logs --tail", p.kubectl("", "logs", "--tail=1", pods[0].Pod.Name), `^third\n$`)
	p.matches("logs --since", p.refused("", "logs", "--since=1m", pods[0].Pod.Name), `sinceSeconds is not supported by this version of Nightshift`)

	p.finish("data-processing")
	waiting.ends()
	p.matches("wait", waiting.out.String(), `job.batch/data-processing condition met`)
	p.matches("describe", p.kubectl("", "describe", "job", "data-processing"), `Name: +data-processing`, `Parallelism: +3`, `Completions: +4`,
		`Pods Statuses: +0 Active \(0 Ready\) / 4 Succeeded / 0 Failed`, `Normal +SuccessfulCreate +\S+ +job-controller +Created pod: data-processing-`, `Normal +Completed`)
	p.matches("describe pod", p.kubectl("", "describe", "pod", pods[0].Pod.Name), `Controlled By: +Job/data-processing`, `Status: +Succeeded`, `Normal +Scheduled`)
	p.matches("logs of a Job", p.kubectl("", "logs", "job/data-processing", "--all-pods=false"), `third|^Found`)
	p.matches("events", p.kubectl("", "events", "--for", "job/data-processing"), `Completed +Job/data-processing +Job completed`)
	p.matches("delete", p.kubectl("", "delete", "job", "data-processing", "--timeout=60s"), `job.batch "data-processing" deleted`)
	watching.sees(`ADDED +data-processing +Running +0/4(.|\n)*MODIFIED +data-processing +Complete +4/4(.|\n)*DELETED +data-processing`)
	watching.stop()
	p.matches("get after delete", p.refused("", "get", "job", "data-processing"), `Error from server \(NotFound\): jobs.batch "data-processing" not found`)
}

func TestKubectlExplainsCreatesAndIsRefusedClearly(t *testing.T) {
	p := newPlane(t)
	p.matches("explain", p.kubectl("", "explain", "job.spec.completionMode"), `GROUP: +batch`, `FIELD: completionMode <string>`, `Indexed`)
	p.matches("api-resources", p.kubectl("", "api-resources", "--no-headers", "-o", "wide"), `jobs +batch/v1 +true +Job +create,delete,deletecollection,get,list,patch,update,watch`,
		`pods +po +v1 +true +Pod +delete,deletecollection,get,list,watch`, `nodes +no +v1 +false +Node +get,list,watch`)
	p.matches("create job", p.kubectl("", "create", "job", "hello", "--image=busybox", "--", "echo", "hello"), `job.batch/hello created`)
	p.matches("create namespace", p.kubectl("", "create", "namespace", "team"), `namespace/team created`)
	p.matches("server-side apply", p.kubectl(processing, "apply", "--server-side", "-n", "team", "-f", "-"), `job.batch/data-processing serverside-applied`)
	p.matches("denied", p.refused("", "create", "job", "denied", "--image=busybox", "--", "x"), `jobs.batch "denied" is forbidden: denied by policy: tenant default may use 2 vCPU`)
	p.matches("unknown field", p.refused(strings.Replace(processing, "  completions: 4", "  completionz: 4", 1), "create", "-f", "-"),
		`strict decoding error: unknown field "spec.completionz"`)
	p.matches("no such method", p.refused("", "label", "node", "x", "a=b"), `not found`)
	p.matches("exec", p.refused("", "exec", "pod/x", "--", "x"), `not found`)
	p.matches("label", p.kubectl("", "label", "job", "hello", "colour=red"), `job.batch/hello labeled`)
	p.matches("get -l", p.kubectl("", "get", "jobs", "-A", "-l", "colour=red", "-o", "name"), `^job.batch/hello\n$`)
	p.matches("scale by patch", p.kubectl("", "patch", "job", "hello", "-p", `{"spec":{"parallelism":0}}`), `job.batch/hello patched`)
	p.matches("version", p.kubectl("", "version"), `Server Version: v1.37.2`)
	p.matches("delete namespace with a Job", p.kubectl("", "delete", "namespace", "team"), `namespace "team" deleted`)
	p.matches("the Job of the namespace", p.refused("", "get", "job", "data-processing", "-n", "team"), `NotFound`)
	p.matches("get -o json", p.kubectl("", "get", "ns", "default", "-o", "json"), `"phase": "Active"`)
}

// watched is output that tells when there is more of it.
type watched struct {
	mu   sync.Mutex
	text bytes.Buffer
	news chan struct{}
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case w.news <- struct{}{}:
	default:
	}
	return w.text.Write(p)
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}
