package orchestrator_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"slices"
	"strconv"
	"strings"
)

// pure are the packages that may be run again, under any clock, and give the same.
var pure = []string{
	"orchestrator/job", "orchestrator/cron", "orchestrator/event", "orchestrator/spot", "orchestrator/ledger",
	"orchestrator/placement", "orchestrator/object", "orchestrator/engine",
}

const whyPure = "old logs are replayed and nights are simulated: what it gives may depend on its arguments alone"

// impureImports reach outside a process or make chance.
var impureImports = []string{
	"os/...", "net/...", "io/ioutil", "io/fs", "path/filepath", "math/rand/...", "crypto/rand", "syscall", "runtime/...", "plugin",
	"log/...",
}

// impureTime are the functions of package time that read the clock or wait for it, or read what the machine says of zones.
var impureTime = []string{"Now", "Since", "Until", "After", "AfterFunc", "Sleep", "NewTimer", "NewTicker", "Tick", "Local", "LoadLocation"}

// The sizes that have kept such code readable.
const (
	maxFileLines         = 400
	maxTestFileLines     = 600
	maxFunctionLines     = 70
	maxTestFunctionLines = 100 // tables of cases are long and flat
	maxFiles             = 14  // of a package, without tests
	whySize              = "what does not fit on a few screens is not read as a whole: split it by what it owns"
)

// vagueNames say where code is put and not what it owns.
var vagueNames = []string{"util", "utils", "common", "helper", "helpers", "types"}

// wiring are the concrete parts, which wire.go alone joins.
var wiring = []string{
	"orchestrator/journal/etcd", "orchestrator/archive", "orchestrator/fleet/...", "orchestrator/kubeapi/...", "policy/opa",
	"providers/plugin", "providers/local", "providers/aws",
}

// checkSources holds the text of all files against the rules on sources.
func checkSources(sources []source) []breach {
	var breaches []breach
	files := map[string]int{}       // hand-written, without tests, by directory
	documented := map[string]bool{} // directories
	for _, s := range sources {
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, s.path, s.text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			breaches = append(breaches, breach{s.path, "does not parse: " + err.Error(), "the rules are checked on every file"})
			continue
		}
		c := sourceCheck{source: s, set: set, file: file}
		c.names()
		c.clock()
		if ast.IsGenerated(file) {
			documented[s.directory()] = true
		} else {
			c.sizes()
			c.beginnings()
			if !s.isTest() {
				files[s.directory()]++
			}
		}
		if !s.isTest() {
			c.purity()
			c.wire()
			documented[s.directory()] = documented[s.directory()] || file.Doc != nil
		}
		breaches = append(breaches, c.breaches...)
	}
	for directory, n := range files {
		if n > maxFiles {
			breaches = append(breaches, breach{directory, fmt.Sprintf("has %d files, more than %d", n, maxFiles), "a package of more files owns more than one thing"})
		}
		if !documented[directory] {
			breaches = append(breaches, breach{directory, "has no package comment", "a package says what it owns, what it promises and how it fails"})
		}
	}
	slices.SortFunc(breaches, func(a, b breach) int { return strings.Compare(a.where+a.what, b.where+b.what) })
	return breaches
}

// sourceCheck checks one file.
type sourceCheck struct {
	source
	set      *token.FileSet
	file     *ast.File
	breaches []breach
}

func (c *sourceCheck) breach(node ast.Node, because, format string, args ...any) {
	line := c.set.Position(node.Pos()).Line
	c.breaches = append(c.breaches, breach{at(c.path, line), fmt.Sprintf(format, args...), because})
}

// names refuses package names that own nothing.
func (c *sourceCheck) names() {
	name := strings.TrimSuffix(c.file.Name.Name, "_test")
	if slices.Contains(vagueNames, name) || slices.Contains(vagueNames, path.Base(c.directory())) {
		c.breach(c.file.Name, "a name that tells nothing draws in everything: name what the package owns", "package %s", name)
	}
}

