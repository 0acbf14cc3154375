package etcd

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

// Campaign implements journal.Journal. It takes over at once: writing the writer key gives a revision higher than every one before,
// and no append that names another revision passes from then on. There is no lease to wait for. A former process is dead, as
// the lock on the data directory proves, and a handle of this process gives way by the contract.
func (j *Journal) Campaign(ctx context.Context) (journal.Term, error) {
	inner, done, err := j.request(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	response, err := j.client.Put(inner, j.keys.writer, j.owner)
	if err != nil {
		// If it was written nonetheless, that is a term which nobody holds; the next campaign gets a higher one.
		return 0, j.explain(ctx, fmt.Errorf("campaigning: %w", err))
	}
	term := journal.Term(response.Header.Revision)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.term = max(j.term, term)
	return term, nil
}

// resign removes the writer key if it is still that of the term. Nothing rests on it: the next campaign overwrites the key.
func (j *Journal) resign(term journal.Term) error {
	if term == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_, err := j.client.Txn(ctx).If(
		clientv3.Compare(clientv3.ModRevision(j.keys.writer), "=", int64(term)),
	).Then(clientv3.OpDelete(j.keys.writer)).Commit()
	if err != nil {
		return fmt.Errorf("journal: giving up term %d: %w", term, err)
	}
	return nil
}
