package kubeapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/util/retry"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/object"
)

func configMap(name string, data ...string) *corev1.ConfigMap {
	made := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{}}
	for i := 0; i+1 < len(data); i += 2 {
		made.Data[data[i]] = data[i+1]
	}
	return made
}

func (p *plane) createMap(given *corev1.ConfigMap) *corev1.ConfigMap {
	p.t.Helper()
	created, err := p.client.CoreV1().ConfigMaps("default").Create(p.t.Context(), given, metav1.CreateOptions{})
	p.must(err)
	return created
}

// mapNames are the configmaps of the default namespace that tests have made.
func (p *plane) mapNames() string {
	p.t.Helper()
	list, err := p.client.CoreV1().ConfigMaps("default").List(p.t.Context(), metav1.ListOptions{FieldSelector: "metadata.name!=kube-root-ca.crt"})
	p.must(err)
	var names []string
	for _, each := range list.Items {
		names = append(names, each.Name)
	}
	return strings.Join(names, " ")
}

// furnished waits until the default namespace has what belongs there, so that it is not among the changes that a test watches.
func (p *plane) furnished() {
	p.t.Helper()
	p.until("the namespace is furnished", func(s *engine.State) bool {
		_, account := s.Objects.Get(object.Key{Resource: "serviceaccounts", Namespace: "default", Name: "default"})
		_, ca := s.Objects.Get(object.Key{Resource: "configmaps", Namespace: "default", Name: "kube-root-ca.crt"})
		return account && ca
	})
}

