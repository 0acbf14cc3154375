package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"os"
	"sort"
)

// The bounds of the work on one file. They keep it near a second of one core whatever the file holds: about
// maxPassages²/2 comparisons of passageTokens² steps each.
const (
	minTokens     = 25  // shorter functions resemble each other for no reason
	passageTokens = 96  // the length of a passage
	minStride     = 8   // the least distance between the starts of two passages
	maxPassages   = 360 // of one file
)

// function is one function with a body, reduced to the shape of its code.
type function struct {
	Name string
	Line int
	// shape is the body as token kinds: names and literals lose their text, keywords and operators stay. Two functions that
	// differ only in names have the same shape.
	shape []byte
	// passages are pieces of shape, all of passageTokens unless the shape is shorter. They overlap in small files and leave
	// gaps in large ones, so that a file has about as many as any other.
	passages [][]byte
}

// readFunctions parses a Go file and gives the functions to compare, in the order of the source, and how many it left out
// because they are short, or too many.
func readFunctions(path string) (kept []function, leftOut int, err error) {
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, 0, err
	}
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, 0, fmt.Errorf("not a Go file: %w", err)
	}
	for _, decl := range file.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Body == nil {
			continue
		}
		from, to := files.Position(fn.Body.Pos()), files.Position(fn.Body.End())
		shape := shapeOf(source[from.Offset:to.Offset])
		if len(shape) < minTokens {
			leftOut++
			continue
		}
		kept = append(kept, function{Name: nameOf(fn), Line: files.Position(fn.Pos()).Line, shape: shape})
	}
	if tooMany := len(kept) - maxPassages; tooMany > 0 {
		sort.SliceStable(kept, func(i, j int) bool { return len(kept[i].shape) > len(kept[j].shape) })
		kept, leftOut = kept[:maxPassages], leftOut+tooMany
		sort.SliceStable(kept, func(i, j int) bool { return kept[i].Line < kept[j].Line })
	}
	cutPassages(kept)
	return kept, leftOut, nil
}

// cutPassages cuts the functions of a file into passages at the least stride that gives no more than maxPassages.
func cutPassages(functions []function) {
	stride := minStride
	for countPassages(functions, stride) > maxPassages {
		stride++
	}
	for i := range functions {
		shape := functions[i].shape
		for n := range passagesIn(len(shape), stride) {
			from := n * stride
			functions[i].passages = append(functions[i].passages, shape[from:min(from+passageTokens, len(shape))])
		}
	}
}

func countPassages(functions []function, stride int) int {
	total := 0
	for _, fn := range functions {
		total += passagesIn(len(fn.shape), stride)
	}
	return total
}

// passagesIn gives the number of passages in a shape: one at each stride that leaves room for a whole passage, and at
// least one.
func passagesIn(tokens, stride int) int {
	return 1 + max(0, tokens-passageTokens)/stride
}

// nameOf gives F for a function and T.F for a method, whether its receiver is a pointer or not.
func nameOf(fn *ast.FuncDecl) string {
	if fn.Recv == nil || len(fn.Recv.List) == 0 {
		return fn.Name.Name
	}
	receiver := fn.Recv.List[0].Type
	for {
		switch t := receiver.(type) {
		case *ast.StarExpr:
			receiver = t.X
		case *ast.IndexExpr:
			receiver = t.X
		case *ast.IndexListExpr:
			receiver = t.X
		case *ast.Ident:
			return t.Name + "." + fn.Name.Name
		default:
			return fn.Name.Name
		}
	}
}

// shapeOf reduces the text of a body to its token kinds. The text has been parsed before, so it scans without errors.
func shapeOf(body []byte) []byte {
	files := token.NewFileSet()
	var scan scanner.Scanner
	scan.Init(files.AddFile("", files.Base(), len(body)), body, nil, 0)
	var shape []byte
	for {
		_, kind, _ := scan.Scan()
		if kind == token.EOF {
			return shape
		}
		shape = append(shape, byte(kind)) // there are fewer than 256 kinds
	}
}
