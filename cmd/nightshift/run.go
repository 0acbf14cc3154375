package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/attach"
	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/remote"
	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/screen"
	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/manifest"
)

const runExample = `  # Run a Job on this machine
  nightshift run -f job.yaml

  # The image's program is an executable here; three simulated nodes, one of which is taken away every five seconds
  nightshift run -f job.yaml --image data-processor:v1=bin/data-processor --nodes 3 --evict-every 5s

  # All Jobs of a folder, with what their pods write
  nightshift run -f nightly/ --follow

  # On a server, nightshift serve: it goes on there when this command is interrupted
  nightshift run -f job.yaml --kubeconfig /var/lib/nightshift/admin.kubeconfig

  # For a script: one JSON object on standard output
  nightshift run -f job.yaml -o json`

// runOptions are the flags of run.
type runOptions struct {
	options
	files     []string
	namespace string
	output    string
	follow    bool
	server    remote.Target
}

func checkOutput(form string) error {
	if form != "text" && form != "json" {
		return fmt.Errorf("-o %s: there is text and json", form)
	}
	return nil
}

// progress is where it is told how far the Jobs are: JSON has standard output for itself.
func (o *runOptions) progress(stdout, stderr io.Writer) io.Writer {
	if o.output == "json" {
		return stderr
	}
	return stdout
}

// runGCPercent lets the heap grow fivefold between collections: that of a run is some 30 MB, and a run does not last.
const runGCPercent = 400

func newRun() *cobra.Command {
	options := &runOptions{}
	command := &cobra.Command{
		Use:   "run -f FILE",
		Short: "Run Jobs to their end, in this process and its children or on a server",
		Long: "Run Kubernetes batch/v1 Jobs to their end, in this process and its children, on instances that are bought for them and given back.\n\n" +
			"With --kubeconfig or --server, or " + remote.KubeconfigVariable + " in the environment, they run on that server, and this command shows how.\n" +
			"KUBECONFIG and ~/.kube/config are never read.\n\n" +
			"Run again on the same data directory, an unfinished Job of the same spec goes on where it was. Pods inherit the environment of run.\n\n" +
			"Exit status: 0 the Job is Complete, 1 it Failed, 2 wrong usage or an invalid or denied Job, 3 the machinery failed,\n130 interrupted (the pods are stopped gracefully and the Job can be resumed;\non a server the Job goes on).",
		Example: runExample,
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if os.Getenv("GOGC") == "" {
				debug.SetGCPercent(runGCPercent)
			}
			begin := run
			if options.server.IsGiven() {
				if err := refuseLocal(command.Flags()); err != nil {
					return usage(err)
				}
				begin = runOnServer
			}
			if err := checkOutput(options.output); err != nil {
				return usage(err)
			}
			return begin(command.Context(), options, command.OutOrStdout(), command.ErrOrStderr())
		},
	}
	flags := command.Flags()
	flags.StringArrayVarP(&options.files, "filename", "f", nil, "manifest, YAML or JSON, with one or more Jobs; a folder of manifests; - for standard input; may be repeated")
	flags.BoolVar(&options.follow, "follow", false, "stream what the pods write, each line led by its pod")
	flags.StringVarP(&options.namespace, "namespace", "n", "", "namespace, which is the tenant (default: the manifest's, or \"default\")")
	flags.StringVarP(&options.output, "output", "o", "text", "text, or json for one object on standard output at the end")
	flags.StringVar(&options.server.Kubeconfig, "kubeconfig", "", "kubeconfig of the server to run on (default: what "+remote.KubeconfigVariable+" names, and else this machine)")
	flags.StringVar(&options.server.Context, "context", "", "context of the kubeconfig (default: its current one)")
	flags.StringVar(&options.server.Server, "server", "", "https URL of the server to run on; "+remote.TokenVariable+" in the environment is the token that is shown there")
	flags.StringVar(&options.server.CAFile, "certificate-authority", "", "PEM file by which the server's certificate is trusted")
	options.register(command)
	return command
}

