package local_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/nightshift-batch/nightshift/providers"
)

// agents are the guardians that run for a provider's directory, by pid.
func agents(dir string) []int {
	return slices.DeleteFunc(having("cmdline", roleAgent), func(pid int) bool {
		command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return err != nil || !strings.Contains(string(command), dir)
	})
}

func TestAnAgentThatIsStartedAheadBecomesTheFirstInstance(t *testing.T) {
	c := config(t, 2)
	c.StartAhead = true
	p := open(t, c)
	eventually(t, patience, "an agent waits", func() bool { return len(agents(c.Dir)) == 1 })
	ahead := agents(c.Dir)[0]
	if listed, err := p.List(t.Context(), owner); err != nil || len(listed) > 0 {
		t.Fatalf("instances %v before a launch, %v", listed, err)
	}
	launched, err := p.Launch(t.Context(), providers.LaunchRequest{
		Key: "two", Owner: owner, OfferIDs: []string{"local/small/spot"}, Count: 2, Bootstrap: bootstrap(),
	})
	if err != nil {
		t.Fatal(err)
	}
	var guardians []int
	for _, instance := range launched.Instances {
		seen := filepath.Join(c.Dir, "instances", instance.ID, "state", "seen")
		eventually(t, patience, "the agent has what it needs", func() bool {
			text, err := os.ReadFile(seen)
			return err == nil && strings.HasPrefix(string(text), "address 127.0.0.1:9\nca the certificate\ntoken the token\n")
		})
		guardians = append(guardians, guardian(t, c.Dir, instance.ID))
	}
	if !slices.Contains(guardians, ahead) || guardians[0] == guardians[1] {
		t.Errorf("the instances are processes %v, and process %d waited", guardians, ahead)
	}
}

func TestAnAgentThatWaitsInVainIsNotLeftBehind(t *testing.T) {
	c := config(t, 1)
	c.StartAhead = true
	p := open(t, c)
	eventually(t, patience, "an agent waits", func() bool { return len(agents(c.Dir)) == 1 })
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if left := agents(c.Dir); len(left) > 0 {
		t.Errorf("still there: %v", left)
	}
	if left, err := os.ReadDir(filepath.Join(c.Dir, "instances")); err != nil || len(left) > 0 {
		t.Errorf("left in the directory: %v %v", left, err)
	}
}

func TestALaunchDoesWithoutAnAgentThatHasNotWaited(t *testing.T) {
	c := config(t, 1)
	c.StartAhead = true
	p := open(t, c)
	eventually(t, patience, "an agent waits", func() bool { return len(agents(c.Dir)) == 1 })
	if err := syscall.Kill(agents(c.Dir)[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// The provider may not have heard of it yet: then the first launch brings an instance that ends at once, as any may.
	tries := 0
	eventually(t, patience, "an agent runs", func() bool {
		tries++
		_, err := p.Launch(t.Context(), providers.LaunchRequest{
			Key: fmt.Sprint("try ", tries), Owner: owner, OfferIDs: []string{"local/small/spot"}, Count: 1, Bootstrap: bootstrap(),
		})
		if err != nil && providers.KindOf(err) != providers.KindNoCapacity {
			t.Fatal(err)
		}
		return len(agents(c.Dir)) == 1
	})
}
