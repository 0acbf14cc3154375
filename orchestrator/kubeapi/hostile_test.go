package kubeapi_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi"
	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi/access"
)

// What a hostile body may cost the server at most: the memory is that of the race detector too.
const (
	hostileBytes = 700 << 20
	hostileTime  = 30 * time.Second
)

// peak watches the heap while do runs.
func peak(do func()) (grown int64) {
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	var most atomic.Uint64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		look := time.NewTicker(5 * time.Millisecond)
		defer look.Stop()
		for {
			var now runtime.MemStats
			runtime.ReadMemStats(&now)
			most.Store(max(most.Load(), now.HeapAlloc))
			select {
			case <-look.C:
			case <-stop:
				return
			}
		}
	}()
	do()
	close(stop)
	<-stopped
	return int64(most.Load()) - int64(before.HeapAlloc)
}

// billion is the bomb of collections: each names the one before ten times.
func billion() string {
	bomb := "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
	for i := 1; i < 12; i++ {
		bomb += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10), ","))
	}
	return bomb
}

func TestHostileManifestsAreRefusedWithoutHarm(t *testing.T) {
	p := newPlane(t)
	const yaml, js, apply, protobuf = "application/yaml", "application/json", "application/apply-patch+yaml", "application/vnd.kubernetes.protobuf"
	const head = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: x}\n"
	job := func(containers string) string {
		return `{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"x"},"spec":{"template":{"spec":{"containers":[` + containers + `]}}}}`
	}
	long := "a: &a \"" + strings.Repeat("x", 500<<10) + "\"\n"
	for name, test := range map[string]struct {
		kind, body string
		code       int
		says       string
	}{
		"a billion laughs":                    {yaml, head + billion(), 413, "limit is 100000 values"},
		"a long text that is named often":     {yaml, head + long + "b: [" + strings.Repeat("*a,", 90_000) + "]\n", 413, "limit is 3145728 bytes with aliases resolved"},
		"as a server-side apply":              {apply, head + long + "b: [" + strings.Repeat("*a,", 90_000) + "]\n", 413, "aliases resolved"},
		"an alias that holds itself":          {yaml, head + "a: &a [*a]\n", 400, "stands within what it names"},
		"deep YAML":                           {yaml, head + "a: " + strings.Repeat("[", 900_000), 400, "max depth"},
		"deep YAML that ends":                 {yaml, head + "a: " + strings.Repeat("[", 9_000) + strings.Repeat("]", 9_000), 400, "strict decoding error: unknown field"},
		"deep JSON":                           {js, strings.Repeat(`{"a":`, 40_000) + "1" + strings.Repeat("}", 40_000), 400, "exceeded max depth"},
		"deep JSON as a patch's managed part": {apply, `{"metadata":{"managedFields":[{"fieldsV1":` + strings.Repeat(`{"f:a":`, 9_000) + "{}" + strings.Repeat("}", 9_000) + "}]}}", 400, ""},
		"much YAML":                           {yaml, head + "x: \"" + strings.Repeat("y", 1<<20) + "\"", 413, "limit is 1048576 for YAML; send JSON"},
		"much JSON":                           {js, `{"x":"` + strings.Repeat("y", 3<<20) + `"}`, 413, "limit is 3145728"},
		"a million containers":                {js, job(strings.TrimSuffix(strings.Repeat("{},", 1_000_000), ",")), 413, "limit is 100000 values"},
		"as many containers as are let in":    {js, job(strings.TrimSuffix(strings.Repeat("{},", 20_000), ",")), 422, " more errors are not listed"},
		"a million containers in protobuf":    {protobuf, "k8s\x00" + nested(strings.Repeat("\x12\x00", 1_000_000), 2, 3, 2, 2), 413, "limit is 100000 values"},
		"which break off":                     {protobuf, "k8s\x00" + nested(strings.Repeat("\x12\x00", 1_000_000)+"\xff", 2, 3, 2, 2), 413, "limit is 100000 values"},
		"a million keys":                      {js, `{"apiVersion":"batch/v1","kind":"Job","metadata":{"labels":{` + manyKeys(150_000) + `}}}`, 413, "limit is 100000 values"},
	} {
		t.Run(name, func(t *testing.T) {
			request := p.client.BatchV1().RESTClient().Post().AbsPath("/apis/batch/v1/namespaces/default/jobs")
			if test.kind == apply {
				request = p.client.BatchV1().RESTClient().Patch(types.ApplyYAMLPatchType).AbsPath("/apis/batch/v1/namespaces/default/jobs/x").Param("fieldManager", "m")
			}
			var code int
			var text []byte
			begun := time.Now()
			grown := peak(func() {
				answer := request.Param("fieldValidation", "Strict").SetHeader("Content-Type", test.kind).Body([]byte(test.body)).Do(t.Context())
				answer.StatusCode(&code)
				text, _ = answer.Raw() // a refusal is one of its errors too
			})
			var status metav1.Status
			if err := json.Unmarshal(text, &status); err != nil {
				t.Fatalf("%.200s: %v", text, err)
			}
			if code != test.code || !strings.Contains(status.Message, test.says) {
				t.Errorf("got %d %.300s\nwant %d %s", code, status.Message, test.code, test.says)
			}
			if took := time.Since(begun); took > hostileTime || grown > hostileBytes {
				t.Errorf("%d KiB took %s and %d MiB", len(test.body)>>10, took, grown>>20)
			}
			t.Logf("%d KiB took %s and %d MiB", len(test.body)>>10, time.Since(begun).Round(time.Millisecond), grown>>20)
		})
	}
	if _, err := p.client.BatchV1().Jobs("default").Create(t.Context(), newJob("after-all", 1), metav1.CreateOptions{}); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

