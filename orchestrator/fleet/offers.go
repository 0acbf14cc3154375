package fleet

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/providers"
)

// defaultPods is how many pods a node takes if its provider does not say: the kubelet's default of maxPods
// (pkg/kubelet/apis/config/v1beta1/defaults.go).
const defaultPods = 110

// offers asks for offers at the start, then by time and whenever a launch has had an outcome.
func (s *supply) offers(ctx context.Context) {
	problem := &trouble{log: s.log, what: "asking for offers"}
	ticker := time.NewTicker(s.fleet.config.OffersEvery)
	defer ticker.Stop()
	for {
		err := s.observeOffers(ctx)
		if ctx.Err() != nil {
			return
		}
		problem.note(err)
		select {
		case <-ctx.Done():
			return
		case <-s.askOffers:
		case <-ticker.C:
		}
	}
}

func (s *supply) observeOffers(ctx context.Context) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	offers, err := s.provider.Offers(call)
	if err != nil {
		return err
	}
	command := engine.ObserveOffers{Provider: s.name}
	for _, offer := range offers {
		command.Offers = append(command.Offers, factOf(offer))
	}
	// The same offers in another order are the same offers.
	slices.SortFunc(command.Offers, func(a, b *event.Offer) int { return strings.Compare(a.GetId(), b.GetId()) })
	s.fleet.tell(ctx, command)
	return nil
}

func factOf(offer providers.Offer) *event.Offer {
	resources := make(map[string]int64, len(offer.Resources)+1)
	resources["pods"] = defaultPods
	maps.Copy(resources, offer.Resources)
	return &event.Offer{
		Id: offer.ID, InstanceType: offer.InstanceType, Zone: offer.Zone, Market: string(offer.Market), Arch: offer.Arch, Resources: resources,
		PriceMicrosPerHour: offer.PriceMicrosPerHour, OnDemandPriceMicrosPerHour: offer.OnDemandPriceMicrosPerHour,
		Available: offer.Available, InterruptionsPerMillionHours: offer.InterruptionsPerMillionHours,
	}
}
