// Command nightshift-agent runs the pods of one node: "nightshift agent" as a small executable of its own, for machine images.
package main

import (
	"os"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/entry"
)

func main() { os.Exit(entry.Main(os.Args[1:])) }
