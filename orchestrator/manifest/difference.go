package manifest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
)

// Difference is a field in which what two manifests ask for differs.
type Difference struct {
	// Path of the field, as "spec.parallelism".
	Path string
	// One and Other are its values as JSON; empty where it is not there.
	One, Other string
}

// Differences lists the fields for which the Digest of one Job is not that of the other, by path. Items of a list are not told apart further when there are
// more of them in one than in the other.
func Differences(one, other *batchv1.Job) ([]Difference, error) {
	var trees [2]map[string]any
	for i, job := range []*batchv1.Job{one, other} {
		in := askedFor(job)
		text, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"namespace": in.Namespace, "name": in.Name, "labels": in.Labels, "annotations": in.Annotations}, "spec": in.Spec,
		})
		if err == nil {
			err = json.Unmarshal(text, &trees[i])
		}
		if err != nil {
			return nil, fmt.Errorf("compare Job %s/%s: %w", job.Namespace, job.Name, err)
		}
	}
	return compare(nil, "", trees[0], trees[1])
}

// compare adds the differences of two trees of JSON to those found before; nil stands for what is not there.
func compare(found []Difference, path string, one, other any) (_ []Difference, err error) {
	oneFields, isObject := one.(map[string]any)
	otherFields, areObjects := other.(map[string]any)
	if isObject && areObjects {
		names := maps.Clone(oneFields)
		maps.Copy(names, otherFields)
		for _, name := range slices.Sorted(maps.Keys(names)) {
			below := name
			if path != "" {
				below = path + "." + name
			}
			if found, err = compare(found, below, oneFields[name], otherFields[name]); err != nil {
				return nil, err
			}
		}
		return found, nil
	}
	oneItems, isList := one.([]any)
	otherItems, areLists := other.([]any)
	if isList && areLists && len(oneItems) == len(otherItems) {
		for i := range oneItems {
			if found, err = compare(found, fmt.Sprintf("%s[%d]", path, i), oneItems[i], otherItems[i]); err != nil {
				return nil, err
			}
		}
		return found, nil
	}
	var texts [2]string
	for i, value := range []any{one, other} {
		if value == nil {
			continue
		}
		text, err := json.Marshal(value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		texts[i] = string(text)
	}
	if texts[0] != texts[1] {
		found = append(found, Difference{Path: path, One: texts[0], Other: texts[1]})
	}
	return found, nil
}
