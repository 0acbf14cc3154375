package access

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apiserver/pkg/authentication/user"
)

// A token is tokenPrefix, a name of idBytes and a secret of secretBytes, as "nst_mzxw6ytb_...". The prefix lets scanners of repositories find
// tokens that were committed.
const (
	tokenPrefix = "nst_"
	idBytes     = 5
	secretBytes = 32
)

var letters = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Token is one line of a tokens file: what is known of a token, and for whom it stands. The token itself is not in it.
//
// Its digest is SHA-256 over the whole token, with no salt and no work factor: these protect secrets that can be guessed, and a token is 256 random
// bits, of our own making alone. A slow digest would make each request slow, and each wrong one too.
type Token struct {
	// ID is the part of the token that names it, in the clear.
	ID string `json:"id"`
	// SHA256 of the whole token, in hexadecimal.
	SHA256 string `json:"sha256"`
	User   string `json:"user"`
	UID    string `json:"uid,omitempty"`
	// Groups the user is in. "system:masters" makes an administrator; no other group of system: can be given.
	Groups []string `json:"groups,omitempty"`
	// Namespaces in which the user is a tenant: short for the groups TenantGroup gives.
	Namespaces []string `json:"namespaces,omitempty"`
	// Expires, if given, is when the token ends to be good.
	Expires *time.Time `json:"expires,omitempty"`
}

// NewToken makes a token for whom the template says, and returns it with its line. It is told nowhere else.
func NewToken(template Token) (secret string, line Token, err error) {
	bits := make([]byte, idBytes+secretBytes)
	if _, err := rand.Read(bits); err != nil {
		return "", Token{}, fmt.Errorf("draw a token: %w", err)
	}
	line = template
	line.ID = letters.EncodeToString(bits[:idBytes])
	secret = tokenPrefix + line.ID + "_" + letters.EncodeToString(bits[idBytes:])
	digest := sha256.Sum256([]byte(secret))
	line.SHA256 = hex.EncodeToString(digest[:])
	return secret, line, line.check()
}

// Line is the token as a line of a tokens file, with the end of line.
func (t Token) Line() ([]byte, error) {
	line, err := json.Marshal(t)
	return append(line, '\n'), err
}

// parseLine reads one line.
func parseLine(line []byte) (token Token, err error) {
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&token); err != nil {
		return token, fmt.Errorf("not a token, as {\"id\":...,\"sha256\":...,\"user\":...}: %w", err)
	}
	if decoder.More() {
		return token, errors.New("more than one object")
	}
	return token, token.check()
}

// check holds a line against what may be given by it.
func (t Token) check() error {
	id, err := letters.DecodeString(t.ID)
	if err != nil || len(id) != idBytes {
		return fmt.Errorf("id %q: not a name of a token", t.ID)
	}
	if digest, err := hex.DecodeString(t.SHA256); err != nil || len(digest) != sha256.Size {
		return errors.New("sha256: not a SHA-256 digest in hexadecimal") // it may be a token that was put there by mistake
	}
	if t.User == "" {
		return errors.New("user: it must not be empty")
	}
	if isReserved(t.User) {
		return fmt.Errorf("user %q: names that begin with %s are Kubernetes' own", t.User, systemPrefix)
	}
	for _, name := range t.Groups {
		if name == "" || isReserved(name) && name != user.SystemPrivilegedGroup {
			return fmt.Errorf("group %q: of the groups that begin with %s only %s can be given", name, systemPrefix, user.SystemPrivilegedGroup)
		}
	}
	for _, name := range t.Namespaces {
		if wrong := apivalidation.ValidateNamespaceName(name, false); len(wrong) > 0 {
			return fmt.Errorf("namespace %q: %s", name, strings.Join(wrong, "; "))
		}
	}
	return nil
}

const systemPrefix = "system:"

func isReserved(name string) bool { return strings.HasPrefix(name, systemPrefix) }

// known is whom the token stands for.
func (t Token) known() user.Info {
	groups := slices.Clone(t.Groups)
	for _, namespace := range t.Namespaces {
		groups = append(groups, TenantGroup(namespace))
	}
	return &user.DefaultInfo{Name: t.User, UID: t.UID, Groups: groups}
}

// idOf is the name in a token, false if it has not the form of one.
func idOf(secret string) (id string, ok bool) {
	rest, ok := strings.CutPrefix(secret, tokenPrefix)
	if !ok {
		return "", false
	}
	id, _, ok = strings.Cut(rest, "_")
	return id, ok
}
