package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

// leaseSeconds is how long a writer in a cluster that is not heard of stays the writer. It is heard of each renewEvery, and etcd
// looks for those that have run out twice a second: another takes over in less than 4 seconds. etcd takes no lease of less than 2.
const (
	leaseSeconds = 3
	renewEvery   = time.Second
)

// Campaign implements journal.Journal. Writing the writer key gives a revision higher than every one before, and no append that names
// another revision passes from then on.
//
// On an etcd of this process's own it takes over at once. There is no lease to wait for: a former process is dead, as the lock on
// the data directory proves, and a handle of this process gives way by the contract. In a cluster the writer key has a lease, and
// Campaign waits until the key is gone: given up by its writer, or taken back by etcd because its writer is not heard of any more.
func (j *Journal) Campaign(ctx context.Context) (journal.Term, error) {
	inner, done, err := j.request(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	term, err := j.campaign(ctx, inner)
	if err != nil {
		return 0, err
	}
	// Nobody writes snapshots now but this term.
	if err := j.sweep(inner, term); err != nil {
		return 0, j.explain(ctx, fmt.Errorf("removing what is left of a snapshot that was not finished: %w", err))
	}
	return term, nil
}

func (j *Journal) campaign(ctx, inner context.Context) (journal.Term, error) {
	if j.leaseSeconds > 0 {
		return j.elect(ctx, inner)
	}
	response, err := j.client.Put(inner, j.keys.writer, j.owner)
	if err != nil {
		// If it was written nonetheless, that is a term which nobody holds; the next campaign gets a higher one.
		return 0, j.explain(ctx, fmt.Errorf("campaigning: %w", err))
	}
	return j.begin(reign{term: journal.Term(response.Header.Revision)}), nil
}

// reign is what a handle holds while it is the writer. Of several, which concurrent campaigns of one handle bring, the newest counts.
type reign struct {
	term  journal.Term     // 0 for none
	lease clientv3.LeaseID // 0 without one
	// lapse stops renewing the lease.
	lapse context.CancelFunc
}

// begin makes a new reign the one that Close gives up.
func (j *Journal) begin(r reign) journal.Term {
	j.mu.Lock()
	defer j.mu.Unlock()
	if r.term > j.reign.term {
		j.reign = r
	}
	return r.term
}

// elect waits until there is no writer in the cluster, and becomes it.
func (j *Journal) elect(ctx, inner context.Context) (journal.Term, error) {
	j.mu.Lock()
	former := j.reign
	j.reign = reign{}
	j.mu.Unlock()
	if err := j.resign(inner, former); err != nil {
		return 0, j.explain(ctx, err)
	}
	told := ""
	for {
		free, holder, err := j.awaitFree(inner, told)
		if err != nil {
			return 0, j.explain(ctx, fmt.Errorf("waiting for the writer %s to end: %w", holder, err))
		}
		if !free {
			told = holder
			continue
		}
		r, err := j.take(inner)
		if err != nil {
			return 0, j.explain(ctx, fmt.Errorf("campaigning: %w", err))
		}
		if r.term > 0 {
			return j.begin(r), nil
		}
	}
}

// awaitFree returns true if there is no writer, and otherwise waits until the one that there is has ended. It tells the log who that is, once.
func (j *Journal) awaitFree(ctx context.Context, told string) (free bool, holder string, err error) {
	response, err := j.client.Get(ctx, j.keys.writer)
	if err != nil {
		return false, told, err
	}
	if len(response.Kvs) == 0 {
		return true, told, nil
	}
	if holder = string(response.Kvs[0].Value); holder != told {
		j.log.Warn("another control plane is the writer of the log; waiting until it ends", "writer", holder)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for change := range j.client.Watch(ctx, j.keys.writer, clientv3.WithRev(response.Header.Revision+1)) {
		if err := change.Err(); err != nil {
			return false, holder, err
		}
		if len(change.Events) > 0 {
			return false, holder, nil
		}
	}
	return false, holder, fmt.Errorf("the watch on the writer ended: %w", context.Cause(ctx))
}

// take becomes the writer if there is still none; the term is 0 if somebody else was faster.
func (j *Journal) take(ctx context.Context) (reign, error) {
	lease, err := j.client.Grant(ctx, j.leaseSeconds)
	if err != nil {
		return reign{}, err
	}
	r := reign{lease: lease.ID}
	response, err := j.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(j.keys.writer), "=", 0)).
		Then(clientv3.OpPut(j.keys.writer, j.owner, clientv3.WithLease(lease.ID))).Commit()
	if err != nil || !response.Succeeded {
		// If it was written nonetheless, that goes with the lease, by itself if it must.
		_, _ = j.client.Revoke(ctx, lease.ID)
		return reign{}, err
	}
	r.term = journal.Term(response.Header.Revision)
	var renewing context.Context
	renewing, r.lapse = context.WithCancel(j.life)
	j.calls.Go(func() { j.renew(renewing, lease.ID) })
	return r, nil
}

// renew keeps a lease until the context ends or the lease is gone, which the next append finds. Each renewal is a request of its own, since
// those go to one member after the other: a stream would stay with one that has stopped to answer, for longer than the lease lasts.
func (j *Journal) renew(ctx context.Context, lease clientv3.LeaseID) {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		once, cancel := context.WithTimeout(ctx, renewEvery)
		_, err := j.client.KeepAliveOnce(once, lease)
		cancel()
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			j.log.Warn("this control plane is the writer of the log no more: etcd has not heard of it in time", "seconds", j.leaseSeconds)
			return
		}
		switch {
		case err == nil:
			j.recheck(ctx)
		case ctx.Err() == nil:
			j.log.Warn("etcd did not renew the writer's lease; trying again", "error", err)
			j.avoid(ctx)
		}
	}
}

// resign gives a term up. Nothing rests on it: without a lease the next campaign overwrites the key, and with one it runs out.
func (j *Journal) resign(ctx context.Context, r reign) error {
	if r.term == 0 {
		return nil
	}
	var err error
	if r.lease == 0 {
		_, err = j.client.Txn(ctx).If(
			clientv3.Compare(clientv3.ModRevision(j.keys.writer), "=", int64(r.term)),
		).Then(clientv3.OpDelete(j.keys.writer)).Commit()
	} else {
		r.lapse()
		if _, err = j.client.Revoke(ctx, r.lease); errors.Is(err, rpctypes.ErrLeaseNotFound) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("giving up term %d: %w", r.term, err)
	}
	return nil
}
