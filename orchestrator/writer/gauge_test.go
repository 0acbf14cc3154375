package writer_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

// large puts an object of 10 KiB.
func large(i int) engine.PutObject {
	object := put(i).(engine.PutObject)
	object.Object = make([]byte, 10<<10)
	return object
}

func TestAStoreThatIsNearlyFullTakesNothingNewAndLetsEverythingEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := journal.NewMemory()
		const quota = 1 << 20
		log.Limit(quota)
		handle := log.Open()
		r := start(t, handle)
		space := func() journal.Space {
			space, err := handle.Space(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return space
		}
		var full *engine.StoreFullError
		created := 0
		for ; full == nil; created++ {
			// No time passes: the writer knows what it has written.
			if _, err := r.Submit(t.Context(), large(created)); err != nil && !errors.As(err, &full) {
				t.Fatal(err)
			}
		}
		created--
		if share := space().Share(); share < 0.78 || share > 0.82 || full.Quota != quota {
			t.Errorf("creating was refused at %v of the quota: %v", share, full)
		}
		// All of a call gets its answer.
		errs := r.SubmitAll(t.Context(), []engine.Command{large(created), engine.DeleteObject{Key: large(0).Key}, large(created + 1)})
		if !errors.As(errs[0], &full) || errs[1] != nil || !errors.As(errs[2], &full) {
			t.Errorf("with a store that is nearly full: %v", errs)
		}
		for i := 1; i < created; i++ {
			if _, err := r.Submit(t.Context(), engine.DeleteObject{Key: large(i).Key}); err != nil {
				t.Fatalf("ending object %d of %d: %v", i, created, err)
			}
		}
		// When there is room again it is noticed by itself.
		log.Limit(2 * quota)
		<-time.After(2 * time.Second)
		if _, err := r.Submit(t.Context(), large(0)); err != nil {
			t.Errorf("with room again: %v", err)
		}
		r.stop()
		if err := <-r.ended; err != nil {
			t.Error(err)
		}
	})
}

// mute is a log whose store does not say how much it holds.
type mute struct{ journal.Journal }

func (mute) Space(context.Context) (journal.Space, error) {
	return journal.Space{}, fmt.Errorf("no answer")
}

func TestAStoreThatDoesNotTellItsSizeIsWrittenTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, mute{journal.NewMemory().Open()})
		for i := range 3 {
			if _, err := r.Submit(t.Context(), put(i)); err != nil {
				t.Error(err)
			}
			<-time.After(2 * time.Second)
		}
		r.stop()
		if err := <-r.ended; err != nil {
			t.Error(err)
		}
	})
}
