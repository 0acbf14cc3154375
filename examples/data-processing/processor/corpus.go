package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
)

// inputDir gives the directory to read: $DATA_PROCESSOR_INPUT, or else the source of the Go distribution on this
// machine.
func inputDir() (string, error) {
	if dir := os.Getenv("DATA_PROCESSOR_INPUT"); dir != "" {
		return dir, nil
	}
	root := os.Getenv("GOROOT")
	if root == "" {
		out, err := exec.Command("go", "env", "GOROOT").Output()
		if err != nil {
			return "", fmt.Errorf("no input: set DATA_PROCESSOR_INPUT or GOROOT, or put go on the PATH (go env GOROOT: %w)", err)
		}
		root = strings.TrimSpace(string(out))
	}
	return filepath.Join(root, "src"), nil
}

// generated is the mark of a generated file, from https://go.dev/s/generatedcode.
var generated = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

// What a file needs to have to be preferred; the others are tables and declarations, mostly.
const (
	minFunctions = 12
	minBranches  = 120 // if and for
)

// corpus lists the files to work on, by their slash-separated paths below dir: the largest hand-written Go files that are
// neither tests nor testdata, at most count. Files of code come first, then what else there is; within each, larger ones
// first, and by path where sizes are equal. Every process that looks at the same tree gets the same list.
func corpus(dir string, count int) ([]string, error) {
	candidates, err := largestFirst(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot list the input: %w", err)
	}
	var code, other []string
	for _, path := range candidates {
		if len(code) == count {
			break
		}
		text, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(path)))
		if err != nil {
			return nil, fmt.Errorf("cannot read the input: %w", err)
		}
		switch {
		case isGenerated(text):
		case isCode(text):
			code = append(code, path)
		default:
			other = append(other, path)
		}
	}
	missing := min(count-len(code), len(other))
	chosen := append(code, other[:missing]...)
	if len(chosen) == 0 {
		return nil, errors.New("there is no Go file to work on in " + dir)
	}
	return chosen, nil
}

func isCode(text []byte) bool {
	functions := bytes.Count(text, []byte("\nfunc "))
	branches := bytes.Count(text, []byte("\tif ")) + bytes.Count(text, []byte("\tfor "))
	return functions >= minFunctions && branches >= minBranches
}

func isGenerated(text []byte) bool {
	// The plain search first: the expression is slow on large files.
	return bytes.Contains(text, []byte("// Code generated ")) && generated.Match(text)
}

// largestFirst lists the Go files below dir that are neither tests nor testdata.
func largestFirst(dir string) ([]string, error) {
	sizes := map[string]int64{}
	var paths []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if name == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		if !entry.Type().IsRegular() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		relative = filepath.ToSlash(relative)
		paths, sizes[relative] = append(paths, relative), info.Size()
		return nil
	})
	sort.Slice(paths, func(i, j int) bool {
		a, b := paths[i], paths[j]
		if sizes[a] != sizes[b] {
			return sizes[a] > sizes[b]
		}
		return a < b
	})
	return paths, err
}