func TestAWriteThatIsAboutAnOlderVersionIsAConflict(t *testing.T) {
	p := newPlane(t)
	maps := p.client.CoreV1().ConfigMaps("default")
	created := p.createMap(configMap("a", "n", "0"))
	changed := created.DeepCopy()
	changed.Data["n"] = "1"
	changed, err := maps.Update(t.Context(), changed, metav1.UpdateOptions{})
	p.must(err)
	if changed.ResourceVersion == created.ResourceVersion || changed.UID != created.UID {
		t.Errorf("the update gives %+v", changed.ObjectMeta)
	}
	if same, err := maps.Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil || same.ResourceVersion != changed.ResourceVersion {
		t.Errorf("an update that changes nothing gives version %s of %s, %v", same.ResourceVersion, changed.ResourceVersion, err)
	}
	created.Data["n"] = "2"
	if _, err := maps.Update(t.Context(), created, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("an update of the former version: %v", err)
	}
	for what, wanted := range map[string]metav1.Preconditions{
		"of another UID": {UID: ptr(types.UID("other"))}, "of the former version": {ResourceVersion: &created.ResourceVersion},
	} {
		if err := maps.Delete(t.Context(), "a", metav1.DeleteOptions{Preconditions: &wanted}); !apierrors.IsConflict(err) {
			t.Errorf("a deletion %s: %v", what, err)
		}
	}
	// Many at once: each adds one, and none is lost.
	var adders sync.WaitGroup
	for range 8 {
		adders.Go(func() {
			err := retry.OnError(retry.DefaultBackoff, func(error) bool { return true }, func() error {
				return retry.RetryOnConflict(retry.DefaultRetry, func() error {
					got, err := maps.Get(t.Context(), "a", metav1.GetOptions{})
					if err != nil {
						return err
					}
					got.Data["n"] += "x"
					_, err = maps.Update(t.Context(), got, metav1.UpdateOptions{})
					return err
				})
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	adders.Wait()
	if got, err := maps.Get(t.Context(), "a", metav1.GetOptions{}); err != nil || got.Data["n"] != "1xxxxxxxx" {
		t.Errorf("after eight additions: %v, %v", got.Data, err)
	}
	p.must(maps.Delete(t.Context(), "a", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &created.UID}}))
	if err := maps.Delete(t.Context(), "a", metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the second deletion: %v", err)
	}
}

func TestObjectsArePatchedAppliedAndTriedDry(t *testing.T) {
	p := newPlane(t)
	maps := p.client.CoreV1().ConfigMaps("default")
	p.createMap(configMap("a", "one", "1", "two", "2"))
	for _, test := range []struct {
		kind  types.PatchType
		patch string
		want  string
	}{
		{types.JSONPatchType, `[{"op":"replace","path":"/data/one","value":"uno"}]`, `{"one":"uno","two":"2"}`},
		{types.MergePatchType, `{"data":{"two":null}}`, `{"one":"uno"}`},
		{types.StrategicMergePatchType, `{"data":{"three":"3"}}`, `{"one":"uno","three":"3"}`},
	} {
		got, err := maps.Patch(t.Context(), "a", test.kind, []byte(test.patch), metav1.PatchOptions{})
		if err != nil {
			t.Errorf("%s: %v", test.kind, err)
			continue
		}
		if text, _ := json.Marshal(got.Data); string(text) != test.want {
			t.Errorf("%s gives %s", test.kind, text)
		}
	}
	applied, err := maps.Apply(t.Context(), applycorev1.ConfigMap("b", "default").WithData(map[string]string{"k": "red"}), metav1.ApplyOptions{FieldManager: "red"})
	p.must(err)
	if len(applied.ManagedFields) != 1 || applied.ManagedFields[0].Manager != "red" {
		t.Errorf("managed fields %+v", applied.ManagedFields)
	}
	blue := applycorev1.ConfigMap("b", "default").WithData(map[string]string{"k": "blue"})
	if _, err = maps.Apply(t.Context(), blue, metav1.ApplyOptions{FieldManager: "blue"}); !apierrors.IsConflict(err) {
		t.Errorf("an apply of another's field: %v", err)
	}
	forced, err := maps.Apply(t.Context(), blue, metav1.ApplyOptions{FieldManager: "blue", Force: true})
	if err != nil || forced.Data["k"] != "blue" {
		t.Errorf("a forced apply: %v, %v", forced.Data, err)
	}
	before := p.view.Seq()
	dry := []string{metav1.DryRunAll}
	tried, err := maps.Create(t.Context(), configMap("c"), metav1.CreateOptions{DryRun: dry})
	if err != nil || tried.UID == "" {
		t.Errorf("a dry create: %+v, %v", tried, err)
	}
	if _, err := maps.Create(t.Context(), configMap("a"), metav1.CreateOptions{DryRun: dry}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("a dry create of what exists: %v", err)
	}
	forced.Data["k"] = "green"
	if got, err := maps.Update(t.Context(), forced, metav1.UpdateOptions{DryRun: dry}); err != nil || got.Data["k"] != "green" {
		t.Errorf("a dry update: %v, %v", got.Data, err)
	}
	p.must(maps.Delete(t.Context(), "b", metav1.DeleteOptions{DryRun: dry}))
	if names := p.mapNames(); names != "a b" {
		t.Errorf("after dry runs there are %s", names)
	}
	if got, err := maps.Get(t.Context(), "b", metav1.GetOptions{}); err != nil || got.Data["k"] != "blue" {
		t.Errorf("after dry runs b is %v, %v", got.Data, err)
	}
	p.furnished()
	if after := p.view.Seq(); after > before+2 {
		t.Errorf("dry runs have left %d facts", after-before)
	}
}

func TestFinalizersAndOwnersDecideHowObjectsGo(t *testing.T) {
	p := newPlane(t)
	maps := p.client.CoreV1().ConfigMaps("default")
	family := func() {
		owner := p.createMap(configMap("owner"))
		for _, name := range []string{"blocks", "free"} {
			child := configMap(name)
			child.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: owner.UID, BlockOwnerDeletion: ptr(name == "blocks")}}
			if name == "blocks" {
				child.Finalizers = []string{"example.com/busy"}
			}
			p.createMap(child)
		}
	}
	finish := func() {
		_, err := maps.Patch(t.Context(), "blocks", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		p.must(err)
	}
	family()
	p.must(maps.Delete(t.Context(), "owner", metav1.DeleteOptions{PropagationPolicy: ptr(metav1.DeletePropagationForeground)}))
	if names := p.mapNames(); names != "blocks owner" {
		t.Errorf("in the foreground there are still %s", names)
	}
	owner, err := maps.Get(t.Context(), "owner", metav1.GetOptions{})
	p.must(err)
	blocks, err := maps.Get(t.Context(), "blocks", metav1.GetOptions{})
	p.must(err)
	if owner.DeletionTimestamp == nil || owner.Finalizers[0] != metav1.FinalizerDeleteDependents || blocks.DeletionTimestamp == nil || len(blocks.Finalizers) != 1 {
		t.Errorf("the owner shows %+v, what blocks it %+v", owner.ObjectMeta, blocks.ObjectMeta)
	}
	finish()
	if names := p.mapNames(); names != "" {
		t.Errorf("when nothing blocks any more there are %s", names)
	}
	family()
	p.must(maps.Delete(t.Context(), "owner", metav1.DeleteOptions{PropagationPolicy: ptr(metav1.DeletePropagationOrphan)}))
	if names := p.mapNames(); names != "blocks free" {
		t.Errorf("when orphaned there are %s", names)
	}
	if got, err := maps.Get(t.Context(), "free", metav1.GetOptions{}); err != nil || len(got.OwnerReferences) != 0 {
		t.Errorf("the orphan belongs to %v, %v", got.OwnerReferences, err)
	}
	finish()
	p.must(maps.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "metadata.name!=kube-root-ca.crt"}))
	family()
	p.must(maps.Delete(t.Context(), "owner", metav1.DeleteOptions{PropagationPolicy: ptr(metav1.DeletePropagationBackground)}))
	if names := p.mapNames(); names != "blocks" {
		t.Errorf("in the background there are %s", names)
	}
	finish()
	// What belongs to a Job goes with it.
	job := p.create(newJob("a", 1))
	child := configMap("of-the-job")
	child.OwnerReferences = []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: "a", UID: job.UID}}
	p.createMap(child)
	p.finish("a")
	if names := p.mapNames(); names != "of-the-job" {
		t.Errorf("while the Job is there, there are %s", names)
	}
	p.must(p.client.BatchV1().Jobs("default").Delete(t.Context(), "a", metav1.DeleteOptions{PropagationPolicy: ptr(metav1.DeletePropagationBackground)}))
	p.until("the Job is gone", func(s *engine.State) bool { return len(s.Jobs) == 0 })
	if names := p.mapNames(); names != "" {
		t.Errorf("after the Job there are %s", names)
	}
}

