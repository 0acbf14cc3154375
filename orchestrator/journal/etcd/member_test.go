package etcd

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
)

// memberConfig, in the environment, makes this test binary a member of a cluster, until it is killed.
const memberConfig = "NIGHTSHIFT_JOURNAL_ETCD_MEMBER"

// member is one of a cluster, a process of its own with TLS for its clients.
type member struct {
	Name, Dir, Client, Peer, Cluster string
	CA, Cert, Key                    string
	MaxBytes                         int64

	process *exec.Cmd
}

// serveMember runs a member in this process and writes a line when it serves.
func serveMember(encoded string) error {
	var m member
	if err := json.Unmarshal([]byte(encoded), &m); err != nil {
		return err
	}
	c := embed.NewConfig()
	c.Name, c.Dir, c.InitialCluster, c.LogLevel, c.QuotaBackendBytes = m.Name, m.Dir, m.Cluster, "error", m.MaxBytes
	client, err := url.Parse(m.Client)
	if err != nil {
		return err
	}
	peer, err := url.Parse(m.Peer)
	if err != nil {
		return err
	}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	if client.Scheme == "https" {
		c.ClientTLSInfo = transport.TLSInfo{TrustedCAFile: m.CA, CertFile: m.Cert, KeyFile: m.Key, ClientCertAuth: true}
	}
	etcd, err := embed.StartEtcd(c)
	if err != nil {
		return err
	}
	if _, err := fmt.Println("listening"); err != nil {
		return err
	}
	select {
	case <-etcd.Server.ReadyNotify():
		if _, err := fmt.Println("ready"); err != nil {
			return err
		}
	case err := <-etcd.Err():
		return err
	}
	return <-etcd.Err()
}

// start starts the member and returns what waits until it serves.
func (m *member) start(t *testing.T) (await func(line string)) {
	t.Helper()
	encoded, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	process := exec.Command(os.Args[0])
	process.Env = append(os.Environ(), memberConfig+"="+string(encoded))
	process.Stderr = t.Output()
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	m.process = process
	t.Cleanup(func() { m.kill(t) })
	lines := bufio.NewScanner(out)
	return func(line string) {
		t.Helper()
		for lines.Scan() {
			if lines.Text() == line {
				return
			}
		}
		t.Fatalf("member %s ended before it was %s", m.Name, line)
	}
}

// kill ends the member as a power failure would.
func (m *member) kill(t *testing.T) {
	t.Helper()
	if m.process == nil {
		return
	}
	if err := m.process.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = m.process.Wait() // it tells that it was killed
	m.process = nil
}

// signal sends a signal to the member.
func (m *member) signal(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := m.process.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}

// startCluster starts a cluster of so many members whose clients are of the authority.
func startCluster(t *testing.T, size int, ca *authority) []*member {
	t.Helper()
	members := newMembers(t, size, ca)
	var waits []func(string)
	for _, m := range members {
		waits = append(waits, m.start(t))
	}
	for _, await := range waits {
		await("ready")
	}
	return members
}

// newMembers are members that have not been started.
func newMembers(t *testing.T, size int, ca *authority) []*member {
	t.Helper()
	var peers []string
	members := make([]*member, size)
	ports := freePorts(t, 2*size)
	for i := range members {
		m := &member{Name: fmt.Sprintf("m%d", i), Dir: t.TempDir(), Client: fmt.Sprintf("http://127.0.0.1:%d", ports[2*i]), Peer: fmt.Sprintf("http://127.0.0.1:%d", ports[2*i+1])}
		if ca != nil {
			m.Client = strings.Replace(m.Client, "http:", "https:", 1)
			m.CA, m.Cert, m.Key = ca.file, "", ""
			m.Cert, m.Key = ca.issue(t, "server")
		}
		peers = append(peers, m.Name+"="+m.Peer)
		members[i] = m
	}
	for _, m := range members {
		m.Cluster = strings.Join(peers, ",")
	}
	return members
}

func endpoints(members []*member) (all []string) {
	for _, m := range members {
		all = append(all, m.Client)
	}
	return all
}

// freePorts are ports of the loopback address that nobody listens on at this moment.
func freePorts(t *testing.T, n int) (ports []int) {
	t.Helper()
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close() //nolint:errcheck // it was never used
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// authority issues certificates for tests.
type authority struct {
	dir, file string
	cert      *x509.Certificate
	key       *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.file = filepath.Join(a.dir, "ca.crt")
	a.cert, a.key = a.make(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, a.file, filepath.Join(a.dir, "ca.key"))
	return a
}

// issue returns the files of a certificate for this machine and its key.
func (a *authority) issue(t *testing.T, name string) (cert, key string) {
	t.Helper()
	cert, key = filepath.Join(a.dir, name+".crt"), filepath.Join(a.dir, name+".key")
	a.make(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, cert, key)
	return cert, key
}

// make makes a certificate, by itself if the authority has none yet, and writes it.
func (a *authority) make(t *testing.T, c *x509.Certificate, certFile, keyFile string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	encodedKey, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: encodedKey}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return made, key
}
