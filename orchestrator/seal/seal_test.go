package seal_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/nightshift-batch/nightshift/orchestrator/seal"
)

func must[T any](t *testing.T) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func TestWhatIsSealedOpensForItsPurposeAlone(t *testing.T) {
	s := seal.OpenOrMake(filepath.Join(t.TempDir(), "pki", "secrets.key"))
	plain := []byte("correct horse battery staple")
	sealed := must[[]byte](t)(s.Seal(plain, "secret a/b"))
	if _, err := seal.OpenOrMake(filepath.Join(t.TempDir(), "secrets.key")).Open(sealed, "secret a/b"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the key's file: %v", err)
	}
	again := must[[]byte](t)(s.Seal(plain, "secret a/b"))
	if bytes.Contains(sealed, plain[:8]) || bytes.Equal(sealed, again) {
		t.Errorf("sealed %x and %x", sealed, again)
	}
	if opened := must[[]byte](t)(s.Open(sealed, "secret a/b")); !bytes.Equal(opened, plain) {
		t.Errorf("opened %q", opened)
	}
	if empty := must[[]byte](t)(s.Open(must[[]byte](t)(s.Seal(nil, "x")), "x")); len(empty) != 0 {
		t.Errorf("opened %q", empty)
	}
	if _, err := s.Open(sealed, "secret a/c"); err == nil {
		t.Error("it opens for another purpose")
	}
	for i := range sealed {
		broken := bytes.Clone(sealed)
		broken[i] ^= 1
		if _, err := s.Open(broken, "secret a/b"); err == nil {
			t.Errorf("it opens with byte %d changed", i)
		}
		if _, err := s.Open(sealed[:i], "secret a/b"); err == nil {
			t.Errorf("it opens when cut at %d", i)
		}
	}
}

func TestTheFileIsMadeOnceForItsOwnerAloneAndOnlyWhenNeeded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pki", "secrets.key")
	seal.OpenOrMake(file)
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is there before anything is sealed: %v", err)
	}
	var sealers sync.WaitGroup
	sealed := make([][]byte, 8)
	for i := range sealed {
		sealers.Go(func() {
			var err error
			if sealed[i], err = seal.OpenOrMake(file).Seal([]byte("x"), "p"); err != nil {
				t.Error(err)
			}
		})
	}
	sealers.Wait()
	if info := must[os.FileInfo](t)(os.Stat(file)); info.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v", info.Mode())
	}
	s := must[*seal.Sealer](t)(seal.Open(file))
	for _, each := range sealed {
		must[[]byte](t)(s.Open(each, "p"))
	}
	if entries := must[[]os.DirEntry](t)(os.ReadDir(filepath.Dir(file))); len(entries) != 1 {
		t.Errorf("beside it there are %v", entries)
	}
}

func TestANewKeySealsAndTheOldOneStillOpens(t *testing.T) {
	dir := t.TempDir()
	line := func(b byte) string {
		return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, 32)) + "\n"
	}
	write := func(text string) *seal.Sealer {
		file := filepath.Join(dir, "keys")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return must[*seal.Sealer](t)(seal.Open(file))
	}
	first := must[[]byte](t)(write(line(1)).Seal([]byte("x"), "p"))
	both := write("# new\n" + line(2) + "\n" + line(1))
	must[[]byte](t)(both.Open(first, "p"))
	second := must[[]byte](t)(both.Seal([]byte("y"), "p"))
	_, err := write(line(1)).Open(second, "p")
	var unknown *seal.UnknownKeyError
	if !errors.As(err, &unknown) || !strings.Contains(err.Error(), filepath.Join(dir, "keys")) {
		t.Errorf("the old key alone gives %v", err)
	}
}

func TestAFileWithoutGoodKeysIsRefusedByTheLine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	for text, want := range map[string]string{"": "holds no key", "# none\n": "holds no key", "\nc2hvcnQ=\n": "line 2", "???": "line 1"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := seal.Open(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q gives %v, not %q", text, err, want)
		}
		if _, err := seal.OpenOrMake(file).Seal(nil, "p"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q gives %v when something is sealed, not %q", text, err, want)
		}
	}
	if _, err := seal.Open(file + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there gives %v", err)
	}
}