func TestListsComeInPagesOfOneVersionAndWatchesGoOnFromIt(t *testing.T) {
	p := newPlane(t)
	p.furnished()
	maps := p.client.CoreV1().ConfigMaps("default")
	for i := range 7 {
		given := configMap(fmt.Sprintf("m%d", i), "n", fmt.Sprint(i))
		given.Labels = map[string]string{"parity": fmt.Sprint(i % 2)}
		p.createMap(given)
	}
	first, err := maps.List(t.Context(), metav1.ListOptions{Limit: 3})
	p.must(err)
	if len(first.Items) != 3 || first.Continue == "" || first.RemainingItemCount == nil || *first.RemainingItemCount != 5 {
		t.Fatalf("the first page: %d items, continue %q, remaining %v", len(first.Items), first.Continue, first.RemainingItemCount)
	}
	// What changes between the pages does not show in them.
	p.must(maps.Delete(t.Context(), "m6", metav1.DeleteOptions{}))
	p.createMap(configMap("m55"))
	_, err = maps.Patch(t.Context(), "m3", types.MergePatchType, []byte(`{"data":{"n":"changed"}}`), metav1.PatchOptions{})
	p.must(err)
	var names []string
	for next := first; ; {
		for _, each := range next.Items {
			names = append(names, each.Name+"="+each.Data["n"])
		}
		if next.Continue == "" {
			break
		}
		if next, err = maps.List(t.Context(), metav1.ListOptions{Limit: 3, Continue: next.Continue}); err != nil {
			t.Fatal(err)
		}
		if next.ResourceVersion != first.ResourceVersion {
			t.Errorf("a later page is of version %s, the first of %s", next.ResourceVersion, first.ResourceVersion)
		}
	}
	if got := strings.Join(names, " "); got != "kube-root-ca.crt= m0=0 m1=1 m2=2 m3=3 m4=4 m5=5 m6=6" {
		t.Errorf("the pages hold %s", got)
	}
	for _, name := range []string{"a", "b", "c"} {
		p.create(newJob(name, 1))
	}
	some, err := p.client.BatchV1().Jobs("default").List(t.Context(), metav1.ListOptions{Limit: 2})
	p.must(err)
	rest, err := p.client.BatchV1().Jobs("default").List(t.Context(), metav1.ListOptions{Limit: 2, Continue: some.Continue})
	if err != nil || len(some.Items) != 2 || len(rest.Items) != 1 || rest.Items[0].Name != "c" {
		t.Errorf("the pages of Jobs are %v and %v, %v", some.Items, rest.Items, err)
	}
	if _, err := maps.List(t.Context(), metav1.ListOptions{Continue: "nonsense"}); !apierrors.IsBadRequest(err) {
		t.Errorf("a token that nobody gave: %v", err)
	}
	odd, err := maps.List(t.Context(), metav1.ListOptions{LabelSelector: "parity=1", FieldSelector: "metadata.name!=m3"})
	if err != nil || len(odd.Items) != 2 {
		t.Errorf("selected are %v, %v", odd.Items, err)
	}
	watching, err := maps.Watch(t.Context(), metav1.ListOptions{ResourceVersion: first.ResourceVersion})
	p.must(err)
	defer watching.Stop()
	var told []string
	for len(told) < 3 {
		change := <-watching.ResultChan()
		told = append(told, string(change.Type)+" "+change.Object.(*corev1.ConfigMap).Name)
	}
	if got := strings.Join(told, ", "); got != "DELETED m6, ADDED m55, MODIFIED m3" {
		t.Errorf("from the version of the list on the watch told %s", got)
	}
}

