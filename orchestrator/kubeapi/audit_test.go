package kubeapi_test

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi"
	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi/access"
)

// readAudit reads all noted events, those of full files too.
func readAudit(t *testing.T, dir string) (events []auditv1.Event, text string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "audit*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		read, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text += string(read)
	}
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		var event auditv1.Event
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			t.Fatalf("%v in the line %s", err, lines.Text())
		}
		events = append(events, event)
	}
	return events, text
}

func TestTheAuditLogTellsWhoAskedWhatAndNotWhatWasInIt(t *testing.T) {
	dir := t.TempDir()
	file := newTokensFile(t)
	token := file.add(access.Token{User: "alice", UID: "a-1", Namespaces: []string{"red"}})
	p := newPlaneWith(t, func(config *kubeapi.Config) {
		file.configure(config)
		config.Access.Audit = &access.AuditFile{Path: filepath.Join(dir, "audit.log"), MaxMegabytes: 1}
	})
	p.namespace("red")
	red := p.bearer(token)
	secret := newJob("mine", 1)
	secret.Spec.Template.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "PASSWORD", Value: "hunter2"}}
	_, err := red.BatchV1().Jobs("red").Create(t.Context(), secret, metav1.CreateOptions{})
	p.must(err)
	if _, err := red.BatchV1().Jobs("default").Get(t.Context(), "theirs", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Fatal(err)
	}
	invalid := newJob("invalid", 1)
	invalid.Labels["team"] = "hunter2 is no label"
	if _, err := red.BatchV1().Jobs("red").Create(t.Context(), invalid, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "hunter2") {
		t.Fatal(err)
	}
	_, err = red.Discovery().ServerVersion()
	p.must(err)
	wrong := strings.Repeat("x", 40)
	if _, err := p.bearer(wrong).BatchV1().Jobs("red").List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Fatal(err)
	}
	p.must(p.stopServing())
	events, text := readAudit(t, dir)
	type noted struct {
		user, verb, namespace, name string
		stage                       auditv1.Stage
		code                        int32
	}
	seen := make(map[noted]int)
	for _, event := range events {
		if event.Level != auditv1.LevelMetadata || event.APIVersion != "audit.k8s.io/v1" || event.RequestObject != nil || event.ResponseObject != nil {
			t.Errorf("an event of level %s, %s", event.Level, event.APIVersion)
		}
		line := noted{user: event.User.Username, verb: event.Verb, stage: event.Stage}
		if event.ObjectRef != nil {
			line.namespace, line.name = event.ObjectRef.Namespace, event.ObjectRef.Name
		}
		if event.ResponseStatus != nil {
			line.code = event.ResponseStatus.Code
		}
		seen[line]++
	}
	for _, want := range []noted{
		{"alice", "create", "red", "invalid", auditv1.StageResponseComplete, 422},
		{"alice", "create", "red", "mine", auditv1.StageResponseComplete, 201},
		{"alice", "get", "default", "theirs", auditv1.StageResponseComplete, 403},
		{"", "list", "red", "", auditv1.StageResponseStarted, 401},
		{"admin", "create", "", "red", auditv1.StageResponseComplete, 201},
	} {
		if seen[want] != 1 {
			t.Errorf("%+v is noted %d times among\n%s", want, seen[want], text)
		}
	}
	for _, never := range []string{"hunter2", "PASSWORD", token, token[13:], wrong, "/version"} {
		if strings.Contains(text, never) {
			t.Errorf("the audit log tells %q", never)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "audit.log"))
	p.must(err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the audit log has mode %v", info.Mode())
	}
}

func TestTheAuditLogIsBegunAnewWhenItIsFullAndOldOnesGo(t *testing.T) {
	dir := t.TempDir()
	p := newPlaneWith(t, func(config *kubeapi.Config) {
		config.Access.Audit = &access.AuditFile{Path: filepath.Join(dir, "audit.log"), MaxMegabytes: 1, Backups: 2}
	})
	// A long address makes a long line.
	long := strings.Repeat("b", 100<<10)
	files := func() []string {
		all, err := filepath.Glob(filepath.Join(dir, "audit*.log"))
		p.must(err)
		return all
	}
	first := ""
	for deadline := time.Now().Add(patience); ; {
		p.must(p.client.BatchV1().RESTClient().Get().AbsPath("/apis/batch/v1/jobs").Param("unknown", long).Do(t.Context()).Error())
		all := files()
		if len(all) > 1 && first == "" {
			first = all[0]
		}
		if _, err := os.Stat(first); first != "" && os.IsNotExist(err) && len(all) <= 3 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the audit logs are %q", all)
		}
	}
	for _, file := range files() {
		if info, err := os.Stat(file); err == nil && info.Size() > 1<<20 {
			t.Errorf("%s has %d bytes", file, info.Size())
		}
	}
}

func TestAWriteThatCannotBeNotedIsNotCarriedOut(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	log := filepath.Join(dir, "audit.log")
	p := newPlaneWith(t, func(config *kubeapi.Config) {
		config.Access.Audit = &access.AuditFile{Path: log, MaxMegabytes: 1}
	})
	// The file is full, and where the next one is to be there is nothing any more: rotation fails.
	p.must(os.Truncate(log, 1<<20))
	p.must(p.api.CloseAudit())
	p.must(os.RemoveAll(dir))
	p.must(os.WriteFile(dir, nil, 0o600))
	if _, err := p.client.BatchV1().Jobs("default").Create(t.Context(), newJob("unnoted", 1), metav1.CreateOptions{}); !apierrors.IsInternalError(err) {
		t.Errorf("a create that cannot be noted: %v", err)
	}
	if _, err := p.client.BatchV1().Jobs("default").Get(t.Context(), "unnoted", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("it was carried out: %v", err)
	}
}
