package opa

import (
	"bytes"
	"context"
	"io/fs"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/format"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"

	"github.com/nightshift-batch/nightshift/policy/rego"
)

func bundleFiles(t *testing.T) map[string][]byte {
	t.Helper()
	names, err := fs.Glob(rego.Bundle, "*.rego")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, name := range names {
		if files[name], err = fs.ReadFile(rego.Bundle, name); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// The same as `opa test`: the rules' own tests, by the same runner, under the capabilities that the rules have in production.
func TestTheDefaultBundlePassesItsOwnTests(t *testing.T) {
	modules := map[string]*ast.Module{}
	for name, text := range bundleFiles(t) {
		module, err := ast.ParseModuleWithOpts(name, string(text), ast.ParserOptions{RegoVersion: ast.RegoV1, ProcessAnnotation: true})
		if err != nil {
			t.Fatal(err)
		}
		modules[name] = module
	}
	compiler := ast.NewCompiler().WithCapabilities(capabilities()).WithStrict(true)
	store := inmem.New()
	transaction, err := store.NewTransaction(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Abort(context.Background(), transaction)
	results, err := tester.NewRunner().SetCompiler(compiler).SetDefaultRegoVersion(ast.RegoV1).RaiseBuiltinErrors(true).
		SetStore(store).SetModules(modules).RunTests(context.Background(), transaction)
	if err != nil {
		t.Fatal(err)
	}
	ran := 0
	for result := range results {
		ran++
		t.Run(result.Name, func(t *testing.T) {
			if !result.Pass() {
				t.Errorf("%s: %s (at %v, error %v)", result.Location, result, result.FailedAt, result.Error)
			}
		})
	}
	if ran < 15 {
		t.Errorf("%d Rego tests ran; the bundle has at least 15", ran)
	}
}

func TestTheDefaultBundleIsFormatted(t *testing.T) {
	for name, text := range bundleFiles(t) {
		formatted, err := format.SourceWithOpts(name, text, format.Opts{RegoVersion: ast.RegoV1})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !bytes.Equal(text, formatted) {
			t.Errorf("%s is not as `opa fmt` writes it; it should be:\n%s", name, formatted)
		}
	}
}