func TestNamesAreGeneratedAndObjectsOfEveryKindAreWatched(t *testing.T) {
	p := newPlane(t)
	generated := configMap("")
	generated.GenerateName = "g-"
	one, two := p.createMap(generated), p.createMap(generated)
	if one.Name == two.Name || !strings.HasPrefix(one.Name, "g-") || len(one.Name) != 7 {
		t.Errorf("generated %q and %q", one.Name, two.Name)
	}
	leases := p.client.CoordinationV1().Leases("default")
	initial := true
	watching, err := leases.Watch(t.Context(), metav1.ListOptions{SendInitialEvents: &initial, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan})
	p.must(err)
	defer watching.Stop()
	if mark := <-watching.ResultChan(); mark.Type != watch.Bookmark || mark.Object.(*coordinationv1.Lease).Annotations[metav1.InitialEventsAnnotationKey] != "true" {
		t.Errorf("the end of the initial events is %+v", mark)
	}
	lease, err := leases.Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "leader"}, Spec: coordinationv1.LeaseSpec{
		HolderIdentity: ptr("me"), LeaseDurationSeconds: ptr(int32(15)), RenewTime: &metav1.MicroTime{Time: time.Now()},
	}}, metav1.CreateOptions{})
	p.must(err)
	if added := <-watching.ResultChan(); added.Type != watch.Added || added.Object.(*coordinationv1.Lease).ResourceVersion != lease.ResourceVersion {
		t.Errorf("the watch told %+v", added)
	}
	lease.ResourceVersion = ""
	if _, err := leases.Update(t.Context(), lease, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a lease is renewed without its version: %v", err)
	}
	if _, err := leases.Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "bad"}, Spec: coordinationv1.LeaseSpec{LeaseDurationSeconds: ptr(int32(-1))}}, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a lease of less than no time: %v", err)
	}
}

func TestWhatBelongsInEveryNamespaceComesBack(t *testing.T) {
	p := newPlane(t)
	p.furnished()
	accounts, maps := p.client.CoreV1().ServiceAccounts("default"), p.client.CoreV1().ConfigMaps("default")
	watching, err := accounts.Watch(t.Context(), metav1.ListOptions{})
	p.must(err)
	defer watching.Stop()
	first := (<-watching.ResultChan()).Object.(*corev1.ServiceAccount)
	p.must(accounts.Delete(t.Context(), "default", metav1.DeleteOptions{}))
	<-watching.ResultChan()
	if again := <-watching.ResultChan(); again.Type != watch.Added || again.Object.(*corev1.ServiceAccount).UID == first.UID {
		t.Errorf("after its deletion the account is told as %+v", again)
	}
	changed, err := maps.Patch(t.Context(), "kube-root-ca.crt", types.MergePatchType, []byte(`{"data":{"ca.crt":"forged","more":"x"}}`), metav1.PatchOptions{})
	p.must(err)
	back, err := maps.Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=kube-root-ca.crt", ResourceVersion: changed.ResourceVersion})
	p.must(err)
	defer back.Stop()
	restored := (<-back.ResultChan()).Object.(*corev1.ConfigMap)
	if !bytes.Equal([]byte(restored.Data["ca.crt"]), p.authority.CAPEM()) || len(restored.Data) != 1 {
		t.Errorf("the certificate is restored to %v", restored.Data)
	}
}

