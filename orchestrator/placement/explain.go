package placement

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/nightshift-batch/nightshift/orchestrator/spot"
)

// explain says why no offer takes the pod: how many fail for which reason, the most frequent first.
func explain(pod Pod, offers []Offer) string {
	if len(offers) == 0 {
		return "no provider offers anything now"
	}
	counts := make(map[string]int)
	for i := range offers {
		counts[objection(pod, &offers[i])]++
	}
	reasons := make([]string, 0, len(counts))
	for reason := range counts {
		reasons = append(reasons, reason)
	}
	sort.Slice(reasons, func(i, j int) bool {
		if counts[reasons[i]] != counts[reasons[j]] {
			return counts[reasons[i]] > counts[reasons[j]]
		}
		return reasons[i] < reasons[j]
	})
	for i, reason := range reasons {
		reasons[i] = fmt.Sprintf("%d %s", counts[reason], reason)
	}
	return fmt.Sprintf("none of %d offers takes it (%s): %s", len(offers), pod.Requests, strings.Join(reasons, "; "))
}

// objection is the first thing that speaks against an offer.
func objection(pod Pod, offer *Offer) string {
	switch {
	case pod.Arch != "" && pod.Arch != offer.Arch:
		return "have another architecture than " + pod.Arch
	case !slices.Contains(pod.Markets, offer.Market):
		return "are " + offer.Market + ", which its profile does not allow"
	case len(pod.Providers) > 0 && !slices.Contains(pod.Providers, offer.Provider):
		return "are of a provider that its profile does not allow"
	case pod.MaxPriceMicrosPerHour > 0 && offer.PriceMicrosPerHour > pod.MaxPriceMicrosPerHour:
		return "cost more than $" + spot.Dollars(pod.MaxPriceMicrosPerHour) + "/h"
	}
	if short, fits := offer.Capacity.Fits(pod.Requests); !fits {
		if offer.Capacity[short] == 0 {
			return "have no " + short
		}
		return "have too little " + short
	}
	return "have no instance left"
}
