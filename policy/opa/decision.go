package opa

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/nightshift-batch/nightshift/policy"
)

// answer is what the rules must yield. Pointers tell what was left out from what is zero: rules that forget "allowed" deny
// nobody by accident and admit nobody either.
type answer struct {
	Allowed *bool     `json:"allowed"`
	Reasons *[]string `json:"reasons"`
	Profile *profile  `json:"profile"`
}

type profile struct {
	Tier                          *string  `json:"tier"`
	Priority                      *int32   `json:"priority"`
	Markets                       []string `json:"markets"`
	Providers                     []string `json:"providers"`
	MaxInstancePriceMicrosPerHour int64    `json:"maxInstancePriceMicrosPerHour"`
}

// decodeDecision takes the value of the admission rule for a decision, or says what about it is wrong.
func decodeDecision(value any) (policy.Decision, error) {
	encoded, err := json.Marshal(value)
	if err != nil {
		return policy.Decision{}, err
	}
	decoder := json.NewDecoder(bytes.NewReader(encoded))
	decoder.DisallowUnknownFields()
	var got answer
	if err := decoder.Decode(&got); err != nil {
		return policy.Decision{}, err
	}
	switch {
	case got.Allowed == nil:
		return policy.Decision{}, errors.New("it has no allowed")
	case got.Reasons == nil:
		return policy.Decision{}, errors.New("it has no reasons")
	case got.Profile == nil:
		return policy.Decision{}, errors.New("it has no profile")
	case *got.Allowed && len(*got.Reasons) > 0:
		return policy.Decision{}, fmt.Errorf("it allows, and gives reasons against: %q", *got.Reasons)
	case !*got.Allowed && len(*got.Reasons) == 0:
		return policy.Decision{}, errors.New("it denies without a reason")
	case slices.Contains(*got.Reasons, ""):
		return policy.Decision{}, errors.New("a reason is empty")
	}
	granted, err := got.Profile.check()
	if err != nil {
		return policy.Decision{}, fmt.Errorf("profile: %w", err)
	}
	decision := policy.Decision{Allowed: *got.Allowed, Profile: granted}
	if !decision.Allowed {
		decision.Reasons = slices.Compact(slices.Sorted(slices.Values(*got.Reasons)))
	}
	return decision, nil
}

func (p *profile) check() (policy.Profile, error) {
	switch {
	case p.Tier == nil || *p.Tier == "":
		return policy.Profile{}, errors.New("it has no tier")
	case p.Priority == nil:
		return policy.Profile{}, errors.New("it has no priority")
	case len(p.Markets) == 0:
		return policy.Profile{}, errors.New("it opens no market")
	case p.MaxInstancePriceMicrosPerHour < 0:
		return policy.Profile{}, errors.New("maxInstancePriceMicrosPerHour is negative")
	case slices.Contains(p.Providers, ""):
		return policy.Profile{}, errors.New("a provider's name is empty")
	}
	for i, market := range p.Markets {
		if market != "spot" && market != "on-demand" {
			return policy.Profile{}, fmt.Errorf("%q is not a market; markets are spot and on-demand", market)
		}
		if slices.Contains(p.Markets[:i], market) {
			return policy.Profile{}, fmt.Errorf("market %s is named twice", market)
		}
	}
	return policy.Profile{
		Tier: *p.Tier, Priority: *p.Priority, Markets: p.Markets, Providers: p.Providers,
		MaxInstancePriceMicrosPerHour: p.MaxInstancePriceMicrosPerHour,
	}, nil
}
