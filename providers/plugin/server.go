package plugin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nightshift-batch/nightshift/providers"
	"github.com/nightshift-batch/nightshift/providers/plugin/pluginpb"
	"google.golang.org/grpc"
)

// offersPerMessage keeps a message well under gRPC's usual 4 MiB: a cloud has thousands of offers in a region.
const offersPerMessage = 1000

// serverCalls answers the host's calls with the provider, once it is open.
type serverCalls struct {
	pluginpb.UnimplementedProviderServer
	provider atomic.Pointer[providers.Provider]
}

func (s *serverCalls) opened(op string) (providers.Provider, error) {
	provider := s.provider.Load()
	if provider == nil {
		return nil, statusOf(op, errors.New("the provider is not open"), providers.KindTransient)
	}
	return *provider, nil
}

// Open implements the service.
func (s *server) Open(_ context.Context, _ *pluginpb.OpenRequest) (*pluginpb.OpenResponse, error) {
	provider, err := s.openProvider()
	if err != nil {
		return nil, statusOf("open", err, providers.KindBadConfig)
	}
	_, interrupts := provider.(providers.Interrupter)
	return &pluginpb.OpenResponse{Interrupts: interrupts}, nil
}

// Offers implements the service.
func (s *serverCalls) Offers(_ *pluginpb.OffersRequest, stream grpc.ServerStreamingServer[pluginpb.OffersResponse]) error {
	const op = "offers"
	provider, err := s.opened(op)
	if err != nil {
		return err
	}
	offers, err := provider.Offers(stream.Context())
	if err != nil {
		return statusOf(op, err, providers.KindTransient)
	}
	for chunk := range slices.Chunk(offers, offersPerMessage) {
		message := &pluginpb.OffersResponse{}
		for _, offer := range chunk {
			message.Offers = append(message.Offers, offerToWire(offer))
		}
		if err := stream.Send(message); err != nil {
			return err
		}
	}
	return nil
}

// Launch implements the service.
func (s *serverCalls) Launch(ctx context.Context, request *pluginpb.LaunchRequest) (*pluginpb.LaunchResponse, error) {
	const op = "launch"
	provider, err := s.opened(op)
	if err != nil {
		return nil, err
	}
	result, err := provider.Launch(ctx, launchFromWire(request))
	response := &pluginpb.LaunchResponse{Instances: instancesToWire(result.Instances)}
	if err != nil {
		response.Failure = failureOf(op, err, providers.KindTransient)
	}
	return response, nil
}

// Terminate implements the service.
func (s *serverCalls) Terminate(ctx context.Context, request *pluginpb.TerminateRequest) (*pluginpb.TerminateResponse, error) {
	const op = "terminate"
	provider, err := s.opened(op)
	if err != nil {
		return nil, err
	}
	if err := provider.Terminate(ctx, request.GetInstanceIds()); err != nil {
		return nil, statusOf(op, err, providers.KindTransient)
	}
	return &pluginpb.TerminateResponse{}, nil
}

// List implements the service.
func (s *serverCalls) List(ctx context.Context, request *pluginpb.ListRequest) (*pluginpb.ListResponse, error) {
	const op = "list"
	provider, err := s.opened(op)
	if err != nil {
		return nil, err
	}
	instances, err := provider.List(ctx, request.GetOwner())
	if err != nil {
		return nil, statusOf(op, err, providers.KindTransient)
	}
	return &pluginpb.ListResponse{Instances: instancesToWire(instances)}, nil
}

// Watch implements the service.
func (s *serverCalls) Watch(request *pluginpb.WatchRequest, stream grpc.ServerStreamingServer[pluginpb.Event]) error {
	const op = "watch"
	provider, err := s.opened(op)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	err = provider.Watch(ctx, request.GetOwner(), func(event providers.Event) {
		// An event that cannot be sent ends the watch: the host opens another.
		if err := stream.Send(eventToWire(event)); err != nil {
			cancel(fmt.Errorf("send an event: %w", err))
		}
	})
	if err == nil {
		err = errors.New("the provider ended the watch without an error")
	}
	return statusOf(op, err, providers.KindTransient)
}

// Interrupt implements the service.
func (s *serverCalls) Interrupt(ctx context.Context, request *pluginpb.InterruptRequest) (*pluginpb.InterruptResponse, error) {
	const op = "interrupt"
	provider, err := s.opened(op)
	if err != nil {
		return nil, err
	}
	interrupter, ok := provider.(providers.Interrupter)
	if !ok {
		return nil, statusOf(op, errors.New("the provider cannot interrupt instances"), providers.KindBadRequest)
	}
	if err := interrupter.Interrupt(ctx, request.GetInstanceId(), time.Duration(request.GetNoticeNanos())); err != nil {
		return nil, statusOf(op, err, providers.KindTransient)
	}
	return &pluginpb.InterruptResponse{}, nil
}
