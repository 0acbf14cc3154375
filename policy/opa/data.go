package opa

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"

	"go.yaml.in/yaml/v3"
)

// DataError is a mistake in the policy data.
type DataError struct {
	// Source is the file's name, or "policy data" where there is none.
	Source string
	// Path leads to the mistake, as tenants.team-a.vcpu; empty when it is the whole document.
	Path string
	// Problem in words for the operator.
	Problem string
}

func (e *DataError) Error() string {
	if e.Path == "" {
		return e.Source + ": " + e.Problem
	}
	return e.Source + ": " + e.Path + ": " + e.Problem
}

// policyData is all that an operator may say. Its JSON is the canonical form that goes into the digest: the keys of a map
// are sorted, and what was not said is left out.
type policyData struct {
	Tenants map[string]tenantLimits `json:"tenants"`
}

type tenantLimits struct {
	VCPU            *float64 `json:"vcpu,omitempty"`
	MaxPricePerHour *float64 `json:"maxPricePerHour,omitempty"`
}

// A tenant is a namespace, so a key that cannot name one would silently limit nobody (RFC 1123 label, as in
// k8s.io/apimachinery/pkg/util/validation IsDNS1123Label).
var namespaceName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// loadData reads the policy data that the options name; without any, no tenant has a limit.
func loadData(options Options) (policyData, error) {
	raw, source := options.PolicyData, "policy data"
	if options.PolicyDataFile != "" {
		if raw != nil {
			return policyData{}, errors.New("policy data is given both as a file and as bytes")
		}
		read, err := os.ReadFile(options.PolicyDataFile)
		if err != nil {
			return policyData{}, fmt.Errorf("read policy data: %w", err)
		}
		raw, source = read, options.PolicyDataFile
	} else if raw == nil {
		return policyData{Tenants: map[string]tenantLimits{}}, nil
	}
	data, err := parseData(raw)
	var mistake *DataError
	if errors.As(err, &mistake) {
		mistake.Source = source
	}
	return data, err
}

// parseData takes YAML, and so JSON too. An empty document is refused: it is what a write that broke off leaves, and it would
// lift every limit.
func parseData(raw []byte) (policyData, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	var document any
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return policyData{}, &DataError{Problem: "is empty; to set no limits write tenants: {}"}
	} else if err != nil {
		return policyData{}, &DataError{Problem: fmt.Sprintf("is neither YAML nor JSON: %v", err)}
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return policyData{}, &DataError{Problem: "holds more than one document; only the first would count"}
	}
	top, err := object("", document, "tenants")
	if err != nil {
		return policyData{}, err
	}
	if _, ok := top["tenants"]; !ok {
		return policyData{}, &DataError{Problem: "names no tenants; to set no limits write tenants: {}"}
	}
	tenants, err := object("tenants", top["tenants"])
	if err != nil {
		return policyData{}, err
	}
	data := policyData{Tenants: make(map[string]tenantLimits, len(tenants))}
	for _, name := range slices.Sorted(maps.Keys(tenants)) {
		path := "tenants." + name
		if !namespaceName.MatchString(name) {
			return policyData{}, &DataError{Path: path, Problem: "a tenant is a namespace: lower case letters, digits and '-', at most 63, a letter or digit at both ends"}
		}
		if data.Tenants[name], err = parseTenant(path, tenants[name]); err != nil {
			return policyData{}, err
		}
	}
	return data, nil
}

func parseTenant(path string, value any) (tenantLimits, error) {
	fields, err := object(path, value, "vcpu", "maxPricePerHour")
	if err != nil {
		return tenantLimits{}, err
	}
	var limits tenantLimits
	if limits.VCPU, err = amount(path, "vcpu", fields, "a number of vCPUs such as 4 or 2.5"); err != nil {
		return tenantLimits{}, err
	}
	if limits.MaxPricePerHour, err = amount(path, "maxPricePerHour", fields, "a number of dollars such as 1.50"); err != nil {
		return tenantLimits{}, err
	}
	return limits, nil
}

// object returns value as a map whose keys are all among known; with no known keys, any will do.
func object(path string, value any, known ...string) (map[string]any, error) {
	fields, ok := value.(map[string]any)
	if !ok {
		// The decoder makes a map[any]any of a map with a key that is no string.
		return nil, &DataError{Path: path, Problem: "must be a map with strings for keys, not " + kind(value)}
	}
	if len(known) == 0 {
		return fields, nil
	}
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		if !slices.Contains(known, key) {
			return nil, &DataError{Path: join(path, key), Problem: fmt.Sprintf("is not known here; known are %q", known)}
		}
	}
	return fields, nil
}

// amount returns the number at key, nil if the key is absent. A key without a value is a mistake, not an absent one.
func amount(path, key string, fields map[string]any, want string) (*float64, error) {
	value, ok := fields[key]
	if !ok {
		return nil, nil
	}
	var number float64
	switch v := value.(type) {
	case int:
		number = float64(v)
	case int64:
		number = float64(v)
	case uint64:
		number = float64(v)
	case float64:
		number = v
	default:
		return nil, &DataError{Path: join(path, key), Problem: fmt.Sprintf("must be %s, not %s", want, kind(value))}
	}
	if number < 0 || math.IsNaN(number) || math.IsInf(number, 0) {
		return nil, &DataError{Path: join(path, key), Problem: fmt.Sprintf("must be %s and not negative; it is %v", want, number)}
	}
	return &number, nil
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// kind names what a decoded value is, in an operator's words.
func kind(value any) string {
	switch v := value.(type) {
	case nil:
		return "nothing"
	case string:
		return fmt.Sprintf("the string %q", v)
	case bool:
		return fmt.Sprintf("%t", v)
	case []any:
		return "a list"
	case map[string]any, map[any]any:
		return "a map"
	default:
		return fmt.Sprintf("%v", v)
	}
}

// canonical is the data in the one form that its digest is taken of.
func (d policyData) canonical() ([]byte, error) {
	return json.Marshal(d)
}
