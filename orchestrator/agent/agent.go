// Package agent is the node's side of the protocol in agent/wire: it joins, holds a session, runs the pods that it is told to run,
// and reports how they go.
//
// It owns what is on the node and nothing else: which pods there are, the reports that are not on record yet, and the output that
// is not kept yet. Its promises:
//
//   - Pods keep running while there is no session, and nothing of them is lost: a report is repeated in every session until it is
//     acknowledged, and output is held until it is acknowledged. Output is bounded by holding the pod back, not by dropping.
//   - A pod's reports only move forward. Its end is sent after all its output.
//   - Another epoch of a pod is started when nothing of the former runs; its unacknowledged output is discarded then, aloud. An
//     older epoch than the one held is ignored.
//   - An ended pod is remembered until the control plane stops wanting it, so it is not run again.
//
// The memory of the node is this process: when it ends, the guardian kills the pods, and the next agent knows none of them.
// Runtimes are behind the interface Runtime; package entry joins the two.
package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
)

// Config is what an agent needs. All fields are required but the last two.
type Config struct {
	// ControlPlane is the host:port to join; the server's certificate must be for that host.
	ControlPlane string
	// CAFile holds the PEM certificates that sign the control plane's and the nodes' certificates.
	CAFile string
	// TokenFile holds the launch's token; it is read for joining alone.
	TokenFile string
	// InstanceID is the provider's word for this machine.
	InstanceID string
	// StateDir keeps the node's key and certificate; made if need be.
	StateDir string
	Runtime  Runtime
	Log      *slog.Logger
	// LogLimit bounds the output that is held of one pod, bytes; 0 for 1 MiB.
	LogLimit int
	// FlushTimeout bounds the wait for acknowledgements when the node ends; 0 for 10 s.
	FlushTimeout time.Duration
}

type agent struct{ Config }

// Run is the life of a node. It returns nil when the context has ended and the pods were stopped, each with its own grace, and
// reported; a *RefusedError when the control plane does not want the node. After an error pods may still run.
func Run(ctx context.Context, config Config) error {
	if config.LogLimit == 0 {
		config.LogLimit = 1 << 20
	}
	if config.FlushTimeout == 0 {
		config.FlushTimeout = 10 * time.Second
	}
	a := &agent{config}
	pemCerts, err := os.ReadFile(a.CAFile)
	if err != nil {
		return fmt.Errorf("the control plane's certificate authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pemCerts) {
		return fmt.Errorf("%s holds no certificate", a.CAFile)
	}
	id, err := a.identify(ctx, roots)
	if ctx.Err() != nil {
		return nil // It ended before it was a node.
	}
	if err != nil {
		return err
	}
	a.Log.Info("joined", "node", id.node, "controlPlane", a.ControlPlane)
	connection, err := a.dial(&tls.Config{RootCAs: roots, Certificates: []tls.Certificate{id.certificate}, MinVersion: tls.VersionTLS13})
	if err != nil {
		return err
	}
	defer connection.Close()
	return a.serve(ctx, wire.NewControlPlaneClient(connection))
}

// serve keeps a session until the context ends, then stops the pods and flushes.
func (a *agent) serve(ctx context.Context, client wire.ControlPlaneClient) error {
	n := newNode(a.Runtime, a.Log, a.LogLimit)
	// The session outlives ctx: the pods' ends are to be told.
	sessionCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	sessions := make(chan error, 1)
	go func() { sessions <- a.keepSession(sessionCtx, client, n) }()
	select {
	case err := <-sessions:
		return err
	case <-ctx.Done():
	}
	a.Log.Info("the node is ending: stopping its pods")
	longest := n.drain("the node is ending")
	return a.flush(n, longest, sessions)
}

// flush waits until the pods have stopped and everything of them is acknowledged, within bounds.
func (a *agent) flush(n *node, longest time.Duration, sessions <-chan error) error {
	bound := time.NewTimer(longest + a.FlushTimeout)
	defer bound.Stop()
	flushing := false
	for {
		stopped, flushed, changed := n.settled()
		if flushed {
			return nil
		}
		if stopped && !flushing {
			flushing = true
			bound.Reset(a.FlushTimeout)
		}
		select {
		case <-changed:
		case err := <-sessions:
			return err
		case <-bound.C:
			a.Log.Warn("ending with reports or output that nobody acknowledged", "waited", a.FlushTimeout)
			return nil
		}
	}
}
