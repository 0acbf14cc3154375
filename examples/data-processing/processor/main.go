// Command processor is the executable behind the image of the data-processing examples. It takes one file of Go source,
// finds the functions in it that are near-duplicates of each other, and publishes a report of them.
//
// Which file depends on how it is run:
//
//   - As a worker of a work queue it takes the first file that is neither published nor claimed. A claim is a lock on a
//     file, held by the process and let go by the kernel when the process ends, however it ends. When all that is left is
//     claimed by others it waits for one of them: if that one dies, its file is taken over. When everything is published
//     it ends with success.
//   - With JOB_COMPLETION_INDEX set, as Kubernetes sets it for an Indexed Job, it takes the file of that number, and fails
//     if another process is running the same index at this moment.
//
// A report is published by one atomic rename, under the claim, so that no retry or eviction counts a file twice. SIGTERM ends it
// at once, in the middle of a file too: nothing of that file has been published, and the next attempt starts it afresh.
//
// Environment: DATA_PROCESSOR_INPUT, the directory to read (default: the source of the Go distribution);
// DATA_PROCESSOR_OUTPUT, the directory for the reports (default: ./out).
//
// Exit status: 0 published, or nothing left to do; 1 it failed; 3 the index is already running; 143 ended by SIGTERM.
package main

import (
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// files is the number of files the examples work on: the completions of their Jobs.
const files = 100

const (
	exitFailed       = 1
	exitIndexBusy    = 3
	exitBySigterm    = 128 + int(syscall.SIGTERM)
	defaultOutputDir = "out"
)

func main() {
	log.SetFlags(0)
	log.SetOutput(os.Stdout)
	var at progress
	sigterm := make(chan os.Signal, 1)
	signal.Notify(sigterm, syscall.SIGTERM)
	go func() {
		<-sigterm
		log.Print("interrupted " + at.String())
		os.Exit(exitBySigterm)
	}()

	err := work(&at)
	var busy indexBusy
	switch {
	case errors.As(err, &busy):
		log.Print(err)
		os.Exit(exitIndexBusy)
	case err != nil:
		log.Print(err)
		os.Exit(exitFailed)
	}
}

func work(at *progress) error {
	in, err := inputDir()
	if err != nil {
		return err
	}
	names, err := corpus(in, files)
	if err != nil {
		return err
	}
	outDir := os.Getenv("DATA_PROCESSOR_OUTPUT")
	if outDir == "" {
		outDir = defaultOutputDir
	}
	out, err := openOutput(outDir)
	if err != nil {
		return err
	}
	if index, ok := os.LookupEnv("JOB_COMPLETION_INDEX"); ok {
		return workOnIndex(index, names, in, out, at)
	}
	return workOnNext(names, in, out, at)
}

// workOnNext works on the first file that is free, or waits for one.
func workOnNext(names []string, in string, out output, at *progress) error {
	for {
		var waitFor string
		for _, name := range names {
			published, err := out.published(name)
			if err != nil {
				return err
			}
			if published {
				continue
			}
			claim, err := out.claim(name)
			if errors.Is(err, errClaimed) {
				if waitFor == "" {
					waitFor = name
				}
				continue
			}
			if err != nil {
				return err
			}
			if done, err := workOnClaimed(name, claim, in, out, at); err != nil || done {
				return err
			}
		}
		if waitFor == "" {
			log.Printf("nothing left: %d of %d files are published", len(names), len(names))
			return nil
		}
		at.waiting(waitFor)
		log.Print("waiting for " + waitFor)
		claim, err := out.waitForClaim(waitFor)
		if err != nil {
			return err
		}
		if done, err := workOnClaimed(waitFor, claim, in, out, at); err != nil || done {
			return err
		}
	}
}

// workOnIndex works on the file of one completion index.
func workOnIndex(text string, names []string, in string, out output, at *progress) error {
	index, err := strconv.Atoi(text)
	if err != nil || index < 0 {
		return fmt.Errorf("JOB_COMPLETION_INDEX is %q, not an index", text)
	}
	lock, err := out.claim(fmt.Sprintf("index-%d", index))
	if errors.Is(err, errClaimed) {
		return indexBusy(index)
	}
	if err != nil {
		return err
	}
	defer lock.release()
	if index >= len(names) {
		log.Printf("nothing to do: the input has %d files, and none for index %d", len(names), index)
		return nil
	}
	// Only a worker of another Job on the same output could hold this one.
	claim, err := out.waitForClaim(names[index])
	if err != nil {
		return err
	}
	done, err := workOnClaimed(names[index], claim, in, out, at)
	if err == nil && !done {
		log.Printf("%s was published before", names[index])
	}
	return err
}

// workOnClaimed works on a claimed file and releases the claim. It is not done if the file was published before it was
// claimed.
func workOnClaimed(name string, claim *claim, in string, out output, at *progress) (done bool, err error) {
	defer claim.release()
	published, err := out.published(name)
	if err != nil || published {
		return false, err
	}
	at.comparing(name, 0, 0)
	log.Print("claimed " + name)
	start := time.Now()
	functions, leftOut, err := readFunctions(filepath.Join(in, filepath.FromSlash(name)))
	if err != nil {
		return false, fmt.Errorf("%s: %w", name, err)
	}
	at.comparing(name, 0, len(functions))
	result := compare(name, functions, leftOut, func(done int) { at.comparing(name, done, len(functions)) })
	// From here on nobody can tell whether the report is there, until it is.
	at.publishing(name)
	if err := out.publish(name, result); err != nil {
		return false, err
	}
	at.published(name)
	log.Printf("published %s in %.1fs", name, time.Since(start).Seconds())
	return true, nil
}

// indexBusy is the failure of a process whose index another process is running at the same time.
type indexBusy int

func (i indexBusy) Error() string { return fmt.Sprintf("index %d is already running", int(i)) }