func TestEventsAreWrittenBesideThoseThatAreMadeOfFacts(t *testing.T) {
	p := newPlane(t)
	p.create(newJob("a", 1))
	events := p.client.CoreV1().Events("default")
	made, err := events.List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=a"})
	p.must(err)
	written, err := events.Create(t.Context(), &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "w"}, InvolvedObject: corev1.ObjectReference{Kind: "Job", Namespace: "default", Name: "a"}, Reason: "Noted", Type: "Normal", Count: 1,
		FirstTimestamp: metav1.Now(), LastTimestamp: metav1.Now(),
	}, metav1.CreateOptions{})
	p.must(err)
	again, err := events.Patch(t.Context(), "w", types.StrategicMergePatchType, []byte(`{"count":2}`), metav1.PatchOptions{})
	if err != nil || again.Count != 2 || again.UID != written.UID {
		t.Errorf("seen again it is %+v, %v", again, err)
	}
	all, err := events.List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=a"})
	if err != nil || len(made.Items) == 0 || len(all.Items) != len(made.Items)+1 {
		t.Errorf("of %d events %d are listed, %v", len(made.Items)+1, len(all.Items), err)
	}
	p.until("it is to go in an hour", func(s *engine.State) bool {
		kept, ok := s.Objects.Get(object.Key{Resource: "events", Namespace: "default", Name: "w"})
		return ok && time.Until(kept.Expires) > 59*time.Minute && time.Until(kept.Expires) <= time.Hour
	})
	if err := events.Delete(t.Context(), made.Items[0].Name, metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("an event that was made of a fact is deleted: %v", err)
	}
	p.must(events.Delete(t.Context(), "w", metav1.DeleteOptions{}))
}

func TestAnEvictionByTheAPIIsNoFailure(t *testing.T) {
	p := newPlane(t)
	p.create(newJob("a", 2))
	p.supply()
	pods := p.report("a", engine.ReportRunning, 0)
	evict := func(uid string, dry ...string) error {
		return p.client.PolicyV1().Evictions("default").Evict(t.Context(), &policyv1.Eviction{
			ObjectMeta:    metav1.ObjectMeta{Name: pods[0].Name, Namespace: "default"},
			DeleteOptions: &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(uid), DryRun: dry},
		})
	}
	if err := evict("other"); !apierrors.IsConflict(err) {
		t.Errorf("another pod's eviction: %v", err)
	}
	p.must(evict(pods[0].UID, metav1.DryRunAll))
	if got, err := p.client.CoreV1().Pods("default").Get(t.Context(), pods[0].Name, metav1.GetOptions{}); err != nil || got.DeletionTimestamp != nil {
		t.Errorf("after a dry run the pod is %+v, %v", got.ObjectMeta, err)
	}
	if got, err := p.client.CoreV1().RESTClient().Get().Namespace("default").Resource("pods").Name(pods[0].Name).SubResource("status").Do(t.Context()).Get(); err != nil || got.(*corev1.Pod).Status.Phase != corev1.PodRunning {
		t.Errorf("the pod's status is %v, %v", got, err)
	}
	p.must(evict(pods[0].UID))
	got, err := p.client.CoreV1().Pods("default").Get(t.Context(), pods[0].Name, metav1.GetOptions{})
	p.must(err)
	found := false
	for _, condition := range got.Status.Conditions {
		found = found || condition.Type == corev1.DisruptionTarget && condition.Reason == "EvictionByEvictionAPI"
	}
	if !found {
		t.Errorf("the evicted pod shows %+v", got.Status.Conditions)
	}
	p.report("a", engine.ReportFailed, 143)
	if _, err := p.client.CoreV1().Pods("default").Get(t.Context(), pods[0].Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the evicted pod has ended, and is still there: %v", err)
	}
	job, err := p.client.BatchV1().Jobs("default").Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil || job.Status.Failed != 1 {
		t.Errorf("of two that ended, one of them evicted, %d are failures, %v", job.Status.Failed, err)
	}
}