func run(ctx context.Context, options *runOptions, stdout, stderr io.Writer) error {
	jobs, err := readJobs(options.files, options.namespace, metav1.NamespaceDefault)
	if err != nil {
		return usage(err)
	}
	settings, err := options.resolve()
	if err != nil {
		return err
	}
	settings.startAhead = true
	settings.only = make(map[engine.Name]bool)
	for _, wanted := range jobs {
		if err := checkRunnable(wanted, settings.images); err != nil {
			return usage(err)
		}
		settings.only[nameOf(wanted)] = true
	}
	ctx, stopSignals := untilSignal(ctx)
	defer stopSignals()
	show := screen.New(options.progress(stdout, stderr))
	defer show.Close()
	conclude := func(ended []screen.Conclusion) error {
		show.Close()
		return writeResult(ended, options.output, stdout)
	}
	dir, err := os.Getwd()
	if err != nil {
		return usage(err)
	}
	brought := attach.NewVisit(jobs, settings.images, os.Environ(), dir)
	brought.Follow = options.follow
	for deadline := time.Now().Add(attachWithin); ; {
		err := withControlPlane(ctx, settings, func(plane *controlPlane) error {
			return plane.runToTheEnd(ctx, &session{plane: plane, jobs: jobs, show: show, follow: options.follow, first: true}, conclude)
		})
		if errors.Is(err, errInUse) {
			err = attachTo(ctx, settings.dataDir, brought, show, conclude)
		}
		switch {
		case ctx.Err() != nil && isBrokenOff(err):
			return errInterrupted
		case !errors.Is(err, errInUse), time.Now().After(deadline) && !errors.Is(err, attach.ErrClosing):
			return err
		}
		// The other one is beginning, or ending: neither is told to anybody.
		select {
		case <-time.After(attachAgain):
		case <-ctx.Done():
		}
	}
}

// localFlags say how Jobs run in this process; on a server they run as that was told to.
var localFlags = []string{"data-dir", "provider", "image", "nodes", "evict-every", "policy-data", "agents-listen", "agents-address", "trace-file"}

func refuseLocal(flags *pflag.FlagSet) error {
	for _, name := range localFlags {
		if flags.Changed(name) {
			return fmt.Errorf("--%s says how Jobs run here, and these are to run on a server", name)
		}
	}
	return nil
}

// runOnServer runs the Jobs where the options say. When it is interrupted they go on there.
func runOnServer(ctx context.Context, options *runOptions, stdout, stderr io.Writer) error {
	server, err := options.server.Connect()
	if err != nil {
		return usage(err)
	}
	jobs, err := readJobs(options.files, options.namespace, server.Namespace)
	if err != nil {
		return usage(err)
	}
	for _, wanted := range jobs {
		if err := checkEnds(wanted); err != nil {
			return usage(err)
		}
	}
	ctx, stopSignals := untilSignal(ctx)
	defer stopSignals()
	show := screen.New(options.progress(stdout, stderr))
	defer show.Close()
	ended, err := server.Run(ctx, jobs, show, options.follow)
	show.Close()
	var deleted *remote.DeletedError
	var taken *remote.TakenError
	switch {
	case err == nil:
		return writeResult(ended, options.output, stdout)
	case ctx.Err() != nil:
		words := "interrupted; what was created goes on at " + server.URL + "; to end it:"
		for _, job := range jobs {
			words += fmt.Sprintf("\n  kubectl delete job %s --namespace %s", job.Name, job.Namespace)
		}
		return &exitError{exitInterrupted, errors.New(words)}
	case errors.As(err, &deleted):
		return &exitError{exitFailed, err}
	case errors.As(err, &taken):
		return usage(err)
	}
	return asExit(err)
}

// isBrokenOff tells whether a command failed for no other reason than that it was interrupted.
func isBrokenOff(err error) bool {
	var exit *exitError
	broke := errors.As(err, &exit) && exit.status == exitMachinery && !errors.Is(err, errClosing)
	return broke || errors.Is(err, context.Canceled)
}

// untilSignal returns a context that the first signal ends, so that all ends in good order. A second one ends the program, whatever it
// is at. That nobody reads what is written, or that the terminal is gone, must not end those who are attached.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	signals := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(ctx, signals...)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// checkRunnable holds a Job against the rules of the API, before anything is started, and refuses one that would never end here.
func checkRunnable(wanted *batchv1.Job, images manifest.Images) error {
	if _, errs := manifest.Admit(wanted, manifest.Options{UID: uuid.NewUUID(), Images: images}); len(errs) > 0 {
		return manifest.Invalid(wanted.Name, errs)
	}
	return checkEnds(wanted)
}

