package providertest

import "github.com/nightshift-batch/nightshift/providers"

func listSubtests() []subtest {
	plenty := Faults{Capacity: Plenty}
	return []subtest{
		{"list tells a new instance at once and until it has ended", plenty, listFollowsLife},
		{"list carries key, offer and state", plenty, listCarriesTags},
		{"list leaves out the instances of another owner", plenty, listKeepsOwnersApart},
		{"list of an owner without instances is empty", plenty, func(l *lab) { l.wantListed(l.owner, nil) }},
		{"list leaves out an instance that died by itself", plenty, listLeavesOutTheDead},
	}
}

func listFollowsLife(l *lab) {
	instances := ids(l.launch("a", 2))
	l.wantListed(l.owner, instances)
	l.terminate(instances[0])
	l.wantListed(l.owner, instances[1:])
	l.terminate(instances[1])
	l.wantListed(l.owner, nil)
}

func listCarriesTags(l *lab) {
	w := l.watch(l.owner)
	launched := l.launch("a", 1)[0]
	w.wantRunning(launched.ID)
	want := launched
	want.State = providers.Running
	l.eventually("the list tells the instance as running", func() bool {
		listed := l.list(l.owner)
		if len(listed) != 1 || listed[0].ID != want.ID || listed[0].Key != want.Key || listed[0].OfferID != want.OfferID {
			l.Fatalf("list = %+v, want %+v", listed, want)
		}
		return listed[0].State == want.State
	})
}

func listKeepsOwnersApart(l *lab) {
	ours := ids(l.launch("a", 1))
	request := l.request("b", 1)
	request.Owner = l.otherOwner()
	theirs := ids(l.launchRequest(request))
	l.wantListed(l.owner, ours)
	l.wantListed(l.otherOwner(), theirs)
}

func listLeavesOutTheDead(l *lab) {
	w := l.watch(l.owner)
	instances := ids(l.launch("a", 2))
	w.wantRunning(instances...)
	l.Kill(l, instances[0])
	l.eventually("the list leaves out the instance that died", func() bool { return len(l.list(l.owner)) == 1 })
	l.wantGone(instances[0])
	l.wantListed(l.owner, instances[1:])
}
