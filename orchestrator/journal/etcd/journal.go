// Package etcd keeps the journal in etcd, embedded in this process by default.
//
// What is stored, under one prefix:
//
//	writer       who holds the newest term; the term is the revision at which the key was written
//	head         the number of the last fact
//	batch/NNN    the facts that were appended together, packed, with their term and a CRC32C; NNN is the last one's number
//
// An append is one transaction: if writer has still the revision that is the caller's term, and head the value that the caller
// believes, and the batch's key is free, then batch and head are put. etcd answers when its log is on disk. What the transaction
// compares is all the fencing there is, so nothing depends on clocks or on a lease being noticed in time.
//
// Two layers. Journal, in this file and those for reading and taking over, is written against an etcd client and knows no
// server. Open starts a server in this process, with no listener at all, and hands the Journal a client that calls it
// directly. For an external cluster, only taking over differs: it has to wait for the former writer's lease, where the embedded
// journal knows by the lock on its directory that no other process can be writing.
//
// How it fails: damage is ErrCorrupt with the key; a full store is ErrFull; anything that leaves an append in doubt is
// ErrUnknownOutcome. When etcd's own log is damaged, or the disk refuses a write to it, etcd logs why and ends the process, since
// it cannot know what is durable after that.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

// closeTimeout bounds the last request of a Journal that is closed.
const closeTimeout = 2 * time.Second

// Journal is a handle on a log in etcd.
type Journal struct {
	client *clientv3.Client
	// owner is written to the writer key for people who look there.
	owner string
	// release frees what the client needs, after the client.
	release func() error

	// life ends with Close, and all requests with it; calls counts those under way.
	life  context.Context
	end   context.CancelFunc
	calls sync.WaitGroup

	mu     sync.Mutex
	closed bool
	term   journal.Term // the term that Close gives up, 0 for none
	stats  journal.Stats
}

var _ journal.Journal = (*Journal)(nil)

// newJournal makes a handle on the log that the client reaches, and checks that the log's end is whole. The handle owns the client;
// its Close calls release last. When newJournal fails the caller still owns both.
func newJournal(ctx context.Context, client *clientv3.Client, owner string, release func() error) (*Journal, error) {
	life, end := context.WithCancel(context.Background())
	j := &Journal{client: client, owner: owner, release: release, life: life, end: end}
	if err := j.checkEnd(ctx); err != nil {
		end()
		return nil, err
	}
	return j, nil
}

// request begins one call to etcd, or fails with ErrClosed. The context that it returns ends with the handle too; done must be
// called after the call. Close waits for it: etcd must not be stopped under a request that runs inside this process.
func (j *Journal) request(ctx context.Context) (inner context.Context, done func(), err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil, nil, journal.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	j.calls.Add(1)
	inner, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(j.life, cancel)
	return inner, func() {
		stop()
		cancel()
		j.calls.Done()
	}, nil
}

// explain names the cause of an error of etcd's where it is the context's end or Close.
func (j *Journal) explain(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case j.life.Err() != nil:
		return journal.ErrClosed
	case errors.Is(err, journal.ErrCorrupt):
		return err
	case errors.Is(err, rpctypes.ErrNoSpace):
		return fmt.Errorf("%w: etcd: %w", journal.ErrFull, err)
	case errors.Is(err, rpctypes.ErrCorrupt):
		return fmt.Errorf("%w: etcd: %w", journal.ErrCorrupt, err)
	}
	return fmt.Errorf("journal: etcd: %w", err)
}

