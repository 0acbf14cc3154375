package access

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
)

// maxTokensFile bounds the file, bytes: some thousands of tokens.
const maxTokensFile = 4 << 20

// Tokens knows the bearers of static tokens by a file that may change while it is read. A change holds from the next request on.
//
// A line that is wrong stands for no token, and the others hold: a slip in one line neither locks everybody out nor keeps a token good that was
// taken out. A file that cannot be read holds no tokens. Both are logged, with the line, once. At the start either is an error instead.
type Tokens struct {
	path   string
	logger *slog.Logger

	mu   sync.Mutex
	byID map[string]Token
	// read is the file as it was last read, and readAt when that was.
	read   os.FileInfo
	readAt time.Time
	// lost is set while the file cannot be read.
	lost bool
}

// OpenTokens reads a tokens file, all of whose lines must be good: JSON objects, one a line; empty lines and those that begin with # mean nothing.
func OpenTokens(path string, logger *slog.Logger) (*Tokens, error) {
	t := &Tokens{path: path, logger: logger}
	if _, err := t.refresh(); err != nil {
		return nil, err
	}
	return t, nil
}

// AuthenticateToken implements authenticator.Token.
func (t *Tokens) AuthenticateToken(_ context.Context, secret string) (*authenticator.Response, bool, error) {
	id, ok := idOf(secret)
	if !ok {
		return nil, false, nil // perhaps an issuer's
	}
	byID, err := t.refresh()
	if err != nil {
		t.logger.Error("the tokens file is not as it should be", "error", err)
	}
	token, ok := byID[id]
	digest := sha256.Sum256([]byte(secret))
	wanted, decodeErr := hex.DecodeString(token.SHA256)
	switch {
	case !ok, decodeErr != nil, subtle.ConstantTimeCompare(digest[:], wanted) != 1:
		return nil, false, errUnknownToken
	case token.Expires != nil && !time.Now().Before(*token.Expires):
		return nil, false, fmt.Errorf("the token %s has expired", id)
	}
	return &authenticator.Response{User: token.known()}, true, nil
}

// settledAfter is how long after its last change a file cannot change any more without its times telling: those of some file systems are coarse.
const settledAfter = 2 * time.Second

// refresh reads the file if it has changed, and returns the tokens that hold. The error is of this reading alone.
func (t *Tokens) refresh() (map[string]Token, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	info, err := os.Stat(t.path)
	if err != nil {
		return nil, t.lose(err)
	}
	if t.read != nil && os.SameFile(t.read, info) && t.read.Size() == info.Size() && t.read.ModTime().Equal(info.ModTime()) && t.readAt.Sub(info.ModTime()) > settledAfter {
		return t.byID, nil
	}
	readAt := time.Now()
	byID, err := readTokens(t.path)
	var wrong *lineError
	if err != nil && !errors.As(err, &wrong) {
		return nil, t.lose(err)
	}
	again := t.read != nil && t.read.Size() == info.Size() && t.read.ModTime().Equal(info.ModTime())
	t.byID, t.read, t.readAt, t.lost = byID, info, readAt, false
	if again {
		err = nil // told before
	}
	return byID, err
}

// lose lets no token hold, and returns the error the first time.
func (t *Tokens) lose(err error) error {
	t.byID, t.read = nil, nil
	if t.lost {
		return nil
	}
	t.lost = true
	return err
}

// lineError says what is wrong with a line of the file.
type lineError struct {
	path string
	line int
	err  error
}

func (e *lineError) Error() string { return fmt.Sprintf("%s: line %d: %v", e.path, e.line, e.err) }

func (e *lineError) Unwrap() error { return e.err }

// readTokens returns the good lines, and *lineErrors for the others.
func readTokens(path string) (map[string]Token, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxTokensFile+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(text) > maxTokensFile {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, maxTokensFile)
	}
	byID, lines := make(map[string]Token), make(map[string]int)
	var errs []error
	for i, line := range bytes.Split(text, []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		token, err := parseLine(line)
		if before, twice := lines[token.ID]; err == nil && twice {
			err = fmt.Errorf("the token %s is in line %d already", token.ID, before)
		}
		if err != nil {
			errs = append(errs, &lineError{path, i + 1, err})
			continue
		}
		byID[token.ID], lines[token.ID] = token, i+1
	}
	return byID, errors.Join(errs...)
}

// AppendToken puts a token's line at the end of a tokens file, which is made, readable by its owner alone, if it is not there.
func AppendToken(path string, token Token) (err error) {
	line, err := token.Line()
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	last := []byte{'\n'}
	if size := info.Size(); size > 0 {
		if _, err := file.ReadAt(last, size-1); err != nil {
			return err
		}
	}
	if last[0] != '\n' {
		line = append([]byte{'\n'}, line...)
	}
	// One write, so that a reader finds the line whole or not at all.
	if _, err := file.Write(line); err != nil {
		return err
	}
	return file.Sync()
}
