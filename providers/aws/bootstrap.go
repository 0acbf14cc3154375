package aws

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/nightshift-batch/nightshift/providers"
)

// bootstrapDir is where an instance finds what its agent needs: address, ca.pem, token and instance-id.
const bootstrapDir = "/etc/nightshift"

// stateDir is where the agent keeps its own files and runs its pods.
const stateDir = "/var/lib/nightshift"

// maxUserData is EC2's limit on user data, before base64
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/user-data.html).
const maxUserData = 16 << 10

// cloudConfig is the part of cloud-init's configuration that is used. JSON is YAML, so no text is ever quoted by hand
// (https://cloudinit.readthedocs.io/en/latest/reference/modules.html).
type cloudConfig struct {
	WriteFiles []cloudFile `json:"write_files"`
	RunCmd     [][]string  `json:"runcmd"`
}

type cloudFile struct {
	Path        string `json:"path"`
	Permissions string `json:"permissions"`
	Encoding    string `json:"encoding"`
	Content     string `json:"content"`
}

func newFile(path, permissions string, content []byte) cloudFile {
	return cloudFile{Path: path, Permissions: permissions, Encoding: "b64", Content: base64.StdEncoding.EncodeToString(content)}
}

// userData is the cloud-init configuration that makes an instance a node. The same bootstrap gives the same bytes, or EC2 would
// take a repeated launch for another.
func (c Config) userData(bootstrap providers.Bootstrap) (string, error) {
	config := cloudConfig{
		WriteFiles: []cloudFile{
			newFile(bootstrapDir+"/address", "0600", []byte(bootstrap.Address)),
			newFile(bootstrapDir+"/ca.pem", "0600", bootstrap.CACertificate),
			newFile(bootstrapDir+"/token", "0600", []byte(bootstrap.Token)),
			newFile(bootstrapDir+"/start", "0700", []byte(c.startScript())),
		},
		RunCmd: [][]string{{bootstrapDir + "/start"}},
	}
	encoded, err := json.Marshal(config)
	if err != nil {
		return "", err
	}
	data := "#cloud-config\n" + string(encoded) + "\n"
	if len(data) > maxUserData {
		return "", fmt.Errorf("the bootstrap makes %d bytes of user data, EC2 takes %d", len(data), maxUserData)
	}
	return data, nil
}

// startScript tells the instance its own id and starts the agent as a service. Where no agent is configured, the image has one
// that waits for the instance-id, which is written last. When the instance shuts down, the agent alone is told to stop: it gives its
// pods their grace, within the two minutes of a spot interruption. The service's control group is the agent's to divide among its pods.
func (c Config) startScript() string {
	var script strings.Builder
	script.WriteString("#!/bin/sh\nset -eu\numask 077\ncd " + bootstrapDir + "\n" +
		"cloud-init query v1.instance_id >instance-id.new\nmv instance-id.new instance-id\n")
	if len(c.Agent) == 0 {
		return script.String()
	}
	script.WriteString("case $(uname -m) in\n")
	for _, machine := range []struct{ uname, arch string }{{"x86_64", "amd64"}, {"aarch64", "arm64"}} {
		if binary, ok := c.Agent[machine.arch]; ok {
			fmt.Fprintf(&script, "%s) url=%s sum=%s ;;\n", machine.uname, shellQuoted(binary.URL), binary.SHA256)
		}
	}
	script.WriteString(`*) echo "no nightshift agent is configured for $(uname -m)" >&2; exit 1 ;;
esac
curl --fail --silent --show-error --location --retry 5 --retry-connrefused --output agent.new "$url"
echo "$sum  agent.new" | sha256sum --check --status || { echo "the agent from $url is not the one that was configured" >&2; exit 1; }
chmod 0755 agent.new
mv agent.new /usr/local/bin/nightshift-agent
mkdir -p ` + stateDir + `
exec systemd-run --unit=nightshift-agent --property=Restart=on-failure --property=RestartSec=2 \
	--property=KillMode=mixed --property=TimeoutStopSec=120 --property=Delegate=yes --property=WorkingDirectory=` + stateDir + ` \
	/usr/local/bin/nightshift-agent --control-plane "$(cat address)" --ca-file ` + bootstrapDir + `/ca.pem \
	--token-file ` + bootstrapDir + `/token --instance-id "$(cat instance-id)" --state-dir ` + stateDir + "\n")
	return script.String()
}

// shellQuoted is a word of a POSIX shell.
func shellQuoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
