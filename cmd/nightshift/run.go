package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/manifest"
)

const runExample = `  # Run a Job on this machine
  nightshift run -f job.yaml

  # The image's program is an executable here; three simulated nodes, one of which is taken away every five seconds
  nightshift run -f job.yaml --image data-processor:v1=bin/data-processor --nodes 3 --evict-every 5s

  # For a script: one JSON object on standard output
  nightshift run -f job.yaml -o json`

// runOptions are the flags of run.
type runOptions struct {
	options
	file      string
	namespace string
	output    string
}

func newRun() *cobra.Command {
	options := &runOptions{}
	command := &cobra.Command{
		Use:   "run -f FILE",
		Short: "Run a Job to its end, in this process and its children",
		Long: "Run a Kubernetes batch/v1 Job to its end, in this process and its children, on instances that are bought for it and given back.\n\n" +
			"Run again on the same data directory, an unfinished Job of the same spec goes on where it was. Pods inherit the environment of run.\n\n" +
			"Exit status: 0 the Job is Complete, 1 it Failed, 2 wrong usage or an invalid or denied Job, 3 the machinery failed,\n130 interrupted (the pods are stopped gracefully and the Job can be resumed).",
		Example: runExample,
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return run(command.Context(), options, command.OutOrStdout(), command.ErrOrStderr())
		},
	}
	flags := command.Flags()
	flags.StringVarP(&options.file, "filename", "f", "", "the manifest, YAML or JSON; - for standard input")
	flags.StringVarP(&options.namespace, "namespace", "n", "", "namespace, which is the tenant (default: the manifest's, or \"default\")")
	flags.StringVarP(&options.output, "output", "o", "text", "text, or json for one object on standard output at the end")
	options.register(command)
	if err := command.MarkFlagRequired("filename"); err != nil {
		panic(err)
	}
	return command
}

func run(ctx context.Context, options *runOptions, stdout, stderr io.Writer) error {
	if options.output != "text" && options.output != "json" {
		return usage(fmt.Errorf("-o %s: there is text and json", options.output))
	}
	wanted, err := readJob(options.file, options.namespace)
	if err != nil {
		return usage(err)
	}
	settings, err := options.resolve()
	if err != nil {
		return err
	}
	// The API holds it against the same rules; here nothing has been started yet.
	if _, errs := manifest.Admit(wanted, manifest.Options{UID: uuid.NewUUID(), Images: settings.images}); len(errs) > 0 {
		return usage(manifest.Invalid(wanted.Name, errs))
	}
	// The first signal ends the run in good order; a second one ends the program.
	ctx, stopSignals := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stopSignals()
	progress := stdout
	if options.output == "json" {
		progress = stderr
	}
	return withControlPlane(ctx, settings, func(plane *controlPlane) error {
		session := &runSession{plane: plane, settings: settings, tell: func(line string) { fmt.Fprintln(progress, line) }}
		owner, err := session.toTheEnd(ctx, stopSignals, wanted)
		if err != nil {
			return err
		}
		if options.output == "json" {
			err = reportOf(owner).writeJSON(stdout)
		} else {
			summarize(stdout, owner, plane.logsOf(owner))
		}
		if err != nil {
			return &exitError{exitMachinery, fmt.Errorf("write the result: %w", err)}
		}
		if owner.Progress.Has(batchv1.JobFailed) {
			return &exitError{status: exitFailed}
		}
		return nil
	})
}

// readJob reads the one Job of a manifest. A namespace given as a flag must not contradict that of the manifest, as with kubectl.
func readJob(file, namespace string) (*batchv1.Job, error) {
	var in io.Reader = os.Stdin
	source := "standard input"
	if file != "-" {
		opened, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer opened.Close()
		in, source = opened, file
	}
	jobs, err := manifest.DecodeAll(in, source)
	if err != nil {
		return nil, err
	}
	if len(jobs) != 1 {
		return nil, fmt.Errorf("%s holds %d Jobs; run takes one in this version of Nightshift", source, len(jobs))
	}
	wanted := jobs[0]
	switch {
	case wanted.Name == "" && wanted.GenerateName != "":
		return nil, fmt.Errorf("%s: metadata.generateName cannot be resumed by name; run needs metadata.name", source)
	case namespace != "" && wanted.Namespace != "" && namespace != wanted.Namespace:
		return nil, fmt.Errorf("the namespace of the manifest, %q, is not that of -n, %q", wanted.Namespace, namespace)
	case namespace != "":
		wanted.Namespace = namespace
	case wanted.Namespace == "":
		wanted.Namespace = "default"
	}
	return wanted, nil
}

