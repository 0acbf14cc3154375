package opa

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"

	"github.com/nightshift-batch/nightshift/policy"
	defaults "github.com/nightshift-batch/nightshift/policy/rego"
)

// defaultTimeout bounds one evaluation. The default bundle takes well under a millisecond; a create over the API waits for the answer.
const defaultTimeout = time.Second

// admission is the rule whose value is the decision.
const admission = "data.nightshift.admit.decision"

// Options choose what a Decider decides by. The zero value is the default bundle without limits.
type Options struct {
	// PolicyData is YAML or JSON: tenants.NAME.vcpu (a number of vCPUs) and tenants.NAME.maxPricePerHour (dollars). Nil means no data.
	PolicyData []byte
	// PolicyDataFile is a file with the same, in its place.
	PolicyDataFile string
	// Timeout bounds one evaluation; 0 means one second.
	Timeout time.Duration
}

// Decider is a policy.Decider. It holds no state between decisions and is safe for concurrent use.
type Decider struct {
	query   rego.PreparedEvalQuery
	digest  string
	timeout time.Duration
}

var _ policy.Decider = (*Decider)(nil)

// New checks the policy data and compiles the bundle. A mistake in the data is a *DataError.
func New(ctx context.Context, options Options) (*Decider, error) {
	data, err := loadData(options)
	if err != nil {
		return nil, err
	}
	rules, err := bundleRules(defaults.Bundle)
	if err != nil {
		return nil, err
	}
	return prepare(ctx, rules, data, options.Timeout)
}

// BundleDigest is "sha256:" and the hex digest of the rules and the data, the same in every process that was given the same.
func (d *Decider) BundleDigest() string { return d.digest }

// rule is one Rego file of a bundle.
type rule struct{ name, text string }

// bundleRules reads the Rego files of a bundle, sorted by name, without their tests: those decide nothing.
func bundleRules(bundle fs.FS) ([]rule, error) {
	names, err := fs.Glob(bundle, "*.rego")
	if err != nil {
		return nil, fmt.Errorf("list the policy bundle: %w", err)
	}
	slices.Sort(names)
	var rules []rule
	for _, name := range names {
		if strings.HasSuffix(name, "_test.rego") {
			continue
		}
		text, err := fs.ReadFile(bundle, name)
		if err != nil {
			return nil, fmt.Errorf("read the policy bundle: %w", err)
		}
		rules = append(rules, rule{name, string(text)})
	}
	return rules, nil
}

func prepare(ctx context.Context, rules []rule, data policyData, timeout time.Duration) (*Decider, error) {
	canonical, err := data.canonical()
	if err != nil {
		return nil, fmt.Errorf("write policy data canonically: %w", err)
	}
	var document map[string]any
	if err := json.Unmarshal(canonical, &document); err != nil {
		return nil, fmt.Errorf("read policy data back: %w", err)
	}
	options := []func(*rego.Rego){
		rego.Query(admission),
		rego.SetRegoVersion(ast.RegoV1),
		rego.Capabilities(capabilities()),
		rego.Strict(true),
		// Without it a built-in that fails makes its rule undefined, and a denial would vanish.
		rego.StrictBuiltinErrors(true),
		rego.Store(inmem.NewFromObjectWithOpts(document, inmem.OptReturnASTValuesOnRead(true))),
	}
	for _, r := range rules {
		options = append(options, rego.Module(r.name, r.text))
	}
	query, err := rego.New(options...).PrepareForEval(ctx)
	if err != nil {
		return nil, fmt.Errorf("compile the policy bundle: %w", err)
	}
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	return &Decider{query: query, digest: digest(rules, canonical), timeout: timeout}, nil
}

// capabilities are OPA's own less everything whose answer depends on more than its arguments: http.send, net.lookup_ip_addr, opa.runtime,
// time.now_ns, rand.intn and their like.
func capabilities() *ast.Capabilities {
	all := ast.CapabilitiesForThisVersion(ast.CapabilitiesRegoVersion(ast.RegoV1))
	all.Builtins = slices.DeleteFunc(all.Builtins, func(b *ast.Builtin) bool { return b.IsNondeterministic() })
	// Empty, and not nil: no host may be asked for the schemas that rules refer to.
	all.AllowNet = []string{}
	return all
}

// digest covers each part with its name and length, so that no two bundles run into the same bytes.
func digest(rules []rule, data []byte) string {
	sum := sha256.New()
	part := func(name string, content []byte) {
		fmt.Fprintf(sum, "%d:%s%d:", len(name), name, len(content))
		sum.Write(content)
	}
	for _, r := range rules {
		part(r.name, []byte(r.text))
	}
	part("data.json", data)
	return "sha256:" + hex.EncodeToString(sum.Sum(nil))
}

// Admit evaluates the bundle for one Job. The error wraps ctx's if that ended first, and context.DeadlineExceeded if the rules took
// longer than Options.Timeout.
func (d *Decider) Admit(ctx context.Context, input policy.Input) (policy.Decision, error) {
	encoded, err := json.Marshal(input)
	if err != nil {
		return policy.Decision{}, fmt.Errorf("policy input: %w", err)
	}
	value, err := ast.ValueFromReader(bytes.NewReader(encoded))
	if err != nil {
		return policy.Decision{}, fmt.Errorf("policy input: %w", err)
	}
	bounded, cancel := context.WithTimeoutCause(ctx, d.timeout,
		fmt.Errorf("the rules took longer than %s: %w", d.timeout, context.DeadlineExceeded))
	defer cancel()
	results, err := d.query.Eval(bounded, rego.EvalParsedInput(value))
	if cause := context.Cause(bounded); cause != nil {
		return policy.Decision{}, fmt.Errorf("evaluate %s: %w", admission, cause)
	}
	if err != nil {
		return policy.Decision{}, fmt.Errorf("evaluate %s: %w", admission, err)
	}
	if len(results) != 1 || len(results[0].Expressions) != 1 {
		return policy.Decision{}, fmt.Errorf("%s is undefined: the bundle gave no decision", admission)
	}
	decision, err := decodeDecision(results[0].Expressions[0].Value)
	if err != nil {
		return policy.Decision{}, fmt.Errorf("%s is not a decision: %w", admission, err)
	}
	decision.BundleDigest = d.digest
	return decision, nil
}
