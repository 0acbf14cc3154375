package providertest

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nightshift-batch/nightshift/providers"
)

func callSubtests() []subtest {
	plenty := Faults{Capacity: Plenty}
	return []subtest{
		{"offers honours a cancelled context", plenty, honoursContext(func(ctx context.Context, l *lab) error {
			_, err := l.Provider.Offers(ctx)
			return err
		})},
		{"launch honours a cancelled context and launches nothing", plenty, honoursContext(func(ctx context.Context, l *lab) error {
			_, err := l.Provider.Launch(ctx, l.request("a", 1))
			return err
		})},
		{"terminate honours a cancelled context", plenty, honoursContext(func(ctx context.Context, l *lab) error {
			return l.Provider.Terminate(ctx, []string{l.harness.UnknownInstanceID})
		})},
		{"list honours a cancelled context", plenty, honoursContext(func(ctx context.Context, l *lab) error {
			_, err := l.Provider.List(ctx, l.owner)
			return err
		})},
		{"watch honours a cancelled context", plenty, honoursContext(func(ctx context.Context, l *lab) error {
			return l.Provider.Watch(ctx, l.owner, func(providers.Event) {})
		})},
		{"all methods may be called at the same time", plenty, concurrentUse},
	}
}

func honoursContext(call func(context.Context, *lab) error) func(*lab) {
	return func(l *lab) {
		ctx, cancel := context.WithCancel(l.ctx)
		cancel()
		err := call(ctx, l)
		l.wantKind(err, providers.KindTransient)
		if !errors.Is(err, context.Canceled) {
			l.Errorf("error %v does not wrap the context's", err)
		}
		l.wantListed(l.owner, nil)
	}
}

func concurrentUse(l *lab) {
	w := l.watch(l.owner)
	var wg sync.WaitGroup
	launched := make([]string, MostInstances/2)
	for i := range launched {
		wg.Go(func() {
			result, err := l.Provider.Launch(l.ctx, l.request(fmt.Sprint("a", i), 1))
			if err != nil || len(result.Instances) != 1 {
				l.Errorf("launch: %d instances, %v", len(result.Instances), err)
				return
			}
			launched[i] = result.Instances[0].ID
			if _, err := l.Provider.Offers(l.ctx); err != nil {
				l.Errorf("offers: %v", err)
			}
			if _, err := l.Provider.List(l.ctx, l.owner); err != nil {
				l.Errorf("list: %v", err)
			}
			if i%2 == 0 {
				if err := l.Provider.Terminate(l.ctx, []string{launched[i]}); err != nil {
					l.Errorf("terminate: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if l.Failed() {
		return
	}
	var left []string
	for i, id := range launched {
		if i%2 != 0 {
			left = append(left, id)
		}
	}
	w.wantRunning(left...)
	l.wantListed(l.owner, left)
	l.terminate(left...)
	l.wantListed(l.owner, nil)
}
