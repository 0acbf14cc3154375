// Package openapi holds the OpenAPI schemas of the types that the API serves, generated from k8s.io/api and k8s.io/apimachinery
// by openapi-gen (.ci/gen). `kubectl explain`, strict validation in clients and server-side apply rest on them. A type that is
// missing here is found when the server is made, not when it is built.
package openapi
