package local_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nightshift-batch/nightshift/providers"
	"github.com/nightshift-batch/nightshift/providers/local"
	"github.com/nightshift-batch/nightshift/providers/plugin"
)

// The test binary is also the plugin, the agent, the agent's pod and a host, told apart by its first argument.
const (
	rolePlugin = "role-plugin"
	roleAgent  = "role-agent"
	rolePod    = "role-pod"
	roleHost   = "role-host"
)

// How the agent and its pod misbehave, by variables of their environment.
const (
	ignoreTerm     = "FAKE_AGENT_IGNORES_SIGTERM"
	ignoreLifeline = "FAKE_AGENT_IGNORES_LIFELINE"
	podLingers     = "FAKE_POD_LINGERS" // until SIGTERM, although its agent has gone
)

func TestMain(m *testing.M) {
	if len(os.Args) < 2 {
		os.Exit(m.Run())
	}
	var err error
	switch os.Args[1] {
	case rolePlugin:
		err = plugin.Serve(local.Open)
	case roleAgent:
		err = runAgent(os.Args[2:])
	case rolePod:
		runPod()
	case roleHost:
		err = runHost(os.Args[2:])
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// runAgent keeps the contract of an agent's command line: it holds descriptor 4, runs one pod in a session of its own, ends it in
// order on SIGTERM and kills it at the end of file of descriptor 3.
func runAgent(args []string) error {
	flags := flag.NewFlagSet(roleAgent, flag.ContinueOnError)
	controlPlane := flags.String("control-plane", "", "")
	controlPlaneFrom := flags.String("control-plane-from", "", "")
	ca := flags.String("ca-file", "", "")
	token := flags.String("token-file", "", "")
	id := flags.String("instance-id", "", "")
	state := flags.String("state-dir", "", "")
	lifelineFD := flags.Int("lifeline-fd", -1, "")
	holdFD := flags.Int("hold-fd", -1, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	signals := make(chan os.Signal, 1)
	if os.Getenv(ignoreTerm) != "" {
		signal.Ignore(syscall.SIGTERM)
	} else {
		signal.Notify(signals, syscall.SIGTERM)
	}
	hold := os.NewFile(uintptr(*holdFD), "hold")
	podInput, ours, err := os.Pipe()
	if err != nil {
		return err
	}
	pod := exec.Command(os.Args[0], rolePod, *id)
	pod.Stdin, pod.Stdout, pod.Stderr = podInput, os.Stdout, os.Stderr
	pod.ExtraFiles = []*os.File{hold}
	pod.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := pod.Start(); err != nil {
		return err
	}
	cut := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.NewFile(uintptr(*lifelineFD), "lifeline"))
		if os.Getenv(ignoreLifeline) == "" {
			close(cut)
		}
	}()
	go func() {
		if *controlPlaneFrom != "" {
			line, err := firstLine(*controlPlaneFrom)
			if err != nil {
				fmt.Println("agent: no control plane:", err)
				return
			}
			*controlPlane = line
		}
		if err := writeSeen(*state, *controlPlane, *ca, *token); err != nil {
			fmt.Println("agent:", err)
		}
	}()
	select {
	case <-signals:
		fmt.Println("agent: SIGTERM")
		_ = ours.Close()
	case <-cut:
		fmt.Println("agent: the lifeline has ended")
		_ = pod.Process.Kill()
	case <-time.After(2 * time.Minute): // a test that failed must not leave it behind for ever
		_ = pod.Process.Kill()
	}
	_ = pod.Wait() // how it ended is of no interest
	return nil
}

func firstLine(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	line, err := bufio.NewReader(file).ReadString('\n')
	return strings.TrimSpace(line), err
}

// writeSeen leaves what the agent was given for the tests to read.
func writeSeen(state, controlPlane, ca, token string) error {
	caData, err := os.ReadFile(ca)
	if err != nil {
		return err
	}
	tokenData, err := os.ReadFile(token)
	if err != nil {
		return err
	}
	session, _, errno := syscall.RawSyscall(syscall.SYS_GETSID, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	seen := append([]string{
		"address " + controlPlane, "ca " + string(caData), "token " + string(tokenData),
		fmt.Sprintf("leads its session %v", int(session) == os.Getpid()),
	}, os.Environ()...)
	// By a rename: whoever sees the file sees all of it.
	half := filepath.Join(state, "seen.half")
	if err := os.WriteFile(half, []byte(strings.Join(seen, "\n")), 0o600); err != nil {
		return err
	}
	return os.Rename(half, filepath.Join(state, "seen"))
}

// runPod lives as long as its agent does: its standard input is a pipe from it.
func runPod() {
	if os.Getenv(podLingers) == "" {
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	select {
	case <-signals:
	case <-time.After(2 * time.Minute):
	}
}

// runHost opens the plugin with a configuration in a file, launches three instances, says so on stdout and stays.
func runHost(args []string) error {
	config, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	ctx := context.Background()
	client, err := plugin.Open(ctx, plugin.Config{
		Name: "local", Command: []string{os.Args[0], rolePlugin}, Config: config, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	result, err := client.Launch(ctx, threeInstances())
	if err != nil {
		return err
	}
	return client.Watch(ctx, owner, func(event providers.Event) {
		if event.Kind == providers.InstanceRunning {
			result.Instances = result.Instances[1:]
		}
		if len(result.Instances) == 0 {
			fmt.Println("running")
		}
	})
}

const owner = "the-control-plane"

func threeInstances() providers.LaunchRequest {
	return providers.LaunchRequest{Key: "three", Owner: owner, OfferIDs: []string{"local/small/spot"}, Count: 3, Bootstrap: bootstrap()}
}

func bootstrap() providers.Bootstrap {
	return providers.Bootstrap{Address: "127.0.0.1:9", CACertificate: []byte("the certificate"), Token: "the token"}
}
