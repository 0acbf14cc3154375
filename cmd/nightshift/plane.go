package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/screen"
	"github.com/nightshift-batch/nightshift/orchestrator/engine"
)

// errInUse: another nightshift works on the data directory.
var errInUse = errors.New("another nightshift works there")

// flushWithin bounds how long the end waits for a trace collector.
const flushWithin = 5 * time.Second

// withControlPlane opens a control plane, lets work use it, and closes it again whatever comes.
func withControlPlane(ctx context.Context, settings *resolved, work func(*controlPlane) error) error {
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	plane, err := openControlPlane(ctx, settings, logger)
	if err == nil {
		err = work(plane)
	}
	if closeErr := plane.close(); closeErr != nil && err == nil {
		err = closeErr
	}
	return asExit(err)
}

// opening is what is opened beside the rest.
type opening struct{ log, providers *task }

// task is work that goes on beside other work; nil is none.
type task struct {
	done chan struct{}
	err  error // Once done is closed.
}

func begin(do func() error) *task {
	t := &task{done: make(chan struct{})}
	go func() {
		defer close(t.done)
		t.err = do()
	}()
	return t
}

func (t *task) await() error {
	if t == nil {
		return nil
	}
	<-t.done
	return t.err
}

// takeDirectory begins to open the log and the providers, and returns when nobody else has the data directory.
func (c *controlPlane) takeDirectory(ctx context.Context) error {
	taken := make(chan struct{})
	c.opening.log = begin(func() error {
		return c.openJournal(ctx, func() {
			c.opening.providers = begin(func() error { return c.openProviders(ctx) })
			close(taken)
		})
	})
	select {
	case <-taken:
		return nil
	case <-c.opening.log.done:
		return c.opening.log.err
	}
}

// part of a control plane is what runs until the context ends.
type part struct {
	name string
	run  func(context.Context) error
}

// start runs the parts until close. One that ends earlier takes all down.
func (c *controlPlane) start(more ...part) {
	ctx, stop := context.WithCancelCause(context.Background())
	c.running, c.stop = ctx, stop
	for _, each := range append(more, []part{
		{"the writer", c.writer.Run}, {"admission", c.desk.Run}, {"the fleet", c.fleet.Run}, {"the keeping of reports", c.keepReports},
		{"the socket for other runs", func(ctx context.Context) error { return c.socket.Serve(ctx, c.settings.dataDir) }},
	}...) {
		c.parts.Go(func() {
			name, err := each.name, each.run(ctx)
			switch {
			case err != nil:
				err = fmt.Errorf("%s has failed: %w", name, err)
			case ctx.Err() == nil:
				err = fmt.Errorf("%s has ended", name)
			default:
				return
			}
			c.mu.Lock()
			c.failed = errors.Join(c.failed, err)
			c.mu.Unlock()
			stop(err)
		})
	}
}

// close ends all parts in the reverse order of their beginning. It does not stop pods in good order: closeFleet does.
func (c *controlPlane) close() error {
	var errs []error
	if c.api != nil {
		errs = append(errs, c.api.Close())
	}
	if c.stop != nil {
		c.stop(nil)
		c.parts.Wait()
		errs = append(errs, c.failure())
	}
	errs = append(errs, c.opening.log.await(), c.opening.providers.await())
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
func (c *controlPlane) closeFleet(reason string, show screen.Display) error {
	heard, leave := c.narrator.listen()
	defer leave()
	if _, err := c.writer.Submit(context.Background(), engine.CloseFleet{Reason: reason}); err != nil {
		return errors.Join(c.failure(), err)
	}
	return c.until(context.Background(), func(state *engine.State) bool {
		return len(state.Nodes) == 0 && len(state.Launches) == 0
	}, func() { heard.tellTo(show) })
}

// until waits for a condition, which is looked at after each change, for the context, or for the control plane to break. Meanwhile is
// called after each look; unlike the look it may take its time.
func (c *controlPlane) until(ctx context.Context, holds func(*engine.State) bool, meanwhile func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.running, cancel)()
	for {
		done, seq := false, uint64(0)
		c.view.Read(func(state *engine.State) { done, seq = holds(state), state.Seq })
		meanwhile()
		if done {
			return nil
		}
		if err := c.view.WaitFor(ctx, seq+1); err != nil {
			if failed := c.failure(); failed != nil {
				return failed
			}
			return err
		}
	}
}

// keepReports puts what each Job came to into the archive, where it stays when the Job is deleted, or followed by one of the same name. A
// start puts the reports of the whole log once more: the last of them may not have come to the archive.
func (c *controlPlane) keepReports(ctx context.Context) error {
	for {
		ending := ctx.Err() != nil
		for _, each := range c.narrator.takeConcluded() {
			name := fmt.Sprintf("jobs/%s/%s/%s", each.Report.Namespace, each.Report.Name, each.Report.UID)
			if err := c.archive.PutDocument(context.WithoutCancel(ctx), name, each.Report); err != nil {
				return fmt.Errorf("keep the report of Job %s: %w", each.Report.Name, err)
			}
		}
		if ending {
			return nil
		}
		select {
		case <-c.narrator.news:
		case <-ctx.Done():
		}
	}
}
