package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

// Cluster is an etcd on other machines. It may be shared: all keys are under Prefix.
type Cluster struct {
	// Endpoints are the URLs of its members' client ports: https, or http for this machine's own.
	Endpoints []string
	// CACertFile holds the certificates of the authorities that its members' certificates are of, in PEM. Empty: those of the system.
	CACertFile string
	// CertFile and KeyFile are the client certificate, in PEM, with which it knows this client. They are read anew for each connection.
	CertFile, KeyFile string
	// Prefix of all keys. Empty means DefaultPrefix. Two installations that share a cluster have different ones.
	Prefix string
}

// How a cluster is spoken to.
const (
	// gRPC pings no more often than that. A member whose machine is gone is noticed earlier, when it does not acknowledge what is sent.
	pingEvery   = 10 * time.Second
	pingTimeout = 3 * time.Second
	// connectTimeout bounds how long a first answer is waited for where waiting can help: an election among members takes one or two
	// seconds. Each connectTry the addresses are looked at.
	connectTimeout = 8 * time.Second
	connectTry     = 2 * time.Second
	// lookTimeout bounds each step of finding out what is wrong with an address.
	lookTimeout = 2 * time.Second
)

// prefix is where the cluster's keys begin; it ends with a slash.
func (c Cluster) prefix() string {
	if c.Prefix == "" {
		return DefaultPrefix
	}
	return strings.TrimSuffix(c.Prefix, "/") + "/"
}

// check refuses what cannot be meant.
func (c Cluster) check() error {
	for _, endpoint := range c.Endpoints {
		at, err := url.Parse(endpoint)
		if err != nil || (at.Scheme != "https" && at.Scheme != "http") || at.Port() == "" || at.Path != "" {
			return fmt.Errorf("journal: %q is not the address of an etcd member, as https://10.0.0.5:2379", endpoint)
		}
		if !strings.HasPrefix(c.Endpoints[0], at.Scheme+":") {
			return fmt.Errorf("journal: the addresses %s and %s are of one cluster: all https, or all http", c.Endpoints[0], endpoint)
		}
		ip := net.ParseIP(at.Hostname())
		if at.Scheme == "http" && at.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return fmt.Errorf("journal: %s is on another machine, and the log goes there by TLS alone: https://", endpoint)
		}
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return errors.New("journal: a client certificate and its key belong together")
	}
	return nil
}

