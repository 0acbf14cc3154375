package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/door"
	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/journal"
	"github.com/nightshift-batch/nightshift/orchestrator/manifest"
)

// options are the flags that run and serve share.
type options struct {
	dataDir    string
	providers  []string
	images     []string
	nodes      int
	evictEvery time.Duration
	policyData string
	traceFile  string
	// secretsKeyFile is empty for the one in the data directory.
	secretsKeyFile string
	// Where the control plane listens for agents, and where they reach it.
	agentsListen, agentsAddress string
	// Where the log is, if not in the data directory; serve alone.
	etcd etcdOptions
}

// etcdOptions name an etcd cluster, as etcdctl's do.
type etcdOptions struct {
	Endpoints                             []string
	CACertFile, CertFile, KeyFile, Prefix string
}

func (o *etcdOptions) register(command *cobra.Command) {
	flags := command.Flags()
	flags.StringSliceVar(&o.Endpoints, "etcd-endpoints", nil, "https://HOST:PORT of each member of an etcd cluster that keeps the log, with commas between (default: an etcd within this process, with no port)")
	flags.StringVar(&o.CACertFile, "etcd-cacert", "", "PEM file with the authority of the cluster's certificates (default: the system's)")
	flags.StringVar(&o.CertFile, "etcd-cert", "", "PEM file with the client certificate for the cluster")
	flags.StringVar(&o.KeyFile, "etcd-key", "", "PEM file with the key of --etcd-cert")
	flags.StringVar(&o.Prefix, "etcd-prefix", "", "prefix of all keys in the cluster; installations that share it have different ones (default: /nightshift/)")
}

func (o *etcdOptions) check() error {
	switch {
	case len(o.Endpoints) == 0 && o.CACertFile+o.CertFile+o.KeyFile+o.Prefix != "":
		return errors.New("the --etcd- options are for a cluster: give its members with --etcd-endpoints")
	case (o.CertFile == "") != (o.KeyFile == ""):
		return errors.New("--etcd-cert and --etcd-key belong together")
	}
	return nil
}

// adviseOnLog adds what a user can do to an error of opening the log.
func adviseOnLog(err error) error {
	var connect *journal.ConnectError
	if !errors.As(err, &connect) {
		return err
	}
	advice := map[journal.Problem]string{
		journal.Unreachable: "is the cluster running, and are these its members' client addresses (--etcd-endpoints)?",
		journal.Untrusted:   "give the authority of the cluster's certificates with --etcd-cacert, and addresses that are in them",
		journal.Refused:     "give a client certificate that the cluster accepts, for a user who may use these keys, with --etcd-cert and --etcd-key",
		journal.WantsTLS:    "write https:// in --etcd-endpoints",
		journal.LacksTLS:    "give the cluster certificates, or, on this machine alone, write http:// in --etcd-endpoints",
		journal.NoMajority:  "start the other members; etcdctl endpoint status shows which are there",
	}[connect.Problem]
	return fmt.Errorf("%w; %s", err, advice)
}

const dataDirUsage = "directory that holds everything (default: $XDG_STATE_HOME/nightshift, or ~/.local/state/nightshift)"

func (o *options) register(command *cobra.Command) {
	flags := command.Flags()
	flags.StringVar(&o.dataDir, "data-dir", "", dataDirUsage)
	flags.StringArrayVar(&o.providers, "provider", []string{"local"}, "where instances come from: local, or aws=CONFIG.yaml; may be repeated")
	flags.StringArrayVar(&o.images, "image", nil, "NAME=EXECUTABLE: what a container of this image runs when it names no command; may be repeated")
	flags.IntVar(&o.nodes, "nodes", 0, "simulate this many local nodes of 2 vCPU and 4 GiB (default: one node with this machine's cores and memory)")
	flags.DurationVar(&o.evictEvery, "evict-every", 0, "take a local node that is running pods away every so often, with a notice, as a spot market does")
	flags.StringVar(&o.policyData, "policy-data", "", "YAML or JSON file with tenants.NAME.{vcpu,maxPricePerHour}")
	flags.StringVar(&o.agentsListen, "agents-listen", "127.0.0.1:0", "HOST:PORT to listen on for the agents of nodes; instances of a cloud cannot reach the default")
	flags.StringVar(&o.agentsAddress, "agents-address", "", "HOST:PORT where agents reach this control plane (default: that of --agents-listen)")
	flags.StringVar(&o.traceFile, "trace-file", "", "append the traces to this file as OTLP JSON, one export request a line")
}

