package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/journal/etcd"
	"github.com/nightshift-batch/nightshift/orchestrator/manifest"
	"github.com/nightshift-batch/nightshift/telemetry"
)

// flushWithin bounds how long the end waits for a trace collector.
const flushWithin = 5 * time.Second

// withControlPlane opens a control plane, lets work use it, and closes it again whatever comes.
func withControlPlane(ctx context.Context, settings *resolved, work func(*controlPlane) error) error {
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	plane, err := openControlPlane(ctx, settings, logger)
	if err == nil {
		err = work(plane)
	} else if errors.Is(err, etcd.ErrInUse) {
		err = fmt.Errorf("%w; another nightshift works there, or give another --data-dir", err)
	}
	if closeErr := plane.close(); closeErr != nil && err == nil {
		err = closeErr
	}
	return asExit(err)
}

// close ends all parts in the reverse order of their beginning. It does not stop pods in good order: closeFleet does.
func (c *controlPlane) close() error {
	var errs []error
	if c.stop != nil {
		c.stop(nil)
		c.parts.Wait()
	}
	for _, client := range c.plugins {
		errs = append(errs, client.Close())
	}
	if c.telemetry != nil {
		ctx, cancel := context.WithTimeout(context.Background(), flushWithin)
		if err := c.telemetry.Shutdown(ctx); err != nil {
			// The spans are exported after the next start; a run whose work is done has not failed by that.
			c.logger.Warn("not all traces were exported", "error", err)
		}
		cancel()
	}
	if c.archive != nil {
		errs = append(errs, c.archive.Close())
	}
	if c.journal != nil {
		errs = append(errs, c.journal.Close())
	}
	return errors.Join(errs...)
}

// failure is why a part ended by itself, nil if none did.
func (c *controlPlane) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}

// closeFleet stops all pods in good order and waits until every instance is given back.
func (c *controlPlane) closeFleet(reason string, tell func(string)) error {
	if _, err := c.writer.Submit(context.Background(), engine.CloseFleet{Reason: reason}); err != nil {
		return errors.Join(c.failure(), err)
	}
	return c.until(context.Background(), tell, func(state *engine.State) bool {
		return len(state.Nodes) == 0 && len(state.Launches) == 0
	})
}

// until waits for a condition, for the context, or for the control plane to break.
func (c *controlPlane) until(ctx context.Context, tell func(string), holds func(*engine.State) bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(c.running, func() { cancel(errors.New("the control plane has stopped")) })
	defer stop()
	err := c.tracker.until(ctx, tell, holds)
	if failed := c.failure(); err != nil && failed != nil {
		return failed
	}
	return err
}

// create admits a Job and waits for policy's decision.
func (c *controlPlane) create(ctx context.Context, wanted *batchv1.Job) (uid string, err error) {
	admitted, errs := manifest.Admit(wanted, manifest.Options{UID: uuid.NewUUID(), Created: metav1.Now(), Images: c.settings.images})
	if len(errs) > 0 {
		return "", usage(manifest.Invalid(wanted.Name, errs))
	}
	digest, err := manifest.Digest(admitted)
	if err != nil {
		return "", usage(err)
	}
	_, err = c.desk.Create(ctx, engine.CreateJob{Job: admitted, Digest: digest, ReplaceEnded: true})
	return string(admitted.UID), err
}

// keepReport puts what a Job came to into the archive, where it stays when a Job of the same name follows.
func (c *controlPlane) keepReport(owner *engine.Job) error {
	name := fmt.Sprintf("jobs/%s/%s/%s", owner.Namespace, owner.Object.Name, owner.UID)
	if err := c.archive.PutDocument(context.Background(), name, reportOf(owner)); err != nil {
		return fmt.Errorf("keep the report of Job %s: %w", owner.Object.Name, err)
	}
	return nil
}

// telemetryFollower feeds the traces.
type telemetryFollower struct{ telemetry *telemetry.Telemetry }

func (f telemetryFollower) Observe(first uint64, facts []*event.Fact) {
	for i, fact := range facts {
		f.telemetry.Observe(first+uint64(i), fact)
	}
}
