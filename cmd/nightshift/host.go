package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/attach"
	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/manifest"
)

// goneGrace is what the pods of a run that is gone have to end, so that none outlives it by more than five seconds.
const goneGrace = 3 * time.Second

// noLimit leaves pods their own grace.
const noLimit = int64(1<<31 - 1)

// host carries out the visit of another run.
func (c *controlPlane) host(ctx context.Context, guest attach.Guest) attach.End {
	defer c.guests.add(guest.Visit)()
	s := &session{plane: c, jobs: guest.Jobs, show: guest.Show, follow: guest.Follow}
	err := s.find()
	if err == nil {
		ended, runErr := s.run(ctx)
		if runErr == nil {
			return attach.End{Ended: ended}
		}
		err = runErr
	}
	s.park(guest.Gone)
	if ctx.Err() != nil {
		err = errInterrupted
	}
	status, words := inWords(err)
	return attach.End{Error: words, Status: status}
}

// inWords gives an error as a user reads it, and its exit status.
func inWords(err error) (status int, words string) {
	var exit *exitError
	if errors.As(asExit(err), &exit) && exit.err != nil {
		return exit.status, exit.err.Error()
	}
	return exitMachinery, err.Error()
}

// park stops the pods of the session's Jobs, unless another session waits for the same Job, and waits until they have ended. When nobody is there
// to wait any more, they have no more than goneGrace.
func (s *session) park(there context.Context) {
	left := s.plane.leave(s.uids)
	if len(left) == 0 {
		return
	}
	defer context.AfterFunc(there, func() { s.plane.hurry(left) })()
	_ = s.plane.until(s.plane.running, func(state *engine.State) bool {
		for _, uid := range left {
			if owner, ok := state.Jobs[uid]; ok && owner.Counts.Live() > 0 && !s.plane.isAwaited(uid) {
				return false
			}
		}
		return true
	}, func() {})
}

// waiting counts the sessions that wait for each Job, by UID.
type waiting struct {
	// step makes counting a session in or out one with what the engine is told of it.
	step sync.Mutex
	// brought are the Jobs that a run has created, or resumed: they stop with the last run that waits for them. Others go on. It is guarded by step.
	brought map[string]bool

	mu       sync.Mutex
	sessions map[string]int
}

// add changes the count of a Job and returns it.
func (w *waiting) add(uid string, change int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sessions == nil {
		w.sessions = make(map[string]int)
	}
	w.sessions[uid] += change
	count := w.sessions[uid]
	if count <= 0 {
		delete(w.sessions, uid)
	}
	return count
}

func (c *controlPlane) isAwaited(uid string) bool { return c.waiting.add(uid, 0) > 0 }

// join counts a session in for a Job, which goes on if it was parked. Brings tells that the session has created it.
func (c *controlPlane) join(ctx context.Context, uid string, brings bool) error {
	c.waiting.step.Lock()
	defer c.waiting.step.Unlock()
	c.view.Read(func(state *engine.State) {
		owner, ok := state.Jobs[uid]
		brings = brings || (ok && owner.IsParked())
	})
	if _, err := c.writer.Submit(ctx, engine.UnparkJob{UID: uid}); err != nil {
		return err
	}
	c.waiting.add(uid, 1)
	if c.waiting.brought == nil {
		c.waiting.brought = make(map[string]bool)
	}
	c.waiting.brought[uid] = c.waiting.brought[uid] || brings
	return nil
}

// leave counts a session out of its Jobs. Those that a run has brought and for which none waits any more are parked, and returned.
func (c *controlPlane) leave(uids []string) (left []string) {
	c.waiting.step.Lock()
	defer c.waiting.step.Unlock()
	for _, uid := range uids {
		if !c.isAwaited(uid) {
			continue // not joined, or left before
		}
		if c.waiting.add(uid, -1) == 0 && c.waiting.brought[uid] {
			left = append(left, uid)
			c.parkJob(uid, noLimit)
		}
	}
	return left
}

