package orchestrator_test

import (
	"fmt"
	"slices"
	"strings"
)

// importRule says what the code of a package may import beside the standard library. What is not listed is forbidden, and
// a package without a rule is a breach: a new one is added here, with its reason. Tests may import more.
type importRule struct {
	pattern string
	ours    []string // patterns of our packages
	outside []string // patterns of modules or packages of others
	because string
}

var (
	kubernetesTypes = []string{"k8s.io/api/...", "k8s.io/apimachinery/..."}
	protobuf        = "google.golang.org/protobuf/..."
	grpc            = "google.golang.org/grpc/..."
)

// planned are packages that the design names and that may come later.
var planned = map[string]bool{
	"cmd/terraform-provider-nightshift": true, "orchestrator/sim": true, "orchestrator/web": true,
}

var importRules = []importRule{
	{"orchestrator", nil, []string{"golang.org/x/mod/..."}, "the folder holds tests of the whole tree and no code"},
	{"orchestrator/job", nil, kubernetesTypes, "the meaning of batch/v1 is arithmetic on Kubernetes' own types and on nothing of ours"},
	{"orchestrator/cron", []string{"orchestrator/job"}, append([]string{"github.com/robfig/cron/v3"}, kubernetesTypes...),
		"schedules are arithmetic on Kubernetes' own types, read by the parser that Kubernetes uses: no other would mean the same by all of them"},
	{"orchestrator/event", nil, []string{protobuf}, "facts outlive the code that wrote them: the codec knows nothing but protobuf"},
	{"orchestrator/spot", nil, nil, "prices and risk are plain arithmetic"},
	{"orchestrator/ledger", nil, nil, "money is plain integer arithmetic"},
	{"orchestrator/placement", []string{"orchestrator/spot", "orchestrator/ledger"}, nil, "placement decides on resources and prices; it is told what it needs"},
	{"orchestrator/object", []string{"orchestrator/event"}, []string{protobuf}, "what becomes of API objects is decided by their metadata, and their kinds are the API's"},
	{"orchestrator/engine", []string{"orchestrator/job", "orchestrator/cron", "orchestrator/event", "orchestrator/placement", "orchestrator/ledger", "orchestrator/spot", "orchestrator/object"},
		append([]string{protobuf}, kubernetesTypes...), "the engine is pure: it decides from state and command, and does not know where facts are kept or who carries them out"},
	{"orchestrator/journal", nil, nil, "the contract is on bytes: any log can keep it"},
	{"orchestrator/journal/etcd", []string{"orchestrator/journal"}, []string{"go.etcd.io/...", "go.uber.org/zap/...", grpc}, "the one place that knows etcd"},
	{"orchestrator/journal/journaltest", []string{"orchestrator/journal"}, nil, "the suite must hold for every journal"},
	{"orchestrator/writer", []string{"orchestrator/engine", "orchestrator/event", "orchestrator/journal"}, []string{protobuf}, "the writer turns decisions into appended facts; what follows from them is for others"},
	{"orchestrator/admission", []string{"orchestrator/engine", "orchestrator/event", "policy"}, nil, "admission carries questions to policy and answers to the engine, and meets both by their contracts"},
	{"orchestrator/manifest", []string{"orchestrator/job"}, append([]string{"k8s.io/kubernetes/...", "sigs.k8s.io/json/...", "sigs.k8s.io/yaml/..."}, kubernetesTypes...), "decoding, defaults and validation are Kubernetes' own code, kept behind this one door"},
	{"orchestrator/view/...", []string{"orchestrator/view/...", "orchestrator/engine", "orchestrator/job", "orchestrator/cron", "orchestrator/event", "orchestrator/object"}, []string{"k8s.io/api/...", "k8s.io/apimachinery/...", "k8s.io/apiserver/..."}, "the read model is fed by facts alone"},
	{"orchestrator/kubeapi/...", []string{"orchestrator/kubeapi/...", "orchestrator/view/...", "orchestrator/engine", "orchestrator/job", "orchestrator/event", "orchestrator/manifest", "policy", "orchestrator/object"},
		[]string{"k8s.io/api/...", "k8s.io/apimachinery/...", "k8s.io/apiserver/...", "k8s.io/client-go/...", "k8s.io/component-base/...", "k8s.io/kube-openapi/...", "k8s.io/utils/...", "k8s.io/klog/...", "sigs.k8s.io/...", "gopkg.in/natefinch/lumberjack.v2", "go.yaml.in/yaml/...", "google.golang.org/protobuf/encoding/protowire"},
		"the API is a face: it reads the view and submits, and never touches journal, fleet or providers"},
	{"orchestrator/fleet/...", []string{"orchestrator/fleet/...", "orchestrator/engine", "orchestrator/event", "orchestrator/job", "orchestrator/agent/wire", "providers", "orchestrator/pki"},
		append([]string{grpc, protobuf}, kubernetesTypes...), "effects meet providers by their contract and agents by the wire; outcomes come back as commands"},
	{"orchestrator/agent/...", []string{"orchestrator/agent/..."}, append([]string{grpc, protobuf, "golang.org/x/sys/...", "k8s.io/cri-api/..."}, kubernetesTypes...),
		"the agent runs on instances that others may reach: it holds nothing of the control plane"},
	{"orchestrator/archive", nil, []string{"gocloud.dev/..."}, "the archive keeps bytes by name and knows no Job"},
	{"orchestrator/seal", nil, nil, "encryption is small enough to be read as a whole, and needs the standard library alone"},
	{"orchestrator/pki", nil, nil, "keys and certificates need the standard library alone"},
	{"orchestrator/web", []string{"orchestrator/view/...", "orchestrator/ledger"}, nil, "pages are projections and decide nothing"},
	{"orchestrator/sim/...", []string{"orchestrator/...", "providers", "policy", "telemetry"}, []string{protobuf, "k8s.io/api/...", "k8s.io/apimachinery/..."}, "the simulator runs everything but the edges under virtual time"},
	{"providers", nil, nil, "the contract that vendors write against imports nothing of ours"},
	{"providers/plugin", []string{"providers", "providers/plugin/pluginpb"}, []string{"github.com/hashicorp/go-plugin/...", "github.com/hashicorp/go-hclog/...", grpc, protobuf}, "the wire of a plugin is one package, the same for every vendor"},
	{"providers/plugin/pluginpb", nil, []string{grpc, protobuf}, "generated"},
	{"providers/providertest", []string{"providers"}, nil, "the suite must hold for every provider, in process and through the plugin"},
	{"providers/local", []string{"providers"}, []string{"golang.org/x/sys/..."}, "a provider is its vendor's SDK and the contract, and never another provider"},
	{"providers/aws", []string{"providers"}, []string{"github.com/aws/..."}, "a provider is its vendor's SDK and the contract, and never another provider"},
	{"policy", nil, nil, "the engine's questions to policy do not depend on who answers"},
	{"policy/opa", []string{"policy", "policy/rego"}, []string{"github.com/open-policy-agent/opa/...", "go.yaml.in/yaml/...", "sigs.k8s.io/yaml/..."}, "the one place that knows OPA"},
	{"policy/rego", nil, nil, "the bundle is data"},
	{"telemetry", []string{"orchestrator/event"}, []string{"go.opentelemetry.io/...", grpc, protobuf}, "spans and metrics are made of recorded facts, so that a crash changes none"},
	{"cmd/nightshift/internal/screen", []string{"orchestrator/engine", "orchestrator/job", "orchestrator/spot", "telemetry"},
		append([]string{"github.com/vbauerster/mpb/...", "golang.org/x/term/..."}, kubernetesTypes...), "what is shown is made of the engine's state and of nothing else"},
	{"cmd/nightshift/internal/attach", []string{"cmd/nightshift/internal/screen"}, kubernetesTypes, "runs that attach exchange manifests and what is shown"},
	{"cmd/nightshift/internal/door", []string{"orchestrator/kubeapi", "orchestrator/kubeapi/access"}, []string{"github.com/spf13/..."}, "flags and tokens are how an operator sets what the API keeps to"},
	{"cmd/nightshift/internal/remote", []string{"cmd/nightshift/internal/screen", "orchestrator/manifest", "telemetry"}, append([]string{"k8s.io/client-go/..."}, kubernetesTypes...), "a run on a server is a client like any other, and knows what the API tells"},
	{"cmd/nightshift/internal/english", nil, []string{"k8s.io/kubectl/pkg/util/i18n"}, "it is initialised before any other package of ours"},
	{"cmd/nightshift/internal/swarm", []string{"orchestrator/agent/...", "providers"}, nil, "simulated agents are the real agent and a provider"},
	{"cmd/nightshift/internal/loadtest", []string{"cmd/nightshift/internal/swarm", "orchestrator/event"}, []string{"k8s.io/api/...", "k8s.io/apimachinery/...", "k8s.io/client-go/..."}, "a measurement is a client, and reads what was recorded"},
	{"cmd/nightshift", []string{"orchestrator/...", "providers/...", "policy/...", "telemetry", "cmd/nightshift/internal/..."}, []string{"github.com/spf13/...", "golang.org/x/sys/...", protobuf, grpc, "k8s.io/api/...", "k8s.io/apimachinery/...", "k8s.io/client-go/...", "k8s.io/cli-runtime/...", "k8s.io/kubectl/...", "sigs.k8s.io/yaml/..."}, "the command joins parts and speaks with the user"},
	{"cmd/nightshift-agent", []string{"orchestrator/agent/..."}, []string{"github.com/spf13/..."}, "the agent is a small program: each instance fetches it"},
	{"cmd/nightshift-provider-aws", []string{"providers", "providers/plugin", "providers/aws"}, nil, "a plugin is one provider and the wire"},
	{"cmd/terraform-provider-nightshift", nil, []string{"github.com/hashicorp/...", "k8s.io/..."}, "the Terraform provider is a client of the API like any other"},
	{"examples/...", nil, []string{"golang.org/x/sys/..."}, "an example is what a user would write: it knows nothing of Nightshift"},
	{"terraform", nil, []string{"github.com/hashicorp/hcl/..."}, "the folder holds Terraform and tests of it"},
}

