package remote

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"
	"sync"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/screen"
)

// maxLogLine bounds what is shown as one line; longer ones are cut into several.
const maxLogLine = 64 << 10

// logs shows what pods write, each container by a goroutine of its own. A nil one shows nothing.
type logs struct {
	server *Server
	show   screen.Display
	work   sync.WaitGroup
}

// begin follows a pod of a Job that has started, until the API ends its logs, which it does when all has been told.
func (l *logs) begin(ctx context.Context, job *batchv1.Job, pod string) {
	if l == nil {
		return
	}
	spec := &job.Spec.Template.Spec
	containers := append(append([]corev1.Container(nil), spec.InitContainers...), spec.Containers...)
	for _, container := range containers {
		name := pod
		if len(containers) > 1 {
			name += "/" + container.Name
		}
		l.work.Go(func() {
			if err := l.copy(ctx, job.Namespace, pod, container.Name, name); err != nil && ctx.Err() == nil {
				l.show.Log(ctx, name, "(the log breaks off: "+err.Error()+")")
			}
		})
	}
}

func (l *logs) copy(ctx context.Context, namespace, pod, container, name string) error {
	stream, err := l.server.client.CoreV1().Pods(namespace).GetLogs(pod, &corev1.PodLogOptions{Container: container, Follow: true}).Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	for in := bufio.NewReaderSize(stream, maxLogLine); ; {
		line, err := in.ReadSlice('\n')
		if len(line) > 0 {
			l.show.Log(ctx, name, strings.TrimSuffix(string(line), "\n"))
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
	}
}

// wait returns when all logs have been shown; those of a run that was broken off are not waited for.
func (l *logs) wait(whole bool) {
	if l != nil && whole {
		l.work.Wait()
	}
}
