package aws

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"github.com/nightshift-batch/nightshift/providers"
)

// The operations, as errors name them.
const (
	opConfigure = "configure"
	opOffers    = "offers"
	opLaunch    = "launch"
	opTerminate = "terminate"
	opList      = "list"
	opWatch     = "watch"
)

// kindOfExactCode are the EC2 error codes whose kind is not told by a prefix or suffix. Source:
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html, and for CreateFleet's own answers
// https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-fleet-troubleshoot.html.
var kindOfExactCode = map[string]providers.ErrorKind{
	"InsufficientInstanceCapacity":         providers.KindNoCapacity,
	"InsufficientReservedInstanceCapacity": providers.KindNoCapacity,
	"InsufficientHostCapacity":             providers.KindNoCapacity,
	"InsufficientCapacityOnHost":           providers.KindNoCapacity,
	"InsufficientVolumeCapacity":           providers.KindNoCapacity,
	"InsufficientCapacity":                 providers.KindNoCapacity,
	"UnfulfillableCapacity":                providers.KindNoCapacity,
	"SpotMaxPriceTooLow":                   providers.KindNoCapacity,
	// The subnet's addresses come back when instances end; another zone has its own.
	"InsufficientFreeAddressesInSubnet": providers.KindNoCapacity,
	// "Your requested instance type is not supported in your requested Availability Zone."
	"Unsupported": providers.KindNoCapacity,

	"MaxSpotInstanceCountExceeded":     providers.KindQuota,
	"MaxSpotFleetRequestCountExceeded": providers.KindQuota,
	"MaxFleetCountExceeded":            providers.KindQuota,

	"RequestLimitExceeded":                   providers.KindThrottled,
	"RequestThrottled":                       providers.KindThrottled,
	"RequestThrottledException":              providers.KindThrottled,
	"Throttling":                             providers.KindThrottled,
	"ThrottlingException":                    providers.KindThrottled,
	"ThrottledException":                     providers.KindThrottled,
	"EC2ThrottledException":                  providers.KindThrottled,
	"TooManyRequestsException":               providers.KindThrottled,
	"BandwidthLimitExceeded":                 providers.KindThrottled,
	"RequestResourceCountExceeded":           providers.KindThrottled,
	"UnauthorizedOperation":                  providers.KindUnauthorized,
	"AccessDenied":                           providers.KindUnauthorized,
	"AccessDeniedException":                  providers.KindUnauthorized,
	"Blocked":                                providers.KindUnauthorized,
	"ExpiredToken":                           providers.KindUnauthorized,
	"ExpiredTokenException":                  providers.KindUnauthorized,
	"RequestExpired":                         providers.KindUnauthorized,
	"IncompleteSignature":                    providers.KindUnauthorized,
	"InvalidClientTokenId":                   providers.KindUnauthorized,
	"InvalidSignatureException":              providers.KindUnauthorized,
	"MissingAuthenticationToken":             providers.KindUnauthorized,
	"OptInRequired":                          providers.KindUnauthorized,
	"PendingVerification":                    providers.KindUnauthorized,
	"SignatureDoesNotMatch":                  providers.KindUnauthorized,
	"UnrecognizedClientException":            providers.KindUnauthorized,
	"IdempotentParameterMismatch":            providers.KindBadRequest,
	"IdempotentInstanceTerminated":           providers.KindBadRequest,
	"DefaultVpcDoesNotExist":                 providers.KindBadConfig,
	"MissingParameter":                       providers.KindBadConfig,
	"OperationNotPermitted":                  providers.KindBadConfig,
	"PendingSubscription":                    providers.KindBadConfig,
	"UnknownParameter":                       providers.KindBadConfig,
	"UnsupportedOperation":                   providers.KindBadConfig,
	"VPCIdNotSpecified":                      providers.KindBadConfig,
	"VPCResourceNotSpecified":                providers.KindBadConfig,
	"ValidationError":                        providers.KindBadConfig,
	"InvalidInstanceID.NotFound":             providers.KindTransient,
	"InvalidSpotInstanceRequestID.NotFound":  providers.KindTransient,
	"InvalidPaginationToken":                 providers.KindTransient,
	"InvalidNextToken":                       providers.KindTransient,
	"InvalidState":                           providers.KindTransient,
	"InvalidCapacityReservationState":        providers.KindTransient,
	"InvalidInstanceAttributeValue.NotReady": providers.KindTransient,
}

