package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const secretBytes = 32

// keep returns the content of the file dir/name; if there is none yet, it is what make returns. The file appears complete or
// not at all, and of several makers at once one wins.
func keep(dir, name string, make func() ([]byte, error)) ([]byte, error) {
	path := filepath.Join(dir, name)
	content, err := os.ReadFile(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return content, err
	}
	if content, err = make(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	// A link refuses to replace a file that has appeared meanwhile, which a rename would not.
	if err := linkNew(dir, path, content); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.ReadFile(path)
}

func linkNew(dir, path string, content []byte) (err error) {
	temporary, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(temporary.Name())) }()
	_, err = temporary.Write(content)
	if err = errors.Join(err, temporary.Sync(), temporary.Close()); err != nil {
		return err
	}
	if err := os.Link(temporary.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	handle, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(handle.Sync(), handle.Close())
}

func newSecret() ([]byte, error) {
	secret := make([]byte, secretBytes)
	_, err := rand.Read(secret)
	return secret, err
}

// newAuthority returns a self-signed certificate and its key, PEM.
func newAuthority() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:  pkix.Name{CommonName: "Nightshift"},
		IsCA:     true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		// It signs leaves alone.
		MaxPathLenZero: true,
	}
	if err := completeTemplate(template, AuthorityLifetime); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return append(encodePEM("CERTIFICATE", der), encodePEM("PRIVATE KEY", keyDER)...), nil
}

func parseAuthority(text []byte) (*Authority, error) {
	authority := &Authority{}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "CERTIFICATE":
			certificate, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, err
			}
			authority.certificate, authority.pem = certificate, pem.EncodeToMemory(block)
		case "PRIVATE KEY":
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, err
			}
			signer, ok := key.(crypto.Signer)
			if !ok {
				return nil, fmt.Errorf("a key of type %T cannot sign", key)
			}
			authority.key = signer
		}
	}
	if authority.certificate == nil || authority.key == nil {
		return nil, errors.New("the certificate or its key is missing")
	}
	public, ok := authority.key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(authority.certificate.PublicKey) {
		return nil, errors.New("the key is not that of the certificate")
	}
	return authority, nil
}
