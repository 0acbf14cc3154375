// Package placement decides where pods go: onto which node that is there, or else which offer to buy, and why not where nothing takes them.
//
// It is pure and deterministic: the same pods, nodes and offers give the same plan, whatever their order in memory, because ties fall to
// names. Every decision carries a reason in words for the user. Nodes that are still on their way count, so that one need is not bought twice.
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

// Minus returns v without the request. Neither is changed.
func (v Vector) Minus(request Vector) Vector {
	rest := make(Vector, len(v))
	for name, amount := range v {
		rest[name] = amount - request[name]
	}
	return rest
}

// Plus returns v with the request given back. Neither is changed.
func (v Vector) Plus(request Vector) Vector {
	sum := make(Vector, len(v))
	for name, amount := range v {
		sum[name] = amount + request[name]
	}
	return sum
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

// Pod is a need: one pod that has no node yet.
type Pod struct {
	UID string
	// Job that the pod belongs to.
	Job      string
	Requests Vector
	// Arch it demands; empty for any.
	Arch string
	// Markets and Providers that its profile allows; Providers empty means any.
	Markets   []string
	Providers []string
	// MaxPriceMicrosPerHour of one instance; 0 is none.
	MaxPriceMicrosPerHour int64
}

// Node is a machine that is there, or on its way when Ready is false.
type Node struct {
	Name     string
	Ready    bool
	Provider string
	Market   string
	Arch     string
	Free     Vector
	// PriceMicrosPerHour of the instance.
	PriceMicrosPerHour int64
}

// Offer is what one provider offers.
type Offer struct {
	ID           string
	Provider     string
	InstanceType string
	Zone         string
	Market       string
	Arch         string
	Capacity     Vector
	// PriceMicrosPerHour of one instance.
	PriceMicrosPerHour int64
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

// Plan is what to do.
type Plan struct {
	Bindings []Binding
	Launches []Launch
	// Rejections name the pods for which nothing can be done now.
	Rejections []Rejection
}

// Binding puts a pod on a node.
type Binding struct {
	Pod, Node, Reason string
}

// Launch buys count instances of an offer for a Job.
type Launch struct {
	Offer  Offer
	Count  int64
	Job    string
	Reason string
}

// Rejection is a "no" with its reason.
type Rejection struct {
	Pod, Reason string
}

// Make plans for the pods, in their order. Offers that are out for a while are left out by the caller.
func Make(pods []Pod, nodes []Node, offers []Offer) Plan {
	var plan Plan
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	var homeless []Pod
	for _, pod := range pods {
		at, found := tightest(pod, nodes)
		if !found {
			homeless = append(homeless, pod)
			continue
		}
		node := &nodes[at]
		node.Free = node.Free.Minus(pod.Requests)
		if node.Ready {
			plan.Bindings = append(plan.Bindings, Binding{Pod: pod.UID, Node: node.Name, Reason: fmt.Sprintf("%s has room for %s", node.Name, pod.Requests)})
		}
	}
	buy(&plan, homeless, slices.Clone(offers))
	return plan
}

// tightest finds the node, ready ones first, on which the pod leaves least free, so that others can empty.
func tightest(pod Pod, nodes []Node) (at int, found bool) {
	var best int64
	for i := range nodes {
		node := &nodes[i]
		if !allowed(pod, node.Provider, node.Market, node.Arch, node.PriceMicrosPerHour) {
			continue
		}
		if _, fits := node.Free.Fits(pod.Requests); !fits {
			continue
		}
		left := node.Free.Times(pod.Requests)
		if !node.Ready {
			left += 1 << 41
		}
		if !found || left < best {
			at, best, found = i, left, true
		}
	}
	return at, found
}

func allowed(pod Pod, provider, market, arch string, price int64) bool {
	return (pod.Arch == "" || pod.Arch == arch) &&
		slices.Contains(pod.Markets, market) &&
		(len(pod.Providers) == 0 || slices.Contains(pod.Providers, provider)) &&
		(pod.MaxPriceMicrosPerHour == 0 || price <= pod.MaxPriceMicrosPerHour)
}

// buy covers the pods with the offers that are cheapest for what is still needed. Pods with the same need are bought for together.
func buy(plan *Plan, pods []Pod, offers []Offer) {
	for len(pods) > 0 {
		same, rest := alike(pods)
		for len(same) > 0 {
			at, slots, candidates := cheapest(same[0], int64(len(same)), offers)
			if at < 0 {
				for _, pod := range same {
					plan.Rejections = append(plan.Rejections, Rejection{Pod: pod.UID, Reason: explain(pod, offers)})
				}
				break
			}
			offer := &offers[at]
			count := max(int64(len(same))/slots, 1)
			if offer.Available >= 0 {
				count = min(count, offer.Available)
				take(offers, offer.Pool(), count)
			}
			plan.Launches = append(plan.Launches, Launch{Offer: *offer, Count: count, Job: same[0].Job, Reason: fmt.Sprintf(
				"%s in %s, %s, at $%s/h: the cheapest of %d offers that fit %s for %d pods (%d a node)",
				offer.InstanceType, offer.Zone, offer.Market, spot.Dollars(offer.PriceMicrosPerHour), candidates, same[0].Requests, len(same), slots)})
			same = same[min(count*slots, int64(len(same))):]
		}
		pods = rest
	}
}

// alike splits off the pods whose need equals that of the first.
func alike(pods []Pod) (same, rest []Pod) {
	first := needOf(pods[0])
	for _, pod := range pods {
		if needOf(pod) == first {
			same = append(same, pod)
		} else {
			rest = append(rest, pod)
		}
	}
	return same, rest
}

func needOf(pod Pod) string {
	return fmt.Sprint(pod.Job, "|", pod.Requests, "|", pod.Arch, pod.Markets, pod.Providers, pod.MaxPriceMicrosPerHour)
}

// cheapest picks the offer with the lowest price for each pod that it would hold now. On a tie spot goes before on-demand, then by id.
func cheapest(pod Pod, pods int64, offers []Offer) (at int, slots int64, candidates int) {
	at = -1
	for i := range offers {
		offer := &offers[i]
		if offer.Available == 0 || !allowed(pod, offer.Provider, offer.Market, offer.Arch, offer.PriceMicrosPerHour) {
			continue
		}
		fitting := offer.Capacity.Times(pod.Requests)
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
