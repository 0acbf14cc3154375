package manifest

import (
	"fmt"
	"maps"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	coordinationvalidation "k8s.io/kubernetes/pkg/apis/coordination/validation"
	"k8s.io/kubernetes/pkg/apis/core"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	schedulingvalidation "k8s.io/kubernetes/pkg/apis/scheduling/validation"
)

// DefaultObject fills in, in place, what Kubernetes fills into an object of a kind that ValidateObject knows. It is idempotent.
func DefaultObject(given runtime.Object) {
	conversions().Default(given)
	switch o := given.(type) {
	case *corev1.Secret:
		// What conversion does in Kubernetes (pkg/apis/core/v1/conversion.go).
		if len(o.StringData) > 0 && o.Data == nil {
			o.Data = make(map[string][]byte, len(o.StringData))
		}
		for key, text := range o.StringData {
			o.Data[key] = []byte(text)
		}
		o.StringData = nil
	case *corev1.Namespace:
		o.Labels = maps.Clone(o.Labels)
	}
}

// ValidateObject tells by Kubernetes' own rules why an object cannot be stored, in place of old if that is not nil. It knows the kinds ConfigMap, Secret,
// ServiceAccount, ResourceQuota, LimitRange, Namespace and Event of v1, PriorityClass and Lease; another one is a mistake of the caller.
func ValidateObject(given, old runtime.Object) field.ErrorList {
	switch given.(type) {
	case *corev1.ConfigMap:
		return validated(given, old, corevalidation.ValidateConfigMap, corevalidation.ValidateConfigMapUpdate)
	case *corev1.Secret:
		return validated(given, old, corevalidation.ValidateSecret, corevalidation.ValidateSecretUpdate)
	case *corev1.ServiceAccount:
		return validated(given, old, corevalidation.ValidateServiceAccount, corevalidation.ValidateServiceAccountUpdate)
	case *corev1.ResourceQuota:
		return validated(given, old, corevalidation.ValidateResourceQuota, corevalidation.ValidateResourceQuotaUpdate)
	case *corev1.LimitRange:
		return validated(given, old, corevalidation.ValidateLimitRange, func(changed, _ *core.LimitRange) field.ErrorList {
			return corevalidation.ValidateLimitRange(changed)
		})
	case *corev1.Namespace:
		return validated(given, old, corevalidation.ValidateNamespace, corevalidation.ValidateNamespaceUpdate)
	case *corev1.Event:
		return validated(given, old, func(event *core.Event) field.ErrorList {
			return corevalidation.ValidateEventCreate(event, corev1.SchemeGroupVersion)
		}, func(changed, event *core.Event) field.ErrorList {
			return corevalidation.ValidateEventUpdate(changed, event, corev1.SchemeGroupVersion)
		})
	case *schedulingv1.PriorityClass:
		return validated(given, old, schedulingvalidation.ValidatePriorityClass, schedulingvalidation.ValidatePriorityClassUpdate)
	case *coordinationv1.Lease:
		return validated(given, old, coordinationvalidation.ValidateLease, coordinationvalidation.ValidateLeaseUpdate)
	}
	return field.ErrorList{field.InternalError(nil, fmt.Errorf("a %T cannot be validated", given))}
}

// validated converts to the internal type, for which validation is written, and validates a create or an update.
func validated[T any, P internalObject[T]](given, old runtime.Object, create func(P) field.ErrorList, update func(changed, old P) field.ErrorList) field.ErrorList {
	internal, err := toInternal[T, P](given)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	if old == nil {
		return create(internal)
	}
	before, err := toInternal[T, P](old)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	return update(internal, before)
}
