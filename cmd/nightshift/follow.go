package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
)

// lastWords is how long followed logs may take to end after their Jobs have.
const lastWords = 5 * time.Second

// maxLogLine bounds what is shown as one line; longer ones are cut into several.
const maxLogLine = 64 << 10

// followed streams what the pods of a session write, each run of a container by a goroutine of its own.
type followed struct {
	session *session
	ctx     context.Context
	stop    context.CancelFunc
	begun   map[followedRun]bool
	work    sync.WaitGroup
}

type followedRun struct {
	podUID, container string
	restart           int32
}

func (s *session) startFollowing() *followed {
	f := &followed{session: s, begun: make(map[followedRun]bool)}
	f.ctx, f.stop = context.WithCancel(context.Background())
	return f
}

// look begins to follow what has started since. A session that does not follow begins nothing.
func (f *followed) look(state *engine.State) {
	if !f.session.follow {
		return
	}
	for _, uid := range f.session.uids {
		owner := state.Jobs[uid]
		for _, podUID := range owner.AllPods {
			pod := state.Pods[podUID]
			if pod.Started.IsZero() {
				continue
			}
			spec := &owner.Object.Spec.Template.Spec
			for i := range spec.Containers {
				for restart := range pod.Restarts + 1 {
					f.begin(owner, pod, &spec.Containers[i], len(spec.Containers) > 1, restart)
				}
			}
		}
	}
}

func (f *followed) begin(owner *engine.Job, pod *engine.Pod, container *corev1.Container, several bool, restart int32) {
	run := followedRun{pod.UID, container.Name, restart}
	if f.begun[run] {
		return
	}
	f.begun[run] = true
	name := pod.Name
	if several {
		name += "/" + container.Name
	}
	namespace, jobUID := owner.Namespace, owner.UID
	f.work.Go(func() {
		log, err := f.session.plane.openLog(f.ctx, namespace, jobUID, run)
		if err == nil {
			err = errors.Join(f.copy(name, log), log.Close())
		}
		if err != nil && f.ctx.Err() == nil {
			f.session.show.Log(name, "(the log breaks off: "+err.Error()+")")
		}
	})
}

// copy shows a log line by line.
func (f *followed) copy(name string, log io.Reader) error {
	in := bufio.NewReaderSize(log, maxLogLine)
	for {
		line, err := in.ReadSlice('\n')
		if len(line) > 0 {
			f.session.show.Log(name, strings.TrimSuffix(string(line), "\n"))
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
	}
}

// wait returns when all logs have ended; those of a run that was broken off are not waited for.
func (f *followed) wait(whole bool) {
	if whole {
		defer time.AfterFunc(lastWords, f.stop).Stop()
	} else {
		f.stop()
	}
	f.work.Wait()
	f.stop()
}
