package fleet

import (
	"context"
	"crypto/subtle"
	"crypto/x509"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
	"github.com/nightshift-batch/nightshift/orchestrator/engine"
)

// Join implements wire.ControlPlaneServer: it gives an instance its node's name and certificate. A node is certified for one key: whoever
// learns a launch's token cannot become a node that has joined.
func (h *hub) Join(_ context.Context, request *wire.JoinRequest) (*wire.JoinResponse, error) {
	effects, _, ok := h.fleet.board.read()
	if !ok {
		return nil, status.Error(codes.Unavailable, "the control plane has not read its log yet")
	}
	key, ok := h.launchOf(effects, request.GetToken())
	if !ok {
		return nil, status.Error(codes.PermissionDenied, "the token is that of no launch on record")
	}
	instance, ok := launchedInstance(effects, key, request.GetInstanceId())
	if !ok {
		return nil, h.notOnRecord(effects, key, request.GetInstanceId())
	}
	csr, err := x509.ParseCertificateRequest(request.GetCertificateRequest())
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "the certificate request cannot be read: %v", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "the certificate request is not signed by its key: %v", err)
	}
	if !h.takeKey(instance, string(csr.RawSubjectPublicKeyInfo)) {
		return nil, status.Errorf(codes.PermissionDenied, "node %q has joined with another key", instance.Node)
	}
	certificate, err := h.fleet.config.Authority.SignNode(request.GetCertificateRequest(), nodeURI+instance.Node)
	if err != nil {
		h.fleet.log.Error("a node's certificate cannot be signed", "node", instance.Node, "error", err)
		return nil, status.Error(codes.Internal, "the certificate cannot be signed")
	}
	h.fleet.log.Info("a node has its certificate", "node", instance.Node, "instance", instance.InstanceID)
	return &wire.JoinResponse{Node: instance.Node, Certificate: certificate}, nil
}

// launchOf finds the launch that the token belongs to. All are compared, so that the time tells nothing.
func (h *hub) launchOf(effects engine.Effects, token string) (key string, ok bool) {
	secret := h.fleet.config.Authority.Secret()
	try := func(candidate string) {
		if subtle.ConstantTimeCompare([]byte(JoinToken(secret, candidate)), []byte(token)) == 1 {
			key, ok = candidate, true
		}
	}
	for _, launch := range effects.Launches {
		try(launch.Key)
	}
	for _, instance := range effects.Instances {
		try(instance.LaunchKey)
	}
	return key, ok
}

func launchedInstance(effects engine.Effects, key, id string) (engine.Instance, bool) {
	for _, instance := range effects.Instances {
		if instance.LaunchKey == key && instance.InstanceID == id {
			return instance, true
		}
	}
	return engine.Instance{}, false
}

func (h *hub) notOnRecord(effects engine.Effects, key, id string) error {
	for _, launch := range effects.Launches {
		if launch.Key == key {
			return status.Errorf(codes.Unavailable, "instance %q is not on record yet", id)
		}
	}
	return status.Errorf(codes.PermissionDenied, "instance %q is not of the token's launch", id)
}

// takeKey remembers the node's public key, and refuses another one. After a restart of the control plane the keys of joined nodes
// are not known; they have their certificates and need no other.
func (h *hub) takeKey(instance engine.Instance, key string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	known, ok := h.keys[instance.Node]
	if ok || instance.Joined {
		return known == key
	}
	h.keys[instance.Node] = key
	return true
}
