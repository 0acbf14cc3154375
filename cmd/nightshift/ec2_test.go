package main_test

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// ec2 is a moto server: EC2's API, with instances that nothing boots. The test is the machine: it starts the agent that the user data
// tells it to start.
type ec2 struct {
	w   *world
	url string
}

var motoServes = regexp.MustCompile(`Running on (http://127\.0\.0\.1:\d+)`)

func (w *world) ec2() *ec2 {
	w.t.Helper()
	install, err := filepath.Abs("../../.ci/moto/install")
	if err != nil {
		w.t.Fatal(err)
	}
	path, err := exec.Command(install).Output()
	if err != nil {
		w.t.Fatalf("moto cannot be had: %v", err)
	}
	moto := w.start(strings.TrimSpace(string(path)), "-H", "127.0.0.1", "-p", "0")
	moto.awaitOutput(moto.stderr, "Running on http")
	w.t.Cleanup(func() {
		_ = moto.cmd.Process.Kill() // it has nothing to say at its end
		<-moto.ended
	})
	w.env = append(w.env, "AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONFIG_FILE="+os.DevNull, "AWS_SHARED_CREDENTIALS_FILE="+os.DevNull, "NO_PROXY=127.0.0.1")
	return &ec2{w, motoServes.FindStringSubmatch(moto.stderr.String())[1]}
}

// call asks as the AWS CLI would; moto reads the service and the region from the signature and does not check it.
func (e *ec2) call(action string, parameters ...string) string {
	e.w.t.Helper()
	form := url.Values{"Action": {action}, "Version": {"2016-11-15"}}
	for i := 0; i < len(parameters); i += 2 {
		form.Set(parameters[i], parameters[i+1])
	}
	request, err := http.NewRequest(http.MethodPost, e.url, strings.NewReader(form.Encode()))
	if err != nil {
		e.w.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/ec2/aws4_request, SignedHeaders=host, Signature=0")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		e.w.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		e.w.t.Fatalf("%s: %s, %v\n%s", action, response.Status, err, body)
	}
	return string(body)
}

func (e *ec2) first(pattern, in string) string {
	e.w.t.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(in)
	if found == nil {
		e.w.t.Fatalf("no %s in\n%s", pattern, in)
	}
	return found[len(found)-1]
}

// boot is what the instance does with its user data: it starts the agent with what it is told.
func (e *ec2) boot(instance string) *command {
	e.w.t.Helper()
	encoded := e.first(`<userData>\s*<value>([^<]+)</value>`, e.call("DescribeInstanceAttribute", "InstanceId", instance, "Attribute", "userData"))
	text, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		e.w.t.Fatal(err)
	}
	var config struct {
		WriteFiles []struct{ Path, Content string } `json:"write_files"`
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(string(text), "#cloud-config\n")), &config); err != nil {
		e.w.t.Fatalf("the user data: %v\n%s", err, text)
	}
	files := make(map[string]string)
	for _, file := range config.WriteFiles {
		content, err := base64.StdEncoding.DecodeString(file.Content)
		if err != nil {
			e.w.t.Fatal(err)
		}
		files[filepath.Base(file.Path)] = string(content)
	}
	return e.w.start(filepath.Join(filepath.Dir(built.nightshift), "nightshift-agent"), "--control-plane", files["address"],
		"--ca-file", e.w.write("instance-ca.pem", files["ca.pem"]), "--token-file", e.w.write("instance-token", files["token"]),
		"--instance-id", instance, "--state-dir", e.w.path("instance-state"))
}

// With two providers configured, a Job that no local node can hold runs on an instance that is bought from EC2 and given back.
func TestAJobRunsOnAnInstanceBoughtFromEC2(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cloud := w.ec2()
	image := cloud.first(`<imageId>(ami-\w+)</imageId>`, cloud.call("DescribeImages", "Filter.1.Name", "architecture", "Filter.1.Value.1", "x86_64"))
	subnet := cloud.first(`<subnetId>(subnet-\w+)</subnetId>`, cloud.call("DescribeSubnets"))
	w.write("aws.yaml", `region: us-east-1
subnetIds: [`+subnet+`]
instanceTypes: [m5.large, m5.xlarge]
imageId: `+image+`
securityGroupIds: [sg-0123456789abcdef0]
onDemandPricesMicrosPerHour: {m5.large: 96000, m5.xlarge: 192000}
watchInterval: 100ms
endpointURL: `+cloud.url+"\n")
	file := w.write("job.yaml", strings.Replace(job("big", "echo on the instance"), "image: none", `image: none
        resources: {requests: {cpu: "1", memory: 6Gi}}`, 1))
	agents := freeAddress(t)
	run := w.nightshift("run", "-f", file, "--data-dir", "state", "-o", "json", "--nodes", "1", "--provider", "local", "--provider", "aws=aws.yaml",
		"--agents-listen", agents, "--agents-address", agents)
	run.awaitOutput(run.stderr, "launched as i-")
	if !strings.Contains(run.stderr.String(), "buying 1 x m5.large in us-east-1") {
		t.Error("the reason of the choice is not told")
	}
	instance := cloud.first(`launched as (i-[0-9a-f]+)`, run.stderr.String())
	agent := cloud.boot(instance)
	run.mustEnd(0)
	got := run.result()
	if got.Status != "Complete" || got.Succeeded != 1 || got.Cost.OnDemand == "0.000000" {
		t.Errorf("the run came to %+v", got)
	}
	if w.said("state", got.UID, "on the instance\n") != 1 {
		t.Error("the pod's output did not arrive")
	}
	state := cloud.first(`(?s)<instanceState>.*?<name>([a-z-]+)</name>`, cloud.call("DescribeInstances", "InstanceId.1", instance))
	if state != "terminated" {
		t.Errorf("the instance is %s after the run", state)
	}
	// The machine ends with its instance.
	_ = agent.cmd.Process.Kill()
}

// freeAddress is a loopback address that nothing listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}
