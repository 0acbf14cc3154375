package aws_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nightshift-batch/nightshift/providers"
	"github.com/nightshift-batch/nightshift/providers/aws"
)

// cloudFiles reads the files of a cloud-init configuration.
func cloudFiles(t *testing.T, userData string) map[string]string {
	t.Helper()
	body, ok := strings.CutPrefix(userData, "#cloud-config\n")
	if !ok {
		t.Fatalf("cloud-init does not take %q", userData)
	}
	var config struct {
		WriteFiles []struct{ Path, Permissions, Encoding, Content string } `json:"write_files"`
		RunCmd     [][]string                                              `json:"runcmd"`
	}
	if err := json.Unmarshal([]byte(body), &config); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, file := range config.WriteFiles {
		content, err := base64.StdEncoding.DecodeString(file.Content)
		if err != nil || file.Encoding != "b64" {
			t.Errorf("%s: encoding %q, %v", file.Path, file.Encoding, err)
		}
		if !strings.HasSuffix(file.Permissions, "00") {
			t.Errorf("%s can be read by others: %s", file.Path, file.Permissions)
		}
		files[file.Path] = string(content)
	}
	if len(config.RunCmd) != 1 || files[config.RunCmd[0][0]] == "" {
		t.Errorf("cloud-init runs %v, which is none of the files", config.RunCmd)
	}
	return files
}

// startedNode runs the start script of a configuration in a directory that stands for an instance's root, where cloud-init, curl and
// systemd-run are scripts of the test, and curl fetches the given agent.
func startedNode(t *testing.T, agents map[string]aws.AgentBinary, agent string) (root, output string, err error) {
	t.Helper()
	userData, err := aws.Config{Agent: agents}.UserData(providers.Bootstrap{Address: "control.example:7443"})
	if err != nil {
		t.Fatal(err)
	}
	root = t.TempDir()
	script := strings.NewReplacer("/etc/nightshift", root+"/etc", "/usr/local/bin", root+"/bin", "/var/lib/nightshift", root+"/state").Replace(cloudFiles(t, userData)["/etc/nightshift/start"])
	for path, content := range map[string]string{
		"etc/start":         script,
		"etc/address":       "control.example:7443",
		"agent":             agent,
		"tools/cloud-init":  "#!/bin/sh\n[ \"$*\" = 'query v1.instance_id' ] && echo i-0123456789abcdef0\n",
		"tools/curl":        "#!/bin/sh\nwhile [ \"$1\" != --output ]; do shift; done\necho \"$3\" >" + root + "/fetched\ncp " + root + "/agent \"$2\"\n",
		"tools/systemd-run": "#!/bin/sh\necho \"$*\" >" + root + "/started\n",
		"tools/uname":       "#!/bin/sh\necho x86_64\n",
		"bin/.keep":         "",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, path), []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("/bin/sh", root+"/etc/start")
	cmd.Env = append(os.Environ(), "PATH="+root+"/tools:"+os.Getenv("PATH"))
	combined, err := cmd.CombinedOutput()
	return root, string(combined), err
}

func content(t *testing.T, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func TestAnInstanceStartsTheAgentThatWasConfigured(t *testing.T) {
	sum := sha256.Sum256([]byte("the agent"))
	binary := aws.AgentBinary{URL: "https://agents.example/it's?a=b&c", SHA256: hex.EncodeToString(sum[:])}
	root, output, err := startedNode(t, map[string]aws.AgentBinary{"amd64": binary}, "the agent")
	if err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	if got := content(t, root, "fetched"); got != binary.URL {
		t.Errorf("fetched %s, want %s", got, binary.URL)
	}
	if got := content(t, root, "etc/instance-id"); got != "i-0123456789abcdef0" {
		t.Errorf("the instance takes itself for %q", got)
	}
	if got := content(t, root, "bin/nightshift-agent"); got != "the agent" {
		t.Errorf("the agent is %q", got)
	}
	want := strings.ReplaceAll("ROOT/bin/nightshift-agent --control-plane control.example:7443 --ca-file ROOT/etc/ca.pem --token-file ROOT/etc/token --instance-id i-0123456789abcdef0 --state-dir ROOT/state", "ROOT", root)
	if got := content(t, root, "started"); !strings.HasSuffix(got, " "+want) || !strings.Contains(got, "--property=Delegate=yes ") {
		t.Errorf("started %q, want %q", got, want)
	}
}

func TestAnInstanceStartsNoAgentOfAnotherChecksum(t *testing.T) {
	sum := sha256.Sum256([]byte("the agent"))
	root, output, err := startedNode(t, map[string]aws.AgentBinary{"amd64": {URL: "https://agents.example/", SHA256: hex.EncodeToString(sum[:])}}, "an impostor")
	if err == nil || !strings.Contains(output, "not the one that was configured") {
		t.Errorf("error %v, output %q", err, output)
	}
	if content(t, root, "started") != "" || content(t, root, "bin/nightshift-agent") != "" {
		t.Error("an agent of another checksum was installed")
	}
}

func TestAnInstanceWithoutAConfiguredAgentFetchesNothing(t *testing.T) {
	root, output, err := startedNode(t, nil, "")
	if err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	if content(t, root, "fetched") != "" || content(t, root, "started") != "" {
		t.Error("something was fetched or started")
	}
	if content(t, root, "etc/instance-id") == "" {
		t.Error("the image's agent is not told which instance it is on")
	}
}

func TestABootstrapThatIsTooLargeIsABadRequest(t *testing.T) {
	c := newCloud(t, plenty)
	r := request(t, 1, spotOffer)
	r.Bootstrap.CACertificate = make([]byte, 16<<10)
	_, err := c.provider().Launch(t.Context(), r)
	wantKind(t, err, providers.KindBadRequest)
}
