package orchestrator_test

import (
	"fmt"
	"strings"
	"testing"
)

// expect fails unless exactly one breach is found, or none if want is "".
func expect(t *testing.T, breaches []breach, want string) {
	t.Helper()
	if want == "" {
		if len(breaches) != 0 {
			t.Errorf("found a breach where there is none: %v", breaches)
		}
		return
	}
	if len(breaches) != 1 || !strings.Contains(breaches[0].where+": "+breaches[0].what, want) || breaches[0].because == "" {
		t.Errorf("found %v\nwant one breach, with its reason: %s", breaches, want)
	}
}

func TestArchitectureBreachesInImportsAreFound(t *testing.T) {
	const k8s, ours = "k8s.io/api/batch/v1", modulePath + "/"
	check := func(packages []listed) []breach {
		return append(append(checkImports(packages), checkReach(packages)...), checkOwners(packages)...)
	}
	tests := map[string]struct {
		p    listed
		want string
	}{
		"the engine on the pure packages and Kubernetes' types": {p: listed{ImportPath: ours + "orchestrator/engine", Imports: []string{k8s, "time", ours + "orchestrator/job"}}},
		"the engine on the journal":                             {listed{ImportPath: ours + "orchestrator/engine", Imports: []string{ours + "orchestrator/journal"}}, "imports orchestrator/journal"},
		"the engine on providers":                               {listed{ImportPath: ours + "orchestrator/engine", Imports: []string{ours + "providers"}}, "imports providers"},
		"the engine on a library":                               {listed{ImportPath: ours + "orchestrator/engine", Imports: []string{"github.com/google/uuid"}}, "imports github.com/google/uuid"},
		"the agent on the engine":                               {listed{ImportPath: ours + "orchestrator/agent/process", Imports: []string{ours + "orchestrator/engine"}}, "imports orchestrator/engine"},
		"the agent on the API server, by way of others":         {listed{ImportPath: ours + "cmd/nightshift-agent", Deps: []string{"k8s.io/apiserver/pkg/server"}}, "reaches k8s.io/apiserver/pkg/server"},
		"the contract of providers on anything":                 {listed{ImportPath: ours + "providers", Imports: []string{ours + "orchestrator/spot"}}, "imports orchestrator/spot"},
		"one provider on another":                               {listed{ImportPath: ours + "providers/aws", Imports: []string{ours + "providers/local"}}, "imports providers/local"},
		"a provider that reaches the engine":                    {listed{ImportPath: ours + "providers/local", Deps: []string{ours + "orchestrator/engine"}}, "reaches " + ours + "orchestrator/engine"},
		"a test that uses etcd elsewhere":                       {listed{ImportPath: ours + "orchestrator/writer", XTestImports: []string{"go.etcd.io/etcd/client/v3"}}, "belongs to orchestrator/journal/etcd"},
		"a test that imports a command":                         {listed{ImportPath: ours + "orchestrator/writer", TestImports: []string{ours + "cmd/nightshift"}}, "imports cmd/nightshift"},
		"policy on OPA":                                         {listed{ImportPath: ours + "policy", TestImports: []string{"github.com/open-policy-agent/opa/v1/rego"}}, "belongs to policy/opa"},
		"Kubernetes' own code elsewhere":                        {listed{ImportPath: ours + "cmd/nightshift", TestImports: []string{"k8s.io/kubernetes/pkg/apis/batch"}}, "belongs to orchestrator/manifest"},
		"a package without a rule":                              {listed{ImportPath: ours + "orchestrator/cleverness"}, "no import rule"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { expect(t, check([]listed{test.p}), test.want) })
	}
}

