package access

import (
	"context"
	"slices"
	"strings"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// tenantGroups begins the names of the groups that make tenants.
const tenantGroups = "nightshift:tenant:"

// TenantGroup is the group whose members are tenants of a namespace.
func TenantGroup(namespace string) string { return tenantGroups + namespace }

// The verbs on resources. All others, as impersonate and escalate, are an administrator's.
var (
	reading = []string{"get", "list", "watch"}
	writing = []string{"create", "update", "patch", "delete", "deletecollection"}
)

// What any tenant may ask beside its namespace: what the API is, whether it is well, and what it may do itself.
var (
	openPaths       = []string{"/api", "/apis", "/openapi", "/version", "/healthz", "/livez", "/readyz"}
	sharedResources = []string{"/nodes", "scheduling.k8s.io/priorityclasses"}
	selfReviews     = []string{"authorization.k8s.io/selfsubjectaccessreviews", "authorization.k8s.io/selfsubjectrulesreviews", "authentication.k8s.io/selfsubjectreviews"}
)

// readOnly are resources of a namespace that bound or describe the tenant, and that it therefore does not write itself.
var readOnly = []string{"/resourcequotas", "/limitranges"}

// ourGroup is the API group in which operators say what tenants may have.
const ourGroup = "nightshift.dev"

// Rules says what a user may do, by groups alone: an administrator everything; a tenant everything in its namespaces but to change its own limits,
// and to read nodes, priority classes and what the API is; anybody else nothing. Lists over all namespaces are an administrator's.
// It implements authorizer.AuthorizerFunc.
func Rules(_ context.Context, asked authorizer.Attributes) (authorizer.Decision, string, error) {
	who := asked.GetUser()
	if who == nil {
		return authorizer.DecisionDeny, "it is not known who asks", nil
	}
	if slices.Contains(who.GetGroups(), user.SystemPrivilegedGroup) {
		return authorizer.DecisionAllow, "", nil
	}
	var tenant []string
	for _, name := range who.GetGroups() {
		if namespace, ok := strings.CutPrefix(name, tenantGroups); ok && namespace != "" {
			tenant = append(tenant, namespace)
		}
	}
	switch {
	case len(tenant) == 0:
		return authorizer.DecisionDeny, "only members of " + user.SystemPrivilegedGroup + " and tenants, members of " + TenantGroup("NAMESPACE") + ", may use this API", nil
	case tenantMay(tenant, asked):
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionDeny, "a tenant of " + strings.Join(tenant, ", ") + " and of nothing else", nil
}

func tenantMay(namespaces []string, asked authorizer.Attributes) bool {
	verb := asked.GetVerb()
	if !asked.IsResourceRequest() {
		return verb == "get" && slices.ContainsFunc(openPaths, func(path string) bool {
			return asked.GetPath() == path || strings.HasPrefix(asked.GetPath(), path+"/")
		})
	}
	resource := asked.GetAPIGroup() + "/" + asked.GetResource()
	reads := slices.Contains(reading, verb)
	if resource == "/namespaces" {
		// The library takes the name of a namespace for the namespace that is meant.
		return verb == "get" && slices.Contains(namespaces, asked.GetName())
	}
	if asked.GetNamespace() == "" {
		return reads && slices.Contains(sharedResources, resource) || verb == "create" && slices.Contains(selfReviews, resource)
	}
	if !slices.Contains(namespaces, asked.GetNamespace()) {
		return false
	}
	writable := asked.GetAPIGroup() != ourGroup && !slices.Contains(readOnly, resource)
	return reads || writable && slices.Contains(writing, verb)
}
