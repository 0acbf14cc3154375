package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nightshift-batch/nightshift/providers"
	"github.com/nightshift-batch/nightshift/providers/plugin/pluginpb"
)

// Offers implements providers.Provider.
func (c *Client) Offers(ctx context.Context) ([]providers.Offer, error) {
	const op = "offers"
	// A stream that is left early would stay open until the caller's context ends.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.rpc.Offers(ctx, &pluginpb.OffersRequest{})
	if err != nil {
		return nil, c.callError(ctx, op, err)
	}
	var offers []providers.Offer
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return offers, nil
		}
		if err != nil {
			return nil, c.callError(ctx, op, err)
		}
		for _, offer := range message.GetOffers() {
			offers = append(offers, offerFromWire(offer))
		}
	}
}

// Launch implements providers.Provider.
func (c *Client) Launch(ctx context.Context, request providers.LaunchRequest) (providers.LaunchResult, error) {
	const op = "launch"
	response, err := c.rpc.Launch(ctx, launchToWire(request))
	if err != nil {
		return providers.LaunchResult{}, c.callError(ctx, op, err)
	}
	result := providers.LaunchResult{Instances: instancesFromWire(response.GetInstances())}
	if failure := response.GetFailure(); failure != nil {
		// The provider saw the context end too, but what it launched by then is not lost.
		if ctxErr := endOf(ctx); ctxErr != nil {
			return result, &providers.Error{Kind: providers.KindTransient, Op: op, Err: ctxErr}
		}
		return result, restored(failure)
	}
	return result, nil
}

// Terminate implements providers.Provider.
func (c *Client) Terminate(ctx context.Context, instanceIDs []string) error {
	_, err := c.rpc.Terminate(ctx, &pluginpb.TerminateRequest{InstanceIds: instanceIDs})
	if err != nil {
		return c.callError(ctx, "terminate", err)
	}
	return nil
}

// List implements providers.Provider.
func (c *Client) List(ctx context.Context, owner string) ([]providers.Instance, error) {
	response, err := c.rpc.List(ctx, &pluginpb.ListRequest{Owner: owner})
	if err != nil {
		return nil, c.callError(ctx, "list", err)
	}
	return instancesFromWire(response.GetInstances()), nil
}

// Watch implements providers.Provider.
func (c *Client) Watch(ctx context.Context, owner string, sink func(providers.Event)) error {
	const op = "watch"
	stream, err := c.rpc.Watch(ctx, &pluginpb.WatchRequest{Owner: owner})
	if err != nil {
		return c.callError(ctx, op, err)
	}
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return &providers.Error{Kind: providers.KindTransient, Op: op, Err: fmt.Errorf("provider %q ended the watch", c.name)}
		}
		if err != nil {
			return c.callError(ctx, op, err)
		}
		sink(eventFromWire(event))
	}
}

// interrupter is the ability of a Client whose provider announced it.
type interrupter struct{ client *Client }

func (i interrupter) Interrupt(ctx context.Context, instanceID string, notice time.Duration) error {
	_, err := i.client.rpc.Interrupt(ctx, interruptToWire(instanceID, notice))
	if err != nil {
		return i.client.callError(ctx, "interrupt", err)
	}
	return nil
}