func TestArchitectureBreachesInSourcesAreFound(t *testing.T) {
	lines := func(n int) string { return strings.Repeat("\t_ = 0\n", n) }
	tests := map[string]struct {
		path, text string
		want       string
	}{
		"a pure package that takes the time":     {path: "orchestrator/spot/a.go", text: "import \"time\"\nfunc f(now time.Time) time.Time { return now.Add(time.Second) }\n"},
		"a pure package that reads the clock":    {"orchestrator/spot/a.go", "import \"time\"\nvar now = time.Now()\n", "orchestrator/spot/a.go:4: a pure package uses time.Now"},
		"a clock that is passed on":              {"orchestrator/engine/a.go", "import \"time\"\nvar clock = time.Now\n", "uses time.Now"},
		"a clock under another name":             {"orchestrator/engine/a.go", "import t \"time\"\nvar age = t.Since\n", "uses time.Since"},
		"a clock by a dot import":                {"orchestrator/engine/a.go", "import . \"time\"\nvar age = Since\n", "uses time.Since"},
		"a timer":                                {"orchestrator/job/a.go", "import \"time\"\nvar t = time.NewTimer(1)\n", "uses time.NewTimer"},
		"a pure package that reads files":        {"orchestrator/ledger/a.go", "import _ \"os\"\n", "imports os"},
		"a pure package that starts others":      {"orchestrator/ledger/a.go", "import _ \"os/exec\"\n", "imports os/exec"},
		"a pure package on the network":          {"orchestrator/placement/a.go", "import _ \"net/http\"\n", "imports net/http"},
		"a pure package that plays dice":         {"orchestrator/placement/a.go", "import _ \"math/rand/v2\"\n", "imports math/rand/v2"},
		"a pure package with keys":               {"orchestrator/event/a.go", "import _ \"crypto/rand\"\n", "imports crypto/rand"},
		"a pure package that runs on its own":    {"orchestrator/engine/a.go", "func f() { go f() }\n", "starts a goroutine"},
		"a pure package that waits":              {"orchestrator/engine/a.go", "func f(c chan int) { select { case <-c: default: } }\n", "selects"},
		"the clock in a package that is allowed": {path: "orchestrator/writer/a.go", text: "import (\"os\"; \"time\")\nvar now = time.Now()\nvar _ = os.Args\n"},
		"a test of a pure package with a file":   {path: "orchestrator/engine/a_test.go", text: "import _ \"os\"\n"},
		"a sleep":                                {"orchestrator/writer/a.go", "import \"time\"\nfunc f() { time.Sleep(1) }\n", "uses time.Sleep"},
		"a sleep in a test":                      {"orchestrator/writer/a_test.go", "import \"time\"\nfunc f() { time.Sleep(1) }\n", "uses time.Sleep"},
		"an init function":                       {"orchestrator/writer/a.go", "func init() {}\n", "init function"},
		"a method called init":                   {path: "orchestrator/writer/a.go", text: "type t int\nfunc (t) init() {}\n"},
		"a long function":                        {"orchestrator/writer/a.go", "func f() {\n" + lines(maxFunctionLines-1) + "}\n", "func f has 71 lines"},
		"a function that just fits":              {path: "orchestrator/writer/a.go", text: "func f() {\n" + lines(maxFunctionLines-2) + "}\n"},
		"a long file":                            {"orchestrator/writer/a.go", strings.Repeat("// x\n", maxFileLines), "has 402 lines"},
		"a long file of tests":                   {"orchestrator/writer/a_test.go", strings.Repeat("// x\n", maxTestFileLines), "has 602 lines"},
		"a folder of types":                      {"orchestrator/types/a.go", "", "package p"},
		"etcd outside wire.go":                   {"cmd/nightshift/run.go", "import _ \"" + modulePath + "/orchestrator/journal/etcd\"\n", "imports orchestrator/journal/etcd"},
		"etcd in wire.go":                        {path: "cmd/nightshift/wire.go", text: "import _ \"" + modulePath + "/orchestrator/journal/etcd\"\n"},
		"what does not parse":                    {"orchestrator/writer/a.go", "func {", "does not parse"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			expect(t, checkSources([]source{{test.path, "// Package p is a test.\npackage p\n" + test.text}}), test.want)
		})
	}
	t.Run("a long file that is generated", func(t *testing.T) {
		text := "// Code generated by x. DO NOT EDIT.\n\npackage p\n" + strings.Repeat("// x\n", maxFileLines)
		expect(t, checkSources([]source{{"orchestrator/writer/a.go", text}}), "")
	})
	t.Run("a package named util", func(t *testing.T) {
		expect(t, checkSources([]source{{"orchestrator/writer/a.go", "// Package util is a test.\npackage util\n"}}), "package util")
	})
	t.Run("a package without a comment", func(t *testing.T) {
		expect(t, checkSources([]source{{"orchestrator/writer/a.go", "package writer\n"}}), "no package comment")
	})
	t.Run("a package of many files", func(t *testing.T) {
		var sources []source
		for i := range maxFiles + 1 {
			sources = append(sources, source{fmt.Sprintf("orchestrator/writer/f%d.go", i), "// Package writer is a test.\npackage writer\n"})
		}
		expect(t, checkSources(sources), fmt.Sprintf("has %d files", maxFiles+1))
	})
}
