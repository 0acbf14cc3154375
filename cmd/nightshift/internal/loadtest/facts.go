package loadtest

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
)

// readFacts takes from the log how long what took.
func (r *Result) readFacts(ctx context.Context, config *Config) error {
	var began, ended int64
	created := make(map[string]int64, config.Pods)
	waits := make([]time.Duration, 0, config.Pods)
	err := config.ReadLog(ctx, dataDir(config), func(_ uint64, facts []*event.Fact) {
		for _, fact := range facts {
			at := fact.GetTimeUnixNano()
			switch body := fact.GetBody().(type) {
			case *event.Fact_JobCreated:
				began = at
			case *event.Fact_PodCreated:
				created[body.PodCreated.GetUid()] = at
			case *event.Fact_PodStarted:
				waits = append(waits, time.Duration(at-created[body.PodStarted.GetUid()]))
				delete(created, body.PodStarted.GetUid())
			case *event.Fact_PodFinished:
				ended = max(ended, at)
			}
		}
	})
	if err != nil {
		return err
	}
	if began == 0 || ended <= began || len(waits) < r.Pods {
		return errors.New("the log does not hold the Job")
	}
	r.PodsPerSecond = float64(r.Pods) / time.Duration(ended-began).Seconds()
	slices.Sort(waits)
	r.SubmitToRunningSeconds = Quantiles{P50: quantile(waits, 50).Seconds(), P99: quantile(waits, 99).Seconds()}
	return nil
}

// quantile of sorted values, at least one, by the nearest rank.
func quantile(sorted []time.Duration, percent int) time.Duration {
	return sorted[max((len(sorted)*percent+99)/100, 1)-1]
}
