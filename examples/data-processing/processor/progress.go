package main

import (
	"fmt"
	"sync"
)

// progress is where the work is, for the message of an interruption. It is safe for use by several goroutines; the zero
// value is the start.
type progress struct {
	mu    sync.Mutex
	where string
}

func (p *progress) set(where string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.where = where
}

func (p *progress) waiting(file string) { p.set("while waiting for " + file) }

func (p *progress) comparing(file string, done, of int) {
	p.set(fmt.Sprintf("in the middle of %s after %d of %d functions", file, done, of))
}

func (p *progress) publishing(file string) { p.set("while it published " + file) }

func (p *progress) published(file string) { p.set("after it published " + file) }

// String completes the sentence "interrupted ...".
func (p *progress) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.where == "" {
		return "before it claimed a file"
	}
	return p.where
}