// runSession is one Job's way through a control plane of this process.
type runSession struct {
	plane    *controlPlane
	settings *resolved
	tell     func(string)
}

// toTheEnd submits or resumes the Job and waits until it has ended, its receipt is written and all nodes are given back.
func (s *runSession) toTheEnd(ctx context.Context, stopSignals func(), wanted *batchv1.Job) (*engine.Job, error) {
	uid, err := s.unfinished(wanted)
	if err != nil {
		return nil, err
	}
	s.plane.narrator.goLive()
	s.plane.start()
	if uid == "" {
		uid, err = s.create(ctx, wanted)
	} else {
		s.tell(fmt.Sprintf("job %s goes on, uid %s", wanted.Name, uid))
	}
	if err == nil {
		err = s.plane.until(ctx, s.tell, func(state *engine.State) bool { return state.Jobs[uid].Receipt != nil })
	}
	interrupted := ctx.Err() != nil
	stopSignals()
	reason := "the run has ended"
	if interrupted {
		reason = "the run was interrupted"
		s.tell("interrupted: the pods are stopped gracefully; interrupt again to end at once")
	}
	if closeErr := s.plane.closeFleet(reason, s.tell); closeErr != nil {
		return nil, errors.Join(asExit(err), closeErr)
	}
	if interrupted {
		return nil, &exitError{exitInterrupted, errors.New("interrupted; the Job stays in the data directory and goes on when it is run again")}
	}
	if err != nil {
		return nil, asExit(err)
	}
	var owner engine.Job
	s.plane.view.Read(func(state *engine.State) { owner = *state.Jobs[uid] })
	return &owner, nil
}

// unfinished finds the unfinished Job of the same name and spec in the data directory, empty if there is none. One of another spec is
// the user's to decide about; nothing has been started then.
func (s *runSession) unfinished(wanted *batchv1.Job) (uid string, err error) {
	digest, err := manifest.Digest(wanted)
	if err != nil {
		return "", usage(err)
	}
	s.plane.view.Read(func(state *engine.State) {
		owner, ok := state.JobOf(wanted.Namespace, wanted.Name)
		switch {
		// One that has ended without a receipt was left by a crash, and the rest is done now.
		case !ok || (owner.Ended() && owner.Receipt != nil):
		case owner.Digest == digest:
			uid = owner.UID
		default:
			err = usage(fmt.Errorf("the data directory %s holds an unfinished Job %q of another spec; "+
				"run that one to its end, or give another --data-dir", s.settings.dataDir, wanted.Name))
		}
	})
	return uid, err
}

// create puts the Job through the API of this process, as kubectl would.
func (s *runSession) create(ctx context.Context, wanted *batchv1.Job) (uid string, err error) {
	client, err := s.plane.client(whoRuns())
	if err != nil {
		return "", err
	}
	// Policy decides by prices: the Job would wait for them, and the API's clients do not wait for long.
	if err := s.plane.until(ctx, s.tell, func(state *engine.State) bool { return len(state.Offers) > 0 }); err != nil {
		return "", err
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: wanted.Namespace}}
	if _, err := client.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return "", err
	}
	created, err := client.BatchV1().Jobs(wanted.Namespace).Create(ctx, wanted, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
	if err != nil {
		return "", err
	}
	return string(created.UID), nil
}

// whoRuns names the user for the record.
func whoRuns() string {
	if who, err := user.Current(); err == nil {
		return who.Username
	}
	return "uid " + strconv.Itoa(os.Getuid())
}

// asExit gives an error its exit status: what the user asked for and cannot have is wrong usage, the rest is the machinery's.
func asExit(err error) error {
	var exit *exitError
	var refused apierrors.APIStatus
	switch {
	case err == nil, errors.As(err, &exit):
		return err
	case errors.As(err, &refused) && refused.Status().Code >= http.StatusBadRequest && refused.Status().Code < http.StatusInternalServerError:
		return usage(err)
	}
	return &exitError{exitMachinery, err}
}

// logsOf is where the logs of a Job's pods are, each in a folder of its own.
func (c *controlPlane) logsOf(owner *engine.Job) string {
	return filepath.Join(c.settings.dataDir, "archive", "logs", owner.Namespace, owner.UID)
}
