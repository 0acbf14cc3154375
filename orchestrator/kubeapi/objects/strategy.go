package objects

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/nightshift-batch/nightshift/orchestrator/manifest"
	"github.com/nightshift-batch/nightshift/orchestrator/view"
)

// strategy is what the generic registry asks about a kind.
type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
	kind Kind
}

// NamespaceScoped implements rest.RESTCreateStrategy.
func (s strategy) NamespaceScoped() bool { return s.kind.namespaced }

// PrepareForCreate implements rest.RESTCreateStrategy.
func (s strategy) PrepareForCreate(_ context.Context, given runtime.Object) { s.prepare(given, nil) }

// PrepareForUpdate implements rest.RESTUpdateStrategy.
func (s strategy) PrepareForUpdate(_ context.Context, given, old runtime.Object) {
	s.prepare(given, old)
}

func (s strategy) prepare(given, old runtime.Object) {
	if s.kind.prepare != nil {
		s.kind.prepare(given, old)
	}
	// Also what is patched has been defaulted by then, in Kubernetes by its decoder.
	manifest.DefaultObject(given)
}

// Validate implements rest.RESTCreateStrategy.
func (s strategy) Validate(_ context.Context, given runtime.Object) field.ErrorList {
	return manifest.ValidateObject(given, nil)
}

// ValidateUpdate implements rest.RESTUpdateStrategy.
func (s strategy) ValidateUpdate(_ context.Context, given, old runtime.Object) field.ErrorList {
	return manifest.ValidateObject(given, old)
}

// WarningsOnCreate implements rest.RESTCreateStrategy.
func (s strategy) WarningsOnCreate(_ context.Context, given runtime.Object) []string {
	if s.kind.Resource == view.ResourceQuotas {
		return []string{"ResourceQuotas are stored and not enforced by this version of Nightshift; limits of a tenant are policy's"}
	}
	if s.kind.Resource == view.LimitRanges {
		return []string{"LimitRanges are stored and not enforced by this version of Nightshift"}
	}
	return nil
}

// WarningsOnUpdate implements rest.RESTUpdateStrategy.
func (s strategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

// Canonicalize implements rest.RESTCreateStrategy. A name that was generated is known by now.
func (s strategy) Canonicalize(given runtime.Object) {
	if namespace, ok := given.(*corev1.Namespace); ok && namespace.Name != "" {
		if namespace.Labels == nil {
			namespace.Labels = make(map[string]string)
		}
		namespace.Labels[corev1.LabelMetadataName] = namespace.Name
	}
}

// AllowCreateOnUpdate implements rest.RESTUpdateStrategy.
func (s strategy) AllowCreateOnUpdate(context.Context) bool { return s.kind.creates }

// AllowUnconditionalUpdate implements rest.RESTUpdateStrategy.
func (s strategy) AllowUnconditionalUpdate(context.Context) bool { return !s.kind.conditional }

// GetResetFields implements rest.ResetFieldsStrategy.
func (s strategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	if s.kind.reset == nil {
		return nil
	}
	return map[fieldpath.APIVersion]*fieldpath.Set{fieldpath.APIVersion(s.kind.Version.String()): s.kind.reset}
}

// store is a resource as it is served.
type store struct {
	*genericregistry.Store
	kind Kind
}

// ShortNames implements rest.ShortNamesProvider.
func (s *store) ShortNames() []string { return s.kind.short }

// newStore puts the generic registry over our storage.
func (c Config) newStore(kind Kind) *store {
	rules := strategy{c.Scheme, names.SimpleNameGenerator, kind}
	prefix := "/" + string(kind.Resource)
	generic := &genericregistry.Store{
		NewFunc: kind.newObject, NewListFunc: kind.newList,
		DefaultQualifiedResource: kind.groupResource(), SingularQualifiedResource: kind.groupResource(),
		CreateStrategy: rules, UpdateStrategy: rules, DeleteStrategy: rules, ResetFieldsStrategy: rules, TableConvertor: c.tables(kind),
		EnableGarbageCollection: true, DeleteCollectionWorkers: 1, ReturnDeletedObject: false,
		PredicateFunc: func(label labels.Selector, field fields.Selector) storage.SelectionPredicate {
			return storage.SelectionPredicate{Label: label, Field: field, GetAttrs: storage.DefaultNamespaceScopedAttr}
		},
		ObjectNameFunc: func(o runtime.Object) (string, error) {
			accessor, err := meta.Accessor(o)
			if err != nil {
				return "", err
			}
			return accessor.GetName(), nil
		},
		KeyRootFunc: func(context.Context) string { return prefix },
		KeyFunc: func(ctx context.Context, name string) (string, error) {
			return genericregistry.NoNamespaceKeyFunc(ctx, prefix, name)
		},
		BeginCreate: c.beginCreate(kind),
		Storage:     genericregistry.DryRunnableStorage{Storage: &backend{Config: c, kind: kind}, Codec: c.Codec(kind.Version)},
	}
	generic.SingularQualifiedResource.Resource = kind.singular
	if kind.namespaced {
		generic.KeyRootFunc = func(ctx context.Context) string { return genericregistry.NamespaceKeyRootFunc(ctx, prefix) }
		generic.KeyFunc = func(ctx context.Context, name string) (string, error) {
			return genericregistry.NamespaceKeyFunc(ctx, prefix, name)
		}
	}
	if kind.Resource == view.Namespaces {
		// The engine lets a namespace go: when it is empty, and not when it is written without finalizers.
		generic.ShouldDeleteDuringUpdate = func(context.Context, string, runtime.Object, runtime.Object) bool { return false }
	}
	if kind.lasts != 0 {
		generic.TTLFunc = func(runtime.Object, uint64, bool) (uint64, error) { return uint64(kind.lasts.Seconds()), nil }
	}
	return &store{generic, kind}
}

// beginCreate refuses, also a dry run, what goes into a namespace that is not there. The engine decides again.
func (c Config) beginCreate(kind Kind) genericregistry.BeginCreateFunc {
	return func(_ context.Context, given runtime.Object, _ *metav1.CreateOptions) (genericregistry.FinishFunc, error) {
		accessor, err := meta.Accessor(given)
		if err != nil {
			return nil, err
		}
		return func(context.Context, bool) {}, CheckNamespace(c.View, accessor.GetNamespace(), kind.groupResource(), accessor.GetName())
	}
}

// tables prints a kind.
func (c Config) tables(kind Kind) rest.TableConvertor { return tables{kind, c} }

type tables struct {
	kind   Kind
	config Config
}

// ConvertToTable implements rest.TableConvertor.
func (t tables) ConvertToTable(_ context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return t.kind.table.Convert(object, options, t.config.Now())
}

// CheckNamespace tells whether something can be created in a namespace, by what is shown: nil or an error of the API. Everything can in none.
func CheckNamespace(v *view.View, namespace string, resource schema.GroupResource, name string) error {
	if namespace == "" {
		return nil
	}
	record, ok := v.Get(view.Namespaces, view.Key{Name: namespace})
	if !ok {
		return apierrors.NewNotFound(corev1.Resource("namespaces"), namespace)
	}
	if record.Object().(*corev1.Namespace).DeletionTimestamp == nil {
		return nil
	}
	// As k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle has it.
	err := apierrors.NewForbidden(resource, name, fmt.Errorf("unable to create new content in namespace %s because it is being terminated", namespace))
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type: corev1.NamespaceTerminatingCause, Message: fmt.Sprintf("namespace %s is being terminated", namespace), Field: "metadata.namespace",
	})
	return err
}
