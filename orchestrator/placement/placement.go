// Package placement decides where pods go: onto which node that is there, or else which offer to buy, and why not where nothing takes them.
//
// It is pure and deterministic: the same pods, nodes and offers give the same plan, whatever their order in memory, because ties fall to
// names. Every decision carries a reason in words for the user. Nodes that are still on their way count, so that one need is not bought twice.
//
// Pods with one need are planned for together, by their number. A Fleet keeps the nodes ordered for each need, so a plan costs what it
// changes, and not what there is.
package placement

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/nightshift-batch/nightshift/orchestrator/spot"
)

// Vector holds amounts by resource name in base units: millicores for cpu, bytes for memory, counts for the rest. Missing is zero.
type Vector map[string]int64

// Fits tells whether the request can be had from v, and names the first resource that is short.
func (v Vector) Fits(request Vector) (short string, fits bool) {
	for _, name := range request.names() {
		if request[name] > v[name] {
			return name, false
		}
	}
	return "", true
}

// Times is how many requests fit into v; a request of nothing fits without bound, given as a large number.
func (v Vector) Times(request Vector) int64 {
	times := int64(1 << 40)
	for name, amount := range request {
		if amount > 0 {
			times = min(times, v[name]/amount)
		}
	}
	return max(times, 0)
}

// DominantShare is the largest share of the capacity that the request takes of any resource, in parts per million.
func (v Vector) DominantShare(request Vector) int64 {
	var share int64
	for name, amount := range request {
		if capacity := v[name]; capacity > 0 {
			share = max(share, amount*1_000_000/capacity)
		}
	}
	return share
}

func (v Vector) names() []string {
	names := make([]string, 0, len(v))
	for name := range v {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// String lists the amounts as a user writes them: "cpu 500m, memory 512Mi".
func (v Vector) String() string {
	parts := make([]string, 0, len(v))
	for _, name := range v.names() {
		if name != "pods" && v[name] != 0 {
			parts = append(parts, name+" "+quantity(name, v[name]))
		}
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

func quantity(resource string, amount int64) string {
	switch {
	case resource == "cpu" && amount%1000 != 0:
		return fmt.Sprintf("%dm", amount)
	case resource == "cpu":
		return fmt.Sprint(amount / 1000)
	case resource != "memory" && resource != "ephemeral-storage":
		return fmt.Sprint(amount)
	}
	for _, unit := range []struct {
		size int64
		name string
	}{{1 << 30, "Gi"}, {1 << 20, "Mi"}, {1 << 10, "Ki"}} {
		if amount%unit.size == 0 {
			return fmt.Sprintf("%d%s", amount/unit.size, unit.name)
		}
	}
	return fmt.Sprint(amount)
}

// Need is what a pod demands of its node.
type Need struct {
	Requests Vector
	// Arch it demands; empty for any.
	Arch string
	// Markets and Providers that its profile allows; Providers empty means any.
	Markets   []string
	Providers []string
	// MaxPriceMicrosPerHour of one instance; 0 is none.
	MaxPriceMicrosPerHour int64
}

// Machine is what matters of an instance beside its resources.
type Machine struct {
	Provider string
	Market   string
	Arch     string
	// PriceMicrosPerHour of the instance.
	PriceMicrosPerHour int64
}

func (n *Need) allows(machine *Machine) bool {
	return (n.Arch == "" || n.Arch == machine.Arch) &&
		slices.Contains(n.Markets, machine.Market) &&
		(len(n.Providers) == 0 || slices.Contains(n.Providers, machine.Provider)) &&
		(n.MaxPriceMicrosPerHour == 0 || machine.PriceMicrosPerHour <= n.MaxPriceMicrosPerHour)
}

// Offer is what one provider offers.
type Offer struct {
	Machine
	ID           string
	InstanceType string
	Zone         string
	Capacity     Vector
	// Available is how many more can be had of the pool; negative means unknown.
	Available int64
}

// Pool names what an offer's instances are taken from: those of one type in a zone, for whichever market.
func (o *Offer) Pool() string { return o.Provider + "/" + o.Zone + "/" + o.InstanceType }

// take lessens what is available of a pool in every market.
func take(offers []Offer, pool string, count int64) {
	for i := range offers {
		if offers[i].Available >= 0 && offers[i].Pool() == pool {
			offers[i].Available = max(0, offers[i].Available-count)
		}
	}
}

// Launch buys count instances of an offer.
type Launch struct {
	Offer  Offer
	Count  int64
	Reason string
}

// Buy covers so many pods of a need with the offers that are cheapest for what is still needed. It returns for how many nothing can be bought,
// and why, and takes what it buys off what the offers have available.
func Buy(need *Need, pods int64, offers []Offer) (launches []Launch, left int64, reason string) {
	for pods > 0 {
		at, slots, candidates := cheapest(need, pods, offers)
		if at < 0 {
			return launches, pods, explain(need, offers)
		}
		offer := &offers[at]
		count := max(pods/slots, 1)
		if offer.Available >= 0 {
			count = min(count, offer.Available)
			take(offers, offer.Pool(), count)
		}
		launches = append(launches, Launch{Offer: *offer, Count: count, Reason: fmt.Sprintf(
			"%s in %s, %s, at $%s/h: the cheapest of %d offers that fit %s for %d pods (%d a node)",
			offer.InstanceType, offer.Zone, offer.Market, spot.Dollars(offer.PriceMicrosPerHour), candidates, need.Requests, pods, slots)})
		pods -= min(count*slots, pods)
	}
	return launches, 0, ""
}

// cheapest picks the offer with the lowest price for each pod that it would hold now. On a tie spot goes before on-demand, then by id.
func cheapest(need *Need, pods int64, offers []Offer) (at int, slots int64, candidates int) {
	at = -1
	for i := range offers {
		offer := &offers[i]
		if offer.Available == 0 || !need.allows(&offer.Machine) {
			continue
		}
		fitting := offer.Capacity.Times(need.Requests)
		if fitting == 0 {
			continue
		}
		candidates++
		if used := min(fitting, pods); at < 0 || cheaper(offer, used, &offers[at], slots) {
			at, slots = i, used
		}
	}
	return at, slots, candidates
}

// cheaper compares a's price for each of its slots with b's, without division.
func cheaper(a *Offer, aSlots int64, b *Offer, bSlots int64) bool {
	left, right := a.PriceMicrosPerHour*bSlots, b.PriceMicrosPerHour*aSlots
	if left != right {
		return left < right
	}
	if a.Market != b.Market {
		return a.Market == spot.Market
	}
	return a.Provider+a.ID < b.Provider+b.ID
}
