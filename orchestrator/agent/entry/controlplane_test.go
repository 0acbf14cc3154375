package entry_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
)

const token = "the-launch's-token"

// controlPlane is a real server of the protocol, over mTLS on loopback, that keeps what a control plane would: what it has
// acknowledged survives the loss of a session, and what it has not is gone with it.
type controlPlane struct {
	wire.UnimplementedControlPlaneServer
	t       *testing.T
	dir     string // Holds ca.pem and token.
	address string
	caKey   *ecdsa.PrivateKey
	ca      *x509.Certificate

	mu    sync.Mutex
	grown chan struct{}
	joins int
	// joinErrors are the answers to the first joins, sessionError to every session.
	joinErrors   []error
	sessionError error
	desired      *wire.Desired
	ackReports   bool
	// bareAcks acknowledges reports without their revision, as control planes before there was one.
	bareAcks bool
	ackLogs  bool
	current  *fakeSession
	hellos   []*wire.Hello
	reports  []*wire.PodReport
	// received is what the current session has sent after what was kept; kept is what was acknowledged.
	received, kept map[string][]byte
	// from is where the current session began to send.
	from  map[string]int64
	ended map[string]bool // The end was acknowledged.
}

// fakeSession is one session as the server sees it.
type fakeSession struct {
	send chan *wire.ToAgent
	end  chan error
}

func startControlPlane(t *testing.T) *controlPlane {
	c := &controlPlane{
		t: t, dir: t.TempDir(), grown: make(chan struct{}), ackReports: true, ackLogs: true,
		received: map[string][]byte{}, kept: map[string][]byte{}, ended: map[string]bool{},
		from: map[string]int64{},
	}
	var err error
	if c.caKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, Subject: pkix.Name{CommonName: "test CA"}}
	c.ca = c.sign(template, c.caKey.Public())
	serverKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	server := c.sign(&x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, serverKey.Public())
	c.write("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.ca.Raw}))
	c.write("token", []byte(token+"\n"))
	roots := x509.NewCertPool()
	roots.AddCert(c.ca)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.address = listener.Addr().String()
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{server.Raw}, PrivateKey: serverKey}},
		ClientAuth:   tls.VerifyClientCertIfGiven, ClientCAs: roots, MinVersion: tls.VersionTLS13,
	})), grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: wire.KeepaliveTime}))
	wire.RegisterControlPlaneServer(s, c)
	go func() { _ = s.Serve(listener) }()
	t.Cleanup(s.Stop)
	return c
}

func (c *controlPlane) sign(template *x509.Certificate, public any) *x509.Certificate {
	c.t.Helper()
	template.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<62))
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	parent := c.ca
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, c.caKey)
	if err != nil {
		c.t.Fatal(err)
	}
	signed, err := x509.ParseCertificate(der)
	if err != nil {
		c.t.Fatal(err)
	}
	return signed
}

