package view_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/object"
	"github.com/nightshift-batch/nightshift/orchestrator/view"
)

func putMap(name, value string, create bool) engine.PutObject {
	return engine.PutObject{Put: object.Put{
		Key: object.Key{Resource: "configmaps", Namespace: "default", Name: name}, UID: "uid-" + name, Create: create,
		Object: fmt.Appendf(nil, `{"metadata":{"namespace":"default","name":%q,"uid":"uid-%s"},"data":{"v":%q}}`, name, name, value),
	}}
}

func TestAPageIsOfItsVersionUntilThatIsKeptNoMore(t *testing.T) {
	w := newWorld(t, view.Options{Window: 6})
	for _, name := range []string{"a", "b", "c", "d"} {
		w.do(putMap(name, "old", true))
	}
	first, err := w.view.Page(t.Context(), view.ConfigMaps, view.Selection{}, view.PageOptions{Limit: 2})
	if err != nil || len(first.Records) != 2 || *first.Remaining != 2 {
		t.Fatalf("the first page is %+v, %v", first, err)
	}
	next := func() (string, error) {
		page, err := w.view.Page(t.Context(), view.ConfigMaps, view.Selection{}, view.PageOptions{Limit: 5, Continue: first.Continue})
		var shown []string
		for _, record := range page.Records {
			shown = append(shown, record.Key().Name+"="+record.Object().(*corev1.ConfigMap).Data["v"])
		}
		return strings.Join(shown, " "), err
	}
	w.do(engine.DeleteObject{Key: object.Key{Resource: "configmaps", Namespace: "default", Name: "c"}})
	w.do(putMap("d", "new", false))
	w.do(putMap("bb", "new", true))
	w.do(putMap("a", "new", false))
	if got, err := next(); got != "c=old d=old" || err != nil {
		t.Errorf("the second page holds %s, %v", got, err)
	}
	for range 3 {
		w.do(putMap("a", "newer", false))
	}
	_, err = next()
	status, ok := err.(apierrors.APIStatus)
	if !ok || !apierrors.IsResourceExpired(err) || status.Status().Continue == "" {
		t.Fatalf("the second page of a version that is kept no more: %v", err)
	}
	// The client may go on, with what there is now.
	first.Continue = status.Status().Continue
	if got, err := next(); got != "bb=new d=new" || err != nil {
		t.Errorf("what is there now behind the first page is %s, %v", got, err)
	}
}

func TestEventsGoWithTheirNamespace(t *testing.T) {
	w := newWorld(t, view.Options{})
	w.do(engine.PutObject{Put: object.Put{Key: object.Key{Resource: "namespaces", Name: "team"}, UID: "n", Create: true, Object: []byte(`{"metadata":{"name":"team"}}`)}})
	w.do(engine.PutObject{Put: object.Put{
		Key: object.Key{Resource: "events", Namespace: "team", Name: "written"}, UID: "e", Create: true, Object: []byte(`{"metadata":{"name":"written","namespace":"team"}}`),
	}})
	if events, _ := w.view.List(view.Events, view.Selection{Namespace: "team"}); len(events) != 1 {
		t.Fatalf("%d events are shown", len(events))
	}
	w.do(engine.PutObject{Put: object.Put{
		Key: object.Key{Resource: "namespaces", Name: "team"}, UID: "n", Deleting: true, Object: []byte(`{"metadata":{"name":"team","deletionTimestamp":"2026-03-01T22:00:00Z"}}`),
	}})
	if events, _ := w.view.List(view.Events, view.Selection{Namespace: "team"}); len(events) != 0 {
		t.Errorf("%d events are left", len(events))
	}
	if _, there := w.view.Get(view.Namespaces, view.Key{Name: "team"}); there {
		t.Error("the namespace is left")
	}
}

func TestEventsGoAfterAnHour(t *testing.T) {
	w := newWorld(t, view.Options{})
	count := func() int {
		events, _ := w.view.List(view.Events, view.Selection{})
		return len(events)
	}
	w.create("a", 1, nil)
	if count() == 0 {
		t.Fatal("nothing was said of the Job")
	}
	w.now = w.now.Add(59 * time.Minute)
	w.do(putMap("a", "", true))
	if count() == 0 {
		t.Error("the events are gone before their time")
	}
	w.now = w.now.Add(2 * time.Minute)
	w.do(putMap("b", "", true))
	if n := count(); n != 0 {
		t.Errorf("%d events are there after their time", n)
	}
}
