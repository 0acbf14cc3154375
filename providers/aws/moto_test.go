package aws_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

const region = "us-east-1"

// fakeEnvironment keeps the SDK from everything outside this machine.
var fakeEnvironment = map[string]string{
	"AWS_ACCESS_KEY_ID":           "test",
	"AWS_SECRET_ACCESS_KEY":       "test",
	"AWS_EC2_METADATA_DISABLED":   "true",
	"AWS_CONFIG_FILE":             os.DevNull,
	"AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	"NO_PROXY":                    "127.0.0.1",
}

// motoServer is one moto for all tests of the package; they keep apart by owners and keys.
type motoServer struct {
	url string
	// ec2 asks moto directly, behind the back of the provider and of the cloud in front of it.
	ec2 *ec2.Client
	// image is some x86_64 image; subnets are those of two zones.
	image   string
	subnets []string
	process *exec.Cmd
}

var theMoto struct {
	once   sync.Once
	server *motoServer
	err    error
}

func TestMain(m *testing.M) {
	for name, value := range fakeEnvironment {
		if err := os.Setenv(name, value); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	for _, name := range []string{"AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_EC2"} {
		if err := os.Unsetenv(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	code := m.Run()
	if server := theMoto.server; server != nil {
		if err := server.process.Process.Kill(); err != nil {
			fmt.Fprintln(os.Stderr, "moto:", err)
			code = 1
		}
		_ = server.process.Wait() // it was killed
	}
	if built.path != "" {
		if err := os.RemoveAll(filepath.Dir(built.path)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// moto returns the running moto server, which the first test that needs it starts. Where it cannot be had, the test fails if moto is
// required (CI=true or NIGHTSHIFT_REQUIRE_MOTO=1) and is skipped otherwise.
func moto(t testing.TB) *motoServer {
	t.Helper()
	theMoto.once.Do(func() { theMoto.server, theMoto.err = startMoto() })
	if theMoto.err == nil {
		return theMoto.server
	}
	if os.Getenv("CI") == "true" || os.Getenv("NIGHTSHIFT_REQUIRE_MOTO") == "1" {
		t.Fatalf("moto is required and cannot be had: %v", theMoto.err)
	}
	t.Skipf("moto cannot be had: %v", theMoto.err)
	return nil
}

func startMoto() (*motoServer, error) {
	install, err := filepath.Abs("../../.ci/moto/install")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(install)
	cmd.Stderr = os.Stderr
	path, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", install, err)
	}
	server := &motoServer{process: exec.Command(strings.TrimSpace(string(path)), "-H", "127.0.0.1", "-p", "0")}
	server.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output, err := server.process.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := server.process.Start(); err != nil {
		return nil, err
	}
	if server.url, err = servedAt(bufio.NewScanner(output)); err == nil {
		err = server.survey()
	}
	if err != nil {
		_ = server.process.Process.Kill() // the first error tells more
		_ = server.process.Wait()
		return nil, fmt.Errorf("moto_server: %w", err)
	}
	return server, nil
}

var servedAtPattern = regexp.MustCompile(`Running on (http://127\.0\.0\.1:\d+)`)

// servedAt reads the port that moto chose from its log, and then goes on reading so that moto never blocks.
func servedAt(log *bufio.Scanner) (string, error) {
	for log.Scan() {
		if found := servedAtPattern.FindStringSubmatch(log.Text()); found != nil {
			go func() {
				for log.Scan() {
				}
			}()
			return found[1], nil
		}
	}
	return "", fmt.Errorf("ended without serving: %v", log.Err())
}

// survey finds the image and the subnets that tests use.
func (m *motoServer) survey() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	m.ec2 = ec2.New(ec2.Options{Region: region, BaseEndpoint: &m.url, Credentials: credentials.NewStaticCredentialsProvider("test", "test", "")})
	images, err := m.ec2.DescribeImages(ctx, &ec2.DescribeImagesInput{Filters: []types.Filter{{Name: sdk.String("architecture"), Values: []string{"x86_64"}}}})
	if err != nil {
		return err
	}
	subnets, err := m.ec2.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{})
	if err != nil {
		return err
	}
	if len(images.Images) == 0 || len(subnets.Subnets) < 2 {
		return fmt.Errorf("%d images and %d subnets", len(images.Images), len(subnets.Subnets))
	}
	m.image = sdk.ToString(images.Images[0].ImageId)
	for _, subnet := range subnets.Subnets[:2] {
		m.subnets = append(m.subnets, sdk.ToString(subnet.SubnetId))
	}
	return nil
}

// instance looks at an instance in moto; ok is false if there is none.
func (m *motoServer) instance(t testing.TB, id string) (found types.Instance, ok bool) {
	t.Helper()
	answer, err := m.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{Filters: []types.Filter{{Name: sdk.String("instance-id"), Values: []string{id}}}})
	if err != nil {
		t.Errorf("look at %s: %v", id, err)
		return types.Instance{}, false
	}
	for _, reservation := range answer.Reservations {
		for _, instance := range reservation.Instances {
			return instance, true
		}
	}
	return types.Instance{}, false
}

// kill ends an instance behind the provider's back.
func (m *motoServer) kill(t testing.TB, id string) {
	t.Helper()
	if _, err := m.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Errorf("kill %s: %v", id, err)
	}
}

// owned is how many instances with the owner's tag are not terminated.
func (m *motoServer) owned(t testing.TB, owner string) int {
	t.Helper()
	answer, err := m.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{MaxResults: sdk.Int32(1000), Filters: []types.Filter{
		{Name: sdk.String("tag:nightshift-owner"), Values: []string{owner}},
		{Name: sdk.String("instance-state-name"), Values: []string{"pending", "running", "shutting-down", "stopping", "stopped"}},
	}})
	if err != nil {
		t.Fatalf("count the instances of %s: %v", owner, err)
	}
	count := 0
	for _, reservation := range answer.Reservations {
		count += len(reservation.Instances)
	}
	return count
}

// tagSubnet tags a subnet in moto.
func (c *cloud) tagSubnet(subnet, key, value string) {
	c.t.Helper()
	if _, err := c.moto.ec2.CreateTags(c.t.Context(), &ec2.CreateTagsInput{Resources: []string{subnet}, Tags: []types.Tag{{Key: &key, Value: &value}}}); err != nil {
		c.t.Fatal(err)
	}
}
