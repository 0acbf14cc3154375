package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
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
	// first: this session began the term, so that what goes on was left by an earlier one.
	first bool
	// uids of the Jobs, in their order, once they are known.
	uids []string
}

// find looks for unfinished Jobs of the same names and specs, which go on. One of another spec is the user's to decide about, and one that is about to
// go makes room for another one.
func (s *session) find() (err error) {
	if s.uids == nil {
		s.uids = make([]string, len(s.jobs))
	}
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
			case s.uids[i] != "": // found before
			case !ok || (owner.Ended() && owner.Receipt != nil) || !owner.DeletionRequested.IsZero():
			// One that has ended without a receipt was left by a crash, and the rest is done now.
			case owner.Digest == digests[i]:
				s.uids[i] = owner.UID
			case owner.Ended():
			default:
				err = usage(cannotGoOn(owner.Object, wanted, s.plane.settings.dataDir))
			}
		}
	})
	return err
}

// maxDifferences is how many fields are named in which a Job differs from its manifest, and maxValue how much of their values is shown.
const (
	maxDifferences = 3
	maxValue       = 40
)

// cannotGoOn says why an unfinished Job does not go on as the manifest has it, and what to do.
func cannotGoOn(there, wanted *batchv1.Job, dataDir string) error {
	ways := fmt.Sprintf("delete it (nightshift delete job %s --namespace %s --data-dir %s), or give another --data-dir", there.Name, there.Namespace, dataDir)
	if there.Spec.Suspend != nil && *there.Spec.Suspend {
		return fmt.Errorf("the Job %q, unfinished in %s, is suspended (spec.suspend) and run would wait for ever; "+
			"resume it by the API, as with kubectl while serve works there, or %s", there.Name, dataDir, ways)
	}
	differences, err := manifest.Differences(there, wanted)
	if err != nil {
		return err
	}
	var words []string
	for i, each := range differences {
		if i == maxDifferences {
			words = append(words, fmt.Sprintf("%d more fields", len(differences)-i))
			break
		}
		words = append(words, fmt.Sprintf("%s is %s there and %s in the manifest", each.Path, valueOf(each.One), valueOf(each.Other)))
	}
	return fmt.Errorf("the Job %q, unfinished in %s, is not as the manifest has it: %s; run it as it is there, or %s",
		there.Name, dataDir, strings.Join(words, ", "), ways)
}

func valueOf(text string) string {
	switch {
	case text == "":
		return "not set"
	case len(text) > maxValue:
		return strings.ToValidUTF8(text[:maxValue], "") + "..."
	}
	return text
}

// run creates what is not there yet and waits until all have ended and have their receipts. find comes before it.
func (s *session) run(ctx context.Context) ([]screen.Conclusion, error) {
	names := make([]engine.Name, len(s.jobs))
	for i, wanted := range s.jobs {
		names[i] = nameOf(wanted)
	}
	heard, leave := s.plane.narrator.listenFrom(s.plane.view, names...)
	defer leave()
	if err := s.create(ctx, heard); err != nil {
		return nil, err
	}
	logs := s.startFollowing()
	began := time.Now()
	var ended []screen.Conclusion
	var now screen.Tally
	err := s.plane.until(ctx, func(state *engine.State) bool {
		ended, now = ended[:0], screen.Tally{}
		for i, uid := range s.uids {
			owner, there := state.Jobs[uid]
			concluded, hasEnded := heard.conclusion(uid)
			if !hasEnded && there && owner.Receipt != nil {
				// It had its receipt before this session began to listen.
				concluded, hasEnded = screen.Conclude(owner, s.plane.settings.dataDir), true
			}
			switch {
			case hasEnded:
				ended = append(ended, concluded)
			case !there:
				ended = append(ended, screen.Gone(names[i].Namespace, names[i].Name, uid))
			}
			if there {
				now.Add(owner)
			}
		}
		now.Pace(time.Since(began))
		return len(ended) == len(s.uids)
	}, func() {
		heard.tellTo(s.show)
		s.show.Count(now)
		logs.look(heard)
	})
	logs.wait(ctx, err == nil)
	if err != nil {
		return ended, err
	}
	s.plane.leave(s.uids)
	return ended, nil
}

// create puts the Jobs through the API of this process, as kubectl would, and joins each. If one is refused, none of this call stays; the
// caller parks those that were there before.
func (s *session) create(ctx context.Context, heard *listener) error {
	client, err := s.plane.client(whoRuns())
	if err != nil {
		return err
	}
	var created []*batchv1.Job
	for i, wanted := range s.jobs {
		goesOn := s.uids[i] != ""
		if !goesOn {
			job, err := s.createOne(ctx, client, wanted)
			if apierrors.IsAlreadyExists(err) {
				// Another run of the same Job was faster.
				if findErr := s.find(); findErr != nil || s.uids[i] != "" {
					goesOn, err = findErr == nil, findErr
				}
			}
			if err != nil {
				return errors.Join(err, s.withdraw(ctx, client, created))
			}
			if !goesOn {
				created = append(created, job)
				s.uids[i] = string(job.UID)
			}
		}
		if goesOn {
			s.show.Tell(screen.Say("job %s goes on, uid %s", wanted.Name, s.uids[i]))
		}
		heard.tellTo(s.show)
		// Also when this session is being interrupted: only a Job that was joined is parked.
		if err := s.plane.join(context.WithoutCancel(ctx), s.uids[i], !goesOn || s.first); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// withdraw deletes what this session has created.
func (s *session) withdraw(ctx context.Context, client kubernetes.Interface, created []*batchv1.Job) (err error) {
	for _, job := range created {
		err = errors.Join(err, client.BatchV1().Jobs(job.Namespace).Delete(context.WithoutCancel(ctx), job.Name, metav1.DeleteOptions{
			PropagationPolicy: new(metav1.DeletePropagationBackground), Preconditions: metav1.NewUIDPreconditions(string(job.UID)),
		}))
	}
	return err
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
	if err := s.awaitRoom(ctx, wanted); err != nil {
		return nil, err
	}
	// Once it is on its way it is not taken back: what is stored must be known here, to be stopped.
	return client.BatchV1().Jobs(wanted.Namespace).Create(context.WithoutCancel(ctx), wanted, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
}

// awaitRoom waits for a Job that is being deleted, or has ended and is still being settled, to leave its name to a new one.
func (s *session) awaitRoom(ctx context.Context, wanted *batchv1.Job) error {
	deleted, told := false, false
	return s.plane.until(ctx, func(state *engine.State) bool {
		owner, there := state.JobOf(wanted.Namespace, wanted.Name)
		deleted = there && !owner.DeletionRequested.IsZero()
		return !deleted && (!there || !owner.Ended() || owner.Receipt != nil)
	}, func() {
		if deleted && !told {
			told = true
			s.show.Tell(screen.Say("job %s is being deleted; it is created anew when its pods have ended", wanted.Name))
		}
	})
}

// nameOf is the name by which the engine knows a Job.
func nameOf(job *batchv1.Job) engine.Name {
	return engine.Name{Namespace: job.Namespace, Name: job.Name}
}

// whoRuns names the user for the record.
func whoRuns() string {
	if who, err := user.Current(); err == nil {
		return who.Username
	}
	return "uid " + strconv.Itoa(os.Getuid())
}
