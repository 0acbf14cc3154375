// Package manifest is the way in for a Job: the one place that says which manifests Nightshift takes, in Kubernetes' own words.
//
// It reads documents strictly (DecodeAll), fills in defaults, generates the selector and validates with the code of
// k8s.io/kubernetes itself (Admit, AdmitUpdate), then refuses every field that would change behaviour and does not work in this
// version. The refusal is an allow-list over the defaulted object: what it does not know, it refuses by path, so that a field
// of a later Kubernetes cannot be ignored in silence. Nothing is read but the arguments: no clock, no file, no network.
//
// Failure is a list of field errors, or an apierrors.StatusError made of one by Invalid; both read as those of
// kube-apiserver. Input is bounded in bytes and depth before it is interpreted.
package manifest
