package providertest

import "sync"

func terminateSubtests() []subtest {
	plenty := Faults{Capacity: Plenty}
	return []subtest{
		{"terminate returns when the instance is gone", plenty, terminateEnds},
		{"terminate of a booting instance ends it", plenty, terminatePending},
		{"terminate of several instances ends them all and no other", plenty, terminateSeveral},
		{"terminate of an instance that is gone succeeds", plenty, terminateTwice},
		{"terminate of an instance that was never there succeeds", plenty, terminateUnknown},
		{"terminate of gone and living instances ends the living", plenty, terminateMixed},
		{"terminate of an instance that died by itself succeeds", plenty, terminateDead},
		{"terminate of nothing succeeds", plenty, func(l *lab) { l.terminate() }},
		{"terminate twice at the same time returns to both when the instance is gone", plenty, terminateParallel},
	}
}

func terminateEnds(l *lab) {
	w := l.watch(l.owner)
	id := l.launch("a", 1)[0].ID
	w.wantRunning(id)
	// Else a harness that sees nothing would pass all that follows.
	l.eventually("the harness sees the running instance alive", func() bool { return l.Alive(l, id) })
	l.terminate(id)
	l.wantGone(id)
	l.wantListed(l.owner, nil)
}

func terminatePending(l *lab) {
	id := l.launch("a", 1)[0].ID
	l.terminate(id)
	l.wantGone(id)
	l.wantListed(l.owner, nil)
}

func terminateSeveral(l *lab) {
	instances := ids(l.launch("a", 3))
	l.terminate(instances[:2]...)
	l.wantGone(instances[0])
	l.wantGone(instances[1])
	l.wantListed(l.owner, instances[2:])
}

func terminateTwice(l *lab) {
	id := l.launch("a", 1)[0].ID
	l.terminate(id)
	l.terminate(id)
	l.wantListed(l.owner, nil)
}

func terminateUnknown(l *lab) {
	l.terminate(l.harness.UnknownInstanceID)
}

func terminateMixed(l *lab) {
	gone, alive := l.launch("a", 1)[0].ID, l.launch("b", 1)[0].ID
	l.terminate(gone)
	l.terminate(l.harness.UnknownInstanceID, gone, alive)
	l.wantGone(alive)
	l.wantListed(l.owner, nil)
}

func terminateDead(l *lab) {
	w := l.watch(l.owner)
	id := l.launch("a", 1)[0].ID
	w.wantRunning(id)
	l.Kill(l, id)
	l.terminate(id)
	l.wantGone(id)
}

func terminateParallel(l *lab) {
	w := l.watch(l.owner)
	id := l.launch("a", 1)[0].ID
	w.wantRunning(id)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := l.Provider.Terminate(l.ctx, []string{id}); err != nil {
				l.Errorf("terminate: %v", err)
			}
			if l.Alive(l, id) {
				l.Error("terminate returned and the instance is alive")
			}
		})
	}
	wg.Wait()
}