// kindOfCode maps an EC2 error code. What is not known is taken for a passing fault: asking the same again is safe.
func kindOfCode(code string) providers.ErrorKind {
	// Old answers and fleet errors may carry the side at fault in front, as "Server.InsufficientInstanceCapacity".
	code = strings.TrimPrefix(strings.TrimPrefix(code, "Server."), "Client.")
	if kind, ok := kindOfExactCode[code]; ok {
		return kind
	}
	switch {
	case strings.HasPrefix(code, "AuthFailure"): // also AuthFailure.ServiceLinkedRoleCreationNotPermitted
		return providers.KindUnauthorized
	case strings.HasSuffix(code, "LimitExceeded"): // VcpuLimitExceeded, InstanceLimitExceeded, VolumeLimitExceeded, ...
		return providers.KindQuota
	case strings.HasPrefix(code, "Invalid"): // InvalidParameterValue, InvalidLaunchTemplateId.NotFound, InvalidAMIID.Malformed, ...
		return providers.KindBadConfig
	}
	return providers.KindTransient
}

// credentialsError marks an error of getting credentials, which carries no code of EC2's.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return "AWS credentials: " + e.err.Error() }
func (e *credentialsError) Unwrap() error { return e.err }

// markedCredentials makes the errors of a credentials provider recognisable.
func markedCredentials(from sdk.CredentialsProvider) sdk.CredentialsProvider {
	return sdk.CredentialsProviderFunc(func(ctx context.Context) (sdk.Credentials, error) {
		credentials, err := from.Retrieve(ctx)
		if err != nil {
			return credentials, &credentialsError{err}
		}
		return credentials, nil
	})
}

// fail makes the *providers.Error of an operation from whatever the SDK returned. The context's error is always wrapped.
func fail(ctx context.Context, op string, err error) error {
	var typed *providers.Error
	if errors.As(err, &typed) {
		return err
	}
	if ctx.Err() != nil {
		if !errors.Is(err, ctx.Err()) {
			err = fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		return &providers.Error{Kind: providers.KindTransient, Op: op, Err: err}
	}
	kind := providers.KindTransient
	var api smithy.APIError
	var credentials *credentialsError
	switch {
	case errors.As(err, &credentials):
		kind = providers.KindUnauthorized
	case errors.As(err, &api):
		kind = kindOfCode(api.ErrorCode())
	}
	return &providers.Error{Kind: kind, Op: op, Err: err}
}

// hasCode says whether EC2 answered with an error code.
func hasCode(err error, code string) bool {
	var api smithy.APIError
	return errors.As(err, &api) && api.ErrorCode() == code
}

func badRequest(op, format string, args ...any) error {
	return &providers.Error{Kind: providers.KindBadRequest, Op: op, Err: fmt.Errorf(format, args...)}
}

// shortfallPrecedence orders the kinds of a fleet's errors. What concerns the whole account comes first. A wrong configuration comes last:
// one unusable type among many that are merely sold out is no reason to give up the rest, and the text tells of it.
var shortfallPrecedence = []providers.ErrorKind{providers.KindUnauthorized, providers.KindQuota, providers.KindNoCapacity, providers.KindThrottled, providers.KindTransient, providers.KindBadConfig, providers.KindBadRequest}

// shortfall is the error of a fleet that brought less than it was asked for. EC2 gives an error for each pool it tried; each code
// is told once, with its first message and how often it came.
func shortfall(wanted, got int, fleet []types.CreateFleetError) error {
	type seen struct {
		count   int
		message string
	}
	codes := map[string]*seen{}
	kinds := map[providers.ErrorKind]bool{}
	for _, e := range fleet {
		code := sdk.ToString(e.ErrorCode)
		kinds[kindOfCode(code)] = true
		if codes[code] == nil {
			codes[code] = &seen{message: sdk.ToString(e.ErrorMessage)}
		}
		codes[code].count++
	}
	kind := providers.KindNoCapacity // a fleet that falls short without a reason
	for _, k := range slices.Backward(shortfallPrecedence) {
		if kinds[k] {
			kind = k
		}
	}
	var reasons []string
	for _, code := range slices.Sorted(maps.Keys(codes)) {
		reasons = append(reasons, fmt.Sprintf("%s (%d times): %s", code, codes[code].count, codes[code].message))
	}
	return &providers.Error{Kind: kind, Op: opLaunch, Err: fmt.Errorf("EC2 launched %d of %d instances: %s", got, wanted, strings.Join(reasons, "; "))}
}
