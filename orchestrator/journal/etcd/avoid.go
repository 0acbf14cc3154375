package etcd

import (
	"context"
	"slices"
	"sync"
	"time"
)

// probeTimeout is what a member has to answer in when it is asked whether it is there. It needs no other member for that.
const probeTimeout = 500 * time.Millisecond

// recheckEvery is how often members that are avoided are asked again.
const recheckEvery = 5 * time.Second

// roster is a cluster's members. A member that has died closes its connections, and is left out by the client itself. One that hangs keeps
// them, and each request that goes to it is lost, until gRPC's ping notices after 13 s; so those that do not answer are left out here.
type roster struct {
	mu sync.Mutex
	// all of them, and those that requests go to.
	all, used []string
	checked   time.Time
}

// avoid has requests go to the members that answer, if some do. It is called when a request was not answered in time.
func (j *Journal) avoid(ctx context.Context) {
	if !j.roster.mu.TryLock() {
		return // somebody else is at it
	}
	defer j.roster.mu.Unlock()
	j.choose(ctx)
}

// recheck lets members that were avoided take part again when they answer.
func (j *Journal) recheck(ctx context.Context) {
	if !j.roster.mu.TryLock() {
		return
	}
	defer j.roster.mu.Unlock()
	if len(j.roster.used) < len(j.roster.all) && time.Since(j.roster.checked) > recheckEvery {
		j.choose(ctx)
	}
}

// choose asks all members at once which are there. j.roster.mu is held.
func (j *Journal) choose(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	there := make([]bool, len(j.roster.all))
	var group sync.WaitGroup
	for i, endpoint := range j.roster.all {
		group.Go(func() {
			_, err := j.client.Status(ctx, endpoint)
			there[i] = err == nil
		})
	}
	group.Wait()
	var answered []string
	for i, endpoint := range j.roster.all {
		if there[i] {
			answered = append(answered, endpoint)
		}
	}
	j.roster.checked = time.Now()
	if len(answered) == 0 || slices.Equal(answered, j.roster.used) {
		return
	}
	j.log.Warn("requests go to the members of etcd that answer", "members", answered, "of", len(j.roster.all))
	j.roster.used = answered
	j.client.SetEndpoints(answered...)
}
