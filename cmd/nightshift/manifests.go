package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/manifest"
)

// manifestSuffixes are those of the files that are read in a folder, as kubectl has them.
var manifestSuffixes = []string{".yaml", ".yml", ".json"}

// readJobs reads the Jobs of all files, folders and streams that -f names, in order. The namespace given as a flag must not contradict that
// of a manifest, as with kubectl; where neither says one, it is the fallback.
func readJobs(names []string, namespace, fallback string) (jobs []*batchv1.Job, err error) {
	if len(names) == 0 {
		return nil, errors.New("nothing to run: give a manifest with -f FILE, a folder of them, or - for standard input")
	}
	for _, name := range names {
		files, err := manifestFiles(name)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			read, err := readManifest(file)
			if err != nil {
				return nil, err
			}
			for _, wanted := range read {
				if err := place(wanted, file, namespace, fallback); err != nil {
					return nil, err
				}
				jobs = append(jobs, wanted)
			}
		}
	}
	seen := make(map[string]bool)
	for _, wanted := range jobs {
		name := wanted.Namespace + "/" + wanted.Name
		if seen[name] {
			return nil, fmt.Errorf("the Job %s is there twice", name)
		}
		seen[name] = true
	}
	return jobs, nil
}

// manifestFiles lists the manifests that a name means: itself, or those in a folder, by name.
func manifestFiles(name string) ([]string, error) {
	if name == "-" {
		return []string{name}, nil
	}
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return nil, err
	case !info.IsDir():
		return []string{name}, nil
	}
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, entry := range entries {
		if !entry.IsDir() && slices.Contains(manifestSuffixes, filepath.Ext(entry.Name())) {
			files = append(files, filepath.Join(name, entry.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: the folder holds no file that ends in .yaml, .yml or .json", name)
	}
	return files, nil
}

func readManifest(file string) ([]*batchv1.Job, error) {
	var in io.Reader = os.Stdin
	source := "standard input"
	if file != "-" {
		opened, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer opened.Close()
		in, source = opened, file
	}
	return manifest.DecodeAll(in, source)
}

// place gives a Job its namespace, and refuses what cannot be found again by its name.
func place(wanted *batchv1.Job, file, namespace, fallback string) error {
	switch {
	case wanted.Name == "" && wanted.GenerateName != "":
		return fmt.Errorf("%s: metadata.generateName cannot be resumed by name; run needs metadata.name", file)
	case namespace != "" && wanted.Namespace != "" && namespace != wanted.Namespace:
		return fmt.Errorf("%s: the namespace of the manifest, %q, is not that of -n, %q", file, wanted.Namespace, namespace)
	case namespace != "":
		wanted.Namespace = namespace
	case wanted.Namespace == "":
		wanted.Namespace = fallback
	}
	return nil
}