// hurry leaves the pods of Jobs that were parked and for which nobody waits no more than goneGrace.
func (c *controlPlane) hurry(uids []string) {
	c.waiting.step.Lock()
	defer c.waiting.step.Unlock()
	for _, uid := range uids {
		if !c.isAwaited(uid) {
			c.parkJob(uid, int64(goneGrace/time.Second))
		}
	}
}

// parkJob fails if the Job or the control plane is gone, and then there is nothing to stop.
func (c *controlPlane) parkJob(uid string, graceSeconds int64) {
	_, _ = c.writer.Submit(c.running, engine.ParkJob{UID: uid, Reason: "the run was interrupted", GraceSeconds: graceSeconds})
}

// guests remembers what attached runs have brought for their pods, by Job, the first one first. It is nowhere on record.
type guests struct {
	mu     sync.Mutex
	visits map[engine.Name][]*attach.Visit
}

// add remembers a visit until the function it returns is called.
func (g *guests) add(brought *attach.Visit) (forget func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.visits == nil {
		g.visits = make(map[engine.Name][]*attach.Visit)
	}
	for _, job := range brought.Jobs {
		name := nameOf(job)
		g.visits[name] = append(g.visits[name], brought)
	}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, job := range brought.Jobs {
			name := nameOf(job)
			g.visits[name] = slices.DeleteFunc(g.visits[name], func(visit *attach.Visit) bool { return visit == brought })
			if len(g.visits[name]) == 0 {
				delete(g.visits, name)
			}
		}
	}
}

// of finds what was brought for a Job, nil if nothing was.
func (g *guests) of(job engine.Name) *attach.Visit {
	g.mu.Lock()
	defer g.mu.Unlock()
	if visits := g.visits[job]; len(visits) > 0 {
		return visits[0]
	}
	return nil
}

// imagesOf are the images that a Job may name: the control plane's own, and what the run has brought that waits for it.
func (c *controlPlane) imagesOf(job engine.Name) manifest.Images {
	all := maps.Clone(c.settings.images)
	if brought := c.guests.of(job); brought != nil {
		if all == nil {
			all = make(manifest.Images)
		}
		for name, executable := range brought.Images {
			all[name] = string(executable)
		}
	}
	return all
}

// resolveImages gives containers that name no command the executable that --image names, and those that an attached run has brought what they
// inherit of it.
func (c *controlPlane) resolveImages(pod *corev1.Pod) error {
	brought := c.guests.of(engine.Name{Namespace: pod.Namespace, Name: pod.Labels[batchv1.JobNameLabel]})
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			container := &containers[i]
			if brought != nil {
				inherit(container, brought)
			}
			command, ok := c.settings.images.Command(*container)
			if !ok {
				return fmt.Errorf("image %q names no command here; give --image %s=EXECUTABLE", container.Image, container.Image)
			}
			container.Command = command
		}
	}
	return nil
}

// inherit gives a container what the run that brought its Job would give it: the executables of its images, its directory, its environment.
func inherit(container *corev1.Container, brought *attach.Visit) {
	if executable, ok := brought.Images[container.Image]; ok && len(container.Command) == 0 {
		container.Command = []string{string(executable)}
	}
	if container.WorkingDir == "" {
		container.WorkingDir = string(brought.Dir)
	}
	named := make(map[string]bool)
	for _, variable := range container.Env {
		named[variable.Name] = true
	}
	var env []corev1.EnvVar
	for _, variable := range brought.Environ {
		name, value, ok := strings.Cut(string(variable), "=")
		if !ok || name == "" || named[name] || strings.HasPrefix(name, "NIGHTSHIFT_") {
			continue
		}
		// It is a value and no text in which $(NAME) stands for another one.
		env = append(env, corev1.EnvVar{Name: name, Value: strings.ReplaceAll(value, "$", "$$")})
	}
	container.Env = append(env, container.Env...)
}