// resolved are options whose values have been checked.
type resolved struct {
	options
	images    manifest.Images
	providers []providerChoice
	// hosts by which clients reach the API, who else may ask there, and how much.
	hosts []string
	// startAhead: there are pods to run at once.
	startAhead bool
	door       door.Door
	// closed, if not empty, is why nothing is to run; only, if not nil, names what is: other Jobs in the data directory wait.
	closed string
	only   map[engine.Name]bool
}

// providerChoice is one --provider.
type providerChoice struct {
	name       string
	configFile string
}

func (o *options) resolve() (*resolved, error) {
	checked := &resolved{options: *o}
	var err error
	if checked.images, err = manifest.ParseImages(o.images); err != nil {
		return nil, usage(err)
	}
	for image, executable := range checked.images {
		if checked.images[image], err = executablePath(executable); err != nil {
			return nil, usage(fmt.Errorf("--image %s: %w", image, err))
		}
	}
	if checked.providers, err = parseProviders(o.providers); err != nil {
		return nil, usage(err)
	}
	switch {
	case o.nodes < 0:
		return nil, usage(fmt.Errorf("--nodes %d: there is no negative number of nodes", o.nodes))
	case o.evictEvery < 0:
		return nil, usage(fmt.Errorf("--evict-every %s: it must not be negative", o.evictEvery))
	}
	if err := errors.Join(o.checkAgents(checked.providers), o.etcd.check()); err != nil {
		return nil, usage(err)
	}
	if checked.dataDir, err = dataDir(o.dataDir); err != nil {
		return nil, usage(err)
	}
	if o.traceFile != "" {
		if checked.traceFile, err = filepath.Abs(o.traceFile); err != nil {
			return nil, usage(fmt.Errorf("--trace-file: %w", err))
		}
	}
	return checked, nil
}

// checkAgents holds the addresses for agents against what the providers need.
func (o *options) checkAgents(chosen []providerChoice) error {
	host, _, err := net.SplitHostPort(o.agentsListen)
	if err != nil {
		return fmt.Errorf("--agents-listen %s: %w", o.agentsListen, err)
	}
	if o.agentsAddress != "" {
		if _, _, err := net.SplitHostPort(o.agentsAddress); err != nil {
			return fmt.Errorf("--agents-address %s: %w", o.agentsAddress, err)
		}
		return nil
	}
	for _, choice := range chosen {
		if choice.name == "aws" && isLoopback(host) {
			return fmt.Errorf("instances of %s cannot reach --agents-listen %s; listen on an address of the network that they are in, as --agents-listen 10.0.0.5:7443", choice.name, o.agentsListen)
		}
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		return fmt.Errorf("--agents-listen %s names no host that agents could reach; give --agents-address HOST:PORT too", o.agentsListen)
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// executablePath checks that a path can be executed and makes it absolute.
func executablePath(path string) (string, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(absolute)
	if err != nil {
		return "", fmt.Errorf("the executable is not there: %w", err)
	}
	if info.IsDir() || info.Mode()&0o111 == 0 {
		return "", fmt.Errorf("%s is not an executable file", path)
	}
	return absolute, nil
}

func parseProviders(values []string) ([]providerChoice, error) {
	var choices []providerChoice
	seen := make(map[string]bool)
	for _, value := range values {
		name, file, _ := strings.Cut(value, "=")
		switch {
		case name != "local" && name != "aws" && name != "swarm": // The last is what bench uses.
			return nil, fmt.Errorf("--provider %s: there is local, and aws=CONFIG.yaml", value)
		case name == "local" && file != "":
			return nil, fmt.Errorf("--provider %s: local takes no configuration file; see --nodes", value)
		case name != "local" && file == "":
			return nil, fmt.Errorf("--provider %s needs its configuration: --provider %s=CONFIG.yaml", name, name)
		case seen[name]:
			return nil, fmt.Errorf("--provider %s is given twice", name)
		}
		seen[name] = true
		choices = append(choices, providerChoice{name: name, configFile: file})
	}
	return choices, nil
}

// dataDir returns the absolute data directory, by default in the XDG state folder (XDG Base Directory Specification 0.8).
func dataDir(given string) (string, error) {
	if given != "" {
		return filepath.Abs(given)
	}
	if state := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(state) {
		return filepath.Join(state, "nightshift"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", errors.New("no home directory is known for the data directory; give --data-dir")
	}
	return filepath.Join(home, ".local", "state", "nightshift"), nil
}
