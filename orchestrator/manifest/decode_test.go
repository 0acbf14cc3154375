package manifest_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"github.com/nightshift-batch/nightshift/orchestrator/manifest"
)

func TestSeveralDocumentsAreReadInOrder(t *testing.T) {
	text := "# a comment alone\n---\n" + base + "---\n\n---\n" + strings.Replace(base, "name: x", "name: z", 1)
	jobs, err := manifest.DecodeAll(strings.NewReader(text), "two.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(jobs) != 2 || jobs[0].Name != "x" || jobs[1].Name != "z" {
		t.Errorf("read %d jobs", len(jobs))
	}
	asJSON := `{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"j"}}`
	if jobs, err = manifest.DecodeAll(strings.NewReader(asJSON), "j.json"); err != nil || jobs[0].Name != "j" {
		t.Errorf("JSON: %v", err)
	}
}

func TestWrongDocumentsAreRefusedInKubernetesWords(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"unknown field":           {spec(t, "foo: 1"), `f.yaml: document 1: strict decoding error: unknown field "spec.foo"`},
		"unknown field in a list": {container(t, "imagee: x"), `strict decoding error: unknown field "spec.template.spec.containers[0].imagee"`},
		"field in another case":   {spec(t, "Parallelism: 1"), `unknown field "spec.Parallelism"`},
		"duplicate field":         {spec(t, "completions: 4"), "strict decoding error: yaml: unmarshal errors:\n  line 7: key \"completions\" already set in map"},
		"duplicate field in JSON": {`{"apiVersion":"batch/v1","kind":"Job","spec":{"completions":1,"completions":2}}`,
			`strict decoding error: duplicate field "spec.completions"`},
		"wrong type":    {with(t, "completions: 3", "completions: many"), `cannot unmarshal string into Go struct field JobSpec.spec.completions of type int32`},
		"another kind":  {"apiVersion: v1\nkind: ConfigMap\n", "f.yaml: document 1: kind ConfigMap of v1 is not supported by this version of Nightshift: only Job of batch/v1 is"},
		"CronJob":       {with(t, "kind: Job", "kind: CronJob"), "a CronJob starts Jobs by its schedule"},
		"other version": {with(t, "batch/v1", "batch/v2"), "kind Job of batch/v2 is not supported"},
		"no kind":       {"apiVersion: batch/v1\n", "Object 'Kind' is missing"},
		"no apiVersion": {"kind: Job\n", "Object 'apiVersion' is missing"},
		"not an object": {"- a\n- b\n", "not an object with apiVersion and kind"},
		"not YAML":      {"a: [", "not YAML or JSON"},
		"empty":         {"---\n# nothing\n", "f.yaml: no Job in it"},
		"second is bad": {base + "---\nkind: Pod\napiVersion: v1\n", "f.yaml: document 2: kind Pod of v1"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := manifest.DecodeAll(strings.NewReader(c.text), "f.yaml")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

// hostile inputs, small as written.
func hostile(t testing.TB) map[string]string {
	bomb := "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
	for i := 1; i < 12; i++ {
		bomb += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10), ","))
	}
	deep := func(open, end string, n int) string { return strings.Repeat(open, n) + strings.Repeat(end, n) }
	return map[string]string{
		"alias bomb":             bomb,
		"alias bomb in a Job":    base + "x:\n" + indent(2, bomb),
		"alias to itself":        "a: &a [*a]\n",
		"deep lists":             "a: " + deep("[", "]", 200_000),
		"deep objects in JSON":   strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_000),
		"deep block":             strings.Repeat("- ", 100_000) + "x",
		"deep unknown field":     base + "x: " + deep("[", "]", 500) + "\n",
		"deep managed fields":    with(t, "  name: x\n", "  name: x\n  managedFields: [{fieldsV1: "+deep("{a: ", "}", 300)+"}]\n"),
		"one huge scalar":        base + "x: " + strings.Repeat("y", manifest.MaxDocumentBytes) + "\n",
		"huge input":             strings.Repeat("# comment\n", manifest.MaxInputBytes/8),
		"many documents":         strings.Repeat("---\n{}\n", 5000) + base,
		"many empty documents":   strings.Repeat("---\n# c\n", 5000) + base,
		"one line without end":   strings.Repeat("a", 2<<20),
		"NUL bytes":              base + "\x00\x00",
		"not UTF-8":              base + "\xff\xfe",
		"merge keys":             "x: &x {a: 1}\n<<: *x\n" + base,
		"binary tag":             "a: !!binary aGVsbG8=\n",
		"number out of range":    strings.Replace(base, "completions: 3", "completions: 99999999999999999999", 1),
		"float for an integer":   strings.Replace(base, "completions: 3", "completions: 1.5", 1),
		"quantity out of range":  strings.Replace(base, "spec:\n  comp", "spec: {template: {spec: {containers: [{resources: {requests: {cpu: 1e999999999}}}]}}}\nx:\n  comp", 1),
		"key that is no string":  "? [a, b]\n: c\n",
		"tabs for indentation":   "a:\n\tb: c\n",
		"unfinished JSON object": `{"apiVersion":"batch/v1"`,
	}
}

func TestHostileInputIsRefusedWithoutHarm(t *testing.T) {
	for name, text := range hostile(t) {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			jobs, err := manifest.DecodeAll(strings.NewReader(text), "hostile.yaml")
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Errorf("%d jobs were read", len(jobs))
			} else if len(err.Error()) > 4096 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			if spent := after.TotalAlloc - before.TotalAlloc; spent > 512<<20 {
				t.Errorf("%d MiB allocated", spent>>20)
			}
		})
	}
}

func FuzzDecodeAdmitAndDigestNeverPanic(f *testing.F) {
	f.Add(base)
	for _, text := range hostile(f) {
		if len(text) < 4096 {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		jobs, err := manifest.DecodeAll(strings.NewReader(text), "fuzz")
		if err != nil {
			return
		}
		for _, job := range jobs {
			admitted, errs := manifest.Admit(job, manifest.Options{UID: uid})
			if len(errs) > 0 {
				_ = manifest.Invalid(job.Name, errs).Error()
				continue
			}
			written, err := manifest.Digest(job)
			if err != nil {
				t.Fatal(err)
			}
			if stored, err := manifest.Digest(admitted); err != nil || stored != written {
				t.Errorf("digest of the admitted Job: %v; differs: %v", err, stored != written)
			}
			again, errs := manifest.Admit(admitted, manifest.Options{UID: uid})
			if len(errs) > 0 || !apiequality.Semantic.DeepEqual(again, admitted) {
				t.Errorf("admitting twice changes the Job: %v", errs)
			}
		}
	})
}