// checkImports holds the direct imports of each package against its rule.
func checkImports(packages []listed) []breach {
	var breaches []breach
	for _, p := range packages {
		name, _ := local(p.ImportPath)
		i := slices.IndexFunc(importRules, func(r importRule) bool { return matches(r.pattern, name) })
		if i < 0 {
			breaches = append(breaches, breach{name, "there is no import rule for this package", "who may import whom is decided once and written down: add a rule and its reason to architecture_imports_test.go, and the package to docs/ARCHITECTURE.md"})
			continue
		}
		rule := importRules[i]
		for _, path := range p.Imports {
			ours, isOurs := local(path)
			switch {
			case isOurs && !matchesAny(rule.ours, ours):
				breaches = append(breaches, breach{name, "imports " + ours, rule.because})
			case fromOutside(path) && !matchesAny(rule.outside, path):
				breaches = append(breaches, breach{name, "imports " + path, rule.because})
			}
		}
		for _, path := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			// Go itself keeps what is below internal to its command.
			if ours, isOurs := local(path); isOurs && strings.HasPrefix(ours, "cmd/") && !strings.Contains(ours, "/internal/") {
				breaches = append(breaches, breach{name, "imports " + ours, "commands are the outermost layer: what two of them need is a package"})
			}
		}
	}
	return breaches
}

