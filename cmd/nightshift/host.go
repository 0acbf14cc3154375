package main

import (
	"context"
	"errors"
	"fmt"
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
	if ctx.Err() != nil {
		s.park(guest.Gone)
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
	stop := func(grace int64) {
		for _, uid := range left {
			// It fails if the Job or the control plane is gone, and then there is nothing to stop.
			_, _ = s.plane.writer.Submit(s.plane.running, engine.ParkJob{UID: uid, Reason: "the run was interrupted", GraceSeconds: grace})
		}
	}
	stop(noLimit)
	defer context.AfterFunc(there, func() { stop(int64(goneGrace / time.Second)) })()
	_ = s.plane.until(s.plane.running, func(state *engine.State) bool {
		for _, uid := range left {
			if owner, ok := state.Jobs[uid]; ok && owner.Counts.Live() > 0 {
				return false
			}
		}
		return true
	}, func() {})
}

// waiting counts the sessions that wait for each Job, by UID.
type waiting struct {
	mu       sync.Mutex
	sessions map[string]int
}

// join counts a session in for a Job.
func (c *controlPlane) join(uid string) {
	c.waiting.mu.Lock()
	defer c.waiting.mu.Unlock()
	if c.waiting.sessions == nil {
		c.waiting.sessions = make(map[string]int)
	}
	c.waiting.sessions[uid]++
}

// leave counts a session out of its Jobs, and returns those for which none waits any more.
func (c *controlPlane) leave(uids []string) (left []string) {
	c.waiting.mu.Lock()
	defer c.waiting.mu.Unlock()
	for _, uid := range uids {
		switch c.waiting.sessions[uid] {
		case 0: // not joined, or left before
		case 1:
			delete(c.waiting.sessions, uid)
			left = append(left, uid)
		default:
			c.waiting.sessions[uid]--
		}
	}
	return left
}

// guests remembers what attached runs have brought for their pods. It is nowhere on record.
type guests struct {
	mu     sync.Mutex
	visits map[engine.Name]*attach.Visit
}

// add remembers a visit until the function it returns is called.
func (g *guests) add(brought *attach.Visit) (forget func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.visits == nil {
		g.visits = make(map[engine.Name]*attach.Visit)
	}
	for _, job := range brought.Jobs {
		g.visits[engine.Name{Namespace: job.Namespace, Name: job.Name}] = brought
	}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, job := range brought.Jobs {
			if name := (engine.Name{Namespace: job.Namespace, Name: job.Name}); g.visits[name] == brought {
				delete(g.visits, name)
			}
		}
	}
}

// of finds what was brought for a Job, nil if nothing was.
func (g *guests) of(job engine.Name) *attach.Visit {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.visits[job]
}

// images are the control plane's own, and what guests have brought beside them.
func (g *guests) images(own manifest.Images) manifest.Images {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make(manifest.Images, len(own))
	for _, brought := range g.visits {
		for name, executable := range brought.Images {
			all[name] = executable
		}
	}
	for name, executable := range own {
		all[name] = executable
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
	if command, ok := manifest.Images(brought.Images).Command(*container); ok {
		container.Command = command
	}
	if container.WorkingDir == "" {
		container.WorkingDir = brought.Dir
	}
	named := make(map[string]bool)
	for _, variable := range container.Env {
		named[variable.Name] = true
	}
	var env []corev1.EnvVar
	for _, variable := range brought.Environ {
		name, value, ok := strings.Cut(variable, "=")
		if !ok || name == "" || named[name] || strings.HasPrefix(name, "NIGHTSHIFT_") {
			continue
		}
		// It is a value and no text in which $(NAME) stands for another one.
		env = append(env, corev1.EnvVar{Name: name, Value: strings.ReplaceAll(value, "$", "$$")})
	}
	container.Env = append(env, container.Env...)
}