// nested wraps a message as the field of these numbers, the first the outermost.
func nested(inner string, numbers ...byte) string {
	for i := len(numbers) - 1; i >= 0; i-- {
		length := len(inner)
		head := []byte{numbers[i]<<3 | 2}
		for ; length >= 0x80; length >>= 7 {
			head = append(head, byte(length)|0x80)
		}
		inner = string(append(head, byte(length))) + inner
	}
	return inner
}

func manyKeys(n int) string {
	var keys strings.Builder
	for i := range n {
		if i > 0 {
			keys.WriteByte(',')
		}
		fmt.Fprintf(&keys, `"k%d":"v"`, i)
	}
	return keys.String()
}

func TestWhatIsLargeAndHonestIsTaken(t *testing.T) {
	p := newPlane(t)
	// As protobuf too, in which a text may look like a message.
	job := newJob("honest", 1)
	for i := range 3000 {
		job.Spec.Template.Spec.Containers[0].Env = append(job.Spec.Template.Spec.Containers[0].Env, corev1.EnvVar{Name: fmt.Sprintf("VARIABLE_%d", i), Value: "a value: with, marks {of} [JSON]\n* and of YAML & more"})
	}
	p.create(job)
	config := *p.config
	config.ContentType = "application/vnd.kubernetes.protobuf"
	job.Name = "honest-protobuf"
	encoded, err := job.Marshal()
	p.must(err)
	if len(encoded) < 100<<10 {
		t.Fatalf("%d bytes are not large", len(encoded))
	}
	client, err := kubernetes.NewForConfig(&config)
	p.must(err)
	got, err := client.BatchV1().Jobs("default").Create(t.Context(), job, metav1.CreateOptions{})
	p.must(err)
	if len(got.Spec.Template.Spec.Containers[0].Env) != 3000 {
		t.Error("some of it is lost")
	}
	yaml := "apiVersion: batch/v1\nkind: Job\nmetadata: {name: aliased}\nspec:\n  template:\n    spec:\n      restartPolicy: Never\n      containers:\n" +
		"      - &one {name: one, image: i, command: [\"true\"]}\n      - <<: *one\n        name: two\n"
	p.must(p.client.BatchV1().RESTClient().Post().AbsPath("/apis/batch/v1/namespaces/default/jobs").
		SetHeader("Content-Type", "application/yaml").Body([]byte(yaml)).Do(t.Context()).Error())
}

func TestRequestsInFlightAreBoundedAndAdministratorsAreLetIn(t *testing.T) {
	file := newTokensFile(t)
	token := file.add(access.Token{User: "alice", Namespaces: []string{"default"}})
	p := newPlaneWith(t, func(config *kubeapi.Config) {
		file.configure(config)
		config.Limits.Writes = 1
	})
	tenant := p.bearer(token)
	// Policy does not decide on this one: its create is under way until its client goes.
	waiting := make(chan error, 1)
	go func() {
		waiting <- tenant.BatchV1().RESTClient().Post().Namespace("default").Resource("jobs").Timeout(10 * time.Second).Body(newJob("undecided", 1)).Do(t.Context()).Error()
	}()
	for deadline := time.Now().Add(patience); ; {
		_, err := tenant.BatchV1().Jobs("default").Get(t.Context(), "undecided", metav1.GetOptions{})
		if err == nil {
			break
		}
		if !apierrors.IsNotFound(err) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	err := tenant.BatchV1().RESTClient().Post().Namespace("default").Resource("jobs").MaxRetries(0).Body(newJob("more", 1)).Do(t.Context()).Error()
	if !apierrors.IsTooManyRequests(err) {
		t.Errorf("one more write: %v", err)
	}
	if _, err := tenant.BatchV1().Jobs("default").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("a read beside: %v", err)
	}
	p.create(newJob("the-administrators", 1))
	if err := <-waiting; err == nil {
		t.Error("the undecided create was answered")
	}
	if _, err := tenant.BatchV1().Jobs("default").Create(t.Context(), newJob("more", 1), metav1.CreateOptions{}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestARequestThatTakesTooLongIsEnded(t *testing.T) {
	p := newPlaneWith(t, func(config *kubeapi.Config) { config.Limits.Timeout = time.Second })
	// One that waits for policy, and one whose body never comes.
	err := p.client.BatchV1().RESTClient().Post().Namespace("default").Resource("jobs").Body(newJob("undecided", 1)).Do(t.Context()).Error()
	// The library answers, or breaks off when our own answer, at the same moment, has begun.
	if !apierrors.IsTimeout(err) && (err == nil || !strings.Contains(err.Error(), "INTERNAL_ERROR")) {
		t.Errorf("a create that is not decided: %v", err)
	}
	certificate, err := tls.X509KeyPair(p.config.CertData, p.config.KeyData)
	p.must(err)
	conn, err := tls.Dial("tcp", p.address, &tls.Config{RootCAs: p.authority.CertPool(), Certificates: []tls.Certificate{certificate}, ServerName: "localhost"})
	p.must(err)
	defer closeQuietly(conn)
	_, err = io.WriteString(conn, "POST /apis/batch/v1/namespaces/default/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
	p.must(err)
	p.must(conn.SetDeadline(time.Now().Add(patience)))
	text, err := io.ReadAll(conn)
	p.must(err)
	if !bytes.HasPrefix(text, []byte("HTTP/1.1 504 ")) {
		t.Errorf("a body that never comes is answered\n%s", text)
	}
}

func closeQuietly(conn net.Conn) { _ = conn.Close() }
