package kubeapi

import (
	"fmt"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi/objects"
)

// machinery is what reads and writes objects on the wire.
type machinery struct {
	scheme     *runtime.Scheme
	codecs     serializer.CodecFactory
	parameters runtime.ParameterCodec
}

// kinds are the types that the API serves; each is its own internal version, so that nothing is ever converted.
func kinds() map[schema.GroupVersion][]runtime.Object {
	served := map[schema.GroupVersion][]runtime.Object{
		batchv1.SchemeGroupVersion:  {&batchv1.Job{}, &batchv1.JobList{}, &batchv1.CronJob{}, &batchv1.CronJobList{}},
		corev1.SchemeGroupVersion:   {&corev1.Pod{}, &corev1.PodList{}, &corev1.Node{}, &corev1.NodeList{}},
		policyv1.SchemeGroupVersion: {&policyv1.Eviction{}},
		authorizationv1.SchemeGroupVersion: {
			&authorizationv1.SelfSubjectAccessReview{}, &authorizationv1.SelfSubjectRulesReview{},
		},
	}
	for _, kind := range objects.Kinds() {
		served[kind.Version] = append(served[kind.Version], kind.Types()...)
	}
	return served
}

// wire returns the machinery, made on first use. It never changes then.
var wire = sync.OnceValue(func() machinery {
	scheme := runtime.NewScheme()
	for version, objects := range kinds() {
		internal := schema.GroupVersion{Group: version.Group, Version: runtime.APIVersionInternal}
		scheme.AddKnownTypes(version, objects...)
		scheme.AddKnownTypes(internal, objects...)
		metav1.AddToGroupVersion(scheme, version)
		utilruntime.Must(scheme.SetVersionPriority(version))
	}
	// The options of every group are read in this version.
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	scheme.AddUnversionedTypes(schema.GroupVersion{Version: "v1"}, &metav1.Status{}, &metav1.APIVersions{}, &metav1.APIGroupList{},
		&metav1.APIGroup{}, &metav1.APIResourceList{})
	scheme.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.PodLogOptions{})
	utilruntime.Must(scheme.AddConversionFunc((*url.Values)(nil), (*corev1.PodLogOptions)(nil), func(from, to any, _ conversion.Scope) error {
		return readLogOptions(*from.(*url.Values), to.(*corev1.PodLogOptions))
	}))
	for kind, fields := range selectableFields {
		utilruntime.Must(scheme.AddFieldLabelConversionFunc(kind, func(label, value string) (string, string, error) {
			if label == "metadata.name" || label == "metadata.namespace" || strings.Contains(fields, " "+label+" ") {
				return label, value, nil
			}
			return "", "", fmt.Errorf("field label %q not supported for %s", label, kind.Kind)
		}))
	}
	return machinery{scheme: scheme, codecs: serializer.NewCodecFactory(scheme), parameters: runtime.NewParameterCodec(scheme)}
})

// selectableFields by kind, each between spaces: those that the view's records hold.
var selectableFields = map[schema.GroupVersionKind]string{
	batchv1.SchemeGroupVersion.WithKind("Job"): " status.successful ",
	corev1.SchemeGroupVersion.WithKind("Pod"): " spec.nodeName spec.restartPolicy spec.schedulerName spec.serviceAccountName spec.hostNetwork status.phase " +
		"status.podIP status.nominatedNodeName ",
	corev1.SchemeGroupVersion.WithKind("Node"):      " spec.unschedulable ",
	corev1.SchemeGroupVersion.WithKind("Secret"):    " type ",
	corev1.SchemeGroupVersion.WithKind("Namespace"): " status.phase ",
	corev1.SchemeGroupVersion.WithKind("Event"): " involvedObject.kind involvedObject.namespace involvedObject.name involvedObject.uid " +
		"involvedObject.apiVersion involvedObject.resourceVersion involvedObject.fieldPath reason reportingComponent source type ",
}

// readLogOptions reads the query of pods/log by the JSON names of the fields.
func readLogOptions(query url.Values, options *corev1.PodLogOptions) error {
	value := reflect.ValueOf(options).Elem()
	for i := range value.NumField() {
		name, _, _ := strings.Cut(value.Type().Field(i).Tag.Get("json"), ",")
		if name == "" || !query.Has(name) {
			continue
		}
		if err := readParameter(value.Field(i), query.Get(name)); err != nil {
			return fmt.Errorf("parameter %s: %w", name, err)
		}
	}
	return nil
}

func readParameter(field reflect.Value, text string) error {
	switch field.Interface().(type) {
	case string:
		field.SetString(text)
	case *string:
		field.Set(reflect.ValueOf(&text))
	case bool:
		// As in Kubernetes, a flag without a value is set.
		b, err := strconv.ParseBool(text)
		if err != nil && text != "" {
			return err
		}
		field.SetBool(b || text == "")
	case *int64:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return err
		}
		field.Set(reflect.ValueOf(&n))
	case *metav1.Time:
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return err
		}
		field.Set(reflect.ValueOf(&metav1.Time{Time: at}))
	default:
		return fmt.Errorf("a %s cannot be read from a query", field.Type())
	}
	return nil
}
