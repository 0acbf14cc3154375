package view

import (
	"slices"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
)

// Selection says which objects of a resource are meant. The zero value means all.
type Selection struct {
	// Namespace; empty for all.
	Namespace string
	// Labels and Fields; nil for all.
	Labels labels.Selector
	Fields fields.Selector
}

// Matches tells whether the record is selected.
func (s Selection) Matches(record *Record) bool {
	if s.Namespace != "" && record.key.Namespace != s.Namespace {
		return false
	}
	if s.Labels != nil && !s.Labels.Empty() && !s.Labels.Matches(record.content.labels()) {
		return false
	}
	if s.Fields == nil || s.Fields.Empty() {
		return true
	}
	// Names are looked at first: they cost no rendering.
	named := fields.Set{"metadata.name": record.key.Name, "metadata.namespace": record.key.Namespace}
	rest := false
	for _, requirement := range s.Fields.Requirements() {
		if !named.Has(requirement.Field) {
			rest = true
		} else if one, err := fields.ParseSelector(requirement.Field + string(requirement.Operator) + fields.EscapeValue(requirement.Value)); err != nil || !one.Matches(named) {
			return false
		}
	}
	return !rest || s.Fields.Matches(fieldsOf{named, record.content.fields()})
}

// fieldsOf are the names of an object and its other fields.
type fieldsOf struct{ named, rest fields.Set }

func (f fieldsOf) Has(field string) bool { return f.named.Has(field) || f.rest.Has(field) }

func (f fieldsOf) Get(field string) string {
	if f.named.Has(field) {
		return f.named.Get(field)
	}
	return f.rest.Get(field)
}

// key returns the one object that can be selected, if it is only one.
func (s Selection) key(resource Resource) (Key, bool) {
	if s.Fields == nil {
		return Key{}, false
	}
	name, named := s.Fields.RequiresExactMatch("metadata.name")
	namespace := s.Namespace
	if namespace == "" {
		namespace, _ = s.Fields.RequiresExactMatch("metadata.namespace")
	}
	namespaced := resource != Nodes && resource != Namespaces && resource != PriorityClasses
	if !named || (namespaced && namespace == "") {
		return Key{}, false
	}
	if !namespaced {
		namespace = ""
	}
	return Key{namespace, name}, true
}

// sorted returns those of the records that are selected, ordered by namespace and name. It uses the list's memory.
func (s Selection) sorted(records []*Record) []*Record {
	records = slices.DeleteFunc(records, func(r *Record) bool { return !s.Matches(r) })
	slices.SortFunc(records, func(a, b *Record) int { return a.key.compare(b.key) })
	return records
}
