// Package terraform_test parses our Terraform modules and holds them to what can be known without a cloud: their form, that
// every name they use is declared, and what must be true of whatever they make. It needs no terraform on the machine.
package terraform_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
)

// modules lists the directories of all modules.
func modules(t *testing.T) []string {
	t.Helper()
	versions, err := filepath.Glob("modules/*/versions.tf")
	if err != nil || len(versions) == 0 {
		t.Fatalf("no modules here (%v)", err)
	}
	var dirs []string
	for _, path := range versions {
		dirs = append(dirs, filepath.Dir(path))
	}
	return dirs
}

// parse reads all files of a module.
func parse(t *testing.T, dir string) map[string]*hclsyntax.Body {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.tf"))
	if err != nil {
		t.Fatal(err)
	}
	bodies := map[string]*hclsyntax.Body{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bodies[path] = parseText(t, path, text)
	}
	return bodies
}

func parseText(t *testing.T, path string, text []byte) *hclsyntax.Body {
	t.Helper()
	file, diagnostics := hclsyntax.ParseConfig(text, path, hcl.InitialPos)
	if diagnostics.HasErrors() {
		t.Fatal(diagnostics)
	}
	return file.Body.(*hclsyntax.Body)
}

func TestModulesAreFormatted(t *testing.T) {
	for _, dir := range modules(t) {
		for path := range parse(t, dir) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(text, hclwrite.Format(text)) {
				t.Errorf("%s is not formatted: run terraform fmt", path)
			}
		}
		// terraform itself is stricter than the library; a machine that has it is asked too.
		if terraform, err := exec.LookPath("terraform"); err == nil {
			var complaints bytes.Buffer
			cmd := exec.Command(terraform, "fmt", "-check", "-diff", "-recursive", dir)
			cmd.Stdout, cmd.Stderr = &complaints, &complaints
			if err := cmd.Run(); err != nil {
				t.Errorf("terraform fmt -check %s: %v\n%s", dir, err, complaints.String())
			}
		}
	}
}

func TestModulesUseWhatTheyDeclareAndDeclareWhatTheyUse(t *testing.T) {
	for _, dir := range modules(t) {
		for _, problem := range names(parse(t, dir)) {
			t.Error(problem)
		}
	}
}

func TestAWrongNameInAModuleIsFound(t *testing.T) {
	const good = `
variable "a" {}
locals { b = var.a }
resource "aws_vpc" "c" { id = local.b }
data "aws_subnet" "d" { id = aws_vpc.c.id }
output "e" { value = [for x in data.aws_subnet.d.ids : { id = x.id, all = [for y in x.list : "${y}-${each.key}"] }] }
`
	tests := map[string]struct{ text, want string }{
		"nothing wrong":                      {good, ""},
		"an undeclared variable":             {good + `output "x" { value = var.z }`, "var.z is not declared"},
		"an undeclared local":                {good + `output "x" { value = "${local.z}" }`, "local.z is not declared"},
		"an undeclared resource":             {good + `output "x" { value = aws_vpc.z.id }`, "aws_vpc.z is not declared"},
		"an undeclared resource of a splat":  {good + `output "x" { value = aws_vpc.z[*].id }`, "aws_vpc.z is not declared"},
		"an undeclared data source":          {good + `output "x" { value = data.aws_subnet.z.id }`, "data.aws_subnet.z is not declared"},
		"a resource taken for data":          {good + `output "x" { value = data.aws_vpc.c.id }`, "data.aws_vpc.c is not declared"},
		"a name that is nothing":             {good + `output "x" { value = nonsense.y }`, "nonsense.y is not declared"},
		"a loop's name after the loop":       {good + `output "x" { value = [[for k in var.a : k], k] }`, "k is not declared"},
		"a variable that nothing uses":       {good + `variable "z" {}`, "var.z is not used"},
		"a local that nothing uses":          {good + `locals { z = 1 }`, "local.z is not used"},
		"a variable declared twice":          {good + `variable "a" {}`, "var.a is declared twice"},
		"a list of attributes, not of names": {good + "resource \"aws_vpc\" \"f\" {\n lifecycle {\n ignore_changes = [ami]\n }\n}", ""},
		"a use in a nested block":            {good + "resource \"aws_vpc\" \"f\" {\n rule {\n x = var.z\n }\n}", "var.z is not declared"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			problems := names(map[string]*hclsyntax.Body{"x.tf": parseText(t, "x.tf", []byte(test.text))})
			switch {
			case test.want == "" && len(problems) > 0:
				t.Errorf("found %v", problems)
			case test.want != "" && (len(problems) != 1 || !strings.Contains(problems[0], test.want)):
				t.Errorf("found %v, want %q alone", problems, test.want)
			}
		})
	}
}

func TestVariablesAndOutputsAreExplained(t *testing.T) {
	for _, dir := range modules(t) {
		readme, err := os.ReadFile(filepath.Join(dir, "README.md"))
		if err != nil {
			t.Fatal(err)
		}
		for path, body := range parse(t, dir) {
			for _, block := range body.Blocks {
				if block.Type != "variable" && block.Type != "output" {
					continue
				}
				name := block.Labels[0]
				if block.Body.Attributes["description"] == nil {
					t.Errorf("%s: %s %s has no description", path, block.Type, name)
				}
				if block.Type == "variable" && block.Body.Attributes["type"] == nil {
					t.Errorf("%s: variable %s has no type", path, name)
				}
				if !strings.Contains(string(readme), "| `"+name+"` |") {
					t.Errorf("%s: the README's tables do not list %s %s", path, block.Type, name)
				}
			}
		}
	}
}
