package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/attach"
	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/screen"
	"github.com/nightshift-batch/nightshift/orchestrator/manifest"
)

const runExample = `  # Run a Job on this machine
  nightshift run -f job.yaml

  # The image's program is an executable here; three simulated nodes, one of which is taken away every five seconds
  nightshift run -f job.yaml --image data-processor:v1=bin/data-processor --nodes 3 --evict-every 5s

  # All Jobs of a folder, with what their pods write
  nightshift run -f nightly/ --follow

  # For a script: one JSON object on standard output
  nightshift run -f job.yaml -o json`

// runOptions are the flags of run.
type runOptions struct {
	options
	files     []string
	namespace string
	output    string
	follow    bool
}

func newRun() *cobra.Command {
	options := &runOptions{}
	command := &cobra.Command{
		Use:   "run -f FILE",
		Short: "Run Jobs to their end, in this process and its children",
		Long: "Run Kubernetes batch/v1 Jobs to their end, in this process and its children, on instances that are bought for them and given back.\n\n" +
			"Run again on the same data directory, an unfinished Job of the same spec goes on where it was. Pods inherit the environment of run.\n\n" +
			"Exit status: 0 the Job is Complete, 1 it Failed, 2 wrong usage or an invalid or denied Job, 3 the machinery failed,\n130 interrupted (the pods are stopped gracefully and the Job can be resumed).",
		Example: runExample,
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return run(command.Context(), options, command.OutOrStdout(), command.ErrOrStderr())
		},
	}
	flags := command.Flags()
	flags.StringArrayVarP(&options.files, "filename", "f", nil, "manifest, YAML or JSON, with one or more Jobs; a folder of manifests; - for standard input; may be repeated")
	flags.BoolVar(&options.follow, "follow", false, "stream what the pods write, each line led by its pod")
	flags.StringVarP(&options.namespace, "namespace", "n", "", "namespace, which is the tenant (default: the manifest's, or \"default\")")
	flags.StringVarP(&options.output, "output", "o", "text", "text, or json for one object on standard output at the end")
	options.register(command)
	return command
}

func run(ctx context.Context, options *runOptions, stdout, stderr io.Writer) error {
	if options.output != "text" && options.output != "json" {
		return usage(fmt.Errorf("-o %s: there is text and json", options.output))
	}
	jobs, err := readJobs(options.files, options.namespace)
	if err != nil {
		return usage(err)
	}
	settings, err := options.resolve()
	if err != nil {
		return err
	}
	// The API holds them against the same rules; here nothing has been started yet.
	for _, wanted := range jobs {
		if _, errs := manifest.Admit(wanted, manifest.Options{UID: uuid.NewUUID(), Images: settings.images}); len(errs) > 0 {
			return usage(manifest.Invalid(wanted.Name, errs))
		}
	}
	// The first signal ends the run in good order; a second one ends the program.
	ctx, stopSignals := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stopSignals()
	progress := stdout
	if options.output == "json" {
		progress = stderr
	}
	show := screen.New(progress)
	conclude := func(ended []screen.Conclusion) error {
		show.Close()
		return writeResult(ended, options.output, stdout)
	}
	brought := attach.Visit{Jobs: jobs, Images: settings.images, Environ: os.Environ(), Follow: options.follow}
	if brought.Dir, err = os.Getwd(); err != nil {
		return usage(err)
	}
	for deadline := time.Now().Add(attachWithin); ; {
		err := withControlPlane(ctx, settings, func(plane *controlPlane) error {
			return plane.runToTheEnd(ctx, stopSignals, &session{plane: plane, jobs: jobs, show: show, follow: options.follow}, conclude)
		})
		if errors.Is(err, errInUse) {
			err = attachTo(ctx, stopSignals, settings.dataDir, brought, show, conclude)
		}
		if !errors.Is(err, errInUse) || time.Now().After(deadline) {
			return err
		}
		// The other one is beginning, or ending: neither is told to anybody.
		select {
		case <-time.After(attachAgain):
		case <-ctx.Done():
			return &exitError{exitInterrupted, ctx.Err()}
		}
	}
}

// A run that finds its data directory in use, and nobody to attach to, tries again for a while.
const (
	attachWithin = 30 * time.Second
	attachAgain  = 100 * time.Millisecond
)

// attachTo runs the Jobs in the control plane of another run or server. It fails with errInUse when that takes nobody in.
func attachTo(ctx context.Context, stopSignals func(), dataDir string, brought attach.Visit, show screen.Display, conclude func([]screen.Conclusion) error) error {
	conn, err := attach.Dial(dataDir)
	if err != nil {
		return &exitError{exitMachinery, fmt.Errorf("%w: %w; give another --data-dir", errInUse, err)}
	}
	show.Tell(screen.Say("another nightshift works on %s; its nodes and its policy are used", dataDir))
	defer context.AfterFunc(ctx, func() {
		stopSignals()
		show.Tell(screen.Say(interruptedWords))
	})()
	end, err := attach.Run(ctx, conn, brought, show)
	switch {
	case errors.Is(err, attach.ErrClosing):
		return fmt.Errorf("%w: %w", errInUse, err)
	case err != nil:
		return &exitError{exitMachinery, err}
	case end.Status != 0:
		show.Close()
		return &exitError{end.Status, errors.New(end.Error)}
	}
	return conclude(end.Ended)
}

const interruptedWords = "interrupted: the pods are stopped gracefully; interrupt again to end at once"

var errInterrupted = &exitError{exitInterrupted, errors.New("interrupted; what is unfinished stays in the data directory and goes on when it is run again")}

// runToTheEnd brings a session to its end, has conclude tell what it came to, waits for the runs that are attached, and gives all nodes back.
func (c *controlPlane) runToTheEnd(ctx context.Context, stopSignals func(), s *session, conclude func([]screen.Conclusion) error) error {
	if err := s.find(); err != nil {
		return err
	}
	c.start()
	ended, err := s.run(ctx)
	interrupted := ctx.Err() != nil
	stopSignals()
	reason, concluded := "the run has ended", false
	if interrupted {
		reason, err = "the run was interrupted", errInterrupted
		s.show.Tell(screen.Say(interruptedWords))
	}
	// If the control plane breaks meanwhile, closing the fleet tells.
	_ = c.socket.CloseWhenEmpty(c.running, func(present int) {
		s.show.Tell(screen.Say("%d more are attached to this run's control plane, which goes on until they have ended; interrupt to end them too", present))
		switch {
		case interrupted:
			s.park(c.running)
		case err == nil && !concluded:
			err, concluded = conclude(ended), true
		}
	})
	if closeErr := c.closeFleet(reason, s.show); closeErr != nil {
		return errors.Join(asExit(err), closeErr)
	}
	if err == nil && !concluded {
		return conclude(ended)
	}
	s.show.Close()
	return asExit(err)
}

// writeResult writes what the Jobs came to; a *exitError says so if one has failed.
func writeResult(ended []screen.Conclusion, output string, stdout io.Writer) error {
	var err error
	if output == "json" {
		err = screen.WriteReports(stdout, ended)
	} else {
		for i := range ended {
			err = errors.Join(err, ended[i].Summarize(stdout))
		}
	}
	if err != nil {
		return &exitError{exitMachinery, fmt.Errorf("write the result: %w", err)}
	}
	for i := range ended {
		if ended[i].Report.Status == string(batchv1.JobFailed) {
			return &exitError{status: exitFailed}
		}
	}
	return nil
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