// reachRule forbids a package to reach others by any chain of imports.
type reachRule struct {
	from    []string
	never   []string
	because string
}

var reachRules = []reachRule{
	{[]string{"orchestrator/agent/...", "cmd/nightshift-agent"},
		[]string{"k8s.io/apiserver/...", "k8s.io/kubernetes/...", "k8s.io/client-go/...", "go.etcd.io/...", "github.com/open-policy-agent/...", "github.com/aws/...", "gocloud.dev/..."},
		"the agent is fetched by each instance that boots and has to stay small"},
	{[]string{"orchestrator/agent/...", "cmd/nightshift-agent"},
		[]string{modulePath + "/orchestrator/engine", modulePath + "/orchestrator/journal/...", modulePath + "/orchestrator/kubeapi/...", modulePath + "/orchestrator/fleet/...", modulePath + "/policy/...", modulePath + "/providers/..."},
		"the agent never holds a part of the control plane"},
	{[]string{"providers/...", "cmd/nightshift-provider-aws"}, []string{modulePath + "/orchestrator/...", modulePath + "/policy/...", modulePath + "/telemetry"},
		"a provider can be built and shipped by somebody else"},
	{[]string{"orchestrator/engine"}, []string{"go.etcd.io/...", "k8s.io/apiserver/...", "k8s.io/kubernetes/...", "k8s.io/client-go/...", "github.com/open-policy-agent/...", "google.golang.org/grpc/..."},
		"the simulator runs the engine millions of times, with no machinery behind it"},
	{[]string{"examples/..."}, []string{modulePath + "/..."}, "an example is what a user would write"},
}

