package manifest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	kjson "sigs.k8s.io/json"
)

// Bounds on what is read. A Job beyond them could not be stored as one fact either.
const (
	// MaxInputBytes bounds one call's whole input.
	MaxInputBytes = 8 << 20
	// MaxDocumentBytes bounds one document, as written and after YAML aliases are resolved.
	MaxDocumentBytes = 1 << 20
	// MaxDepth bounds how deep objects and lists nest in one document.
	MaxDepth = 64
	// MaxDocuments bounds how many documents one input holds.
	MaxDocuments = 1000
)

// DecodeAll reads every document of r, YAML or JSON, as a batch/v1 Job. The Jobs are as written: no defaults, no
// validation. Empty documents are skipped; an input without any Job is an error, as is an unknown or duplicate field, another
// kind, and anything beyond the bounds. Errors begin with source, the name of the input in the user's world.
func DecodeAll(r io.Reader, source string) ([]*batchv1.Job, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxInputBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	if len(data) > MaxInputBytes {
		return nil, fmt.Errorf("%s: larger than %d bytes", source, MaxInputBytes)
	}
	var jobs []*batchv1.Job
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for n := 1; ; n++ {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%s: document %d: %w", source, n, err)
		}
		if n > MaxDocuments {
			return nil, fmt.Errorf("%s: more than %d documents", source, MaxDocuments)
		}
		job, err := Decode(document)
		if err != nil {
			return nil, fmt.Errorf("%s: document %d: %w", source, n, err)
		}
		if job != nil {
			jobs = append(jobs, job)
		}
	}
	if len(jobs) == 0 {
		return nil, fmt.Errorf("%s: no Job in it", source)
	}
	return jobs, nil
}

// Decode reads one document, YAML or JSON, as a batch/v1 Job. It returns nil without an error for a document that holds nothing.
func Decode(document []byte) (*batchv1.Job, error) {
	if len(document) > MaxDocumentBytes {
		return nil, fmt.Errorf("larger than %d bytes", MaxDocumentBytes)
	}
	asJSON, err := toJSON(document)
	if err != nil {
		return nil, err
	}
	if len(asJSON) > MaxDocumentBytes {
		return nil, fmt.Errorf("larger than %d bytes with its aliases resolved", MaxDocumentBytes)
	}
	if string(bytes.TrimSpace(asJSON)) == "null" {
		return nil, nil
	}
	if err := checkDepth(asJSON); err != nil {
		return nil, err
	}
	if err := checkKind(asJSON); err != nil {
		return nil, err
	}
	job := &batchv1.Job{}
	strict, err := kjson.UnmarshalStrict(asJSON, job)
	if err != nil {
		//lint:ignore ST1005 these are kube-apiserver's words
		return nil, fmt.Errorf("Job in version \"v1\" cannot be handled as a Job: %w", err)
	}
	if len(strict) > 0 {
		words := make([]string, 0, len(strict))
		for _, e := range strict {
			words = append(words, e.Error())
		}
		return nil, &StrictError{Problems: words}
	}
	return job, nil
}

// StrictError says that a document holds unknown or duplicate fields. It reads as Kubernetes' strict decoding error.
type StrictError struct {
	// Problems, one a field, such as `unknown field "spec.foo"`.
	Problems []string
}

// Error implements error.
func (e *StrictError) Error() string {
	return "strict decoding error: " + strings.Join(e.Problems, ", ")
}

// toJSON converts a YAML document. JSON stays as it is, so that duplicate fields in it are found by name later; those of YAML, which
// the conversion would drop, are found here.
func toJSON(document []byte) ([]byte, error) {
	if utilyaml.IsJSONBuffer(document) && json.Valid(document) {
		return document, nil
	}
	asJSON, err := yaml.YAMLToJSONStrict(document)
	switch {
	case err == nil:
		return asJSON, nil
	case strings.Contains(err.Error(), "already set in map"):
		return nil, &StrictError{Problems: []string{err.Error()}}
	}
	return nil, fmt.Errorf("not YAML or JSON: %w", err)
}

// checkDepth refuses documents that nest deeper than MaxDepth before anything recursive reads them.
func checkDepth(document []byte) error {
	tokens := json.NewDecoder(bytes.NewReader(document))
	depth := 0
	for {
		token, err := tokens.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth > MaxDepth {
			return fmt.Errorf("nested deeper than %d levels", MaxDepth)
		}
	}
}

// errCronJob refuses a schedule where Jobs are to run to their end.
var errCronJob = errors.New("a CronJob starts Jobs by its schedule for as long as a server is there, and is not run to its end: apply it to nightshift serve with kubectl; " +
	"to run it once, kubectl create job NAME --from=cronjob/NAME there, or give its jobTemplate here as a Job of its own")

// checkKind refuses every kind but batch/v1 Job, by name.
func checkKind(document []byte) error {
	if !bytes.HasPrefix(bytes.TrimSpace(document), []byte("{")) {
		return errors.New("not an object with apiVersion and kind")
	}
	var meta metav1.TypeMeta
	if err := json.Unmarshal(document, &meta); err != nil {
		return fmt.Errorf("apiVersion and kind: %w", err)
	}
	switch {
	case meta.Kind == "":
		//lint:ignore ST1005 these are kube-apiserver's words
		return errors.New("Object 'Kind' is missing")
	case meta.APIVersion == "":
		//lint:ignore ST1005 these are kube-apiserver's words
		return errors.New("Object 'apiVersion' is missing")
	}
	want := batchv1.SchemeGroupVersion.WithKind("Job")
	switch got := schema.FromAPIVersionAndKind(meta.APIVersion, meta.Kind); got {
	case want:
	case batchv1.SchemeGroupVersion.WithKind("CronJob"):
		return errCronJob
	default:
		return fmt.Errorf("kind %s of %s is not supported by this version of Nightshift: only Job of batch/v1 is", meta.Kind, meta.APIVersion)
	}
	return nil
}
