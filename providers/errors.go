package providers

import (
	"errors"
	"fmt"
)

// ErrorKind is what the caller should do about an error. Kinds cross the plugin's wire as these strings: they are only
// ever added to.
type ErrorKind string

// The kinds of error.
const (
	// KindNoCapacity: the offers asked for cannot be had now; try others, and these again later.
	KindNoCapacity ErrorKind = "no-capacity"
	// KindQuota: the account may not have more; nothing helps until something is given back or the quota is raised.
	KindQuota ErrorKind = "quota"
	// KindThrottled: asked too often; ask the same again later.
	KindThrottled ErrorKind = "throttled"
	// KindUnauthorized: the credentials are missing, wrong or may not do this.
	KindUnauthorized ErrorKind = "unauthorized"
	// KindBadConfig: the provider's configuration names something that does not exist or fit.
	KindBadConfig ErrorKind = "bad-config"
	// KindBadRequest: the call itself can never succeed.
	KindBadRequest ErrorKind = "bad-request"
	// KindTransient: a passing fault, also one whose outcome is unknown; the same call with the same key is safe.
	KindTransient ErrorKind = "transient"
)

// Error is the one type of error that providers return.
type Error struct {
	Kind ErrorKind
	// Op is the method that failed, as "launch".
	Op  string
	Err error
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %v (%s)", e.Op, e.Err, e.Kind) }

func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of an error, KindTransient for one that is no *Error and "" for nil.
func KindOf(err error) ErrorKind {
	if err == nil {
		return ""
	}
	var typed *Error
	if errors.As(err, &typed) {
		return typed.Kind
	}
	return KindTransient
}
