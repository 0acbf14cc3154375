package engine

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
)

var rewrite = flag.Bool("rewrite", false, "write what the engine does now into the stories; read the difference before you commit it")

// TestStories plays each file of testdata: lines that begin with ">" are commands (story_verbs_test.go), the lines under them are what follows
// from them. After each command the state is sound, and at the end the log, through its codec, replays to the same state.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories are found: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			written, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			played := newStory(t).play(string(written))
			if *rewrite {
				if err := os.WriteFile(file, []byte(played), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if played != string(written) {
				t.Errorf("the story goes otherwise now:\n%s", firstDifference(string(written), played))
			}
		})
	}
}

func firstDifference(want, got string) string {
	wanted, found := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(wanted), len(found)) {
		if wanted[i] != found[i] {
			return fmt.Sprintf("line %d\nwas: %s\nnow: %s\n\nall of it now:\n%s", i+1, wanted[i], found[i], got)
		}
	}
	return fmt.Sprintf("%d lines were there, %d are now:\n%s", len(wanted), len(found), got)
}

type story struct {
	t       *testing.T
	state   *State
	now     time.Time
	log     [][]byte
	nodes   []string // names in order of appearance: n0, n1, ...
	keys    []string // launches: L0, L1, ...
	made    []string // UIDs and names of Jobs that CronJobs made, in pairs
	started time.Time
}

func newStory(t *testing.T) *story {
	start := time.Date(2026, 3, 1, 22, 0, 0, 0, time.UTC)
	s := &story{t: t, state: NewState(), now: start, started: start}
	s.submit(BeginTerm{Term: 1, Seed: []byte("a seed of sixteen bytes")})
	return s
}

// play returns the story as it goes now.
func (s *story) play(text string) string {
	var out strings.Builder
	for _, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		switch {
		case strings.HasPrefix(line, "#") || line == "":
			out.WriteString(line + "\n")
		case strings.HasPrefix(line, "> "):
			out.WriteString(line + "\n")
			for _, follows := range s.verb(strings.Fields(line[2:])) {
				out.WriteString("  " + s.alias(follows) + "\n")
			}
			for _, broken := range s.state.Check() {
				s.t.Errorf("after %q: %s", line, s.alias(broken.Error()))
			}
		}
	}
	s.replay()
	return out.String()
}

// submit steps a command and returns a line for each fact.
// worldwideFacts are the kinds that belong to no tenant.
var worldwideFacts = map[string]bool{"term_began": true, "fleet_closed": true, "offers_observed": true, "time_zone_observed": true}

func (s *story) submit(command Command) []string {
	facts, err := Step(s.state, command, s.now)
	if err != nil {
		return []string{"rejected: " + err.Error()}
	}
	var lines []string
	for _, fact := range facts {
		encoded, err := event.Encode(fact)
		if err != nil {
			s.t.Fatal(err)
		}
		s.log = append(s.log, encoded)
		if worldwide := worldwideFacts[fact.GetKind()]; worldwide != (fact.GetTenant() == "") {
			s.t.Errorf("a fact of kind %s has the tenant %q", fact.GetKind(), fact.GetTenant())
		}
		switch body := fact.Body.(type) {
		case *event.Fact_CronJobScheduled:
			s.made = append(s.made, body.CronJobScheduled.GetJobUid(), "uid-"+body.CronJobScheduled.GetJobName())
		case *event.Fact_LaunchIntended:
			s.keys = append(s.keys, body.LaunchIntended.GetKey())
		case *event.Fact_LaunchSettled:
			for _, node := range body.LaunchSettled.GetNodes() {
				s.nodes = append(s.nodes, node.GetNode())
			}
		}
		lines = append(lines, fact.GetKind()+" "+printed(reflectedBody(fact)))
	}
	return lines
}

// replay reads the log through the codec into a new state and compares.
func (s *story) replay() {
	again := NewState()
	for _, encoded := range s.log {
		fact, err := event.Decode(encoded)
		if err != nil {
			s.t.Fatal(err)
		}
		again.Apply(fact)
	}
	if got, want := outline(again), outline(s.state); got != want {
		s.t.Errorf("the log does not replay to the same state:\n%s", firstDifference(want, got))
	}
	if facts := Settle(again, again.Now); len(facts) > 0 {
		s.t.Errorf("the replayed state is not at rest: %v", facts)
	}
	if got, want := again.Effects().Wake, s.state.Effects().Wake; !got.Equal(want) {
		s.t.Errorf("the replayed state wakes at %v, the other one at %v", got, want)
	}
}

// alias puts short names in place of generated ones.
func (s *story) alias(text string) string {
	pairs := slices.Clone(s.made)
	for i, key := range s.keys {
		pairs = append(pairs, key, fmt.Sprintf("L%d", i))
	}
	for i, node := range s.nodes {
		pairs = append(pairs, node, fmt.Sprintf("n%d", i))
	}
	for _, owner := range s.state.Jobs {
		for i, pod := range owner.pods {
			pairs = append(pairs, pod.UID(), fmt.Sprintf("%s#%d", owner.Object.Name, i), pod.Name(), fmt.Sprintf("%s#%d", owner.Object.Name, i))
		}
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// pod finds a pod by its alias, NAME#ORDINAL.
func (s *story) pod(alias string) *Pod {
	name, ordinal := alias, 0
	if _, err := fmt.Sscanf(strings.ReplaceAll(alias, "#", " "), "%s %d", &name, &ordinal); err != nil {
		s.t.Fatalf("%q is no pod: %v", alias, err)
	}
	owner, ok := s.state.JobOf("default", name)
	if !ok || ordinal >= len(owner.pods) {
		s.t.Fatalf("there is no pod %s", alias)
	}
	return owner.pods[ordinal]
}

func reflectedBody(fact *event.Fact) protoreflect.Message {
	reflected := fact.ProtoReflect()
	return reflected.Get(reflected.WhichOneof(reflected.Descriptor().Oneofs().ByName("body"))).Message()
}

// printed writes the fields that are set in their order.
func printed(message protoreflect.Message) string {
	var parts []string
	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		// Jobs and offers are long and were in the command.
		if !message.Has(field) || field.Name() == "job" || field.Name() == "cron_job" || field.Name() == "rules" || field.Name() == "offers" || field.Name() == "seed" {
			continue
		}
		value := message.Get(field)
		switch {
		case field.IsMap():
		case field.IsList() && field.Message() != nil:
			for k := range value.List().Len() {
				parts = append(parts, fmt.Sprintf("%s={%s}", field.Name(), printed(value.List().Get(k).Message())))
			}
		case field.IsList():
			for k := range value.List().Len() {
				parts = append(parts, fmt.Sprintf("%s=%s", field.Name(), value.List().Get(k).String()))
			}
		case field.Message() != nil:
			parts = append(parts, fmt.Sprintf("%s={%s}", field.Name(), printed(value.Message())))
		case field.Enum() != nil:
			parts = append(parts, fmt.Sprintf("%s=%s", field.Name(), field.Enum().Values().ByNumber(value.Enum()).Name()))
		case strings.HasSuffix(string(field.Name()), "_unix_nano"):
			at := time.Unix(0, value.Int()).UTC()
			parts = append(parts, fmt.Sprintf("%s=%s", strings.TrimSuffix(string(field.Name()), "_unix_nano"), at.Format("15:04:05")))
		default:
			text := value.String()
			if strings.ContainsAny(text, " ") {
				text = fmt.Sprintf("%q", text)
			}
			parts = append(parts, fmt.Sprintf("%s=%s", field.Name(), text))
		}
	}
	return strings.Join(parts, " ")
}
