package placement_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/nightshift-batch/nightshift/orchestrator/placement"
)

// plainNode is a node of the slow placement that Fleet is held against.
type plainNode struct {
	name string
	free placement.Vector
}

func times(free, request placement.Vector) int64 {
	fit := int64(1 << 40)
	for name, amount := range request {
		if amount > 0 {
			fit = min(fit, free[name]/amount)
		}
	}
	return fit
}

// plainPlace puts pods one by one where they leave least free, looking at every node.
func plainPlace(nodes []plainNode, requests []placement.Vector) (names []string) {
	for _, request := range requests {
		best := -1
		for i := range nodes {
			if fit := times(nodes[i].free, request); fit > 0 && (best < 0 || fit < times(nodes[best].free, request) ||
				fit == times(nodes[best].free, request) && nodes[i].name < nodes[best].name) {
				best = i
			}
		}
		if best < 0 {
			names = append(names, "")
			continue
		}
		names = append(names, nodes[best].name)
		for name, amount := range request {
			nodes[best].free[name] -= amount
		}
	}
	return names
}

func TestPodsGoWhereAPlainSearchWouldPutThem(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 5))
	machine := placement.Machine{Provider: "p", Market: "spot", Arch: "amd64", PriceMicrosPerHour: 1}
	requests := []placement.Vector{{"cpu": 1000, "pods": 1}, {"cpu": 500, "memory": 3, "pods": 1}, {"memory": 2, "pods": 1}, {"gpu": 1, "pods": 1}}
	for round := range 300 {
		fleet := placement.NewFleet()
		var nodes []plainNode
		var classes []*placement.Class
		for _, request := range requests {
			classes = append(classes, fleet.Class(placement.Need{Requests: request, Markets: []string{"spot"}}))
		}
		for i := range random.IntN(6) {
			capacity := placement.Vector{"cpu": random.Int64N(9) * 500, "memory": random.Int64N(9), "gpu": random.Int64N(2), "pods": random.Int64N(5)}
			name := fmt.Sprintf("n%d", i)
			fleet.Join(name, machine, capacity)
			nodes = append(nodes, plainNode{name, capacity})
		}
		held := make(map[int][]string)
		for step := range 20 {
			kind, count := random.IntN(len(requests)), random.Int64N(4)
			if random.IntN(3) == 0 && len(held[kind]) > 0 {
				at := random.IntN(len(held[kind]))
				name := held[kind][at]
				held[kind] = slices.Delete(held[kind], at, at+1)
				fleet.Give(name, classes[kind])
				for i := range nodes {
					if nodes[i].name == name {
						for resource, amount := range requests[kind] {
							nodes[i].free[resource] += amount
						}
					}
				}
				continue
			}
			want := plainPlace(nodes, slices.Repeat([]placement.Vector{requests[kind]}, int(count)))
			plan := fleet.Make([]placement.Group{{Class: classes[kind], Pods: count}}, func() []placement.Offer { return nil })[0]
			var got []string
			for _, binding := range plan.Nodes {
				got = append(got, binding.Node)
				fleet.Take(binding.Node, classes[kind])
				held[kind] = append(held[kind], binding.Node)
			}
			for range plan.Refused {
				got = append(got, "")
			}
			if !slices.Equal(got, want) {
				t.Fatalf("round %d, step %d: %d pods of %v go to %q, want %q", round, step, count, requests[kind], got, want)
			}
		}
	}
}

func TestManyNeedsAtATimeFindTheirNodesToo(t *testing.T) {
	fleet := placement.NewFleet()
	machine := placement.Machine{Provider: "p", Market: "spot"}
	fleet.Join("n", machine, placement.Vector{"cpu": 1000, "pods": 1000})
	var groups []placement.Group
	for i := range int64(200) {
		groups = append(groups, placement.Group{Class: fleet.Class(placement.Need{Requests: placement.Vector{"cpu": i + 1, "pods": 1}, Markets: []string{"spot"}}), Pods: 1})
	}
	for range 2 {
		placed := 0
		for _, plan := range fleet.Make(groups, func() []placement.Offer { return nil }) {
			placed += len(plan.Nodes)
		}
		// 1 + 2 + ... + 44 is 990; 10 are left, and the first that was refused is 45.
		if placed != 44 {
			t.Fatalf("%d pods found room, want 44", placed)
		}
	}
	for _, group := range groups {
		fleet.Release(group.Class)
	}
}

func TestWhatIsOnItsWayIsNotBoughtAgain(t *testing.T) {
	offer := placement.Offer{
		Machine: placement.Machine{Provider: "p", Market: "spot", Arch: "amd64", PriceMicrosPerHour: 100}, ID: "o", InstanceType: "o", Zone: "z",
		Capacity: placement.Vector{"cpu": 4000, "pods": 10}, Available: -1,
	}
	offers := func() []placement.Offer { return []placement.Offer{offer} }
	for _, c := range []struct {
		coming, pods, bought int64
	}{{0, 8, 2}, {1, 8, 1}, {2, 8, 0}, {2, 9, 1}, {3, 5, 0}, {1, 1, 0}} {
		fleet := placement.NewFleet()
		class := fleet.Class(placement.Need{Requests: placement.Vector{"cpu": 1000, "pods": 1}, Markets: []string{"spot"}})
		if c.coming > 0 {
			fleet.Come(&offer, c.coming)
		}
		plan := fleet.Make([]placement.Group{{Class: class, Pods: c.pods}}, offers)[0]
		var bought int64
		for _, launch := range plan.Launches {
			bought += launch.Count
		}
		if bought != c.bought || len(plan.Nodes) > 0 || plan.Refused > 0 {
			t.Errorf("%d on their way for %d pods: %d are bought, want %d; %+v", c.coming, c.pods, bought, c.bought, plan)
		}
	}
}

func TestLaterGroupsSeeWhatEarlierOnesTake(t *testing.T) {
	machine := placement.Machine{Provider: "p", Market: "spot"}
	fleet := placement.NewFleet()
	fleet.Join("n", machine, placement.Vector{"cpu": 3000, "pods": 10})
	large := fleet.Class(placement.Need{Requests: placement.Vector{"cpu": 2000, "pods": 1}, Markets: []string{"spot"}})
	small := fleet.Class(placement.Need{Requests: placement.Vector{"cpu": 1000, "pods": 1}, Markets: []string{"spot"}})
	for range 2 { // The second time shows that the first has left the fleet as it was.
		plans := fleet.Make([]placement.Group{{Class: large, Pods: 1}, {Class: small, Pods: 2}}, func() []placement.Offer { return nil })
		if len(plans[0].Nodes) != 1 || len(plans[1].Nodes) != 1 || plans[1].Refused != 1 {
			t.Fatalf("the plans are %+v", plans)
		}
	}
}
