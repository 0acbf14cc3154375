// Package rego holds the default bundle: the rules by which a Nightshift that was given no others admits Jobs.
//
// The rules are Rego v1, and this package owns their text alone: package policy/opa compiles and runs them, and its tests run the rules' own
// tests, which stand beside them as *_test.rego. What an operator may say about tenants is data (data.tenants), checked before the rules see it.
package rego

import "embed"

// Bundle is the default bundle with its tests. It is read-only and safe for concurrent use.
//
//go:embed *.rego
var Bundle embed.FS
