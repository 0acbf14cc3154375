package terraform_test

import (
	"fmt"
	"sort"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

func TestWhatTheModulesMakeIsSafe(t *testing.T) {
	for _, dir := range modules(t) {
		for _, problem := range unsafe(parse(t, dir)) {
			t.Error(problem)
		}
	}
}

func TestWhatIsUnsafeIsFound(t *testing.T) {
	const metadata = "metadata_options {\n http_tokens = \"required\"\n}\n"
	const around = `
resource "aws_s3_bucket_public_access_block" "b" {
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}
resource "aws_s3_bucket_server_side_encryption_configuration" "b" {}
resource "aws_s3_bucket_versioning" "b" {}
`
	tests := map[string]struct{ text, want string }{
		"a guarded instance":       {`resource "aws_instance" "a" {` + "\n" + metadata + "}", ""},
		"IMDSv1":                   {`resource "aws_instance" "a" {}`, "IMDSv2"},
		"IMDSv1 on nodes":          {`resource "aws_launch_template" "a" {` + "\n" + strings.Replace(metadata, "required", "optional", 1) + "}", "IMDSv2"},
		"a volume in the clear":    {`resource "aws_ebs_volume" "a" {}`, "encrypted"},
		"a block in the clear":     {`resource "aws_instance" "a" {` + "\n" + metadata + "root_block_device {}\n}", "encrypted"},
		"a queue in the clear":     {`resource "aws_sqs_queue" "a" {}`, "encrypted"},
		"an open door":             {"resource \"aws_vpc_security_group_ingress_rule\" \"a\" {\n cidr_ipv4 = \"0.0.0.0/0\"\n}", "to the whole internet"},
		"a guarded bucket":         {`resource "aws_s3_bucket" "b" {}` + around, ""},
		"a public bucket":          {`resource "aws_s3_bucket" "b" {}` + strings.Replace(around, "true", "false", 1), "block_public_acls"},
		"another bucket's guard":   {`resource "aws_s3_bucket" "c" {}` + around, "aws_s3_bucket.c"},
		"a right to everything":    {"data \"aws_iam_policy_document\" \"a\" {\n statement {\n  actions = [\"ec2:*\"]\n resources = [\"x\"]\n }\n}", "ec2:*"},
		"a right on everything":    {"data \"aws_iam_policy_document\" \"a\" {\n statement {\n  actions = [\"ec2:TerminateInstances\"]\n resources = [\"*\"]\n }\n}", "on every resource"},
		"looking at everything":    {"data \"aws_iam_policy_document\" \"a\" {\n statement {\n  actions = [\"ec2:DescribeInstances\"]\n resources = [\"*\"]\n }\n}", ""},
		"a refusal of everything":  {"data \"aws_iam_policy_document\" \"a\" {\n statement {\n  effect = \"Deny\"\n actions = [\"s3:*\"]\n resources = [\"x\"]\n }\n}", ""},
		"a policy written by hand": {"resource \"aws_iam_role_policy\" \"a\" {\n policy = jsonencode({})\n}", "aws_iam_policy_document"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			problems := unsafe(map[string]*hclsyntax.Body{"x.tf": parseText(t, "x.tf", []byte(test.text))})
			if test.want == "" && len(problems) > 0 {
				t.Errorf("found %v", problems)
			}
			if test.want != "" && !strings.Contains(strings.Join(problems, "\n"), test.want) {
				t.Errorf("found %v, want %q", problems, test.want)
			}
		})
	}
}

// unsafe finds what must not be true of anything that a module makes.
func unsafe(files map[string]*hclsyntax.Body) []string {
	var problems []string
	resources := map[string]*hclsyntax.Body{}
	for _, body := range files {
		for _, block := range body.Blocks {
			switch {
			case block.Type == "resource":
				resources[block.Labels[0]+"."+block.Labels[1]] = block.Body
			case block.Type == "data" && block.Labels[0] == "aws_iam_policy_document":
				for _, problem := range unsafeStatements(block.Body) {
					problems = append(problems, fmt.Sprintf("data.%s.%s %s", block.Labels[0], block.Labels[1], problem))
				}
			}
		}
	}
	for name, body := range resources {
		kind, label, _ := strings.Cut(name, ".")
		for _, problem := range append(unsafeResource(kind, body), unsafeBucket(kind, label, resources)...) {
			problems = append(problems, name+" "+problem)
		}
	}
	sort.Strings(problems)
	return problems
}