// Append implements journal.Journal.
func (j *Journal) Append(ctx context.Context, term journal.Term, head journal.Seq, facts [][]byte) (journal.Seq, error) {
	if err := journal.CheckBatch(facts); err != nil {
		return 0, err
	}
	inner, done, err := j.request(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	if term == 0 {
		return 0, fmt.Errorf("%w: 0 is no term", journal.ErrFenced)
	}
	b := journal.Batch{First: head + 1, Term: term, Facts: facts}
	err = j.append(inner, b)
	if errors.Is(err, journal.ErrUnknownOutcome) && j.life.Err() != nil {
		err = fmt.Errorf("%w: %w", err, journal.ErrClosed)
	}
	j.mu.Lock()
	j.stats.Count(facts, err)
	j.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return b.Last(), nil
}

func (j *Journal) append(ctx context.Context, b journal.Batch) error {
	key := batchKey(b.Last())
	response, err := j.client.Txn(ctx).If(
		// A missing key has revision 0, which is no term.
		clientv3.Compare(clientv3.ModRevision(writerKey), "=", int64(b.Term)),
		headIs(b.First-1),
		clientv3.Compare(clientv3.CreateRevision(key), "=", 0),
	).Then(
		clientv3.OpPut(key, encodeBatch(b)),
		clientv3.OpPut(headKey, encodeHead(b.Last())),
	).Else(
		clientv3.OpGet(writerKey),
		clientv3.OpGet(headKey),
	).Commit()
	switch {
	case err == nil && response.Succeeded:
		return nil
	case err == nil:
		return refusal(b, key, response)
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return fmt.Errorf("%w: etcd: %w", journal.ErrTooLarge, err)
	case errors.Is(err, rpctypes.ErrTooManyRequests):
		// etcd refuses these before it proposes them.
		return fmt.Errorf("journal: etcd is overloaded, nothing was written: %w", err)
	case errors.Is(err, rpctypes.ErrNoSpace):
		return j.full(ctx, b, err)
	}
	return fmt.Errorf("%w: etcd: %w", journal.ErrUnknownOutcome, err)
}

// headIs compares the stored head. An empty log has none.
func headIs(head journal.Seq) clientv3.Cmp {
	if head == 0 {
		return clientv3.Compare(clientv3.CreateRevision(headKey), "=", 0)
	}
	return clientv3.Compare(clientv3.Value(headKey), "=", encodeHead(head))
}

// refusal tells why the transaction did not put the batch. A stale term comes before a wrong head: who is fenced must not try again.
func refusal(b journal.Batch, key string, response *clientv3.TxnResponse) error {
	writers, heads := response.Responses[0].GetResponseRange().Kvs, response.Responses[1].GetResponseRange().Kvs
	if len(writers) == 0 {
		return fmt.Errorf("%w: term %d was given up", journal.ErrFenced, b.Term)
	}
	if w := writers[0]; journal.Term(w.ModRevision) != b.Term {
		return fmt.Errorf("%w: term %d, the newest is %d of %s", journal.ErrFenced, b.Term, w.ModRevision, w.Value)
	}
	head := journal.Seq(0)
	if len(heads) > 0 {
		var err error
		if head, err = decodeHead(heads[0].Value); err != nil {
			return err
		}
	}
	if head != b.First-1 {
		return fmt.Errorf("%w: it is %d, not %d", journal.ErrHeadMoved, head, b.First-1)
	}
	return fmt.Errorf("%w: the head is %d, but there is a batch that ends with fact %d, key %s", journal.ErrCorrupt, head, b.Last(), key)
}

// full settles an append that etcd refused for want of space. etcd reports that before it proposes the transaction, but also, the
// first time that the limit is crossed, after it has applied it (quotaApplierV3 in etcd's server). Either way the answer is
// final, so looking is enough.
func (j *Journal) full(ctx context.Context, b journal.Batch, cause error) error {
	response, err := j.client.Get(ctx, batchKey(b.Last()))
	if err != nil {
		return fmt.Errorf("%w: etcd: %w, and then: %w", journal.ErrUnknownOutcome, cause, err)
	}
	for _, kv := range response.Kvs {
		if string(kv.Value) == encodeBatch(b) {
			return nil
		}
	}
	return fmt.Errorf("%w: %w", journal.ErrFull, cause)
}

// Stats returns what this handle has appended so far.
func (j *Journal) Stats() journal.Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.stats
}

// Close implements journal.Journal.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil
	}
	j.closed = true
	j.mu.Unlock()

	j.end()
	j.calls.Wait()
	j.mu.Lock()
	term := j.term // a campaign that was under way has set it by now
	j.mu.Unlock()
	err := j.resign(term)
	// Of an in-process client, Close always answers that its context has ended.
	if cerr := j.client.Close(); cerr != nil && !errors.Is(cerr, context.Canceled) {
		err = errors.Join(err, fmt.Errorf("journal: closing the etcd client: %w", cerr))
	}
	return errors.Join(err, j.release())
}
