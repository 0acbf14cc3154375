// Package policy is the contract between Nightshift and the rules of those who share it.
//
// Policy returns data and the engine obeys it: whether a Job may run, for which reasons not, and the profile under which it
// does. A Decider is asked once for each Job, before anything is done for it; its answer becomes a fact, stored with the digest of the
// bundle that gave it and the name of the full input, so that every decision can be explained and made again later.
package policy

import (
	"context"
	"encoding/json"
)

// Decider answers whether a Job may run. Implementations are safe for concurrent use.
type Decider interface {
	// Admit decides about one Job. An error means that no decision could be made; the Job then stays unadmitted.
	Admit(ctx context.Context, input Input) (Decision, error)
}

// Input is all that an admission may look at. It is kept in the archive as JSON.
type Input struct {
	// Tenant is the Job's namespace.
	Tenant string `json:"tenant"`
	// User is who asked for the Job.
	User string `json:"user"`
	// Job is the batch/v1 Job with its defaults filled in.
	Job json.RawMessage `json:"job"`
	// Demand is what the Job's pods request when as many run as its parallelism allows.
	Demand Demand `json:"demand"`
	// Forecast is what the cheapest offers for that demand cost now.
	Forecast Forecast `json:"forecast"`
}

// Demand is the most that a Job asks for at one time.
type Demand struct {
	Pods int64 `json:"pods"`
	// VCPU in cores, as 2.5.
	VCPU        float64 `json:"vcpu"`
	MemoryBytes int64   `json:"memoryBytes"`
}

// Forecast is a price for a Demand at the moment of the decision.
type Forecast struct {
	// Known is false when no offer fits, or none has been seen yet; the price then means nothing.
	Known bool `json:"known"`
	// PricePerHour in dollars.
	PricePerHour float64 `json:"pricePerHour"`
}

// Decision is policy's answer.
type Decision struct {
	Allowed bool `json:"allowed"`
	// Reasons for a denial, in words for the user, sorted.
	Reasons []string `json:"reasons,omitempty"`
	Profile Profile  `json:"profile"`
	// BundleDigest is "sha256:" and the hex digest of all rules and data that decided.
	BundleDigest string `json:"bundleDigest"`
}

// Profile is what a Job is granted.
type Profile struct {
	Tier     string `json:"tier"`
	Priority int32  `json:"priority"`
	// Markets that may be used, of "spot" and "on-demand".
	Markets []string `json:"markets"`
	// Providers that may be used; empty means all.
	Providers []string `json:"providers,omitempty"`
	// MaxInstancePriceMicrosPerHour is the highest price of one instance, 0 for none.
	MaxInstancePriceMicrosPerHour int64 `json:"maxInstancePriceMicrosPerHour,omitempty"`
}