func checkReach(packages []listed) []breach {
	var breaches []breach
	for _, p := range packages {
		name, _ := local(p.ImportPath)
		for _, rule := range reachRules {
			if !matchesAny(rule.from, name) {
				continue
			}
			for _, dep := range p.Deps {
				if matchesAny(rule.never, dep) {
					breaches = append(breaches, breach{name, fmt.Sprintf("reaches %s (go mod why %s)", dep, dep), rule.because})
				}
			}
		}
	}
	return breaches
}

// ownerRule gives a dependency to one package; tests of others do not use it either.
type ownerRule struct {
	dependency string
	owners     []string
	because    string
}

var ownerRules = []ownerRule{
	{"go.etcd.io/...", []string{"orchestrator/journal/etcd"}, "a change of etcd has to be a change of one package"},
	{"github.com/open-policy-agent/opa/...", []string{"policy/opa", "policy/rego"}, "policy is a contract, OPA one way to keep it"},
	{"k8s.io/kubernetes/...", []string{"orchestrator/manifest"}, "Kubernetes' internal packages promise nothing: one door to them is enough"},
	{"github.com/aws/...", []string{"providers/aws"}, "each cloud is known in one place"},
	{"gocloud.dev/...", []string{"orchestrator/archive"}, "where blobs are kept is known in one place"},
	{"github.com/hashicorp/go-plugin/...", []string{"providers/plugin"}, "how plugins are spoken to is known in one place"},
	{"github.com/robfig/cron/...", []string{"orchestrator/cron"}, "what a schedule means is known in one place"},
	{"k8s.io/apiserver/...", []string{"orchestrator/kubeapi/...", "orchestrator/view/..."}, "the API machinery stays behind the face of the API"},
	{"github.com/spf13/...", []string{"cmd/..."}, "flags are for commands; packages take values"},
}

func checkOwners(packages []listed) []breach {
	var breaches []breach
	for _, p := range packages {
		name, _ := local(p.ImportPath)
		for _, path := range slices.Compact(slices.Sorted(slices.Values(slices.Concat(p.Imports, p.TestImports, p.XTestImports)))) {
			for _, rule := range ownerRules {
				if matches(rule.dependency, path) && !matchesAny(rule.owners, name) {
					breaches = append(breaches, breach{name, fmt.Sprintf("imports %s, which belongs to %s", path, strings.Join(rule.owners, " and ")), rule.because})
				}
			}
		}
	}
	return breaches
}