// tls is how https endpoints are spoken to.
func (c Cluster) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CACertFile != "" {
		pem, err := os.ReadFile(c.CACertFile)
		if err != nil {
			return nil, fmt.Errorf("journal: reading the etcd cluster's authority: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("journal: %s holds no certificate in PEM", c.CACertFile)
		}
	}
	if c.CertFile != "" {
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
			if err != nil {
				return nil, fmt.Errorf("journal: reading the client certificate for etcd, %s and %s: %w", c.CertFile, c.KeyFile, err)
			}
			return &pair, nil
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return config, nil
}

// connect returns a client that has had an answer. The error is a *journal.ConnectError where the cluster is to blame.
func (c Cluster) connect(ctx context.Context, log *slog.Logger) (*clientv3.Client, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	secure, err := c.tls()
	if err != nil {
		return nil, err
	}
	config := clientv3.Config{
		Endpoints: c.Endpoints, DialKeepAliveTime: pingEvery, DialKeepAliveTimeout: pingTimeout, PermitWithoutStream: true,
		// Its warnings are of requests that it repeats by itself.
		Logger: newZap(log).WithOptions(zap.IncreaseLevel(zap.ErrorLevel)),
	}
	if strings.HasPrefix(c.Endpoints[0], "https:") {
		config.TLS = secure
	}
	client, err := clientv3.New(config)
	if err != nil {
		return nil, fmt.Errorf("journal: making a client of etcd: %w", err)
	}
	if err := c.await(ctx, client, secure); err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return client, nil
}

// await returns when the cluster has answered, or tells why it does not.
func (c Cluster) await(ctx context.Context, client *clientv3.Client, secure *tls.Config) error {
	all, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	for {
		try, cancel := context.WithTimeout(all, connectTry)
		_, err := client.Get(try, keysUnder(c.prefix()).head)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
		wrong := c.diagnose(ctx, secure, err)
		if mayPass := wrong.Problem == journal.Unreachable || wrong.Problem == journal.NoMajority; !mayPass || all.Err() != nil {
			return wrong
		}
	}
}

// diagnose finds out why the first request has failed.
func (c Cluster) diagnose(ctx context.Context, secure *tls.Config, cause error) *journal.ConnectError {
	where := strings.Join(c.Endpoints, ", ")
	for _, denied := range []error{rpctypes.ErrPermissionDenied, rpctypes.ErrUserEmpty, rpctypes.ErrAuthFailed, rpctypes.ErrInvalidAuthToken} {
		if errors.Is(cause, denied) {
			return &journal.ConnectError{Where: where, Problem: journal.Refused, Err: fmt.Errorf("keys under %s: %w", c.prefix(), cause)}
		}
	}
	var found *journal.ConnectError
	for _, endpoint := range c.Endpoints {
		wrong := look(ctx, endpoint, secure)
		if wrong == nil {
			return &journal.ConnectError{Where: where, Problem: journal.NoMajority, Err: cause}
		}
		// Of members that fail in different ways, one that is there tells more than one that is not.
		if found == nil || found.Problem == journal.Unreachable {
			found = wrong
		}
	}
	return found
}

// look speaks to one address and says what is wrong with it, nil if nothing is.
func look(ctx context.Context, endpoint string, secure *tls.Config) *journal.ConnectError {
	at, err := url.Parse(endpoint)
	wrong := func(problem journal.Problem, err error) *journal.ConnectError {
		return &journal.ConnectError{Where: endpoint, Problem: problem, Err: err}
	}
	if err != nil {
		return wrong(journal.Unreachable, err)
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", at.Host)
	if err != nil {
		return wrong(journal.Unreachable, err)
	}
	defer func() { _ = raw.Close() }() // it was opened to be looked at
	config := secure.Clone()
	config.ServerName, config.NextProtos = at.Hostname(), []string{"h2"}
	if at.Scheme == "http" {
		config.InsecureSkipVerify = true // nothing is sent: it is to find out whether TLS is spoken
		if tls.Client(raw, config).HandshakeContext(ctx) == nil {
			return wrong(journal.WantsTLS, errors.New("write https:// for it"))
		}
		return nil
	}
	conn := tls.Client(raw, config)
	if err = conn.HandshakeContext(ctx); err == nil {
		// With TLS 1.3 the other side looks at this side's certificate after that, and says so, or its first frame comes.
		deadline, _ := ctx.Deadline()
		_ = conn.SetReadDeadline(deadline) // a connection without it fails to read, which is looked at
		_, err = conn.Read(make([]byte, 1))
	}
	return judge(ctx, at.Host, err, wrong)
}

// judge reads the error of a handshake.
func judge(ctx context.Context, host string, err error, wrong func(journal.Problem, error) *journal.ConnectError) *journal.ConnectError {
	var untrusted *tls.CertificateVerificationError
	var plain tls.RecordHeaderError
	var remote *net.OpError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &untrusted):
		return wrong(journal.Untrusted, err)
	case errors.As(err, &plain), errors.Is(err, io.EOF) && speaksPlainly(ctx, host):
		return wrong(journal.LacksTLS, err)
	case errors.As(err, &remote) && remote.Op == "remote error":
		return wrong(journal.Refused, err)
	}
	return wrong(journal.Unreachable, err)
}

// speaksPlainly tells whether gRPC is answered without TLS: HTTP/2's preface and an empty SETTINGS frame are answered with the like.
func speaksPlainly(ctx context.Context, host string) bool {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", host)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }() // it was opened to be looked at
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return false
	}
	const preface, settings = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	header := make([]byte, len(settings))
	if _, err := io.WriteString(conn, preface+settings); err != nil {
		return false
	}
	_, err = io.ReadFull(conn, header)
	return err == nil && header[3] == settings[3]
}
