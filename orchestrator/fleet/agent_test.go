package fleet_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/providers"
)

// agent speaks the protocol as a node's agent does, one message at a time.
type agent struct {
	t          *testing.T
	bootstrap  providers.Bootstrap
	instanceID string
	key        *ecdsa.PrivateKey
	// node and certificate, once joined.
	node        string
	certificate []byte
}

func newAgent(t *testing.T, bootstrap providers.Bootstrap, instanceID string) *agent {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &agent{t: t, bootstrap: bootstrap, instanceID: instanceID, key: key}
}

func (a *agent) dial() wire.ControlPlaneClient {
	a.t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(a.bootstrap.CACertificate)
	config := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	if a.certificate != nil {
		config.Certificates = []tls.Certificate{{Certificate: [][]byte{a.certificate}, PrivateKey: a.key}}
	}
	connection, err := grpc.NewClient(a.bootstrap.Address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() {
		if err := connection.Close(); err != nil {
			a.t.Errorf("close the connection: %v", err)
		}
	})
	return wire.NewControlPlaneClient(connection)
}

// join asks once.
func (a *agent) join() error {
	a.t.Helper()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	response, err := a.dial().Join(ctx, &wire.JoinRequest{Token: a.bootstrap.Token, InstanceId: a.instanceID, CertificateRequest: csr})
	if err == nil {
		a.node, a.certificate = response.GetNode(), response.GetCertificate()
	}
	return err
}

// conversation is one session as the agent sees it.
type conversation struct {
	t      *testing.T
	stream grpc.BidiStreamingClient[wire.FromAgent, wire.ToAgent]
	close  context.CancelFunc
	// pods that are desired, as the messages so far say.
	pods []*wire.DesiredPod
}

// take brings the pods that are desired up to date.
func (c *conversation) take(desired *wire.Desired) {
	if !desired.GetChanges() {
		c.pods = nil
	}
	c.pods = slices.DeleteFunc(slices.Clone(c.pods), func(p *wire.DesiredPod) bool { return slices.Contains(desired.GetGone(), p.GetUid()) })
	for _, p := range desired.GetPods() {
		at := slices.IndexFunc(c.pods, func(known *wire.DesiredPod) bool { return known.GetUid() == p.GetUid() })
		if at < 0 {
			c.pods = append(c.pods, p)
			continue
		}
		if len(p.GetPod()) == 0 {
			p.Pod = c.pods[at].GetPod()
		}
		c.pods[at] = p
	}
}

func (a *agent) session(hello ...*wire.PodReport) *conversation {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	a.t.Cleanup(cancel)
	stream, err := a.dial().Session(ctx)
	if err != nil {
		a.t.Fatal(err)
	}
	c := &conversation{t: a.t, stream: stream, close: cancel}
	c.send(&wire.FromAgent{Body: &wire.FromAgent_Hello{Hello: &wire.Hello{Pods: hello}}})
	return c
}

func (c *conversation) send(message *wire.FromAgent) {
	c.t.Helper()
	// After io.EOF the next Recv tells why the session has ended.
	if err := c.stream.Send(message); err != nil && !errors.Is(err, io.EOF) {
		c.t.Fatalf("send %v: %v", message, err)
	}
}

// next returns the first message that is wanted, and passes over others.
func (c *conversation) next(what string, wanted func(*wire.ToAgent) bool) *wire.ToAgent {
	c.t.Helper()
	for {
		message, err := c.stream.Recv()
		if err != nil {
			c.t.Fatalf("waited for %s: %v", what, err)
		}
		if desired := message.GetDesired(); desired != nil {
			c.take(desired)
		}
		if wanted(message) {
			return message
		}
	}
}

// desired waits for a list of pods that is as wanted.
func (c *conversation) desired(what string, wanted func([]*wire.DesiredPod) bool) []*wire.DesiredPod {
	c.t.Helper()
	c.next(what, func(m *wire.ToAgent) bool { return m.GetDesired() != nil && wanted(c.pods) })
	return c.pods
}

func (c *conversation) pod() *wire.DesiredPod {
	c.t.Helper()
	return c.desired("a pod", func(pods []*wire.DesiredPod) bool { return len(pods) == 1 })[0]
}

// report sends a report and waits for its acknowledgement.
func (c *conversation) report(uid string, epoch uint64, phase wire.PodReport_Phase) {
	c.t.Helper()
	c.send(reports(&wire.PodReport{Uid: uid, Epoch: epoch, Phase: phase}))
	c.acknowledged(uid, epoch, phase)
}

func (c *conversation) acknowledged(uid string, epoch uint64, phase wire.PodReport_Phase) {
	c.t.Helper()
	c.next("the acknowledgement of "+phase.String(), func(m *wire.ToAgent) bool {
		return slices.ContainsFunc(m.GetReportAcks().GetAcks(), func(ack *wire.ReportAck) bool {
			return ack.GetUid() == uid && ack.GetEpoch() == epoch && ack.GetPhase() == phase
		})
	})
}

func reports(r ...*wire.PodReport) *wire.FromAgent {
	return &wire.FromAgent{Body: &wire.FromAgent_Reports{Reports: &wire.Reports{Reports: r}}}
}

func (c *conversation) log(uid string, offset int64, text string) {
	c.t.Helper()
	c.send(logOf(uid, offset, text))
	c.next("the acknowledgement of output", func(m *wire.ToAgent) bool { return m.GetLogAck().GetOffset() == offset+int64(len(text)) })
}

func logOf(uid string, offset int64, text string) *wire.FromAgent {
	return &wire.FromAgent{Body: &wire.FromAgent_Log{Log: &wire.LogChunk{PodUid: uid, Container: "work", Offset: offset, Data: []byte(text)}}}
}

// refused waits for the end of the session.
func (c *conversation) refused(want codes.Code) {
	c.t.Helper()
	for {
		if _, err := c.stream.Recv(); err != nil {
			if status.Code(err) != want {
				c.t.Fatalf("the session ended with %v, want %v", err, want)
			}
			return
		}
	}
}

// boot waits for a launch and joins its instances, in order.
func (w *world) boot() []*agent {
	w.t.Helper()
	launch := receive(w.t, "a launch", w.cloud.launched)
	var agents []*agent
	for _, instance := range launch.instances {
		w.control.await(w.t, "the instance on record", func(s *engine.State) bool {
			_, ok := s.NodeOf("cloud", instance.ID)
			return ok
		})
		joined := newAgent(w.t, launch.request.Bootstrap, instance.ID)
		if err := joined.join(); err != nil {
			w.t.Fatal(err)
		}
		agents = append(agents, joined)
	}
	return agents
}

func mustRefuse(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}
