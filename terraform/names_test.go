package terraform_test

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// builtIn are the names that Terraform gives by itself.
var builtIn = []string{"each", "count", "path", "self", "terraform"}

// names finds what a module uses without declaring it, and what it declares without using it.
func names(files map[string]*hclsyntax.Body) []string {
	declared, problems := declarations(files)
	uses := usesIn(files)
	used := map[string]bool{}
	for _, u := range uses {
		used[u.name] = true
		if !declared[u.name] {
			problems = append(problems, fmt.Sprintf("%s: %s is not declared", u.where, u.name))
		}
	}
	for name := range declared {
		if !used[name] && (strings.HasPrefix(name, "var.") || strings.HasPrefix(name, "local.")) {
			problems = append(problems, name+" is not used")
		}
	}
	sort.Strings(problems)
	return problems
}

// declarations gives all names of a module, as they are used.
func declarations(files map[string]*hclsyntax.Body) (declared map[string]bool, problems []string) {
	declared = map[string]bool{}
	declare := func(name string, at hcl.Range) {
		if declared[name] {
			problems = append(problems, fmt.Sprintf("%s: %s is declared twice", at, name))
		}
		declared[name] = true
	}
	for _, body := range files {
		for _, block := range body.Blocks {
			switch block.Type {
			case "variable":
				declare("var."+block.Labels[0], block.TypeRange)
			case "resource":
				declare(block.Labels[0]+"."+block.Labels[1], block.TypeRange)
			case "data":
				declare("data."+block.Labels[0]+"."+block.Labels[1], block.TypeRange)
			case "module":
				declare("module."+block.Labels[0], block.TypeRange)
			case "locals":
				for name, attribute := range block.Body.Attributes {
					declare("local."+name, attribute.NameRange)
				}
			}
		}
	}
	return declared, problems
}

// use is one place that uses a name.
type use struct {
	name  string
	where string
}

// usesIn gives the names used in the expressions of a module. HCL leaves out those that a for expression binds.
func usesIn(files map[string]*hclsyntax.Body) []use {
	var uses []use
	for _, body := range files {
		for _, block := range body.Blocks {
			if block.Type == "terraform" {
				continue // names there are settings
			}
			uses = append(uses, usesInBody(block, block.Type == "variable")...)
		}
	}
	return uses
}

// wordsOfTerraform are attributes, by the block that they stand in, whose values are no names of the module's.
var wordsOfTerraform = map[string]string{"variable": "type", "lifecycle": "ignore_changes"}

func usesInBody(block *hclsyntax.Block, inVariable bool) []use {
	var uses []use
	for name, attribute := range block.Body.Attributes {
		if wordsOfTerraform[block.Type] != name {
			uses = append(uses, usesInExpression(attribute.Expr, inVariable)...)
		}
	}
	for _, inner := range block.Body.Blocks {
		uses = append(uses, usesInBody(inner, inVariable)...)
	}
	return uses
}

func usesInExpression(expression hclsyntax.Expression, inVariable bool) []use {
	var uses []use
	for _, traversal := range expression.Variables() {
		name := traversal.RootName()
		if slices.Contains(builtIn, name) {
			continue
		}
		steps := 1 // names after the root that belong to it
		if name == "data" {
			steps = 2
		}
		for _, step := range traversal[1:] {
			attribute, ok := step.(hcl.TraverseAttr)
			if !ok || steps == 0 {
				break
			}
			name += "." + attribute.Name
			steps--
		}
		// A variable's own validation uses it, and that is not what it is for.
		if inVariable && traversal.RootName() == "var" {
			continue
		}
		uses = append(uses, use{name, traversal.SourceRange().String()})
	}
	return uses
}
