package manifest

import (
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// refusedFields are the fields of a Job that do not work with every value, by their paths without indexes, as supportedJob has them. Of a field with a
// rule of its own it is found out by a value that no field takes for harmless.
func refusedFields(path string, kind reflect.Type, allowed rule, found map[string]bool) {
	for kind.Kind() == reflect.Pointer || kind.Kind() == reflect.Slice {
		kind = kind.Elem()
	}
	switch r := allowed.(type) {
	case list:
		refusedFields(path, kind, r.item, found)
	case object:
		for i := range kind.NumField() {
			name, options, _ := strings.Cut(kind.Field(i).Tag.Get("json"), ",")
			at := strings.TrimPrefix(path+"."+name, ".")
			member, known := r[name]
			switch {
			case name == "" || options == "inline":
				refusedFields(path, kind.Field(i).Type, allowed, found)
			case !known:
				found[at] = true
			default:
				refusedFields(at, kind.Field(i).Type, member, found)
			}
		}
	case entries: // Its keys are told of in words.
	default:
		if len(r.check(field.NewPath("x"), "no harmless value")) > 0 {
			found[path] = true
		}
	}
}

// docs/JOBS.md lists in a table what a Job may not say yet: where, which fields, and what they wait for.
func TestTheDocumentationListsEachFieldThatIsRefused(t *testing.T) {
	page, err := os.ReadFile("../../docs/JOBS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, refused, found := strings.Cut(string(page), "\n## Refused by name\n")
	if !found {
		t.Fatal("docs/JOBS.md has no list of what is refused")
	}
	refused, _, _ = strings.Cut(refused, "\n## ")
	listed := make(map[string]bool)
	for line := range strings.Lines(refused) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 || !strings.Contains(cells[1], "`") {
			continue
		}
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[2], -1) {
			listed[strings.Trim(cells[1], " `")+"."+name[1]] = true
		}
	}
	want := make(map[string]bool)
	refusedFields("", reflect.TypeFor[batchv1.Job](), supportedJob, want)
	for path := range want {
		if strings.HasPrefix(path, "spec.template.spec.initContainers.") {
			delete(want, path) // as those of containers
		}
	}
	for _, path := range slices.Sorted(maps.Keys(want)) {
		if !listed[path] {
			t.Errorf("%s is refused, and docs/JOBS.md does not say so", path)
		}
		delete(listed, path)
	}
	for _, path := range slices.Sorted(maps.Keys(listed)) {
		t.Errorf("docs/JOBS.md says that %s is refused, and it is not", path)
	}
}
