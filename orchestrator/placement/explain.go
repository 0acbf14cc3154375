package placement

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/nightshift-batch/nightshift/orchestrator/spot"
)

// explain says why no offer takes the pod: how many fail for which reason, the most frequent first.
func explain(need *Need, offers []Offer) string {
	if len(offers) == 0 {
		return "no provider offers anything now"
	}
	counts := make(map[string]int)
	for i := range offers {
		counts[objection(need, &offers[i])]++
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
	return fmt.Sprintf("none of %d offers takes it (%s): %s", len(offers), need.Requests, strings.Join(reasons, "; "))
}

// objection is the first thing that speaks against an offer.
func objection(need *Need, offer *Offer) string {
	switch {
	case need.Arch != "" && need.Arch != offer.Arch:
		return "have another architecture than " + need.Arch
	case !slices.Contains(need.Markets, offer.Market):
		return "are " + offer.Market + ", which its profile does not allow"
	case len(need.Providers) > 0 && !slices.Contains(need.Providers, offer.Provider):
		return "are of a provider that its profile does not allow"
	case need.MaxPriceMicrosPerHour > 0 && offer.PriceMicrosPerHour > need.MaxPriceMicrosPerHour:
		return "cost more than $" + spot.Dollars(need.MaxPriceMicrosPerHour) + "/h"
	}
	if short, fits := offer.Capacity.Fits(need.Requests); !fits {
		if offer.Capacity[short] == 0 {
			return "have no " + short
		}
		return "have too little " + short
	}
	return "have no instance left"
}