func unsafeResource(kind string, body *hclsyntax.Body) []string {
	var problems []string
	switch kind {
	case "aws_instance", "aws_launch_template":
		if options := within(body, "metadata_options"); len(options) != 1 || text(options[0], "http_tokens") != "required" {
			problems = append(problems, "does not demand IMDSv2: whoever makes a pod fetch a URL has the instance's role")
		}
		for _, device := range append(within(body, "root_block_device"), within(body, "ebs")...) {
			if text(device, "encrypted") != "true" {
				problems = append(problems, "has a volume that is not encrypted")
			}
		}
	case "aws_ebs_volume":
		if text(body, "encrypted") != "true" {
			problems = append(problems, "is not encrypted")
		}
	case "aws_sqs_queue":
		if text(body, "sqs_managed_sse_enabled") != "true" {
			problems = append(problems, "is not encrypted")
		}
	case "aws_vpc_security_group_ingress_rule":
		if range_ := text(body, "cidr_ipv4"); range_ == "0.0.0.0/0" || text(body, "cidr_ipv6") != "" {
			problems = append(problems, "opens a door to the whole internet")
		}
	case "aws_security_group":
		if len(within(body, "ingress"))+len(within(body, "egress")) > 0 {
			problems = append(problems, "has rules inside, which fight with the rules beside it")
		}
	case "aws_iam_role_policy", "aws_iam_policy":
		policy := body.Attributes["policy"]
		if policy == nil || len(policy.Expr.Variables()) != 1 || policy.Expr.Variables()[0].RootName() != "data" {
			problems = append(problems, "does not take its policy from an aws_iam_policy_document, which these tests read")
		}
	}
	return problems
}

// unsafeBucket wants beside each bucket the resources that make it private, encrypted and versioned.
func unsafeBucket(kind, label string, resources map[string]*hclsyntax.Body) []string {
	if kind != "aws_s3_bucket" {
		return nil
	}
	var problems []string
	for _, beside := range []string{"aws_s3_bucket_public_access_block", "aws_s3_bucket_server_side_encryption_configuration", "aws_s3_bucket_versioning"} {
		if resources[beside+"."+label] == nil {
			problems = append(problems, "has no "+beside+" of its name")
		}
	}
	if block := resources["aws_s3_bucket_public_access_block."+label]; block != nil {
		for _, setting := range []string{"block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets"} {
			if text(block, setting) != "true" {
				problems = append(problems, "may be public: "+setting+" is not true")
			}
		}
	}
	return problems
}

// unsafeStatements wants rights by name, and on resources by name unless they are rights to look.
func unsafeStatements(document *hclsyntax.Body) []string {
	var problems []string
	for _, statement := range within(document, "statement") {
		if text(statement, "effect") == "Deny" {
			continue
		}
		onAll := strings.Contains(list(statement, "resources"), " * ")
		for _, action := range strings.Fields(list(statement, "actions")) {
			if strings.Contains(action, "*") {
				problems = append(problems, "gives "+action)
			}
			if onAll && !strings.HasPrefix(action, "ec2:Describe") {
				problems = append(problems, "gives "+action+" on every resource")
			}
		}
	}
	return problems
}

// within gives all blocks of a name, at any depth.
func within(body *hclsyntax.Body, name string) []*hclsyntax.Body {
	var found []*hclsyntax.Body
	for _, block := range body.Blocks {
		if block.Type == name {
			found = append(found, block.Body)
		}
		found = append(found, within(block.Body, name)...)
	}
	return found
}

// text gives a literal value of an attribute, and "" for anything else.
func text(body *hclsyntax.Body, name string) string {
	attribute := body.Attributes[name]
	if attribute == nil {
		return ""
	}
	value, diagnostics := attribute.Expr.Value(nil)
	switch {
	case diagnostics.HasErrors() || !value.IsKnown() || value.IsNull():
		return ""
	case value.Type() == cty.String:
		return value.AsString()
	case value.Type() == cty.Bool && value.True():
		return "true"
	}
	return ""
}

// list gives the literal strings in a list, each between spaces.
func list(body *hclsyntax.Body, name string) string {
	attribute := body.Attributes[name]
	if attribute == nil {
		return ""
	}
	tuple, ok := attribute.Expr.(*hclsyntax.TupleConsExpr)
	if !ok {
		return ""
	}
	all := " "
	for _, expression := range tuple.Exprs {
		if value, diagnostics := expression.Value(nil); !diagnostics.HasErrors() && value.Type() == cty.String {
			all += value.AsString() + " "
		}
	}
	return all
}
