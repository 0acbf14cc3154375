package providertest

import (
	"errors"
	"slices"

	"github.com/nightshift-batch/nightshift/providers"
)

// wantListed expects the provider to list exactly these instances of an owner, each pending or running.
func (l *lab) wantListed(owner string, want []string) {
	l.Helper()
	listed := l.list(owner)
	l.wantSame(want, ids(listed))
	for _, instance := range listed {
		if instance.State != providers.Pending && instance.State != providers.Running {
			l.Errorf("list tells of %s which is %s", instance.ID, instance.State)
		}
	}
}

// wantSame compares two sets of ids.
func (l *lab) wantSame(want, got []string) {
	l.Helper()
	want, got = slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(got))
	if !slices.Equal(want, got) {
		l.Fatalf("instances %v, want %v", got, want)
	}
}

// wantGone expects that nothing of the instance is left, by the harness' own look.
func (l *lab) wantGone(id string) {
	l.Helper()
	if l.Alive(l, id) {
		l.Errorf("%s is alive, the provider tells that it is gone", id)
	}
}

// wantKind expects an *providers.Error of a kind.
func (l *lab) wantKind(err error, want providers.ErrorKind) {
	l.Helper()
	var typed *providers.Error
	if !errors.As(err, &typed) {
		l.Fatalf("error %v (%T) is no *providers.Error", err, err)
	}
	if typed.Kind != want {
		l.Fatalf("error %v has kind %s, want %s", err, typed.Kind, want)
	}
	if typed.Op == "" || typed.Err == nil || typed.Err.Error() == "" {
		l.Errorf("error %#v names no operation or gives no reason", typed)
	}
}

// wantRefused expects a launch that brought nothing but an error of a kind.
func (l *lab) wantRefused(result providers.LaunchResult, err error, kind providers.ErrorKind) {
	l.Helper()
	l.wantKind(err, kind)
	if len(result.Instances) != 0 {
		l.Errorf("a refused launch brought %v", ids(result.Instances))
	}
}
