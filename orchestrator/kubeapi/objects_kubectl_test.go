package kubeapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	restclient "k8s.io/client-go/rest"

	"github.com/nightshift-batch/nightshift/orchestrator/view"
)

const manyObjects = `apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: red, size: "3"}
---
apiVersion: v1
kind: Secret
metadata: {name: login}
type: kubernetes.io/basic-auth
stringData: {username: me, password: hunter2-and-more}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: most}
spec: {hard: {requests.cpu: "4", limits.memory: 8Gi}}
---
apiVersion: v1
kind: LimitRange
metadata: {name: each}
spec: {limits: [{type: Container, max: {cpu: "2"}}]}
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: urgent}
value: 1000
description: first of all
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: leader}
spec: {holderIdentity: me, leaseDurationSeconds: 15}
`

func TestKubectlKeepsObjectsOfEveryKind(t *testing.T) {
	p := newPlane(t)
	watching := p.start("get", "configmaps", "-w", "--output-watch-events")
	p.matches("apply", p.kubectl(manyObjects, "apply", "-f", "-"), `configmap/settings created`, `secret/login created`, `serviceaccount/robot created`,
		`resourcequota/most created`, `limitrange/each created`, `priorityclass.scheduling.k8s.io/urgent created`, `lease.coordination.k8s.io/leader created`,
		`Warning: ResourceQuotas are stored and not enforced`)
	p.matches("the second apply", p.kubectl(manyObjects, "apply", "-f", "-"), `configmap/settings unchanged`, `lease.coordination.k8s.io/leader unchanged`)
	p.matches("server-side apply", p.kubectl(manyObjects, "apply", "--server-side", "--force-conflicts", "-f", "-"), `configmap/settings serverside-applied`, `secret/login serverside-applied`)
	for _, test := range []struct{ kind, name, prints string }{
		{"cm", "settings", `NAME +DATA +AGE\nsettings +2 +\d+s`},
		{"secret", "login", `NAME +TYPE +DATA +AGE\nlogin +kubernetes.io/basic-auth +2 +\d+s`},
		{"sa", "robot", `NAME +AGE\nrobot +\d+s`},
		{"quota", "most", `NAME +REQUEST +LIMIT +AGE\nmost +\d+s`},
		{"limits", "each", `NAME +CREATED AT\neach +20\d\d-`},
		{"pc", "urgent", `NAME +VALUE +GLOBAL-DEFAULT +AGE +PREEMPTIONPOLICY\nurgent +1000 +false +\d+s +PreemptLowerPriority`},
		{"lease", "leader", `NAME +HOLDER +AGE\nleader +me +\d+s`},
	} {
		p.matches("get "+test.kind, p.kubectl("", "get", test.kind, test.name), test.prints)
		p.matches("describe "+test.kind, p.kubectl("", "describe", test.kind, test.name), `Name: +`+test.name)
	}
	p.matches("get -o jsonpath", p.kubectl("", "get", "secret", "login", "-o", "jsonpath={.data.password}"), `^aHVudGVyMi1hbmQtbW9yZQ==$`)
	p.matches("get by type", p.kubectl("", "get", "secrets", "--field-selector", "type=kubernetes.io/basic-auth", "-o", "name"), `^secret/login\n$`)
	p.matches("create secret", p.kubectl("", "create", "secret", "generic", "token", "--from-literal=a=b"), `secret/token created`)
	p.matches("create configmap", p.kubectl("", "create", "configmap", "made", "--from-literal=a=b"), `configmap/made created`)
	p.matches("create token account", p.kubectl("", "create", "sa", "made"), `serviceaccount/made created`)
	p.matches("create quota", p.kubectl("", "create", "quota", "made", "--hard=pods=2"), `resourcequota/made created`)
	p.matches("create priorityclass", p.kubectl("", "create", "priorityclass", "made", "--value=5"), `priorityclass.scheduling.k8s.io/made created`)
	p.matches("diff", p.refused(strings.Replace(manyObjects, "colour: red", "colour: blue", 1), "diff", "-f", "-"), `-  colour: red\n\+  colour: blue`)
	p.matches("label", p.kubectl("", "label", "cm", "settings", "a=b"), `configmap/settings labeled`)
	p.matches("explain", p.kubectl("", "explain", "secret.stringData"), `write-only`)
	p.matches("can-i", p.kubectl("", "auth", "can-i", "create", "secrets"), `^yes\n$`)
	p.matches("can-i --list", p.kubectl("", "auth", "can-i", "--list"), `\*\.\* +\[\] +\[\] +\[\*\]`)
	p.matches("invalid", p.refused(strings.Replace(manyObjects, "  password", "  nothing: x, p", 1), "create", "--dry-run=server", "-f", "-"), `.`)
	p.matches("bad priority", p.refused("", "create", "priorityclass", "system-x", "--value=5"), `priority class names with 'system-' prefix are reserved`)
	p.matches("delete", p.kubectl(manyObjects, "delete", "-f", "-"), `configmap "settings" deleted`, `priorityclass.scheduling.k8s.io "urgent" deleted`)
	watching.sees(`ADDED +settings(.|\n)*MODIFIED +settings(.|\n)*DELETED +settings`)
	watching.stop()
	p.matches("what belongs in a namespace", p.kubectl("", "get", "cm,sa"), `configmap/kube-root-ca.crt`, `serviceaccount/default`)
}

