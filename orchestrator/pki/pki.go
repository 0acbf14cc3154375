// Package pki is Nightshift's own certificate authority: one for a data directory, made on first use and kept for its life.
//
// It signs three kinds of certificate, told apart by what they hold, so that none can be used as another: a server's has host
// names and server authentication alone; a client's has a common name and organizations, which the API reads as user and
// groups; a node's has one URI and an empty list of organizations, whatever its request asks for. Keys of nodes never come
// here: a node sends a certificate request.
//
// The directory holds authority.pem (certificate and key) and join.secret, both readable by their owner alone and written
// whole or not at all. Losing them cuts off every node and client, so what is damaged is an error and never made anew.
// An Authority is safe for concurrent use; it reads the clock and the system's random source.
package pki

import (
	"bytes"
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
	"math/big"
	"net"
	"net/url"
	"time"
)

// Lifetimes of certificates. They begin Backdate before they are made, for machines whose clocks are behind.
const (
	AuthorityLifetime = 20 * 365 * 24 * time.Hour
	ServerLifetime    = 5 * 365 * 24 * time.Hour
	ClientLifetime    = 365 * 24 * time.Hour
	// NodeLifetime is longer than a spot instance is kept.
	NodeLifetime = 90 * 24 * time.Hour
	Backdate     = time.Hour
)

// Authority signs certificates. Open gives one.
type Authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
	pem         []byte
	secret      []byte
}

// Open reads the authority that is kept in dir, or makes one there. Several processes may open one directory at the same
// time; all get the same authority.
func Open(dir string) (*Authority, error) {
	text, err := keep(dir, "authority.pem", newAuthority)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	authority, err := parseAuthority(text)
	if err != nil {
		return nil, fmt.Errorf("certificate authority in %s: %w", dir, err)
	}
	if authority.secret, err = keep(dir, "join.secret", newSecret); err != nil {
		return nil, fmt.Errorf("join secret: %w", err)
	}
	if len(authority.secret) != secretBytes {
		return nil, fmt.Errorf("join secret in %s has %d bytes, want %d", dir, len(authority.secret), secretBytes)
	}
	return authority, nil
}

// CAPEM returns the authority's certificate, PEM: what clients and nodes trust.
func (a *Authority) CAPEM() []byte { return bytes.Clone(a.pem) }

// CertPool returns a pool that trusts this authority alone.
func (a *Authority) CertPool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// Secret returns 32 random bytes that stay the same for the directory: the key for authenticating join tokens.
func (a *Authority) Secret() []byte { return bytes.Clone(a.secret) }

// ServerCertificate makes a key and a certificate for a server that is reached by the hosts, DNS names or IP addresses.
func (a *Authority) ServerCertificate(hosts ...string) (tls.Certificate, error) {
	if len(hosts) == 0 {
		return tls.Certificate{}, errors.New("server certificate: no host")
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: hosts[0]},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	return a.pair(template, ServerLifetime)
}

// ClientCertificate makes a key and a certificate for a client of the API: cn is the user, orgs are the groups. Both are PEM.
func (a *Authority) ClientCertificate(cn string, orgs ...string) (certificatePEM, keyPEM []byte, err error) {
	pair, err := a.pair(&x509.Certificate{
		Subject:     pkix.Name{CommonName: cn, Organization: orgs},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, ClientLifetime)
	if err != nil {
		return nil, nil, fmt.Errorf("client certificate for %s: %w", cn, err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		return nil, nil, fmt.Errorf("client certificate for %s: %w", cn, err)
	}
	return encodePEM("CERTIFICATE", pair.Certificate[0]), encodePEM("PRIVATE KEY", key), nil
}

// SignNode makes a client certificate for the node that the URI names, over the key of a PKCS#10 request, both DER. Of the
// request the key alone counts; names that it asks for are ignored.
func (a *Authority) SignNode(csrDER []byte, uri string) ([]byte, error) {
	request, err := x509.ParseCertificateRequest(csrDER)
	if err != nil {
		return nil, fmt.Errorf("node certificate: %w", err)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("node certificate: the request is not signed by its key: %w", err)
	}
	name, err := url.Parse(uri)
	if err != nil || name.Scheme == "" || name.Host == "" {
		return nil, fmt.Errorf("node certificate: %q is not an absolute URI", uri)
	}
	return a.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: uri},
		URIs:        []*url.URL{name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, request.PublicKey, NodeLifetime)
}

// pair makes a key and a certificate over it.
func (a *Authority) pair(template *x509.Certificate, lifetime time.Duration) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	der, err := a.sign(template, key.Public(), lifetime)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// sign completes the template and signs it.
func (a *Authority) sign(template *x509.Certificate, public crypto.PublicKey, lifetime time.Duration) ([]byte, error) {
	template.KeyUsage = x509.KeyUsageDigitalSignature
	if err := completeTemplate(template, lifetime); err != nil {
		return nil, err
	}
	if template.NotAfter.After(a.certificate.NotAfter) {
		template.NotAfter = a.certificate.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate for %s: %w", template.Subject.CommonName, err)
	}
	return der, nil
}

// completeTemplate gives the template a random serial number and its lifetime.
func completeTemplate(template *x509.Certificate, lifetime time.Duration) error {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return err
	}
	now := time.Now()
	template.SerialNumber = serial
	template.NotBefore, template.NotAfter = now.Add(-Backdate), now.Add(lifetime)
	template.BasicConstraintsValid = true
	return nil
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
