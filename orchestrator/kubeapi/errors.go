package kubeapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
)

// Error implements error.
func (e *DeniedError) Error() string { return "denied by policy: " + strings.Join(e.Reasons, "; ") }

// fullRetrySeconds is when a client may ask again whose create found no room: what runs has to end first.
const fullRetrySeconds = 30

// apiError words an error of a submitter for the API. An unknown one is an internal error and tells its cause: what breaks on our
// side names no other tenant.
func apiError(err error, resource schema.GroupResource, name string) error {
	var rejection *engine.Rejection
	var denied *DeniedError
	var full *engine.StoreFullError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &denied):
		return apierrors.NewForbidden(resource, name, denied)
	case errors.As(err, &rejection):
		return rejected(rejection, resource, name)
	case errors.As(err, &full):
		return apierrors.NewTooManyRequests(full.Error(), fullRetrySeconds)
	case errors.Is(err, context.DeadlineExceeded):
		return apierrors.NewTimeoutError(fmt.Sprintf("%s %q: %v", resource, name, err), 1)
	}
	return apierrors.NewInternalError(fmt.Errorf("%s %q: %w", resource, name, err))
}

func rejected(rejection *engine.Rejection, resource schema.GroupResource, name string) error {
	switch rejection.Kind {
	case engine.NotFound:
		return apierrors.NewNotFound(resource, name)
	case engine.AlreadyExists:
		return apierrors.NewAlreadyExists(resource, name)
	case engine.Conflict:
		return apierrors.NewConflict(resource, name, rejection)
	case engine.TooLarge:
		return apierrors.NewRequestEntityTooLargeError(rejection.Message)
	case engine.NoNamespace:
		return apierrors.NewGenericServerResponse(http.StatusNotFound, "create", resource, name, rejection.Message, 0, false)
	}
	return apierrors.NewForbidden(resource, name, rejection)
}

// checkPreconditions holds an object against the UID and version that a client demands.
func checkPreconditions(wanted *metav1.Preconditions, object metav1.Object, resource schema.GroupResource) error {
	if wanted == nil {
		return nil
	}
	if wanted.UID != nil && *wanted.UID != object.GetUID() {
		return apierrors.NewConflict(resource, object.GetName(),
			fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s)", *wanted.UID, object.GetUID()))
	}
	if wanted.ResourceVersion != nil && *wanted.ResourceVersion != object.GetResourceVersion() {
		return apierrors.NewConflict(resource, object.GetName(),
			fmt.Errorf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s)", *wanted.ResourceVersion, object.GetResourceVersion()))
	}
	return nil
}
