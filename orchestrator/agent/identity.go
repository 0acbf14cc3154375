package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
)

const (
	keyFile         = "node.key"
	certificateFile = "node.crt"
	// nodeURI begins the URI that a node's certificate names it by.
	nodeURI = "spiffe://nightshift/node/"
	// joinTimeout bounds one try to join.
	joinTimeout = 10 * time.Second
)

// identity is who this node is.
type identity struct {
	node        string
	certificate tls.Certificate
}

// identify returns the identity kept in the state directory, or joins for one, trying until the context ends or the control
// plane refuses for good.
func (a *agent) identify(ctx context.Context, roots *x509.CertPool) (*identity, error) {
	if err := os.MkdirAll(a.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	key, err := a.loadKey()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(a.StateDir, certificateFile)
	raw, err := os.ReadFile(path)
	switch {
	case err == nil:
		block, _ := pem.Decode(raw)
		if block == nil {
			return nil, fmt.Errorf("%s holds no PEM block", path)
		}
		id, err := newIdentity(block.Bytes, key)
		if err == nil {
			_, err = id.certificate.Leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		}
		if err == nil {
			return id, nil
		}
		a.Log.Warn("the certificate kept does not do; joining again", "file", path, "error", err)
	case !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("the node's certificate: %w", err)
	}
	response, err := a.join(ctx, key, roots)
	if err != nil {
		return nil, err
	}
	id, err := newIdentity(response.GetCertificate(), key)
	if err != nil {
		return nil, fmt.Errorf("the control plane's answer to joining: %w", err)
	}
	if id.node != response.GetNode() {
		return nil, fmt.Errorf("the control plane calls this node %q, and %q in its certificate", response.GetNode(), id.node)
	}
	return id, writeFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: response.GetCertificate()}))
}

// newIdentity checks that the certificate is for our key and names a node.
func newIdentity(der []byte, key crypto.Signer) (*identity, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("the node's certificate: %w", err)
	}
	if public, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !public.Equal(key.Public()) {
		return nil, errors.New("the node's certificate is for another key")
	}
	for _, uri := range leaf.URIs {
		if node, ok := strings.CutPrefix(uri.String(), nodeURI); ok && node != "" {
			return &identity{node: node, certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}}, nil
		}
	}
	return nil, fmt.Errorf("the node's certificate has no URI %sNAME", nodeURI)
}

// loadKey returns the node's key, made here on the first call; it never leaves the state directory.
func (a *agent) loadKey() (crypto.Signer, error) {
	path := filepath.Join(a.StateDir, keyFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make the node's key: %w", err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, fmt.Errorf("encode the node's key: %w", err)
		}
		return key, writeFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	if err != nil {
		return nil, fmt.Errorf("the node's key: %w", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM block", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds a %T, want an ECDSA key", path, parsed)
	}
	return key, nil
}

// writeFile writes a file, readable by its owner alone, whole or not at all.
func writeFile(path string, content []byte) error {
	temporary := path + ".new"
	if err := os.WriteFile(temporary, content, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// join asks for a certificate until there is an answer for good.
func (a *agent) join(ctx context.Context, key crypto.Signer, roots *x509.CertPool) (*wire.JoinResponse, error) {
	token, err := os.ReadFile(a.TokenFile)
	if err != nil {
		return nil, fmt.Errorf("the launch's token: %w", err)
	}
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: a.InstanceID}}
	request, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, fmt.Errorf("make the certificate request: %w", err)
	}
	connection, err := a.dial(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13})
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	client := wire.NewControlPlaneClient(connection)
	pause := retry{}
	told := ""
	for {
		try, cancel := context.WithTimeout(ctx, joinTimeout)
		response, err := client.Join(try, &wire.JoinRequest{
			Token: string(bytes.TrimSpace(token)), InstanceId: a.InstanceID, CertificateRequest: request,
		})
		cancel()
		switch {
		case err == nil:
			return response, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case isFinal(err):
			return nil, &RefusedError{Op: "join", Err: err}
		}
		if message := status.Convert(err).Message(); message != told {
			a.Log.Warn("joining failed; trying again until it works", "controlPlane", a.ControlPlane, "error", message)
			told = message
		}
		if !pause.wait(ctx) {
			return nil, ctx.Err()
		}
	}
}

// RefusedError says that the control plane does not want this node; trying again does not help.
type RefusedError struct {
	// Op is "join" or "session".
	Op  string
	Err error
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the control plane refuses this node (%s): %s", e.Op, status.Convert(e.Err).Message())
}

func (e *RefusedError) Unwrap() error { return e.Err }

// isFinal tells refusals from failures that pass, among them Unavailable: an unreachable control plane, or one that does not
// have the launch on record yet.
func isFinal(err error) bool {
	switch status.Code(err) {
	case codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument, codes.Unimplemented:
		return true
	}
	return false
}

// dial makes a connection to the control plane; it connects when it is used.
func (a *agent) dial(config *tls.Config) (*grpc.ClientConn, error) {
	connection, err := grpc.NewClient("passthrough:///"+a.ControlPlane,
		grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithConnectParams(connectParams()),
		grpc.WithKeepaliveParams(keepaliveParams()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)),
		// A proxy from the environment is meant for pods.
		grpc.WithNoProxy(),
	)
	if err != nil {
		return nil, fmt.Errorf("control plane %s: %w", a.ControlPlane, err)
	}
	return connection, nil
}