// checkEnds refuses a Job for whose end run would wait for ever.
func checkEnds(wanted *batchv1.Job) error {
	switch {
	case wanted.Spec.Suspend != nil && *wanted.Spec.Suspend:
		return fmt.Errorf("the Job %s is suspended (spec.suspend) and run would wait for ever; take that out, or use serve, where it can be resumed", wanted.Name)
	case wanted.Spec.ManagedBy != nil && *wanted.Spec.ManagedBy != batchv1.JobControllerName:
		return fmt.Errorf("the Job %s is managed by %s (spec.managedBy) and nobody here acts on it", wanted.Name, *wanted.Spec.ManagedBy)
	}
	return nil
}

// A run that finds its data directory in use, and nobody to attach to, tries again for a while.
const (
	attachWithin = 30 * time.Second
	attachAgain  = 100 * time.Millisecond
)

// attachTo runs the Jobs in the control plane of another run or server. It fails with errInUse when that takes nobody in.
func attachTo(ctx context.Context, dataDir string, brought attach.Visit, show screen.Display, conclude func([]screen.Conclusion) error) error {
	conn, err := attach.Dial(dataDir)
	if err != nil {
		return &exitError{exitMachinery, fmt.Errorf("%w on %s and takes no other run in; wait for it, or give another --data-dir", errInUse, dataDir)}
	}
	defer context.AfterFunc(ctx, func() { show.Tell(screen.Say(interruptedWords)) })()
	end, err := attach.Run(ctx, conn, brought, show)
	switch {
	case errors.Is(err, attach.ErrClosing):
		return &exitError{exitMachinery, fmt.Errorf("%w on %s: %w", errInUse, dataDir, err)}
	case err != nil:
		return &exitError{exitMachinery, err}
	case end.Status != 0:
		return &exitError{end.Status, errors.New(end.Error)}
	}
	return conclude(end.Ended)
}

const interruptedWords = "interrupted: the pods are stopped gracefully; interrupt again to end at once"

var (
	errInterrupted = &exitError{exitInterrupted, errors.New("interrupted; what is unfinished stays in the data directory and goes on when it is run again")}
	// errClosing: not everything could be stopped or given back.
	errClosing = errors.New("closing the control plane")
)

// runToTheEnd brings a session to its end, has conclude tell what it came to, waits for the runs that are attached, and gives all nodes back.
func (c *controlPlane) runToTheEnd(ctx context.Context, s *session, conclude func([]screen.Conclusion) error) error {
	if err := s.find(); err != nil {
		return err
	}
	c.start()
	ended, err := s.run(ctx)
	interrupted := err != nil && ctx.Err() != nil
	reason, concluded := "the run has ended", false
	if interrupted {
		reason, err = "the run was interrupted", errInterrupted
		s.show.Tell(screen.Say(interruptedWords))
	}
	// If the control plane breaks meanwhile, closing the fleet tells.
	_ = c.socket.CloseWhenEmpty(c.running, func(present int) {
		s.show.Tell(screen.Say("%d more are attached to this run's control plane, which goes on until they have ended; interrupt to end them too", present))
		if concluded {
			return
		}
		concluded = true
		if err == nil {
			err = conclude(ended)
		} else {
			var parked sync.WaitGroup
			parked.Go(func() { s.park(c.running) })
			defer parked.Wait()
			s.show.Close()
		}
		if err != nil {
			err = &exitError{status: say(asExit(err))}
		}
	})
	if closeErr := c.closeFleet(reason, s.show); closeErr != nil {
		closeErr = fmt.Errorf("%w: %w", errClosing, closeErr)
		if !concluded {
			closeErr = errors.Join(err, closeErr)
		}
		return &exitError{exitMachinery, closeErr}
	}
	if err == nil && !concluded {
		return conclude(ended)
	}
	return asExit(err)
}

// writeResult writes what the Jobs came to; a *exitError says so if one has failed or was deleted.
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
	failed, deleted := false, []string(nil)
	for i := range ended {
		switch ended[i].Report.Status {
		case string(batchv1.JobFailed):
			failed = true
		case screen.Deleted:
			deleted = append(deleted, ended[i].Report.Name)
		}
	}
	switch {
	case len(deleted) > 0:
		return &exitError{exitFailed, fmt.Errorf("deleted before the end: %s", strings.Join(deleted, ", "))}
	case failed:
		return &exitError{status: exitFailed}
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
