// Package providers is the contract between Nightshift and whoever lends it machines.
//
// A provider is asked for offers, launches instances from them, gives them back, lists those that carry our owner tag, and tells
// what happens to them. It keeps no record that matters: intent and outcome are facts of the control plane, written before and
// after each call, so a provider may crash between any two calls.
//
// Promises a provider makes, each held by package providertest, in process and through the plugin's wire:
//
//   - Launch with a key it has seen returns the instances of the first call and launches nothing. With the same key and another
//     request it fails with KindBadRequest.
//   - Launch may return fewer instances than asked, with or without an error; those returned exist.
//   - Terminate of an instance that is gone or was never there succeeds. It returns when the instance can no longer be billed
//     or run anything.
//   - List returns every instance with the owner's tag that is pending or running, and none without it.
//   - Watch begins with InstanceRunning for the instances that run when it opens, so that a caller need not know when that is,
//     and delivers every change after it was opened, at least once and in order for one instance.
//   - Every error that reaches the caller is an *Error, so that the caller can decide by its Kind.
//
// All methods are safe for concurrent use and honour the context.
package providers

import (
	"context"
	"time"
)

// Provider lends instances. See the package comment for what an implementation promises.
type Provider interface {
	// Offers returns all that may be launched now, at its current price.
	Offers(ctx context.Context) ([]Offer, error)
	// Launch starts request.Count instances under an idempotency key.
	Launch(ctx context.Context, request LaunchRequest) (LaunchResult, error)
	// Terminate gives instances back, by id.
	Terminate(ctx context.Context, instanceIDs []string) error
	// List returns the pending and running instances of an owner.
	List(ctx context.Context, owner string) ([]Instance, error)
	// Watch sends events to sink until the context ends or the source fails. It calls sink from one goroutine. It returns
	// the context's error when that ended it.
	Watch(ctx context.Context, owner string, sink func(Event)) error
}

// Interrupter is an ability of providers whose cloud is simulated: it takes an instance back on request.
type Interrupter interface {
	// Interrupt sends an interruption notice for the instance and ends it when the notice has run out.
	Interrupt(ctx context.Context, instanceID string, notice time.Duration) error
}

// Market is how an instance is paid for.
type Market string

// The markets. A spot instance may be taken back by the cloud at any time, after a short notice.
const (
	Spot     Market = "spot"
	OnDemand Market = "on-demand"
)

// Resources are amounts by Kubernetes resource name in base units: millicores for "cpu", bytes for "memory" and
// "ephemeral-storage", counts for "pods" and extended resources.
type Resources map[string]int64

// Offer is an instance type in a zone and market at a price.
type Offer struct {
	// ID names the offer within its provider and stays the same while its price changes.
	ID           string
	InstanceType string
	Zone         string
	Market       Market
	// Arch is a GOARCH: "amd64", "arm64".
	Arch string
	// Resources is what pods can use of one instance.
	Resources Resources
	// PriceMicrosPerHour is the price of one instance, micro-dollars an hour.
	PriceMicrosPerHour int64
	// OnDemandPriceMicrosPerHour is what the same type costs on demand in the same zone.
	OnDemandPriceMicrosPerHour int64
	// Available is how many more can be had, -1 when the provider does not know.
	Available int64
	// InterruptionsPerMillionHours is the chance of an interruption within an hour in parts per million, -1 when not known.
	InterruptionsPerMillionHours int64
}

// LaunchRequest asks for Count instances, each from any one of the offers.
type LaunchRequest struct {
	// Key makes the call idempotent: it is the cloud's client token and a tag of each instance. 1 to 64 ASCII characters.
	Key string
	// Owner is the control plane that owns the instances; a tag of each.
	Owner string
	// OfferIDs are the offers that will do, the preferred first.
	OfferIDs []string
	Count    int
	// Bootstrap is what the node's agent needs to join.
	Bootstrap Bootstrap
}

// Bootstrap is what an agent needs to find and trust its control plane. It is the same for all instances of a launch.
type Bootstrap struct {
	// Address of the control plane's agent endpoint, host:port.
	Address string
	// CACertificate is the PEM certificate that signs the control plane's.
	CACertificate []byte
	// Token allows the instances of this launch to join; it derives from the key and is never a fact.
	Token string
}

// LaunchResult is what a launch brought.
type LaunchResult struct {
	Instances []Instance
}

// InstanceState is where an instance is in its life.
type InstanceState string

// The states of an instance, in order.
const (
	Pending    InstanceState = "pending"
	Running    InstanceState = "running"
	Terminated InstanceState = "terminated"
)

// Instance is a machine that was launched for an owner.
type Instance struct {
	ID string
	// Key of the launch that made it.
	Key     string
	OfferID string
	State   InstanceState
}

// EventKind says what happened to an instance.
type EventKind string

// The kinds of event.
const (
	// InstanceRunning: it has booted.
	InstanceRunning EventKind = "running"
	// InterruptionNotice: the cloud takes it back at Deadline.
	InterruptionNotice EventKind = "interruption-notice"
	// RebalanceRecommendation: an interruption is more likely than usual.
	RebalanceRecommendation EventKind = "rebalance-recommendation"
	// InstanceTerminated: it runs nothing any more.
	InstanceTerminated EventKind = "terminated"
)

// Event is something that happened to an instance.
type Event struct {
	Kind       EventKind
	InstanceID string
	// Deadline is when the instance ends, for an interruption notice.
	Deadline time.Time
	// Cause is the cloud's word for why.
	Cause string
}