// TestSecretsAreSealedInFactsAndInTheReadModel looks at what everybody but the API sees.
func TestSecretsAreSealedInFactsAndInTheReadModel(t *testing.T) {
	p := newPlane(t)
	secrets := p.client.CoreV1().Secrets("default")
	watching, err := secrets.Watch(t.Context(), metav1.ListOptions{})
	p.must(err)
	defer watching.Stop()
	const plain = "hunter2-and-more"
	p.kubectl(manyObjects, "apply", "-f", "-")
	record, ok := p.view.Get(view.Secrets, view.Key{Namespace: "default", Name: "login"})
	if !ok {
		t.Fatal("there is no secret")
	}
	kept, err := json.Marshal(record.Object())
	p.must(err)
	for _, form := range []string{plain, "aHVudGVyMi1hbmQtbW9yZQ==", `last-applied-configuration":"`} {
		if strings.Contains(string(kept), form) {
			t.Errorf("the read model holds %q: %s", form, kept)
		}
	}
	told := (<-watching.ResultChan()).Object.(*corev1.Secret)
	got, err := secrets.Get(t.Context(), "login", metav1.GetOptions{})
	p.must(err)
	list, err := secrets.List(t.Context(), metav1.ListOptions{})
	p.must(err)
	for what, each := range map[string]*corev1.Secret{"get": got, "list": &list.Items[0], "watch": told} {
		if string(each.Data["password"]) != plain || !strings.Contains(each.Annotations["kubectl.kubernetes.io/last-applied-configuration"], plain) || len(each.Data) != 2 {
			t.Errorf("%s shows %v and %v", what, each.Data, each.Annotations)
		}
	}
	large := bytes.Repeat([]byte{0xff}, 770_000)
	if _, err := secrets.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "large"}, Data: map[string][]byte{"a": large}}, metav1.CreateOptions{}); err != nil {
		t.Errorf("a large secret: %v", err)
	}
	if back, err := secrets.Get(t.Context(), "large", metav1.GetOptions{}); err != nil || !bytes.Equal(back.Data["a"], large) {
		t.Errorf("a large secret comes back otherwise, %v", err)
	}
	_, err = secrets.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "larger"}, Data: map[string][]byte{"a": bytes.Repeat(large[:1], 800_000)}}, metav1.CreateOptions{})
	if !apierrors.IsRequestEntityTooLargeError(err) {
		t.Errorf("a secret that fits into no fact: %v", err)
	}
	got.Type = "other"
	if _, err := secrets.Update(t.Context(), got, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("the type changes: %v", err)
	}
	changed, err := secrets.Patch(t.Context(), "login", types.StrategicMergePatchType, []byte(`{"stringData":{"password":"new"},"immutable":true}`), metav1.PatchOptions{})
	if err != nil || string(changed.Data["password"]) != "new" || string(changed.Data["username"]) != "me" {
		t.Errorf("patched to %v, %v", changed.Data, err)
	}
	if _, err := secrets.Patch(t.Context(), "login", types.MergePatchType, []byte(`{"stringData":{"password":"newer"}}`), metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("an immutable secret changes: %v", err)
	}
}

func TestHostileObjectsAreRefusedWithoutHarm(t *testing.T) {
	p := newPlane(t)
	client, err := restclient.HTTPClientFor(p.config)
	p.must(err)
	post := func(contentType, body string) string {
		answer, err := client.Post("https://"+p.address+"/api/v1/namespaces/default/configmaps", contentType, strings.NewReader(body))
		if err != nil {
			return err.Error() // the server may have hung up before it has read all
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(io.LimitReader(answer.Body, 1000))
		p.must(err)
		return fmt.Sprint(answer.StatusCode, " ", string(text))
	}
	aliases := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: laughs}\na: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c <= 'j'; c++ {
		before := string(c - 1)
		aliases += string(c) + ": &" + string(c) + " [" + strings.Repeat("*"+before+",", 9) + "*" + before + "]\n"
	}
	header := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},`
	for _, test := range []struct{ what, contentType, body, answer string }{
		{"too long", "application/json", header + `"data":{"a":"` + strings.Repeat("x", 4<<20) + `"}}`, "^413 .*limit is 3145728"},
		{"too long to be stored", "application/json", header + `"data":{"a":"` + strings.Repeat("x", 1010<<10) + `"}}`, "^413 .*at most 1032192 are stored"},
		{"longer than a configmap may be", "application/json", header + `"data":{"a":"` + strings.Repeat("x", 2<<20) + `"}}`, "^422 .*(1048576|Too long)"},
		{"too deep", "application/json", header + `"data":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`, "^413 .*holds too much"},
		{"too deep in YAML", "application/yaml", "a: " + strings.Repeat("[", 100_000), "^400 "},
		{"aliases upon aliases", "application/yaml", aliases, "^413 .*holds too much"},
		{"no JSON", "application/json", "\x00\xff", "^400 "},
	} {
		p.matches(test.what, post(test.contentType, test.body), test.answer)
	}
	long := newJob("long", 1)
	long.Spec.Template.Spec.Containers[0].Args = []string{strings.Repeat("x", 2<<20)}
	if _, err := p.client.BatchV1().Jobs("default").Create(t.Context(), long, metav1.CreateOptions{}); !apierrors.IsInvalid(err) && !apierrors.IsRequestEntityTooLargeError(err) {
		t.Errorf("a Job that is too long: %v", err)
	}
	// It serves all the same.
	p.createMap(configMap("after"))
	p.create(newJob("after", 1))
}
