package plugin

import (
	"context"
	"errors"
	"testing"
	"time"
)

// late is a context whose deadline has passed and whose timer has not fired.
type late struct{ context.Context }

func (late) Deadline() (time.Time, bool) { return time.Now().Add(-time.Millisecond), true }

func TestADeadlineThatHasPassedEndsACallBeforeTheContextsTimerDoes(t *testing.T) {
	if err := endOf(late{t.Context()}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("past its deadline: %v", err)
	}
	soon, cancel := context.WithTimeout(t.Context(), time.Hour)
	if err := endOf(soon); err != nil {
		t.Errorf("before its deadline: %v", err)
	}
	cancel()
	if err := endOf(soon); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
