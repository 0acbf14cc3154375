package opa

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/nightshift-batch/nightshift/policy"
)

func input(tenant string, vcpu float64) policy.Input {
	return policy.Input{
		Tenant:   tenant,
		User:     "ada",
		Job:      json.RawMessage(`{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"night"},"spec":{"parallelism":10}}`),
		Demand:   policy.Demand{Pods: 10, VCPU: vcpu, MemoryBytes: 5 << 30},
		Forecast: policy.Forecast{Known: true, PricePerHour: 0.25},
	}
}

func decider(t testing.TB, data string) *Decider {
	t.Helper()
	d, err := New(context.Background(), Options{PolicyData: []byte(data)})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func admit(t *testing.T, d *Decider, in policy.Input) policy.Decision {
	t.Helper()
	decision, err := d.Admit(context.Background(), in)
	if err != nil {
		t.Fatal(err)
	}
	return decision
}

func TestAJobOverItsTenantsLimitsIsDeniedForEveryReason(t *testing.T) {
	d := decider(t, "tenants:\n  team-a: {vcpu: 4, maxPricePerHour: 0.2}\n  team-b:\n    vcpu: 100\n")
	denied := admit(t, d, input("team-a", 5))
	want := []string{
		`tenant "team-a" may spend $0.20 an hour; this Job would cost $0.25 an hour at the cheapest offers that fit`,
		`tenant "team-a" may use 4 vCPU at a time; this Job asks for 5 (10 pods of 500m)`,
	}
	if denied.Allowed || !slices.Equal(denied.Reasons, want) {
		t.Errorf("team-a: allowed %t for %q, want a denial for %q", denied.Allowed, denied.Reasons, want)
	}
	for _, tenant := range []string{"team-b", "team-c"} {
		allowed := admit(t, d, input(tenant, 5))
		if !allowed.Allowed || len(allowed.Reasons) != 0 || allowed.BundleDigest != d.BundleDigest() {
			t.Errorf("%s: %+v, want it admitted under %s", tenant, allowed, d.BundleDigest())
		}
		if p := allowed.Profile; p.Tier != "default" || p.Priority != 0 || !slices.Equal(p.Markets, []string{"spot", "on-demand"}) {
			t.Errorf("%s: profile %+v", tenant, p)
		}
	}
}

func TestTheCapacityAnnotationChoosesTheMarkets(t *testing.T) {
	d := decider(t, "tenants: {}")
	in := input("team-a", 5)
	in.Job = json.RawMessage(`{"metadata":{"annotations":{"nightshift.dev/capacity":"on-demand"}}}`)
	if got := admit(t, d, in); !got.Allowed || !slices.Equal(got.Profile.Markets, []string{"on-demand"}) {
		t.Errorf("%+v, want the on-demand market alone", got)
	}
}

func TestTheSameDataInAnotherFormHasTheSameDigestAndOtherDataAnother(t *testing.T) {
	yaml := decider(t, "# limits\ntenants:\n  b: {vcpu: 2}\n  a:\n    maxPricePerHour: 1.50\n    vcpu: 4\n")
	file := filepath.Join(t.TempDir(), "limits.json")
	if err := os.WriteFile(file, []byte(`{"tenants":{"a":{"vcpu":4.0,"maxPricePerHour":1.5},"b":{"vcpu":2}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	fromFile, err := New(context.Background(), Options{PolicyDataFile: file})
	if err != nil {
		t.Fatal(err)
	}
	if yaml.BundleDigest() != fromFile.BundleDigest() {
		t.Errorf("digests %s and %s of the same data", yaml.BundleDigest(), fromFile.BundleDigest())
	}
	seen := map[string]string{}
	for _, data := range []string{"tenants: {}", "tenants: {a: {}}", "tenants: {a: {vcpu: 0}}", "tenants: {a: {maxPricePerHour: 0}}"} {
		digest := decider(t, data).BundleDigest()
		if other, ok := seen[digest]; ok || len(digest) != len("sha256:")+64 {
			t.Errorf("%s and %s share the digest %s", data, other, digest)
		}
		seen[digest] = data
	}
}

func TestTheDigestCoversTheRulesAndNotTheirTests(t *testing.T) {
	bundle := fstest.MapFS{
		"a.rego":      {Data: []byte("package a")},
		"a_test.rego": {Data: []byte("package a_test")},
	}
	of := func() string {
		rules, err := bundleRules(bundle)
		if err != nil {
			t.Fatal(err)
		}
		return digest(rules, []byte("{}"))
	}
	first := of()
	bundle["a_test.rego"].Data = []byte("package other_test")
	if of() != first {
		t.Error("another test gave another digest")
	}
	bundle["a.rego"].Data = []byte("package a\n")
	if of() == first {
		t.Error("another rule gave the same digest")
	}
}

func TestPolicyDataThatIsNotUnderstoodIsRefusedByPath(t *testing.T) {
	for _, test := range []struct{ name, data, path, problem string }{
		{"nothing", "", "", "is empty"},
		{"only a comment", "# limits\n", "", "is empty"},
		{"null", "null", "", "not nothing"},
		{"no YAML", "tenants: [", "", "neither YAML nor JSON"},
		{"a list", "- tenants", "", "not a list"},
		{"no tenants", "{}", "", "names no tenants"},
		{"two documents", "tenants: {}\n---\ntenants: {a: {vcpu: 1}}\n", "", "more than one document"},
		{"a broken second document", "tenants: {}\n---\n[", "", "more than one document"},
		{"an unknown top key", "tenants: {}\ntennants: {}", "tennants", `known are ["tenants"]`},
		{"tenants without value", "tenants:\n", "tenants", "not nothing"},
		{"a tenant as a number", "tenants: {team-a: 4}", "tenants.team-a", "not 4"},
		{"a tenant without value", "tenants: {team-a: }", "tenants.team-a", "not nothing"},
		{"a tenant that is no namespace", "tenants: {Team_A: {}}", "tenants.Team_A", "a tenant is a namespace"},
		{"a tenant that is a number", "tenants: {7: {}}", "tenants", "strings for keys"},
		{"a misspelt limit", "tenants: {team-a: {vCPU: 4}}", "tenants.team-a.vCPU", `known are ["vcpu" "maxPricePerHour"]`},
		{"a quantity", "tenants: {team-a: {vcpu: 500m}}", "tenants.team-a.vcpu", `not the string "500m"`},
		{"a number in quotes", `{"tenants":{"team-a":{"vcpu":"4"}}}`, "tenants.team-a.vcpu", `not the string "4"`},
		{"a bool", "tenants: {team-a: {vcpu: true}}", "tenants.team-a.vcpu", "not true"},
		{"a limit without value", "tenants: {team-a: {vcpu: }}", "tenants.team-a.vcpu", "not nothing"},
		{"a negative limit", "tenants: {team-a: {vcpu: -1}}", "tenants.team-a.vcpu", "not negative; it is -1"},
		{"a negative price", "tenants: {a: {vcpu: 1, maxPricePerHour: -0.01}}", "tenants.a.maxPricePerHour", "not negative; it is -0.01"},
		{"infinity", "tenants: {a: {maxPricePerHour: .inf}}", "tenants.a.maxPricePerHour", "+Inf"},
		{"not a number", "tenants: {a: {vcpu: .nan}}", "tenants.a.vcpu", "NaN"},
		{"the same key twice", "tenants: {a: {vcpu: 1, vcpu: 2}}", "", "already defined"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := New(context.Background(), Options{PolicyData: []byte(test.data)})
			var mistake *DataError
			if !errors.As(err, &mistake) {
				t.Fatalf("error %v, want a DataError", err)
			}
			if mistake.Path != test.path || !strings.Contains(mistake.Problem, test.problem) || mistake.Source != "policy data" {
				t.Errorf("%q; want path %q and %q", err, test.path, test.problem)
			}
		})
	}
	if _, err := New(context.Background(), Options{PolicyDataFile: filepath.Join(t.TempDir(), "none")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file gave %v", err)
	}
}

// rules compiles one module in place of the default bundle.
func rules(t *testing.T, body string, timeout time.Duration) (*Decider, error) {
	t.Helper()
	return prepare(context.Background(), []rule{{"x.rego", "package nightshift.admit\n" + body}}, policyData{}, timeout)
}

func TestWhatIsNotAWholeDecisionIsAnErrorAndNotAnAdmission(t *testing.T) {
	const profile = `"profile": {"tier": "default", "priority": 0, "markets": ["spot"]}`
	for _, test := range []struct{ name, body, problem string }{
		{"undefined", `decision := 1 if input.nothing`, "undefined"},
		{"no object", `decision := true`, "cannot unmarshal bool"},
		{"no allowed", `decision := {"reasons": [], ` + profile + `}`, "no allowed"},
		{"allowed is a string", `decision := {"allowed": "true", "reasons": [], ` + profile + `}`, "cannot unmarshal string"},
		{"no reasons", `decision := {"allowed": true, ` + profile + `}`, "no reasons"},
		{"no profile", `decision := {"allowed": true, "reasons": []}`, "no profile"},
		{"an unknown field", `decision := {"allowed": true, "reasons": [], "tier": "x", ` + profile + `}`, `unknown field "tier"`},
		{"denied without a reason", `decision := {"allowed": false, "reasons": [], ` + profile + `}`, "without a reason"},
		{"allowed against reasons", `decision := {"allowed": true, "reasons": ["no"], ` + profile + `}`, "reasons against"},
		{"an unknown market", `decision := {"allowed": true, "reasons": [], "profile": {"tier": "d", "priority": 0, "markets": ["moon"]}}`, "not a market"},
		{"no market", `decision := {"allowed": true, "reasons": [], "profile": {"tier": "d", "priority": 0, "markets": []}}`, "no market"},
		{"half a priority", `decision := {"allowed": true, "reasons": [], "profile": {"tier": "d", "priority": 0.5, "markets": ["spot"]}}`, "cannot unmarshal number 0.5"},
		{"a conflict", `decision := 1 if input.tenant
decision := 2 if input.user`, "conflict"},
		{"a built-in that fails", `decision := {"allowed": count(deny) == 0, "reasons": sort(deny), ` + profile + `}
deny contains "no" if to_number(input.tenant) > 1`, "to_number"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, err := rules(t, test.body, 0)
			if err != nil {
				t.Fatal(err)
			}
			decision, err := d.Admit(context.Background(), input("team-a", 1))
			if err == nil || !strings.Contains(err.Error(), test.problem) {
				t.Errorf("decision %+v and error %v, want an error with %q", decision, err, test.problem)
			}
			if decision.Allowed {
				t.Error("it was admitted beside the error")
			}
		})
	}
}

func TestRulesThatWouldReachOutsideDoNotCompile(t *testing.T) {
	for _, call := range []string{
		`http.send({"method": "get", "url": "http://127.0.0.1/"})`, `net.lookup_ip_addr("localhost")`,
		`opa.runtime()`, `time.now_ns()`, `rand.intn("x", 2)`, `uuid.rfc4122("x")`,
	} {
		if _, err := rules(t, "decision := "+call, 0); err == nil || !strings.Contains(err.Error(), "undefined function") {
			t.Errorf("%s: error %v, want it not to be a function", call, err)
		}
	}
}

func TestAnEvaluationThatTakesTooLongIsAnError(t *testing.T) {
	const endless = `decision := count({[x, y, z] | some x in numbers.range(1, 3000); some y in numbers.range(1, 3000); some z in numbers.range(1, 3000); x*y == z-7})`
	d, err := rules(t, endless, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Admit(context.Background(), input("a", 1)); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "20ms") {
		t.Errorf("error %v, want the deadline and its length", err)
	}
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := d.Admit(canceled, input("a", 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

func TestAnInputThatIsNoJSONIsAnError(t *testing.T) {
	d := decider(t, "tenants: {}")
	broken := input("a", 1)
	broken.Job = json.RawMessage(`{"metadata":`)
	if _, err := d.Admit(context.Background(), broken); err == nil {
		t.Error("a broken Job was decided")
	}
	if _, err := d.Admit(context.Background(), input("a", math.NaN())); err == nil {
		t.Error("a demand of NaN was decided")
	}
}

func TestOneDeciderServesManyAtATime(t *testing.T) {
	d := decider(t, "tenants: {team-a: {vcpu: 4}}")
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := range 50 {
				vcpu := float64((worker + i) % 8)
				decision, err := d.Admit(context.Background(), input("team-a", vcpu))
				if err != nil || decision.Allowed != (vcpu <= 4) {
					t.Errorf("%v vCPU: %+v, %v", vcpu, decision, err)
					return
				}
			}
		})
	}
	all.Wait()
}

func BenchmarkAdmit(b *testing.B) {
	var data strings.Builder
	data.WriteString("tenants:\n")
	for i := range 100 {
		data.WriteString("  team-" + string(rune('a'+i%26)) + strings.Repeat("x", i/26) + ": {vcpu: 4, maxPricePerHour: 1}\n")
	}
	d := decider(b, data.String())
	for name, vcpu := range map[string]float64{"admitted": 1, "denied": 5} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := d.Admit(context.Background(), input("team-a", vcpu)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
