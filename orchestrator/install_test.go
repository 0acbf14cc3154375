package orchestrator_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

// A user without a clone installs the command from a module proxy. The proxy here is a directory that holds this very tree; what the
// tree depends on comes from where the machine gets its modules.
func TestTheCommandInstallsFromAModuleProxy(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and links the whole command")
	}
	proxy, version := serveTree(t)
	bin := t.TempDir()
	env := append(os.Environ(),
		"GOBIN="+bin,
		"GOPROXY=file://"+proxy+","+goEnv(t, "GOPROXY"),
		// The checksum database does not know this version. Its dependencies are those of go.sum, which has been checked.
		"GOSUMDB=off", "GONOSUMDB=", "GOPRIVATE=", "GONOPROXY=",
		// As `make build` does, whose compiled packages are then used; and so that the module can be removed again.
		"GOFLAGS=-trimpath -modcacherw",
		"GOWORK=off",
	)
	t.Cleanup(func() { forget(t, version) })

	install := exec.Command("go", "install", modulePath+"/cmd/nightshift@"+version)
	install.Dir, install.Env = t.TempDir(), env // outside of any module
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("go install: %v\n%s", err, out)
	}
	nightshift := filepath.Join(bin, "nightshift")
	for _, flag := range []string{"--version", "--help"} {
		out, err := exec.Command(nightshift, flag).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "nightshift") {
			t.Errorf("nightshift %s: %v\n%s", flag, err, out)
		}
	}
	built, err := exec.Command("go", "version", "-m", nightshift).CombinedOutput()
	if err != nil || !strings.Contains(string(built), modulePath+"\t"+version) {
		t.Errorf("what was installed is not %s: %v\n%s", version, err, built)
	}
}

// Tools that list what a program is made of need the whole module graph.
func TestTheModuleGraphCanBeListed(t *testing.T) {
	list := exec.Command("go", "list", "-m", "all")
	list.Dir = ".."
	var stdout, stderr bytes.Buffer
	list.Stdout, list.Stderr = &stdout, &stderr
	if err := list.Run(); err != nil {
		t.Fatalf("go list -m all: %v\n%s", err, stderr.String())
	}
	if !strings.HasPrefix(stdout.String(), modulePath+"\n") || strings.Contains(stdout.String(), "=>") {
		t.Errorf("the graph does not begin with this module, or something in it is replaced:\n%s", stdout.String())
	}
}

// serveTree lays out a module proxy that holds the tree (https://go.dev/ref/mod#goproxy-protocol), and gives its directory and the
// version. The version derives from the content, since the module cache takes a version for immutable.
func serveTree(t *testing.T) (dir, version string) {
	t.Helper()
	files := treeFiles(t)
	digest := sha256.New()
	for _, f := range files {
		text, err := os.ReadFile(f.onDisk)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(digest, "%s %d\n", f.path, len(text))
		digest.Write(text)
	}
	version = "v0.0.0-20260101000000-" + hex.EncodeToString(digest.Sum(nil))[:12]

	dir = t.TempDir()
	at := filepath.Join(dir, filepath.FromSlash(modulePath), "@v")
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	var list []zip.File
	for _, f := range files {
		list = append(list, f)
	}
	if err := zip.Create(&archive, module.Version{Path: modulePath, Version: version}, list); err != nil {
		t.Fatalf("the tree makes no module: %v", err)
	}
	goMod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"list":            []byte(version + "\n"),
		version + ".info": fmt.Appendf(nil, `{"Version":%q,"Time":"2026-01-01T00:00:00Z"}`, version),
		version + ".mod":  goMod,
		version + ".zip":  archive.Bytes(),
	} {
		if err := os.WriteFile(filepath.Join(at, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir, version
}

// treeFile is a file of the tree, for the archive of the module.
type treeFile struct{ path, onDisk string }

func (f treeFile) Path() string                 { return f.path }
func (f treeFile) Lstat() (os.FileInfo, error)  { return os.Lstat(f.onDisk) }
func (f treeFile) Open() (io.ReadCloser, error) { return os.Open(f.onDisk) }

// treeFiles lists what git has or would take, as it stands on disk. The archive leaves out modules below by itself.
func treeFiles(t *testing.T) []treeFile {
	t.Helper()
	list := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = ".."
	out, err := list.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	var files []treeFile
	for _, path := range strings.Split(strings.TrimRight(string(out), "\x00"), "\x00") {
		onDisk := filepath.Join("..", filepath.FromSlash(path))
		if _, err := os.Lstat(onDisk); err == nil { // deleted and not yet committed, otherwise
			files = append(files, treeFile{path, onDisk})
		}
	}
	return files
}

// forget takes the version out of the module cache.
func forget(t *testing.T, version string) {
	t.Helper()
	cache := goEnv(t, "GOMODCACHE")
	at := filepath.FromSlash(modulePath)
	stored, err := filepath.Glob(filepath.Join(cache, "cache", "download", at, "@v", version+".*"))
	if err != nil {
		t.Error(err)
	}
	for _, path := range append(stored, filepath.Join(cache, at+"@"+version)) {
		if err := os.RemoveAll(path); err != nil {
			t.Error(err)
		}
	}
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		t.Fatalf("go env %s: %v", name, err)
	}
	return strings.TrimSpace(string(out))
}
