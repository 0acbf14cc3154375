package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The agent is copied to every instance and starts before the first pod can: what it links is paid for on each boot.
func TestTheAgentLinksNothingOfTheControlPlane(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	own := "github.com/nightshift-batch/nightshift/"
	packages := strings.Fields(string(out))
	if !slices.Contains(packages, own+"orchestrator/agent/entry") {
		t.Fatalf("go list lists no agent: %d packages", len(packages))
	}
	for _, p := range packages {
		for _, unwanted := range []string{
			"k8s.io/apiserver", "k8s.io/client-go", "k8s.io/kubernetes", "go.etcd.io/", "github.com/open-policy-agent/",
			"github.com/aws/", "gocloud.dev", "github.com/hashicorp/", "go.opentelemetry.io/otel/sdk",
		} {
			if strings.HasPrefix(p, unwanted) {
				t.Errorf("the agent links %s", p)
			}
		}
		if path, ours := strings.CutPrefix(p, own); ours && !strings.HasPrefix(path, "orchestrator/agent") && path != "cmd/nightshift-agent" {
			t.Errorf("the agent links %s: it is the node's side alone", p)
		}
	}
}
