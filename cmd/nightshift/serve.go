package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os/signal"
	"slices"
	"syscall"

	"github.com/spf13/cobra"
)

const serveExample = `  # An API server on this machine; pods run as processes of this machine
  nightshift serve --data-dir /var/lib/nightshift --listen 127.0.0.1:6443
  kubectl --kubeconfig /var/lib/nightshift/admin.kubeconfig apply -f job.yaml`

func newServe() *cobra.Command {
	options := &options{}
	var listen string
	command := &cobra.Command{
		Use:   "serve",
		Short: "Serve the Kubernetes API for Jobs, to kubectl and client-go",
		Long: "Serve the Kubernetes API for Jobs until SIGTERM or SIGINT; then pods are stopped gracefully and nodes given back.\n\n" +
			"DIR/admin.kubeconfig is written once the API serves. Access needs a client certificate of this data directory's authority.\n\n" +
			"With --provider local pods run as processes of this machine, with the rights of the user who runs serve: whoever may create\n" +
			"Jobs may do here what that user may. It therefore listens on loopback addresses alone.",
		Example: serveExample,
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return serve(command.Context(), options, listen, command.ErrOrStderr())
		},
	}
	options.register(command)
	command.Flags().StringVar(&listen, "listen", "127.0.0.1:6443", "HOST:PORT of the API; port 0 takes a free one")
	return command
}

func serve(ctx context.Context, options *options, listen string, stderr io.Writer) error {
	settings, err := options.resolve()
	if err != nil {
		return err
	}
	if err := checkListen(listen, settings.providers); err != nil {
		return usage(err)
	}
	ctx, stopSignals := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stopSignals()
	return withControlPlane(ctx, settings, func(plane *controlPlane) error {
		return plane.serveAPI(ctx, stopSignals, listen, stderr)
	})
}

// checkListen holds the address against what the providers allow.
func checkListen(listen string, chosen []providerChoice) error {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return fmt.Errorf("--listen %s: %w", listen, err)
	}
	local := slices.ContainsFunc(chosen, func(choice providerChoice) bool { return choice.name == "local" })
	if ip := net.ParseIP(host); local && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("--listen %s: with --provider local pods are processes of this machine, so the API listens on a loopback address alone", listen)
	}
	return nil
}

// serveAPI waits for the end.
func (c *controlPlane) serveAPI(ctx context.Context, stopSignals func(), listen string, stderr io.Writer) error {
	return &exitError{exitMachinery, fmt.Errorf("serve does not listen on %s yet", listen)}
}
