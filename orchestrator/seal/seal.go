// Package seal encrypts what must not be read at rest.
//
// Each sealing has a data key of its own, AES-256 in Galois/Counter mode (NIST SP 800-38D), and the data key is sealed in turn under a key from a
// file. The purpose is authenticated with both: what was sealed for one purpose opens for no other, so nobody who can write to the disk can
// move a secret to a place where it is shown.
//
// A key file holds 32 random bytes, base64, one key a line; lines that begin with # are ignored. The first key seals, each of them opens what it has sealed:
// a new key goes before the old one, which stays until everything has been written again. What is sealed names its key.
//
// It protects against who reads the data directory, a copy, a backup or the archive without the key file, and not against who has both, or
// reads this process's memory.
package seal

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

const (
	// keyBytes is the length of all keys.
	keyBytes = 32
	// format is the first byte of what is sealed. Others come when something changes.
	format = 1
	// idBytes is how much of a key's digest names it.
	idBytes = 8
	// overhead is what a nonce and the tag add.
	overhead = 12 + 16
)

// UnknownKeyError: what is sealed was sealed under a key that the file does not hold.
type UnknownKeyError struct {
	// File that the keys are from.
	File string
	// ID of the key, hexadecimal.
	ID string
}

// Error implements error.
func (e *UnknownKeyError) Error() string {
	return fmt.Sprintf("it was sealed under key %s, which is not in %s", e.ID, e.File)
}

// Sealer seals and opens with the keys of a file. It is safe for concurrent use.
type Sealer struct {
	file string
	// keys are read when they are first needed, and made when something is to be sealed and there are none.
	keys func(make bool) ([]key, error)
}

type key struct {
	id   [idBytes]byte
	aead cipher.AEAD
}

// Open returns a sealer with the keys of a file that is there.
func Open(file string) (*Sealer, error) {
	keys, err := read(file)
	if err != nil {
		return nil, fmt.Errorf("keys for secrets: %w", err)
	}
	return &Sealer{file, func(bool) ([]key, error) { return keys, nil }}, nil
}

// OpenOrMake returns a sealer with the keys of a file that is made, readable by its owner alone, when something is first sealed.
func OpenOrMake(file string) *Sealer {
	s := &Sealer{file: file}
	var mu sync.Mutex
	var known []key
	s.keys = func(make bool) ([]key, error) {
		mu.Lock()
		defer mu.Unlock()
		if known != nil {
			return known, nil
		}
		keys, err := read(file)
		if make && errors.Is(err, fs.ErrNotExist) {
			if err = create(file); err == nil {
				keys, err = read(file)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("keys for secrets: %w", err)
		}
		known = keys
		return known, nil
	}
	return s
}

// create makes a file with a new key. It appears complete or not at all, and of several makers at once one wins.
func create(file string) (err error) {
	secret := make([]byte, keyBytes)
	if _, err := rand.Read(secret); err != nil {
		return err
	}
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	made, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(made.Name())) }()
	_, err = fmt.Fprintf(made, "# The key under which Nightshift seals the data of Secrets. Without it they cannot be read any more.\n%s\n", base64.StdEncoding.EncodeToString(secret))
	if err = errors.Join(err, made.Sync(), made.Close()); err != nil {
		return err
	}
	// A link refuses to replace a file that has appeared meanwhile.
	if err := os.Link(made.Name(), file); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	handle, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(handle.Sync(), handle.Close())
}

func read(file string) ([]key, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var keys []key
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		secret, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(secret) != keyBytes {
			return nil, fmt.Errorf("%s: line %d is not %d bytes in base64", file, n, keyBytes)
		}
		aead, err := newAEAD(secret)
		if err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", file, n, err)
		}
		one := key{aead: aead}
		digest := sha256.Sum256(append([]byte("nightshift key id\x00"), secret...))
		copy(one.id[:], digest[:])
		keys = append(keys, one)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s holds no key", file)
	}
	return keys, nil
}

func newAEAD(secret []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Seal encrypts for a purpose. The answer is new memory: the format, the key's id, the sealed data key, the sealed bytes.
func (s *Sealer) Seal(plain []byte, purpose string) ([]byte, error) {
	keys, err := s.keys(true)
	if err != nil {
		return nil, err
	}
	dataKey := make([]byte, keyBytes)
	if _, err := rand.Read(dataKey); err != nil {
		return nil, err
	}
	data, err := newAEAD(dataKey)
	if err != nil {
		return nil, err
	}
	sealed := append([]byte{format}, keys[0].id[:]...)
	sealed = keys[0].aead.Seal(sealed, nil, dataKey, []byte(purpose))
	return data.Seal(sealed, nil, plain, []byte(purpose)), nil
}

// Open decrypts what Seal returned for the same purpose. It fails with *UnknownKeyError when the key is not there, and when anything was changed.
func (s *Sealer) Open(sealed []byte, purpose string) ([]byte, error) {
	const wrapped = 1 + idBytes + keyBytes + overhead
	if len(sealed) < wrapped+overhead || sealed[0] != format {
		return nil, errors.New("it was not sealed by this version of Nightshift, or is damaged")
	}
	keys, err := s.keys(false)
	if err != nil {
		return nil, err
	}
	id := sealed[1 : 1+idBytes]
	for _, one := range keys {
		if !bytes.Equal(one.id[:], id) {
			continue
		}
		dataKey, err := one.aead.Open(nil, nil, sealed[1+idBytes:wrapped], []byte(purpose))
		if err != nil {
			return nil, errors.New("its data key cannot be opened: it is damaged, or was sealed for something else")
		}
		data, err := newAEAD(dataKey)
		if err != nil {
			return nil, err
		}
		plain, err := data.Open(nil, nil, sealed[wrapped:], []byte(purpose))
		if err != nil {
			return nil, errors.New("it cannot be opened: it is damaged")
		}
		return plain, nil
	}
	return nil, &UnknownKeyError{File: s.file, ID: fmt.Sprintf("%x", id)}
}
