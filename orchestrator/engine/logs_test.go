package engine

import (
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/cron"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
	"github.com/nightshift-batch/nightshift/orchestrator/object"
)

var record = flag.Bool("record", false, "write the log of this format level anew; once it was released it must not change")

// recorded are the stories whose logs are kept as this format level writes them: at least one for each fact.
var recorded = []string{
	"containers_while_they_run", "crash_and_restart", "cron_changes", "cron_deleted_before", "cron_deleted_behind", "cron_forbid", "cron_held",
	"cron_time_zones", "deleted_after_its_end", "denied", "elastic_indexed", "eviction_as_in_kubernetes", "evictions_keep_the_index_and_cost_no_try",
	"fail_index", "fail_job_on_exit_code", "ignored_failures", "kept_for_a_while", "limit_per_index", "namespace_goes_with_what_is_in_it",
	"objects_are_orphaned", "parked", "replaced_once_failed", "restarts_in_place", "shared_node", "suspended_while_running",
	"template_changes_while_suspended", "work_queue_ends_with_first_success",
}

// TestLogsOfEachFormatLevelShowTheSameObjects replays the logs of testdata/logs. Each was written by the version that had its level, with the
// objects and receipts that this version showed at its end: `story`, then a `fact` a line, then `job`, `pod` and `receipt`.
func TestLogsOfEachFormatLevelShowTheSameObjects(t *testing.T) {
	if *record {
		recordLogs(t)
	}
	files, err := filepath.Glob("testdata/logs/level*.log")
	if err != nil || len(files) != event.FormatLevel {
		t.Fatalf("there are logs %v for %d format levels: %v", files, event.FormatLevel, err)
	}
	for _, file := range files {
		written, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range strings.Split(string(written), "story ")[1:] {
			name, lines, _ := strings.Cut(part, "\n")
			t.Run(filepath.Base(file)+" "+name, func(t *testing.T) { replayRecorded(t, lines) })
		}
	}
}

func replayRecorded(t *testing.T, lines string) {
	state := NewState()
	var want []string
	for _, line := range strings.Split(strings.TrimSpace(lines), "\n") {
		encoded, isFact := strings.CutPrefix(line, "fact ")
		if !isFact {
			want = append(want, line)
			continue
		}
		bytes, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			t.Fatal(err)
		}
		fact, err := event.Decode(bytes)
		if err != nil {
			t.Fatal(err)
		}
		state.Apply(fact)
	}
	if got, want := strings.Join(shown(t, state), "\n"), strings.Join(want, "\n"); got != want {
		t.Errorf("the log shows other objects now:\n%s", firstDifference(want, got))
	}
	for _, broken := range state.Check() {
		t.Error(broken)
	}
}

// shown are the objects and receipts that clients see.
func shown(t *testing.T, state *State) (lines []string) {
	line := func(kind string, object any) {
		encoded, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, kind+" "+string(encoded))
	}
	for _, uid := range sortedKeys(state.Jobs) {
		owner := state.Jobs[uid]
		object := owner.Object.DeepCopy()
		object.TypeMeta = metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"}
		object.ResourceVersion = strconv.FormatUint(owner.Version, 10)
		object.Status = job.Status(&owner.Spec, &owner.Progress, &owner.Counts)
		line("job", object)
		for pod := range owner.Pods() {
			line("pod", job.PodObject(pod.Template().Object, pod.Render(), pod.Version))
		}
		if owner.Receipt != nil {
			lines = append(lines, "receipt "+message(owner.Receipt))
		}
	}
	for _, uid := range sortedKeys(state.CronJobs) {
		owner := state.CronJobs[uid]
		object := owner.Object.DeepCopy()
		object.ResourceVersion = strconv.FormatUint(owner.Version, 10)
		object.Status = cron.Status(owner.Namespace, &owner.Progress)
		line("cronjob", object)
	}
	// Their bytes are the read model's.
	for _, o := range state.Objects.Sorted() {
		if o.Name != object.DefaultNamespace { // it needs no fact
			line("object", o)
		}
	}
	return lines
}

func recordLogs(t *testing.T) {
	var out strings.Builder
	for _, name := range recorded {
		written, err := os.ReadFile("testdata/" + name + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		played := newStory(t)
		played.play(string(written))
		fmt.Fprintf(&out, "story %s\n", name)
		for _, encoded := range played.log {
			fmt.Fprintf(&out, "fact %s\n", base64.StdEncoding.EncodeToString(encoded))
		}
		for _, line := range shown(t, played.state) {
			fmt.Fprintln(&out, line)
		}
	}
	if err := os.WriteFile(fmt.Sprintf("testdata/logs/level%d.log", event.FormatLevel), []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
