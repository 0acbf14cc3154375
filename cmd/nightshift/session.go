package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/screen"
	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/manifest"
)

// session is some Jobs' way through a control plane.
type session struct {
	plane *controlPlane
	jobs  []*batchv1.Job
	show  screen.Display
	// follow streams what the pods write.
	follow bool
	// uids of the Jobs, in their order, once they are known.
	uids []string
}

// find looks for unfinished Jobs of the same names and specs, which go on. One of another spec is the user's to decide about.
func (s *session) find() (err error) {
	s.uids = make([]string, len(s.jobs))
	digests := make([]string, len(s.jobs))
	for i, wanted := range s.jobs {
		if digests[i], err = manifest.Digest(wanted); err != nil {
			return usage(err)
		}
	}
	s.plane.view.Read(func(state *engine.State) {
		for i, wanted := range s.jobs {
			owner, ok := state.JobOf(wanted.Namespace, wanted.Name)
			switch {
			// One that has ended without a receipt was left by a crash, and the rest is done now.
			case !ok || (owner.Ended() && owner.Receipt != nil):
			case owner.Digest == digests[i]:
				s.uids[i] = owner.UID
			default:
				err = usage(fmt.Errorf("the data directory %s holds an unfinished Job %q of another spec; "+
					"run that one to its end, or give another --data-dir", s.plane.settings.dataDir, wanted.Name))
			}
		}
	})
	return err
}

// run creates what is not there yet and waits until all have ended and have their receipts. find comes before it.
func (s *session) run(ctx context.Context) ([]screen.Conclusion, error) {
	names := make([]engine.Name, len(s.jobs))
	for i, wanted := range s.jobs {
		names[i] = engine.Name{Namespace: wanted.Namespace, Name: wanted.Name}
	}
	heard, leave := s.plane.narrator.listen(names...)
	defer leave()
	if err := s.create(ctx); err != nil {
		return nil, err
	}
	for _, uid := range s.uids {
		s.plane.join(uid)
	}
	logs := s.startFollowing()
	began := time.Now()
	var ended []screen.Conclusion
	var now screen.Tally
	err := s.plane.until(ctx, func(state *engine.State) bool {
		ended, now = ended[:0], screen.Tally{}
		for _, uid := range s.uids {
			owner := state.Jobs[uid]
			now.Add(owner)
			if owner.Receipt != nil {
				ended = append(ended, screen.Conclude(owner, s.plane.settings.dataDir))
			}
		}
		now.Pace(time.Since(began))
		return len(ended) == len(s.uids)
	}, func() {
		heard.tellTo(s.show)
		s.show.Count(now)
		logs.look(heard)
	})
	logs.wait(err == nil)
	if err == nil {
		s.plane.leave(s.uids)
	}
	return ended, err
}

// create puts the Jobs through the API of this process, as kubectl would. If one is refused, none of this call stays.
func (s *session) create(ctx context.Context) error {
	client, err := s.plane.client(whoRuns())
	if err != nil {
		return err
	}
	var created []*batchv1.Job
	for i, wanted := range s.jobs {
		if s.uids[i] != "" {
			// It may be parked, if a run that was attached has left it.
			if _, err := s.plane.writer.Submit(ctx, engine.UnparkJob{UID: s.uids[i]}); err != nil {
				return err
			}
			s.show.Tell(screen.Say("job %s goes on, uid %s", wanted.Name, s.uids[i]))
			continue
		}
		job, err := s.createOne(ctx, client, wanted)
		if err != nil {
			for _, job := range created {
				deleted := client.BatchV1().Jobs(job.Namespace).Delete(context.WithoutCancel(ctx), job.Name, metav1.DeleteOptions{
					PropagationPolicy: new(metav1.DeletePropagationBackground), Preconditions: metav1.NewUIDPreconditions(string(job.UID)),
				})
				err = errors.Join(err, deleted)
			}
			return err
		}
		created = append(created, job)
		s.uids[i] = string(job.UID)
	}
	return nil
}

func (s *session) createOne(ctx context.Context, client kubernetes.Interface, wanted *batchv1.Job) (*batchv1.Job, error) {
	// Policy decides by prices: the Job would wait for them, and the API's clients do not wait for long.
	if err := s.plane.until(ctx, func(state *engine.State) bool { return len(state.Offers) > 0 }, func() {}); err != nil {
		return nil, err
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: wanted.Namespace}}
	if _, err := client.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, err
	}
	return client.BatchV1().Jobs(wanted.Namespace).Create(ctx, wanted, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
}

// whoRuns names the user for the record.
func whoRuns() string {
	if who, err := user.Current(); err == nil {
		return who.Username
	}
	return "uid " + strconv.Itoa(os.Getuid())
}
