package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
)

// maxLogLine bounds what is shown as one line; longer ones are cut into several.
const maxLogLine = 64 << 10

// maxFollowed is how many pods are followed at once. Those that come later wait for their turn, as all that they write is kept.
const maxFollowed = 1024

// followed streams what the pods of a session write, each container by a goroutine of its own.
type followed struct {
	session *session
	ctx     context.Context
	stop    context.CancelFunc
	work    sync.WaitGroup
	// ends tells of a pod by its UID that it has ended: all that it has written is in the archive then.
	ends map[string]context.CancelFunc

	mu     sync.Mutex
	active int
	later  []followedPod
}

// followedPod is a pod to follow; running ends when the pod has.
type followedPod struct {
	placedPod
	running context.Context
}

func (s *session) startFollowing() *followed {
	f := &followed{session: s, ends: make(map[string]context.CancelFunc)}
	f.ctx, f.stop = context.WithCancel(context.Background())
	return f
}

// look begins to follow pods that are on a node, or have come to one since. A session that does not follow begins nothing.
func (f *followed) look(heard *listener) {
	placed, ended := heard.takePods()
	if !f.session.follow {
		return
	}
	for _, pod := range placed {
		if !slices.Contains(f.session.uids, pod.jobUID) {
			continue // of one that was there before
		}
		running, end := context.WithCancel(f.ctx)
		f.ends[pod.uid] = end
		f.begin(followedPod{pod, running})
	}
	for _, uid := range ended {
		if end, ok := f.ends[uid]; ok {
			end()
			delete(f.ends, uid)
		}
	}
}

func (f *followed) begin(pod followedPod) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.active == maxFollowed {
		f.later = append(f.later, pod)
		return
	}
	f.active++
	f.work.Go(func() { f.pods(pod) })
}

// pods follows a pod to its end, and then those that have waited for that.
func (f *followed) pods(pod followedPod) {
	for {
		var containers sync.WaitGroup
		for _, container := range pod.containers {
			containers.Go(func() { f.container(pod.running, pod.placedPod, container) })
		}
		containers.Wait()
		f.mu.Lock()
		if len(f.later) == 0 {
			f.active--
			f.mu.Unlock()
			return
		}
		pod, f.later = f.later[0], f.later[1:]
		f.mu.Unlock()
	}
}

// container shows what all runs of a container write. Running ends when its pod has ended.
func (f *followed) container(running context.Context, pod placedPod, container string) {
	name := pod.name
	if len(pod.containers) > 1 {
		name += "/" + container
	}
	for restart := int32(0); ; restart++ {
		run := containerRun{pod.namespace, pod.jobUID, pod.uid, container, restart}
		shown, err := f.copy(running, run, name, 0, true)
		if err != nil && running.Err() != nil {
			// What was not shown yet is all there.
			_, err = f.copy(f.ctx, run, name, shown, false)
		}
		switch {
		case errors.Is(err, errNoLog), f.ctx.Err() != nil:
			return
		case err != nil:
			f.session.show.Log(f.ctx, name, "(the log breaks off: "+err.Error()+")")
			return
		}
	}
}

// copy shows a log from an offset on, line by line, and returns how far it came.
func (f *followed) copy(ctx context.Context, run containerRun, name string, offset int64, follow bool) (shown int64, err error) {
	log, err := f.session.plane.openLog(ctx, run, follow)
	if err != nil {
		return offset, err
	}
	defer log.Close()
	if _, err := io.CopyN(io.Discard, log, offset); err != nil {
		return offset, err
	}
	in := bufio.NewReaderSize(log, maxLogLine)
	for {
		line, err := in.ReadSlice('\n')
		whole := err == nil || errors.Is(err, bufio.ErrBufferFull) || errors.Is(err, io.EOF)
		if len(line) > 0 && whole {
			f.session.show.Log(f.ctx, name, strings.TrimSuffix(string(line), "\n"))
			offset += int64(len(line))
		}
		switch {
		case errors.Is(err, io.EOF):
			return offset, nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return offset, err
		}
	}
}

// wait returns when all logs have been shown, or the context has ended; those of a session that was broken off are not waited for.
func (f *followed) wait(ctx context.Context, whole bool) {
	if !whole {
		f.stop()
	}
	defer f.stop()
	defer context.AfterFunc(ctx, f.stop)()
	f.work.Wait()
}
