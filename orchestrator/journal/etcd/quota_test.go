package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/object"
	"github.com/nightshift-batch/nightshift/orchestrator/writer"
)

func TestAWriterOnASmallStoreCreatesUpToFourFifthsOfItAndEndsEverything(t *testing.T) {
	const quota, callers = 16 << 20, 4
	j, err := Open(t.Context(), Options{Dir: t.TempDir(), MaxBytes: quota, Logger: testLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	w, err := writer.Open(t.Context(), writer.Config{Journal: j, Now: time.Now, Seed: []byte("a seed of sixteen bytes"), Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	key := func(caller, i int) object.Key {
		return object.Key{Resource: "configmaps", Namespace: "default", Name: fmt.Sprintf("%d-%d", caller, i)}
	}
	var group sync.WaitGroup
	created := make([]int, callers)
	for caller := range callers {
		group.Go(func() {
			for full := (*engine.StoreFullError)(nil); full == nil; {
				_, err := w.Submit(t.Context(), engine.PutObject{Put: object.Put{Key: key(caller, created[caller]), UID: fmt.Sprintf("uid-%d-%d", caller, created[caller]), Create: true, Object: make([]byte, 16<<10)}})
				if err == nil {
					created[caller]++
				} else if !errors.As(err, &full) {
					t.Errorf("creating the %dth: %v", created[caller], err)
					return
				}
			}
		})
	}
	group.Wait()
	before, err := j.Space(t.Context())
	if err != nil || before.Share() < 0.5 || before.Share() > 0.95 {
		t.Errorf("creating was refused when the store held %+v: %v", before, err)
	}
	for caller := range callers {
		group.Go(func() {
			for i := range created[caller] {
				if _, err := w.Submit(t.Context(), engine.DeleteObject{Key: key(caller, i)}); err != nil {
					t.Errorf("ending object %d of %d: %v", i, created[caller], err)
					return
				}
			}
		})
	}
	group.Wait()
	after, err := j.Space(t.Context())
	if err != nil || after.Share() >= 1 {
		t.Errorf("with everything ended the store holds %+v: %v", after, err)
	}
	t.Logf("%v objects by caller took %d of %d bytes, and ending them all %d more", created, before.Used, before.Quota, after.Used-before.Used)
	stop()
	if err := errors.Join(<-ended, j.Close()); err != nil {
		t.Error(err)
	}
}
