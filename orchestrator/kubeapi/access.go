package kubeapi

import (
	"context"
	"errors"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi/access"
)

// accessReviews serves authorization.k8s.io selfsubjectaccessreviews: may I? It is what `kubectl auth can-i` asks.
type accessReviews struct{}

// New implements rest.Storage.
func (accessReviews) New() runtime.Object { return &authorizationv1.SelfSubjectAccessReview{} }

// Destroy implements rest.Storage.
func (accessReviews) Destroy() {}

// NamespaceScoped implements rest.Scoper.
func (accessReviews) NamespaceScoped() bool { return false }

// GetSingularName implements rest.SingularNameProvider.
func (accessReviews) GetSingularName() string { return "selfsubjectaccessreview" }

// Create implements rest.Creater: it answers the review and keeps nothing.
func (accessReviews) Create(ctx context.Context, given runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	review := given.(*authorizationv1.SelfSubjectAccessReview)
	resource, path := review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes
	if (resource == nil) == (path == nil) {
		return nil, apierrors.NewBadRequest("exactly one of spec.resourceAttributes and spec.nonResourceAttributes must be specified")
	}
	if validate != nil {
		if err := validate(ctx, given.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	who, ok := request.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("no user present on request")
	}
	asked := authorizer.AttributesRecord{User: who}
	if resource != nil {
		asked.Verb, asked.Namespace, asked.APIGroup, asked.APIVersion = resource.Verb, resource.Namespace, resource.Group, resource.Version
		asked.Resource, asked.Subresource, asked.Name, asked.ResourceRequest = resource.Resource, resource.Subresource, resource.Name, true
	} else {
		asked.Verb, asked.Path = path.Verb, path.Path
	}
	decision, reason, err := access.Rules(ctx, asked)
	review.Status = authorizationv1.SubjectAccessReviewStatus{
		Allowed: decision == authorizer.DecisionAllow, Denied: decision == authorizer.DecisionDeny, Reason: reason,
	}
	if err != nil {
		review.Status.EvaluationError = err.Error()
	}
	return review, nil
}

// rulesReviews serves authorization.k8s.io selfsubjectrulesreviews: what may I?
type rulesReviews struct{}

// New implements rest.Storage.
func (rulesReviews) New() runtime.Object { return &authorizationv1.SelfSubjectRulesReview{} }

// Destroy implements rest.Storage.
func (rulesReviews) Destroy() {}

// NamespaceScoped implements rest.Scoper.
func (rulesReviews) NamespaceScoped() bool { return false }

// GetSingularName implements rest.SingularNameProvider.
func (rulesReviews) GetSingularName() string { return "selfsubjectrulesreview" }

// Create implements rest.Creater: it answers the review and keeps nothing.
func (rulesReviews) Create(ctx context.Context, given runtime.Object, _ rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	review := given.(*authorizationv1.SelfSubjectRulesReview)
	who, ok := request.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("no user present on request")
	}
	if review.Spec.Namespace == "" {
		return nil, apierrors.NewBadRequest("no namespace on request")
	}
	may := func(asked authorizer.AttributesRecord) (bool, error) {
		asked.User = who
		decision, _, err := access.Rules(ctx, asked)
		return decision == authorizer.DecisionAllow, err
	}
	everything, err := may(authorizer.AttributesRecord{})
	inNamespace, nextErr := may(authorizer.AttributesRecord{
		Verb: "create", Namespace: review.Spec.Namespace, APIGroup: "batch", Resource: "jobs", ResourceRequest: true,
	})
	if err = errors.Join(err, nextErr); err != nil {
		return nil, apierrors.NewInternalError(errors.Join(errors.New("authorize"), err))
	}
	all := []string{"*"}
	if everything || inNamespace {
		review.Status.ResourceRules = []authorizationv1.ResourceRule{{Verbs: all, APIGroups: all, Resources: all}}
	}
	if everything {
		review.Status.NonResourceRules = []authorizationv1.NonResourceRule{{Verbs: all, NonResourceURLs: all}}
	} else {
		// A tenant may write no quotas, and read some things outside: the words of a list have no room for it.
		review.Status.Incomplete = true
	}
	return review, nil
}