func (c *controlPlane) write(name string, content []byte) {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name), content, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// Join implements the protocol.
func (c *controlPlane) Join(_ context.Context, r *wire.JoinRequest) (*wire.JoinResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.joins++
	if len(c.joinErrors) > 0 {
		err := c.joinErrors[0]
		c.joinErrors = c.joinErrors[1:]
		return nil, err
	}
	if r.GetToken() != token {
		return nil, status.Error(codes.PermissionDenied, "no such launch")
	}
	request, err := x509.ParseCertificateRequest(r.GetCertificateRequest())
	if err != nil || request.CheckSignature() != nil {
		return nil, status.Error(codes.InvalidArgument, "bad certificate request")
	}
	node := "node-" + r.GetInstanceId()
	certificate := c.sign(&x509.Certificate{
		URIs:        []*url.URL{{Scheme: "spiffe", Host: "nightshift", Path: "/node/" + node}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, request.PublicKey)
	return &wire.JoinResponse{Node: node, Certificate: certificate.Raw}, nil
}

// Session implements the protocol.
func (c *controlPlane) Session(stream wire.ControlPlane_SessionServer) error {
	p, _ := peer.FromContext(stream.Context())
	certificates := p.AuthInfo.(credentials.TLSInfo).State.VerifiedChains
	if len(certificates) == 0 || certificates[0][0].URIs[0].String() != "spiffe://nightshift/node/node-i-1" {
		return status.Error(codes.PermissionDenied, "no certificate of a node")
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	session := &fakeSession{send: make(chan *wire.ToAgent, 10000), end: make(chan error, 1)}
	c.note(func() {
		err = c.sessionError
		c.current = session
		c.hellos = append(c.hellos, first.GetHello())
		c.forget()
		if c.desired != nil {
			session.send <- &wire.ToAgent{Body: &wire.ToAgent_Desired{Desired: c.desired}}
		}
	})
	if err != nil {
		return err
	}
	go func() {
		for {
			message, err := stream.Recv()
			if err != nil {
				return
			}
			c.receive(session, message)
		}
	}()
	for {
		select {
		case message := <-session.send:
			if err := stream.Send(message); err != nil {
				return err
			}
		case err := <-session.end:
			return err
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func (c *controlPlane) receive(from *fakeSession, message *wire.FromAgent) {
	c.note(func() {
		if c.current != from {
			return // The tail of a session that was lost.
		}
		switch body := message.GetBody().(type) {
		case *wire.FromAgent_Report:
			r := body.Report
			if before := c.last(r.GetUid()); before != nil && before.GetEpoch() < r.GetEpoch() {
				// What follows is the new attempt's.
				key := logKey(r.GetUid(), 0)
				delete(c.received, key)
				delete(c.kept, key)
				delete(c.ended, key)
			}
			c.reports = append(c.reports, r)
			if c.ackReports {
				c.acknowledge(from, r)
			}
		case *wire.FromAgent_Log:
			c.receiveLog(from, body.Log)
		}
	})
}

// acknowledge says that a report is on record; the lock is held.
func (c *controlPlane) acknowledge(to *fakeSession, r *wire.PodReport) {
	ack := &wire.ReportAck{Uid: r.GetUid(), Epoch: r.GetEpoch(), Phase: r.GetPhase(), Restarts: r.GetRestarts(), Revision: r.GetRevision()}
	if c.bareAcks {
		ack.Revision = 0
	}
	to.send <- &wire.ToAgent{Body: &wire.ToAgent_ReportAck{ReportAck: ack}}
}

func (c *controlPlane) receiveLog(from *fakeSession, l *wire.LogChunk) {
	key := runKey(l.GetPodUid(), l.GetContainer(), int(l.GetRestart()))
	if len(l.GetData()) > 64<<10 {
		c.t.Errorf("log %s: a chunk of %d bytes", key, len(l.GetData()))
	}
	if _, begun := c.from[key]; !begun {
		c.from[key] = l.GetOffset()
	}
	// An acknowledgement may have been lost with a session: what was kept comes again then, the same.
	have := int64(len(c.received[key]))
	again := min(have-l.GetOffset(), int64(len(l.GetData())))
	if again < 0 || string(c.received[key][l.GetOffset():l.GetOffset()+again]) != string(l.GetData()[:again]) {
		c.t.Errorf("log %s: the chunk at %d does not continue the %d bytes before", key, l.GetOffset(), have)
		return
	}
	if c.ended[key] && again < int64(len(l.GetData())) {
		c.t.Errorf("log %s goes on after its end", key)
	}
	c.received[key] = append(c.received[key], l.GetData()[again:]...)
	if c.ackLogs {
		c.kept[key] = append([]byte(nil), c.received[key]...)
		c.ended[key] = c.ended[key] || l.GetEnd()
		from.send <- &wire.ToAgent{Body: &wire.ToAgent_LogAck{LogAck: &wire.LogAck{
			PodUid: l.GetPodUid(), Container: l.GetContainer(), Restart: l.GetRestart(),
			Offset: l.GetOffset() + int64(len(l.GetData())), End: l.GetEnd(),
		}}}
	}
}

// forget forgets what was received in a session and not kept; the lock is held.
func (c *controlPlane) forget() {
	clear(c.received)
	clear(c.from)
	for key, data := range c.kept {
		c.received[key] = append([]byte(nil), data...)
	}
}

// logKey names a run of the container of a pod of one.
func logKey(uid string, restart int) string { return runKey(uid, "main", restart) }

func runKey(uid, container string, restart int) string {
	return fmt.Sprintf("%s/%s/%d", uid, container, restart)
}

func (c *controlPlane) note(what func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	what()
	close(c.grown)
	c.grown = make(chan struct{})
}

// set changes what the control plane does from now on.
func (c *controlPlane) set(change func()) { c.note(change) }

// want tells the agent the whole list of pods.
func (c *controlPlane) want(pods ...*wire.DesiredPod) {
	c.note(func() {
		c.desired = &wire.Desired{Pods: pods}
		if c.current != nil {
			c.current.send <- &wire.ToAgent{Body: &wire.ToAgent_Desired{Desired: c.desired}}
		}
	})
}

// lose ends the current session; what it had not acknowledged is lost with it.
func (c *controlPlane) lose() {
	c.t.Helper()
	c.wait("a session to lose", func() bool { return c.current != nil })
	c.note(func() {
		c.current.end <- status.Error(codes.Unavailable, "lost on purpose")
		c.current = nil
		c.forget()
	})
}

// wait blocks until the condition, looked at under the lock, holds.
func (c *controlPlane) wait(what string, holds func() bool) {
	c.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		c.mu.Lock()
		ok, grown := holds(), c.grown
		c.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-grown:
		case <-deadline:
			c.mu.Lock()
			defer c.mu.Unlock()
			c.t.Fatalf("waited too long for %s; joins %d, hellos %v, reports %v", what, c.joins, c.hellos, c.reports)
		}
	}
}

// last returns the newest report of a pod; the lock is held.
func (c *controlPlane) last(uid string) *wire.PodReport {
	for i := len(c.reports) - 1; i >= 0; i-- {
		if c.reports[i].GetUid() == uid {
			return c.reports[i]
		}
	}
	return nil
}

// waitPhase waits until the newest report of a pod has the phase, and returns it.
func (c *controlPlane) waitPhase(uid string, phase wire.PodReport_Phase) (r *wire.PodReport) {
	c.t.Helper()
	c.wait(fmt.Sprintf("pod %s to be %v", uid, phase), func() bool {
		r = c.last(uid)
		return r.GetPhase() == phase
	})
	return r
}

// shell is a pod that runs a script.
func shell(uid string, epoch uint64, script string) *wire.DesiredPod {
	return podOf(uid, epoch, nil, []corev1.Container{sh("main", script)})
}

// sh is a container that runs a script.
func sh(name, script string) corev1.Container {
	return corev1.Container{Name: name, Image: "shell", Command: []string{"/bin/sh", "-c", script}}
}

// beside makes a container a sidecar.
func beside(c corev1.Container) corev1.Container {
	c.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
	return c
}

// podOf is a pod of init containers and app containers.
func podOf(uid string, epoch uint64, init, apps []corev1.Container) *wire.DesiredPod {
	pod := &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, InitContainers: init, Containers: apps}}
	pod.Name, pod.Namespace = uid, "night"
	raw, err := pod.Marshal()
	if err != nil {
		panic(err)
	}
	return &wire.DesiredPod{Uid: uid, Epoch: epoch, Pod: raw}
}
