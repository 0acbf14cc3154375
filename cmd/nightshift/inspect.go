package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	deletion "k8s.io/kubectl/pkg/cmd/delete"
	"k8s.io/kubectl/pkg/cmd/describe"
	"k8s.io/kubectl/pkg/cmd/get"
	"k8s.io/kubectl/pkg/cmd/logs"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/attach"
	_ "github.com/nightshift-batch/nightshift/cmd/nightshift/internal/english"
	"github.com/nightshift-batch/nightshift/orchestrator/engine"
)

// kubectl's own commands, with their flags and forms of output, on what runs have left in a data directory. Nothing runs meanwhile.
var inspections = []struct {
	use, short, example string
	// writes: it changes what is in the data directory.
	writes  bool
	command func(cmdutil.Factory, genericiooptions.IOStreams) *cobra.Command
}{
	{"get TYPE [NAME | -l SELECTOR] [-o FORMAT]", "List what runs have left in the data directory: jobs, pods, nodes, events, namespaces", `  # The Jobs of earlier runs
  nightshift get jobs --all-namespaces

  # The pods of one, and a whole object
  nightshift get pods --selector job-name=night -o wide
  nightshift get job night -o yaml`, false,
		func(f cmdutil.Factory, streams genericiooptions.IOStreams) *cobra.Command {
			return get.NewCmdGet("nightshift", f, streams)
		}},
	{"describe TYPE [NAME_PREFIX | -l SELECTOR]", "Show a Job or a pod with all that has happened to it", `  nightshift describe job night
  nightshift describe pod night-7-x2v4k`, false,
		func(f cmdutil.Factory, streams genericiooptions.IOStreams) *cobra.Command {
			return describe.NewCmdDescribe("nightshift", f, streams)
		}},
	{"logs (POD | job/NAME | -l SELECTOR) [-c CONTAINER]", "Print what a pod has written", `  nightshift logs job/night
  nightshift logs night-7-x2v4k --previous
  nightshift logs --selector batch.kubernetes.io/job-completion-index=7 --tail 20`, false,
		logs.NewCmdLogs},
	{"delete TYPE [NAME | -l SELECTOR | --all]", "Delete a Job with its pods; what it has written and its report stay in the archive", `  nightshift delete job night
  nightshift delete jobs --all --namespace tenant-a`, true,
		deletion.NewCmdDelete},
}

func newInspections() []*cobra.Command {
	var commands []*cobra.Command
	for _, inspection := range inspections {
		i := &inspector{writes: inspection.writes}
		streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
		command := inspection.command(cmdutil.NewFactory(i), streams)
		command.Use, command.Short, command.Example = inspection.use, inspection.short, inspection.example
		command.Long = inspection.short + ".\n\nThe command and its flags are kubectl's. While a run or a server works on the data directory, it is asked."
		command.Flags().StringVarP(&i.namespace, "namespace", "n", "default", "namespace, which is the tenant")
		command.Flags().StringVar(&i.dataDir, "data-dir", "", dataDirUsage)
		if inspection.writes {
			command.Flags().StringArrayVar(&i.providers, "provider", []string{"local"}, "where instances may have been left: local, or aws=CONFIG.yaml; may be repeated")
		}
		// Flags that mean a cluster to kubectl.
		for _, flag := range []string{"filename", "kustomize", "recursive", "raw"} {
			if command.Flags().Lookup(flag) != nil {
				_ = command.Flags().MarkHidden(flag) // it is there
			}
		}
		command.PreRunE = func(command *cobra.Command, _ []string) error { return i.open(command.Context()) }
		command.PostRunE = func(*cobra.Command, []string) error { return i.close() }
		commands = append(commands, command)
	}
	cmdutil.BehaviorOnFatal(func(message string, status int) {
		message = strings.TrimPrefix(strings.TrimSuffix(message, "\n"), "error: ")
		fmt.Fprintln(os.Stderr, "nightshift:", message)
		os.Exit(status)
	})
	return commands
}

// inspector is how kubectl's commands reach a data directory. It implements genericclioptions.RESTClientGetter.
type inspector struct {
	dataDir, namespace string
	providers          []string
	writes             bool

	plane  *controlPlane
	config *restclient.Config
}

var _ genericclioptions.RESTClientGetter = (*inspector)(nil)

// open asks the one who works on the data directory, or else reads it. One that is beginning or ending is waited for.
func (i *inspector) open(ctx context.Context) error {
	dir, err := dataDir(i.dataDir)
	if err != nil {
		return usage(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "journal")); err != nil {
		return usage(fmt.Errorf("no run has left anything here: %w; give another --data-dir", err))
	}
	for deadline := time.Now().Add(attachWithin); ; <-time.After(attachAgain) {
		i.config = &restclient.Config{Host: "http://localhost", QPS: -1}
		if transport, ok := attach.Transport(dir); ok {
			i.config.Transport = transport
			return nil
		}
		if i.writes {
			i.plane, err = i.openToWrite(ctx)
		} else {
			i.plane, err = readControlPlane(ctx, dir)
		}
		if err == nil {
			i.config.Transport = i.plane.transport(whoRuns())
			return nil
		}
		if !errors.Is(err, errInUse) || time.Now().After(deadline) {
			return asExit(err)
		}
	}
}

// openToWrite opens a control plane in which nothing runs: what is deleted is gone when it has ended on nodes that may have been left.
func (i *inspector) openToWrite(ctx context.Context) (*controlPlane, error) {
	settings, err := (&options{dataDir: i.dataDir, providers: i.providers, agentsListen: "127.0.0.1:0", agentsAddress: "127.0.0.1:0"}).resolve()
	if err != nil {
		return nil, err
	}
	settings.closed, settings.only = "only a deletion is carried out", map[engine.Name]bool{}
	plane, err := openControlPlane(ctx, settings, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err != nil {
		return nil, errors.Join(err, plane.close())
	}
	plane.socket.Refuse()
	plane.start()
	return plane, nil
}

func (i *inspector) close() error {
	if i.plane == nil {
		return nil
	}
	return asExit(i.plane.close())
}

// ToRESTConfig implements genericclioptions.RESTClientGetter.
func (i *inspector) ToRESTConfig() (*restclient.Config, error) {
	return restclient.CopyConfig(i.config), nil
}

// ToDiscoveryClient implements genericclioptions.RESTClientGetter.
func (i *inspector) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	client, err := discovery.NewDiscoveryClientForConfig(i.config)
	if err != nil {
		return nil, err
	}
	return memory.NewMemCacheClient(client), nil
}

// ToRESTMapper implements genericclioptions.RESTClientGetter.
func (i *inspector) ToRESTMapper() (meta.RESTMapper, error) {
	client, err := i.ToDiscoveryClient()
	if err != nil {
		return nil, err
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(client)
	return restmapper.NewShortcutExpander(mapper, client, func(warning string) { fmt.Fprintln(os.Stderr, warning) }), nil
}

// ToRawKubeConfigLoader implements genericclioptions.RESTClientGetter.
func (i *inspector) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	const name = "nightshift"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: i.config.Host}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, Namespace: i.namespace}
	config.CurrentContext = name
	return clientcmd.NewDefaultClientConfig(*config, &clientcmd.ConfigOverrides{})
}