// clock refuses sleeping, in tests as well.
func (c *sourceCheck) clock() {
	timePackage := c.importedAs("time")
	ast.Inspect(c.file, func(n ast.Node) bool {
		if isSelector(n, timePackage, "Sleep") {
			c.breach(n, "a sleep is too short on a busy machine and too long on all others: wait for what it waits for", "uses time.Sleep")
		}
		return true
	})
}

// sizes refuses files and functions that are too long.
func (c *sourceCheck) sizes() {
	fileLimit, functionLimit := maxFileLines, maxFunctionLines
	if c.isTest() {
		fileLimit, functionLimit = maxTestFileLines, maxTestFunctionLines
	}
	if lines := strings.Count(c.text, "\n"); lines > fileLimit {
		c.breaches = append(c.breaches, breach{c.path, fmt.Sprintf("has %d lines, more than %d", lines, fileLimit), whySize})
	}
	ast.Inspect(c.file, func(n ast.Node) bool {
		fn, ok := n.(*ast.FuncDecl)
		if !ok {
			return true
		}
		if lines := c.set.Position(fn.End()).Line - c.set.Position(fn.Pos()).Line + 1; lines > functionLimit {
			c.breach(fn, whySize, "func %s has %d lines, more than %d", fn.Name.Name, lines, functionLimit)
		}
		return true
	})
}

// beginnings refuses init functions.
func (c *sourceCheck) beginnings() {
	for _, decl := range c.file.Decls {
		if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
			c.breach(fn, "what happens before main cannot be ordered, tested or left out: let the caller begin it", "has an init function")
		}
	}
}

// purity refuses, in pure packages, what could make two runs differ.
func (c *sourceCheck) purity() {
	if !slices.Contains(pure, c.directory()) {
		return
	}
	for _, spec := range c.file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil || !matchesAny(impureImports, imported) {
			continue
		}
		c.breach(spec, whyPure, "a pure package imports %s", imported)
	}
	timePackage := c.importedAs("time")
	ast.Inspect(c.file, func(n ast.Node) bool {
		for _, name := range impureTime {
			if isSelector(n, timePackage, name) {
				c.breach(n, whyPure, "a pure package uses time.%s: the time is an argument, and so are zones", name)
			}
		}
		switch n.(type) {
		case *ast.GoStmt:
			c.breach(n, whyPure, "a pure package starts a goroutine")
		case *ast.SelectStmt:
			c.breach(n, whyPure, "a pure package selects: which case is taken is chance")
		}
		return true
	})
}

// wire refuses concrete parts in files of the command other than wire.go.
func (c *sourceCheck) wire() {
	if c.directory() != "cmd/nightshift" || path.Base(c.path) == "wire.go" {
		return
	}
	for _, spec := range c.file.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue
		}
		if ours, ok := local(imported); ok && matchesAny(wiring, ours) {
			c.breach(spec, "which parts make the program is read in one file, wire.go", "imports %s", ours)
		}
	}
}

// importedAs gives the name by which the file imports a package: "" if it does not, "." for a dot import.
func (c *sourceCheck) importedAs(imported string) string {
	for _, spec := range c.file.Imports {
		if spec.Path.Value != strconv.Quote(imported) {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return path.Base(imported)
	}
	return ""
}

// isSelector tells whether a node is a use of a package's name, whether called or not. For a dot import it is the bare name.
func isSelector(n ast.Node, packageName, name string) bool {
	if packageName == "" {
		return false
	}
	if packageName == "." {
		ident, ok := n.(*ast.Ident)
		return ok && ident.Name == name
	}
	selector, ok := n.(*ast.SelectorExpr)
	if !ok || selector.Sel.Name != name {
		return false
	}
	ident, ok := selector.X.(*ast.Ident)
	return ok && ident.Name == packageName
}
