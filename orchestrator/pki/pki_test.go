package pki_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/nightshift-batch/nightshift/orchestrator/pki"
)

func open(t *testing.T, dir string) *pki.Authority {
	t.Helper()
	authority, err := pki.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return authority
}

func TestTheAuthorityIsKeptAcrossRestartsAndMadeOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data", "pki")
	authorities := make([]*pki.Authority, 16)
	var wait sync.WaitGroup
	for i := range authorities {
		wait.Go(func() {
			var err error
			if authorities[i], err = pki.Open(dir); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if t.Failed() {
		t.FailNow()
	}
	for _, a := range append(authorities[1:], open(t, dir)) {
		if string(a.CAPEM()) != string(authorities[0].CAPEM()) || string(a.Secret()) != string(authorities[0].Secret()) {
			t.Fatal("two authorities from one directory")
		}
	}
	if len(authorities[0].Secret()) != 32 {
		t.Errorf("secret of %d bytes", len(authorities[0].Secret()))
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", entry.Name(), info.Mode())
		}
	}
	if len(entries) != 2 {
		t.Errorf("left over in the directory: %v", entries)
	}
	if string(open(t, t.TempDir()).Secret()) == string(authorities[0].Secret()) {
		t.Error("two directories share a secret")
	}
}

func TestADamagedAuthorityIsAnErrorAndNotReplaced(t *testing.T) {
	for _, name := range []string{"authority.pem", "join.secret"} {
		dir := t.TempDir()
		open(t, dir)
		path := filepath.Join(dir, name)
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content[:len(content)/2], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := pki.Open(dir); err == nil {
			t.Errorf("half of %s was taken", name)
		}
	}
	one, two := t.TempDir(), t.TempDir()
	open(t, one)
	open(t, two)
	first, err := os.ReadFile(filepath.Join(one, "authority.pem"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(filepath.Join(two, "authority.pem"))
	if err != nil {
		t.Fatal(err)
	}
	certificate, _, _ := strings.Cut(string(first), "-----BEGIN PRIVATE")
	_, key, _ := strings.Cut(string(second), "-----BEGIN PRIVATE")
	if err := os.WriteFile(filepath.Join(one, "authority.pem"), []byte(certificate+"-----BEGIN PRIVATE"+key), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Open(one); err == nil || !strings.Contains(err.Error(), "the key is not that of the certificate") {
		t.Errorf("another authority's key: %v", err)
	}
}

// nodeCertificate has the authority sign a request that asks for more than a node may have.
func nodeCertificate(t *testing.T, authority *pki.Authority, uri string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	greedy := &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}},
		DNSNames: []string{"localhost"}, URIs: []*url.URL{{Scheme: "spiffe", Host: "nightshift", Path: "/node/other"}},
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, greedy, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := authority.SignNode(request, uri)
	if err != nil {
		t.Fatal(err)
	}
	request[len(request)-1] ^= 1
	if _, err := authority.SignNode(request, uri); err == nil {
		t.Error("a request with a broken signature was signed")
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// handshake returns the certificate of the client as the server saw it.
func handshake(t *testing.T, server, client *tls.Config) (*x509.Certificate, error) {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	done := make(chan error, 1)
	go func() {
		conn, err := tls.Dial("tcp", listener.Addr().String(), client)
		if err == nil {
			// Under TLS 1.3 a client learns only by reading that it was refused.
			_, err = conn.Read(make([]byte, 1))
			conn.Close()
		}
		done <- err
	}()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	secure := conn.(*tls.Conn)
	if err := secure.Handshake(); err != nil {
		conn.Close()
		<-done
		return nil, err
	}
	if _, err := conn.Write([]byte{1}); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		return nil, err
	}
	return secure.ConnectionState().PeerCertificates[0], nil
}

func TestCertificatesServeTheirOwnPurposeAlone(t *testing.T) {
	authority := open(t, t.TempDir())
	serverPair, err := authority.ServerCertificate("localhost", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	certificate, key, err := authority.ClientCertificate("admin", "system:masters")
	if err != nil {
		t.Fatal(err)
	}
	admin, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	const uri = "spiffe://nightshift/node/local-abcdef"
	node := nodeCertificate(t, authority, uri)
	serverConfig := func(pair tls.Certificate) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: authority.CertPool()}
	}
	clientConfig := func(pair tls.Certificate, host string) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: authority.CertPool(), ServerName: host}
	}

	for _, host := range []string{"localhost", "127.0.0.1"} {
		seen, err := handshake(t, serverConfig(serverPair), clientConfig(admin, host))
		if err != nil {
			t.Fatal(err)
		}
		if seen.Subject.CommonName != "admin" || len(seen.Subject.Organization) != 1 || seen.Subject.Organization[0] != "system:masters" {
			t.Errorf("client is %v", seen.Subject)
		}
	}
	seen, err := handshake(t, serverConfig(serverPair), clientConfig(node, "localhost"))
	if err != nil {
		t.Fatal(err)
	}
	if len(seen.URIs) != 1 || seen.URIs[0].String() != uri || len(seen.Subject.Organization) != 0 || len(seen.DNSNames) != 0 || seen.Subject.CommonName != uri {
		t.Errorf("node is %v with URIs %v, names %v", seen.Subject, seen.URIs, seen.DNSNames)
	}
	for name, c := range map[string]struct{ server, client *tls.Config }{
		"a server under another name":         {serverConfig(serverPair), clientConfig(admin, "example.com")},
		"a client's certificate for a server": {serverConfig(admin), clientConfig(admin, "localhost")},
		"a server's certificate for a client": {serverConfig(serverPair), clientConfig(serverPair, "localhost")},
	} {
		if _, err := handshake(t, c.server, c.client); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	stranger := nodeCertificate(t, open(t, t.TempDir()), uri)
	if _, err := handshake(t, serverConfig(serverPair), clientConfig(stranger, "localhost")); err == nil {
		t.Error("a node of another authority was taken")
	}
}
