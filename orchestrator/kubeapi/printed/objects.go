package printed

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// ConfigMaps are printed so.
var ConfigMaps = Table{
	columns: []metav1.TableColumnDefinition{nameColumn, column("Data", corev1.ConfigMap{}.SwaggerDoc()["data"]), ageColumn},
	cells: func(object runtime.Object, now time.Time) []any {
		o := object.(*corev1.ConfigMap)
		return []any{o.Name, int64(len(o.Data) + len(o.BinaryData)), since(o.CreationTimestamp, now)}
	},
}

// Secrets are printed so.
var Secrets = Table{
	columns: []metav1.TableColumnDefinition{
		nameColumn, column("Type", corev1.Secret{}.SwaggerDoc()["type"]), column("Data", corev1.Secret{}.SwaggerDoc()["data"]), ageColumn,
	},
	cells: func(object runtime.Object, now time.Time) []any {
		o := object.(*corev1.Secret)
		return []any{o.Name, string(o.Type), int64(len(o.Data)), since(o.CreationTimestamp, now)}
	},
}

// Plain is for kinds of which the name and the age are printed.
var Plain = Table{
	columns: []metav1.TableColumnDefinition{nameColumn, ageColumn},
	cells: func(object runtime.Object, now time.Time) []any {
		o := object.(metav1.Object)
		return []any{o.GetName(), since(o.GetCreationTimestamp(), now)}
	},
}

// LimitRanges are printed so.
var LimitRanges = Table{
	columns: []metav1.TableColumnDefinition{nameColumn, column("Created At", metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"])},
	cells: func(object runtime.Object, _ time.Time) []any {
		o := object.(*corev1.LimitRange)
		return []any{o.Name, o.CreationTimestamp.UTC().Format(time.RFC3339)}
	},
}

// ResourceQuotas are printed so.
var ResourceQuotas = Table{
	columns: []metav1.TableColumnDefinition{
		nameColumn, column("Request", "Request represents a minimum amount of cpu/memory that a container may consume."),
		column("Limit", "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node."), ageColumn,
	},
	cells: func(object runtime.Object, now time.Time) []any {
		o := object.(*corev1.ResourceQuota)
		var requests, limits []string
		for _, name := range slices.Sorted(maps.Keys(o.Status.Hard)) {
			used, hard := o.Status.Used[name], o.Status.Hard[name]
			text := fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String())
			if strings.HasPrefix(string(name), "limits.") {
				limits = append(limits, text)
			} else {
				requests = append(requests, text)
			}
		}
		return []any{o.Name, strings.Join(requests, ", "), strings.Join(limits, ", "), since(o.CreationTimestamp, now)}
	},
}

// PriorityClasses are printed so.
var PriorityClasses = Table{
	columns: []metav1.TableColumnDefinition{
		nameColumn, {Name: "Value", Type: "integer", Description: schedulingv1.PriorityClass{}.SwaggerDoc()["value"]},
		{Name: "Global-Default", Type: "boolean", Description: schedulingv1.PriorityClass{}.SwaggerDoc()["globalDefault"]}, ageColumn,
		column("PreemptionPolicy", schedulingv1.PriorityClass{}.SwaggerDoc()["preemptionPolicy"]),
	},
	cells: func(object runtime.Object, now time.Time) []any {
		o := object.(*schedulingv1.PriorityClass)
		preemption := ""
		if o.PreemptionPolicy != nil {
			preemption = string(*o.PreemptionPolicy)
		}
		return []any{o.Name, int64(o.Value), o.GlobalDefault, since(o.CreationTimestamp, now), preemption}
	},
}

// Leases are printed so.
var Leases = Table{
	columns: []metav1.TableColumnDefinition{nameColumn, column("Holder", coordinationv1.LeaseSpec{}.SwaggerDoc()["holderIdentity"]), ageColumn},
	cells: func(object runtime.Object, now time.Time) []any {
		o := object.(*coordinationv1.Lease)
		holder := ""
		if o.Spec.HolderIdentity != nil {
			holder = *o.Spec.HolderIdentity
		}
		return []any{o.Name, holder, since(o.CreationTimestamp, now)}
	},
}
