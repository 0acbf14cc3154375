package job

import (
	"regexp"
	"strings"
	"testing"
)

func TestPodNamesKeepTheIndexOfALongJob(t *testing.T) {
	long := strings.Repeat("j", 63)
	name := PodName(long, "uid", 99999, 0, 0)
	if len(name) > 63 || !strings.Contains(name, "-99999-") {
		t.Errorf("the pod is named %q, %d characters", name, len(name))
	}
	if PodName("demo", "uid", NoIndex, 3, 0) == PodName("demo", "uid", NoIndex, 3, 1) {
		t.Error("another salt gives the same name")
	}
	if !regexp.MustCompile(`^demo-[bcdfghjklmnpqrstvwxz2456789]{5}$`).MatchString(PodName("demo", "uid", NoIndex, 3, 0)) {
		t.Errorf("the pod is named %q", PodName("demo", "uid", NoIndex, 3, 0))
	}
}

func TestPodUIDsAreUUIDsOfTheirOwn(t *testing.T) {
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	seen := make(map[string]bool)
	for ordinal := range 10_000 {
		uid := PodUID("a job", ordinal)
		if !form.MatchString(uid) || seen[uid] {
			t.Fatalf("pod %d has the UID %q, seen before: %v", ordinal, uid, seen[uid])
		}
		seen[uid] = true
	}
}
