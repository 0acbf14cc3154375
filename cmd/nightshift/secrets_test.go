package main_test

import (
	"bytes"
	"encoding/base64"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestNothingOnDiskHoldsWhatASecretHolds writes secrets in all the ways that kubectl has, restarts the server, and reads every file of its data directory.
func TestNothingOnDiskHoldsWhatASecretHolds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.serve("--trace-file", "traces.jsonl")
	const word = "xyzzy-plugh-4711"
	w.write("secret.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: applied}\nstringData: {word: "+word+"}\n")
	s.must("apply", "-f", "secret.yaml")
	s.must("create", "secret", "generic", "created", "--from-literal=word="+word)
	s.must("apply", "--server-side", "-f", "secret.yaml", "--force-conflicts")
	s.must("patch", "secret", "created", "-p", `{"stringData":{"other":"`+word+`"}}`)
	s.must("create", "configmap", "open", "--from-literal=word=in-the-open-0815")
	s.must("delete", "secret", "applied")
	s.current.signal(syscall.SIGKILL)
	s.current.mustEnd(128 + int(syscall.SIGKILL))
	s.restart()
	if out := s.must("get", "secret", "created", "-o", "jsonpath={.data.word} {.data.other}"); out != strings.Repeat(" "+base64.StdEncoding.EncodeToString([]byte(word)), 2)[1:] {
		t.Errorf("after a restart the secret is %q", out)
	}
	if info, err := os.Stat(w.path("state", "pki", "secrets.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key is %v, %v", info, err)
	}
	found, files := false, 0
	err := filepath.WalkDir(w.path("."), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || path == w.path("secret.yaml") {
			return err
		}
		files++
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		// Three alignments are all that base64 has, also of base64 within a JSON within base64.
		for shift := range 3 {
			coded := base64.StdEncoding.EncodeToString([]byte("abc"[:shift] + word))
			if bytes.Contains(content, []byte(coded[4:len(coded)-4])) {
				t.Errorf("%s holds the secret in base64", path)
			}
		}
		if bytes.Contains(content, []byte(word)) {
			t.Errorf("%s holds the secret", path)
		}
		// What is not secret is found, so this would find what is.
		found = found || bytes.Contains(content, []byte("in-the-open-0815"))
		return nil
	})
	if err != nil || !found {
		t.Errorf("in %d files the configmap was found: %v, %v", files, found, err)
	}
	s.current.signal(syscall.SIGINT)
	s.current.mustEnd(0)
	// Without the key the server serves, and says of the secret what is missing.
	if err := os.Rename(w.path("state", "pki", "secrets.key"), w.path("moved.key")); err != nil {
		t.Fatal(err)
	}
	s.restart()
	lost := s.kubectl("get", "secret", "created")
	lost.mustEnd(1)
	if out := lost.stderr.String(); !strings.Contains(out, "secrets.key") {
		t.Errorf("without the key: %s", out)
	}
	s.must("get", "configmap", "open")
	s.current.signal(syscall.SIGINT)
	s.current.mustEnd(0)
	s.args = append(s.args, "--secrets-key-file", w.path("moved.key"))
	s.restart()
	s.must("get", "secret", "created")
}
