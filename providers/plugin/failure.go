package plugin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nightshift-batch/nightshift/providers"
	"github.com/nightshift-batch/nightshift/providers/plugin/pluginpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxFailureBytes bounds the words of an error: they travel in a gRPC trailer.
const maxFailureBytes = 8 << 10

// failureOf turns a provider's error into its form on the wire. An error that is no *providers.Error gets fallback as its kind.
func failureOf(op string, err error, fallback providers.ErrorKind) *pluginpb.Failure {
	failure := &pluginpb.Failure{Kind: string(fallback), Op: op, Message: err.Error()}
	var typed *providers.Error
	if errors.As(err, &typed) {
		failure.Kind, failure.Op = string(typed.Kind), typed.Op
		// Words that were wrapped around the typed error stay; else its own string would repeat operation and kind.
		if err == error(typed) && typed.Err != nil {
			failure.Message = typed.Err.Error()
		}
	}
	failure.Message = strings.ToValidUTF8(failure.Message, "?")
	if len(failure.Message) > maxFailureBytes {
		failure.Message = strings.ToValidUTF8(failure.Message[:maxFailureBytes], "") + " [cut]"
	}
	return failure
}

// statusOf carries a provider's error as a gRPC status.
func statusOf(op string, err error, fallback providers.ErrorKind) error {
	failure := failureOf(op, err, fallback)
	detailed, detailErr := status.New(codes.Unknown, failure.Message).WithDetails(failure)
	if detailErr != nil {
		return status.Errorf(codes.Internal, "%s: %v (and its kind cannot be told: %v)", op, err, detailErr)
	}
	return detailed.Err()
}

// restored is the *providers.Error that a Failure stands for.
func restored(failure *pluginpb.Failure) *providers.Error {
	return &providers.Error{Kind: providers.ErrorKind(failure.Kind), Op: failure.Op, Err: errors.New(failure.Message)}
}

// callError is the error of a call that failed: the context's when that ended it, the provider's when it sent one, and
// KindTransient for all that can happen to a process and a connection.
func (c *Client) callError(ctx context.Context, op string, err error) error {
	if ctxErr := contextError(ctx, err); ctxErr != nil {
		return &providers.Error{Kind: providers.KindTransient, Op: op, Err: ctxErr}
	}
	for _, detail := range status.Convert(err).Details() {
		if failure, ok := detail.(*pluginpb.Failure); ok {
			return restored(failure)
		}
	}
	if status.Code(err) == codes.Unimplemented {
		return &providers.Error{Kind: providers.KindBadRequest, Op: op, Err: fmt.Errorf("provider %q cannot do this", c.name)}
	}
	select {
	case <-c.process.exited:
		err = fmt.Errorf("provider %q: its process has ended: %s", c.name, c.process.ending())
	default:
		err = fmt.Errorf("provider %q: %s", c.name, status.Convert(err).Message())
	}
	return &providers.Error{Kind: providers.KindTransient, Op: op, Err: err}
}

// contextError returns the error of the caller's context if that is why a call failed.
func contextError(ctx context.Context, err error) error {
	if ctxErr := endOf(ctx); ctxErr != nil {
		return ctxErr
	}
	// The connection keeps the deadline by a timer of its own, which may fire before the context's.
	if _, bounded := ctx.Deadline(); bounded && status.Code(err) == codes.DeadlineExceeded {
		return context.DeadlineExceeded
	}
	return nil
}

// endOf is ctx.Err(), also when the deadline has passed and the context's timer is late: the plugin may answer before it fires.
func endOf(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if deadline, bounded := ctx.Deadline(); bounded && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return nil
}
