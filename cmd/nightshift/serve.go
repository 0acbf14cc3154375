package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/door"
	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/screen"
)

const serveExample = `  # An API server on this machine; pods run as processes of this machine
  nightshift serve --data-dir /var/lib/nightshift --listen 127.0.0.1:6443
  kubectl --kubeconfig /var/lib/nightshift/admin.kubeconfig apply -f job.yaml`

// serveOptions are the flags of serve.
type serveOptions struct {
	options
	door   door.Flags
	listen string
}

func newServe() *cobra.Command {
	options := &serveOptions{}
	command := &cobra.Command{
		Use:   "serve",
		Short: "Serve the Kubernetes API for Jobs, to kubectl and client-go",
		Long: "Serve the Kubernetes API for Jobs until SIGTERM or SIGINT; then pods are stopped gracefully and nodes given back.\n\n" +
			"DIR/admin.kubeconfig is written once the API serves. The administrator's certificate is in it; --tokens-file and the --oidc flags\n" +
			"let others in.\n\n" +
			"With --provider local pods run as processes of this machine, with the rights of the user who runs serve: whoever may create\n" +
			"Jobs may do here what that user may. It therefore listens on loopback addresses alone.",
		Example: serveExample,
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return serve(command.Context(), options, command.ErrOrStderr())
		},
	}
	options.register(command)
	options.etcd.register(command)
	command.Flags().StringVar(&options.secretsKeyFile, "secrets-key-file", "", "file with the keys under which the data of Secrets is encrypted, 32 bytes in base64 a line, "+
		"the first of which encrypts (default: DIR/pki/secrets.key, which is made when the first Secret is)")
	options.door.Register(command.Flags())
	command.Flags().StringVar(&options.listen, "listen", "127.0.0.1:6443", "HOST:PORT of the API; port 0 takes a free one")
	return command
}

func serve(ctx context.Context, options *serveOptions, stderr io.Writer) error {
	settings, err := options.resolve()
	if err != nil {
		return err
	}
	if err := checkListen(options.listen, settings); err != nil {
		return usage(err)
	}
	if settings.door, err = options.door.Open(); err != nil {
		return usage(err)
	}
	ctx, stopSignals := untilSignal(ctx)
	defer stopSignals()
	err = withControlPlane(ctx, settings, func(plane *controlPlane) error {
		return plane.serveAPI(ctx, options.listen, stderr)
	})
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // it was told to end before it served
	}
	return err
}

// checkListen holds the address against what the providers allow, and takes from it by which names clients come.
func checkListen(listen string, settings *resolved) error {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return fmt.Errorf("--listen %s: %w", listen, err)
	}
	local := slices.ContainsFunc(settings.providers, func(choice providerChoice) bool { return choice.name == "local" })
	if local && !isLoopback(host) {
		return fmt.Errorf("--listen %s: with --provider local pods are processes of this machine, so the API listens on a loopback address alone, as 127.0.0.1:6443", listen)
	}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		settings.hosts = []string{host}
		return nil
	}
	settings.hosts, err = machineHosts()
	return err
}

// machineHosts are the names and addresses by which others may know this machine.
func machineHosts() ([]string, error) {
	var hosts []string
	if name, err := os.Hostname(); err == nil {
		hosts = append(hosts, name)
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list this machine's addresses for the API's certificate: %w", err)
	}
	for _, address := range addresses {
		if network, ok := address.(*net.IPNet); ok && network.IP.IsGlobalUnicast() {
			hosts = append(hosts, network.IP.String())
		}
	}
	return hosts, nil
}

// serveAPI serves until a signal comes or a part fails, and then stops what runs in good order.
func (c *controlPlane) serveAPI(ctx context.Context, listen string, stderr io.Writer) error {
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("listen for the API: %w", err)
	}
	c.start(part{"the furnishing of namespaces", c.api.Furnish})
	serving, stopServing := context.WithCancel(c.running)
	defer stopServing()
	ended := make(chan error, 1)
	go func() { ended <- c.api.Serve(serving, listener) }()
	kubeconfig := c.path("admin.kubeconfig")
	if err := c.api.WriteKubeconfig(kubeconfig, reachable(listener.Addr())); err != nil {
		stopServing()
		return errors.Join(err, <-ended)
	}
	fmt.Fprintf(stderr, "nightshift: the API is served on https://%s\nnightshift: kubectl --kubeconfig %s get jobs\n", listener.Addr(), kubeconfig)
	select {
	case <-ctx.Done():
		c.socket.Refuse()
		fmt.Fprintln(stderr, "nightshift: stopping: pods are stopped gracefully and go on at the next start; a second signal ends at once")
		stopServing()
		return errors.Join(<-ended, c.closeFleet("serve is stopping", screen.Lines(io.Discard)))
	case err := <-ended:
		// A part that failed has taken the API down.
		return errors.Join(err, c.failure())
	}
}

// reachable is where a client on this machine reaches a listener.
func reachable(address net.Addr) string {
	tcp, ok := address.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return address.String()
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(tcp.Port))
}
