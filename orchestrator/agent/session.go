package agent

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
)

const (
	// retryFirst and retryMost bound the pauses between tries to reach the control plane.
	retryFirst = 100 * time.Millisecond
	retryMost  = 5 * time.Second
	// maxMessageBytes bounds a Desired: some thousands of pods.
	maxMessageBytes = 64 << 20
)

// keepaliveParams finds a connection that died without a word, within a minute.
func keepaliveParams() keepalive.ClientParameters {
	return keepalive.ClientParameters{Time: wire.KeepaliveTime, Timeout: wire.KeepaliveTimeout}
}

func connectParams() grpc.ConnectParams {
	return grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: retryFirst, Multiplier: 1.6, Jitter: 0.3, MaxDelay: retryMost},
		MinConnectTimeout: retryMost,
	}
}

// retry paces tries: exponential, with jitter so that nodes do not come back all at once.
type retry struct{ next time.Duration }

func (r *retry) reset() { r.next = 0 }

// wait pauses before the next try; false when the context ends.
func (r *retry) wait(ctx context.Context) bool {
	r.next = min(max(2*r.next, retryFirst), retryMost)
	timer := time.NewTimer(r.next/2 + rand.N(r.next))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// keepSession holds one session after the other until the context ends or the control plane refuses the node.
func (a *agent) keepSession(ctx context.Context, client wire.ControlPlaneClient, n *node) error {
	pause := retry{}
	told := ""
	for {
		heard, err := session(ctx, client, n)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case isFinal(err):
			return &RefusedError{Op: "session", Err: err}
		}
		if heard {
			pause.reset()
			told = ""
		}
		if message := status.Convert(err).Message(); message != told {
			a.Log.Warn("the session ended; pods keep running while a new one is tried", "controlPlane", a.ControlPlane, "error", message)
			told = message
		}
		if !pause.wait(ctx) {
			return ctx.Err()
		}
	}
}

// errSessionClosed is the end of a session that the control plane closed without an error.
var errSessionClosed = errors.New("closed by the control plane")

// session holds one session. It returns whether the control plane said anything, and why the session ended.
func session(ctx context.Context, client wire.ControlPlaneClient, n *node) (heard bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Session(ctx)
	if err != nil {
		return false, err
	}
	received := make(chan error, 1)
	go func() {
		err := receive(stream, n, &heard)
		cancel() // Ends a Send that waits for the other side to read.
		received <- err
	}()
	send(ctx, stream, n)
	cancel()
	// What ended the session is what Recv says: a failed Send knows no more than that there was an end.
	if err = <-received; errors.Is(err, io.EOF) {
		err = errSessionClosed
	}
	return heard, err
}

// pace is the shortest time between two beginnings to send, for an agent with so many pods. What comes up meanwhile goes together, and shares what
// each message costs on its way into the log: with many short pods that is most of the work. With few pods there is little to share, and
// each waits for the next. Whoever has been silent for so long does not wait at all.
func pace(pods int) time.Duration {
	const most = 8 * time.Millisecond
	return min(time.Duration(pods)*125*time.Microsecond, most)
}

func send(ctx context.Context, stream wire.ControlPlane_SessionClient, n *node) {
	if stream.Send(n.beginSession()) != nil {
		return
	}
	paced := time.NewTimer(0)
	defer paced.Stop()
	for {
		message, changed := n.next()
		if message != nil {
			if stream.Send(message) != nil {
				return
			}
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
		select {
		case <-paced.C:
			paced.Reset(pace(n.size()))
		case <-ctx.Done():
			return
		}
	}
}

func receive(stream wire.ControlPlane_SessionClient, n *node, heard *bool) error {
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		*heard = true
		switch body := message.GetBody().(type) {
		case *wire.ToAgent_Desired:
			n.setDesired(body.Desired)
		case *wire.ToAgent_ReportAcks:
			n.acknowledgeReports(body.ReportAcks.GetAcks())
		case *wire.ToAgent_LogAck:
			n.acknowledgeLog(body.LogAck)
		default:
			n.log.Warn("ignoring a message of a kind that this agent does not know")
		}
	}
}
