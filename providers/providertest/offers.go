package providertest

import "github.com/nightshift-batch/nightshift/providers"

func offersSubtests() []subtest {
	return []subtest{
		{"every offer is complete", Faults{Capacity: Plenty}, offersAreComplete},
		{"offers keep their ids from call to call", Faults{Capacity: Plenty}, offersKeepIDs},
	}
}

func offersAreComplete(l *lab) {
	seen := map[string]bool{}
	for _, offer := range l.allOffers() {
		if offer.ID == "" || seen[offer.ID] {
			l.Errorf("the id %q is empty or given twice", offer.ID)
		}
		seen[offer.ID] = true
		if offer.InstanceType == "" || offer.Zone == "" || offer.Arch == "" {
			l.Errorf("%s: instance type %q, zone %q and architecture %q must be set", offer.ID, offer.InstanceType, offer.Zone, offer.Arch)
		}
		if offer.Market != providers.Spot && offer.Market != providers.OnDemand {
			l.Errorf("%s: market %q is neither spot nor on-demand", offer.ID, offer.Market)
		}
		for _, resource := range []string{"cpu", "memory", "pods"} {
			if offer.Resources[resource] <= 0 {
				l.Errorf("%s: %s is %d, want more than nothing", offer.ID, resource, offer.Resources[resource])
			}
		}
		if offer.PriceMicrosPerHour <= 0 || offer.OnDemandPriceMicrosPerHour <= 0 {
			l.Errorf("%s: price %d and on-demand price %d must be more than nothing", offer.ID, offer.PriceMicrosPerHour, offer.OnDemandPriceMicrosPerHour)
		}
		if offer.Market == providers.OnDemand && offer.PriceMicrosPerHour != offer.OnDemandPriceMicrosPerHour {
			l.Errorf("%s: an on-demand offer costs %d but on demand %d", offer.ID, offer.PriceMicrosPerHour, offer.OnDemandPriceMicrosPerHour)
		}
		if offer.Available < -1 {
			l.Errorf("%s: %d available", offer.ID, offer.Available)
		}
		if offer.InterruptionsPerMillionHours < -1 || offer.InterruptionsPerMillionHours > 1_000_000 {
			l.Errorf("%s: %d interruptions in a million hours", offer.ID, offer.InterruptionsPerMillionHours)
		}
	}
}

func offersKeepIDs(l *lab) {
	first := map[string]providers.Offer{}
	for _, offer := range l.allOffers() {
		first[offer.ID] = offer
	}
	l.launch("a", 1)
	second := l.allOffers()
	if len(second) == 0 {
		l.Fatal("no offers after a launch")
	}
	for _, offer := range second {
		before, known := first[offer.ID]
		if !known {
			l.Errorf("%s is new", offer.ID)
			continue
		}
		if before.InstanceType != offer.InstanceType || before.Zone != offer.Zone || before.Market != offer.Market || before.Arch != offer.Arch {
			l.Errorf("%s meant %+v and now means %+v", offer.ID, before, offer)
		}
	}
}
