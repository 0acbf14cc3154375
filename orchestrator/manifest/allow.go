package manifest

import (
	"maps"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// A rule says which values of one field work in this version. Values are as encoding/json reads them.
type rule interface {
	check(path *field.Path, value any) field.ErrorList
}

// object allows the members that it names; any other member is refused unless it holds nothing.
type object map[string]rule

func (o object) check(path *field.Path, value any) field.ErrorList {
	members, ok := value.(map[string]any)
	if !ok {
		return forbidden(path, unsupported)
	}
	var errs field.ErrorList
	for _, name := range slices.Sorted(maps.Keys(members)) {
		at := child(path, name)
		switch r, known := o[name]; {
		case known:
			errs = append(errs, r.check(at, members[name])...)
		case !absent(members[name]):
			errs = append(errs, forbidden(at, unsupported)...)
		}
	}
	return errs
}

// list allows up to max items, each by the rule.
type list struct {
	max  int
	item rule
}

func (l list) check(path *field.Path, value any) field.ErrorList {
	items, ok := value.([]any)
	if !ok {
		return forbidden(path, unsupported)
	}
	var errs field.ErrorList
	for i, item := range items {
		if i >= l.max {
			errs = append(errs, forbidden(path.Index(i), unsupported)...)
			continue
		}
		errs = append(errs, l.item.check(path.Index(i), item)...)
	}
	return errs
}

// entries looks at each entry of a map by itself.
type entries func(path *field.Path, key string, value any) field.ErrorList

func (e entries) check(path *field.Path, value any) field.ErrorList {
	members, ok := value.(map[string]any)
	if !ok {
		return forbidden(path, unsupported)
	}
	var errs field.ErrorList
	for _, key := range slices.Sorted(maps.Keys(members)) {
		errs = append(errs, e(path, key, members[key])...)
	}
	return errs
}

// test is a rule of its own.
type test func(path *field.Path, value any) field.ErrorList

func (t test) check(path *field.Path, value any) field.ErrorList { return t(path, value) }

// works is the rule for fields that work with every value that Kubernetes' validation lets through.
var works = test(func(*field.Path, any) field.ErrorList { return nil })

// only is the rule for fields that have no effect while they hold one of the values, or nothing.
func only(values ...any) rule {
	return test(func(path *field.Path, value any) field.ErrorList {
		if absent(value) {
			return nil
		}
		for _, v := range values {
			if reflect.DeepEqual(v, value) {
				return nil
			}
		}
		return forbidden(path, unsupported)
	})
}

// absent tells whether a value says no more than its field's absence. An empty object is not absent: there are
// fields, such as basic in a scheduling policy, that choose by being there.
func absent(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	}
	return false
}

// emptyObject is a value for only.
var emptyObject = map[string]any{}

func child(path *field.Path, name string) *field.Path {
	if path == nil {
		return field.NewPath(name)
	}
	return path.Child(name)
}

func forbidden(path *field.Path, detail string) field.ErrorList {
	return field.ErrorList{field.Forbidden(path, detail)}
}

// supportedJob is all of batch/v1 Job that this version takes.
var supportedJob = object{
	"apiVersion": works,
	"kind":       works,
	"metadata": object{
		"name": works, "generateName": works, "namespace": works, "labels": works, "annotations": works,
		"ownerReferences": list{max: 1, item: test(controllingCronJob)},
		// Given or kept by the server.
		"uid": works, "creationTimestamp": works, "generation": works, "resourceVersion": works, "managedFields": works,
		"deletionTimestamp": works, "deletionGracePeriodSeconds": works,
	},
	"spec": object{
		"completions": works, "parallelism": works, "completionMode": works, "activeDeadlineSeconds": works, "ttlSecondsAfterFinished": works,
		"backoffLimit": works, "backoffLimitPerIndex": works, "maxFailedIndexes": works, "podFailurePolicy": works, "successPolicy": works,
		"suspend": works, "podReplacementPolicy": works, "managedBy": works,
		"selector": works, "manualSelector": works, // pods are found by their owner: there are none to adopt
		"template": object{
			"metadata": object{
				"labels": works, "annotations": works,
				// The controller ignores these in a template.
				"name": works, "generateName": works, "namespace": works, "creationTimestamp": works,
			},
			"spec": supportedPodSpec,
		},
	},
	"status": works, // emptied on the way in
}

var supportedPodSpec = object{
	"containers":                    list{max: maxContainers, item: supportedContainer},
	"initContainers":                list{max: maxContainers, item: supportedContainer},
	"restartPolicy":                 works,
	"terminationGracePeriodSeconds": works,
	"nodeSelector":                  entries(nodeLabel),

	"os":                           object{"name": only("linux")},
	"dnsPolicy":                    only("ClusterFirst", "Default"),
	"schedulerName":                only("default-scheduler"),
	"securityContext":              only(emptyObject),
	"affinity":                     only(emptyObject),
	"serviceAccountName":           only("default"),
	"serviceAccount":               only("default"),
	"automountServiceAccountToken": only(false),
	"enableServiceLinks":           works, // there are no services
	"shareProcessNamespace":        only(false),
	"setHostnameAsFQDN":            only(false),
	"hostUsers":                    only(true),
}

// maxContainers bounds the containers of a pod, and its init containers: each report of the pod names them all.
const maxContainers = 100

var supportedContainer = object{
	"name": works, "image": works, "command": works, "args": works, "workingDir": works,
	"env": list{max: 10_000, item: object{
		"name": works, "value": works,
		"valueFrom": object{
			"fieldRef":         object{"apiVersion": works, "fieldPath": test(envField)},
			"resourceFieldRef": object{"containerName": works, "resource": test(envResource), "divisor": works},
		},
	}},
	"resources":     object{"requests": entries(resourceName), "limits": entries(resourceName)},
	"restartPolicy": works, "restartPolicyRules": works,

	"imagePullPolicy":          works,                        // nothing is pulled
	"terminationMessagePath":   only("/dev/termination-log"), // read where TERMINATION_MESSAGE_PATH says; a process has no mounts of its own
	"terminationMessagePolicy": works,
	"securityContext":          only(emptyObject),
}
