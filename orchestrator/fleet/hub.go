package fleet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
	"github.com/nightshift-batch/nightshift/orchestrator/engine"
)

// handshakeTimeout bounds the time from a connection to its first request.
const handshakeTimeout = 20 * time.Second

// maxMessageBytes bounds what an agent may send at one time; log chunks are far smaller.
const maxMessageBytes = 4 << 20

// nodeURI is the name of a node in its certificate: this and the node's name.
const nodeURI = "spiffe://nightshift/node/"

// hub is the agents' endpoint.
type hub struct {
	wire.UnimplementedControlPlaneServer
	fleet  *Fleet
	ctx    context.Context
	server *grpc.Server
	// work counts the goroutines of sessions beside those of the server.
	work sync.WaitGroup

	mu sync.Mutex
	// sessions by node: the newest of each.
	sessions map[string]*session
	// keys gives the public key, DER, that a node was certified for.
	keys map[string]string
	// owners gives whose the pods are that a node was told of, by node and UID, for as long as the node is on record.
	owners map[string]map[string]podOwner
}

// podOwner is whose a pod is.
type podOwner struct{ tenant, jobUID string }

func newHub(ctx context.Context, fleet *Fleet) (*hub, error) {
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(fleet.config.Authority.CAPEM()) {
		return nil, errors.New("the authority's certificate cannot be read")
	}
	hosts, err := hostsOf(fleet.config.AgentAddress, fleet.config.Listener.Addr().String())
	if err != nil {
		return nil, err
	}
	certificate, err := fleet.config.Authority.ServerCertificate(hosts...)
	if err != nil {
		return nil, err
	}
	h := &hub{
		fleet: fleet, ctx: ctx, sessions: make(map[string]*session),
		keys: make(map[string]string), owners: make(map[string]map[string]podOwner),
	}
	h.server = grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate},
			// Join comes without a certificate; Session checks that there is one.
			ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: authorities,
		})),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: wire.KeepaliveTime, Timeout: wire.KeepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: wire.KeepaliveTime / 2, PermitWithoutStream: true}),
		grpc.ConnectionTimeout(handshakeTimeout), grpc.MaxRecvMsgSize(maxMessageBytes), grpc.WaitForHandlers(true),
	)
	wire.RegisterControlPlaneServer(h.server, h)
	return h, nil
}

// hostsOf returns the distinct hosts of addresses that name one.
func hostsOf(addresses ...string) ([]string, error) {
	var hosts []string
	seen := make(map[string]bool)
	for _, address := range addresses {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("agent address: %w", err)
		}
		if ip := net.ParseIP(host); host == "" || seen[host] || (ip != nil && ip.IsUnspecified()) {
			continue
		}
		seen[host] = true
		hosts = append(hosts, host)
	}
	return hosts, nil
}

func (h *hub) serve() error {
	if err := h.server.Serve(h.fleet.config.Listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// close ends all sessions and returns when nothing of them runs.
func (h *hub) close() {
	h.server.Stop()
	h.work.Wait()
}

// peerNode returns the node that the caller's certificate names.
func peerNode(ctx context.Context) (string, error) {
	caller, ok := peer.FromContext(ctx)
	if !ok {
		return "", status.Error(codes.Unauthenticated, "the caller is not known")
	}
	info, ok := caller.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return "", status.Error(codes.Unauthenticated, "a session needs the node's certificate; join first")
	}
	uris := info.State.VerifiedChains[0][0].URIs
	if len(uris) != 1 {
		return "", status.Error(codes.Unauthenticated, "the certificate is not that of a node")
	}
	return nodeOfURI(uris[0])
}

func nodeOfURI(uri *url.URL) (string, error) {
	node, ok := strings.CutPrefix(uri.String(), nodeURI)
	if !ok || node == "" || strings.Contains(node, "/") {
		return "", status.Errorf(codes.Unauthenticated, "%s does not name a node", uri)
	}
	return node, nil
}

// Session implements wire.ControlPlaneServer.
func (h *hub) Session(stream grpc.BidiStreamingServer[wire.FromAgent, wire.ToAgent]) error {
	node, err := peerNode(stream.Context())
	if err != nil {
		return err
	}
	effects, _, ok := h.fleet.board.read()
	if !ok {
		return status.Error(codes.Unavailable, "the control plane has not read its log yet")
	}
	if _, there := instanceOf(effects, node); !there {
		return offRecord(node)
	}
	s, before := h.begin(node)
	defer s.cancel(nil)
	defer h.end(s)
	if before != nil {
		before.cancel(status.Error(codes.Aborted, "another session of the node has taken its place"))
		select {
		case <-before.worked:
		case <-s.ctx.Done():
		}
	}
	return s.run(stream)
}

func offRecord(node string) error {
	return status.Errorf(codes.PermissionDenied, "node %q is not on record any more", node)
}

// begin makes the newest session of a node. Before it handles anything, the one before must have stopped to do so.
func (h *hub) begin(node string) (s, before *session) {
	s = newSession(h, node)
	h.mu.Lock()
	defer h.mu.Unlock()
	before = h.sessions[node]
	h.sessions[node] = s
	return s, before
}

func (h *hub) end(s *session) {
	effects, _, _ := h.fleet.board.read()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sessions[s.node] == s {
		delete(h.sessions, s.node)
	}
	// Nodes end seldom: it costs nothing to look at all that are remembered.
	known := make(map[string]bool, len(effects.Instances))
	for _, instance := range effects.Instances {
		known[instance.Node] = true
	}
	for node := range h.sessions {
		known[node] = true
	}
	for node := range h.owners {
		if !known[node] {
			delete(h.owners, node)
		}
	}
	for node := range h.keys {
		if !known[node] {
			delete(h.keys, node)
		}
	}
}

// remember keeps whose a pod is that the node is told of.
func (h *hub) remember(node string, assignment *engine.Assignment) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.owners[node] == nil {
		h.owners[node] = make(map[string]podOwner)
	}
	owner := assignment.Job()
	h.owners[node][assignment.UID()] = podOwner{tenant: owner.Namespace, jobUID: string(owner.UID)}
}

// ownerOf tells whose a pod is that ran or runs on the node. It is not known for one whose Job was deleted before the node was heard, and
// foreign is the node that it ran on if that was another.
func (h *hub) ownerOf(node, podUID string) (owner podOwner, known bool, foreign string) {
	h.mu.Lock()
	owner, known = h.owners[node][podUID]
	h.mu.Unlock()
	if known || h.fleet.config.Pods == nil {
		return owner, known, ""
	}
	where, tenant, jobUID, known := h.fleet.config.Pods.PodOwner(podUID)
	if known && where != node {
		return podOwner{}, false, where
	}
	return podOwner{tenant: tenant, jobUID: jobUID}, known, ""
}
