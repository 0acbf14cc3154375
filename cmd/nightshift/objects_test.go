package main_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
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

func TestVersionsOfObjectsOutliveTheServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.serve()
	version := func(name string) string {
		return s.must("get", "configmap", name, "-o", "jsonpath={.metadata.resourceVersion}/{.metadata.uid}")
	}
	s.must("create", "configmap", "first", "--from-literal=a=b")
	s.must("create", "namespace", "team")
	first := version("first")
	from, _, _ := strings.Cut(first, "/")
	s.must("create", "configmap", "second", "--from-literal=a=b")
	s.must("label", "configmap", "second", "a=b")
	s.must("delete", "namespace", "team")
	second := version("second")
	s.current.signal(syscall.SIGKILL)
	s.current.mustEnd(128 + int(syscall.SIGKILL))
	s.restart()
	if again := version("first"); again != first {
		t.Errorf("the first is of version %s after a restart, and was of %s", again, first)
	}
	if again := version("second"); again != second {
		t.Errorf("the second is of version %s after a restart, and was of %s", again, second)
	}
	// A watch that had seen the first object goes on behind it.
	told := s.must("get", "--raw", "/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=2&fieldSelector=metadata.name!=kube-root-ca.crt&resourceVersion="+from)
	var seen []string
	for line := range strings.Lines(told) {
		var change struct {
			Type   string
			Object struct{ Metadata struct{ Name string } }
		}
		if err := json.Unmarshal([]byte(line), &change); err != nil {
			t.Fatalf("the watch told %q: %v", line, err)
		}
		seen = append(seen, change.Type+" "+change.Object.Metadata.Name)
	}
	if got := strings.Join(seen, ", "); got != "ADDED second, MODIFIED second" {
		t.Errorf("from version %s on the watch told %s", from, got)
	}
	s.must("create", "namespace", "team")
	w.await("the namespace is furnished", func() bool {
		return strings.Contains(s.must("get", "cm,sa", "-n", "team", "-o", "name"), "configmap/kube-root-ca.crt\nserviceaccount/default")
	})
}
