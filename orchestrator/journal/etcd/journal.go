// Package etcd keeps the journal in etcd: embedded in this process, or a cluster on other machines.
//
// What is stored, under one prefix:
//
//	writer       who holds the newest term; the term is the revision at which the key was written. The election key
//	head         the number of the last fact, and the digest of the last batch
//	batch/NNN    the facts that were appended together, packed, with their term, their digest and that of the batch before; NNN is
//	             the last one's number
//	chunk/N-T/M  chunks of the snapshot after fact N that was begun in term T
//	snapshot     which of them is the newest whole one
//	start        the last fact that was compacted away, and the digest of its batch; start-known says that this is so
//
// An append is one transaction: if writer has still the revision that is the caller's term, and head the value that the caller
// believes, and the batch's key is free, then batch and head are put. etcd answers when its log is on disk. What the transaction
// compares is all the fencing there is, so nothing depends on clocks or on a lease being noticed in time.
//
// Two layers. Journal, in this file and those for reading and taking over, is written against an etcd client and knows no
// server. Open starts a server in this process, with no listener at all, and hands the Journal a client that calls it
// directly. With a cluster on other machines only taking over differs: the writer key has a lease, and who campaigns waits until
// it is gone; the embedded journal knows by the lock on its directory that no other process can be writing.
//
// How it fails: damage is ErrCorrupt with the key; a full store is ErrFull; anything that leaves an append in doubt is
// ErrUnknownOutcome. When etcd's own log is damaged, or the disk refuses a write to it, etcd logs why and ends the process, since
// it cannot know what is durable after that.
package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

// closeTimeout bounds the last request of a Journal that is closed.
const closeTimeout = 2 * time.Second

// Journal is a handle on a log in etcd.
type Journal struct {
	client *clientv3.Client
	keys   keys
	// owner is written to the writer key for people who look there.
	owner string
	// leaseSeconds is how long a term lasts when its writer is gone; 0 for a log that no other process can write.
	leaseSeconds int64
	log          *slog.Logger
	// defragmentAt has a member write its file anew.
	defragmentAt func(ctx context.Context, endpoint string) error
	// answerWithin bounds an append, if not 0, and makes reads ask again (ask). A member may wait for seconds for a leader that is
	// gone, or not answer at all; the next request goes to another.
	answerWithin time.Duration
	// roster is for a cluster alone.
	roster roster
	// release frees what the client needs, after the client.
	release func() error

	// life ends with Close, and all requests with it; calls counts those under way.
	life  context.Context
	stop  context.CancelFunc
	calls sync.WaitGroup

	mu     sync.Mutex
	closed bool
	reign  reign // what Close gives up
	end    tail  // the newest that this handle has seen

	// upkeep is held by the one Snapshot or Compact at work; freed belongs to it: bytes that were removed since the store's file was
	// written anew.
	upkeep sync.Mutex
	freed  int64
	stats  journal.Stats
}

var _ journal.Journal = (*Journal)(nil)

// newJournal makes a handle on the log that the client reaches, and checks that the log's end is whole. The handle owns the client;
// its Close calls release last. When newJournal fails the caller still owns both.
func newJournal(ctx context.Context, client *clientv3.Client, keys keys, log *slog.Logger, release func() error) (*Journal, error) {
	life, stop := context.WithCancel(context.Background())
	j := &Journal{client: client, keys: keys, owner: owner(), log: log, release: release, life: life, stop: stop, end: emptyTail()}
	if err := j.checkEnd(ctx); err != nil {
		stop()
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
	end, err := j.tailAt(inner, head)
	if err != nil {
		return 0, fmt.Errorf("nothing was appended: %w", j.explain(ctx, err))
	}
	b := journal.Batch{First: head + 1, Term: term, Facts: facts, Previous: end.digest}
	bounded := inner
	if j.answerWithin > 0 {
		var cancel context.CancelFunc
		bounded, cancel = context.WithTimeout(inner, j.answerWithin)
		defer cancel()
	}
	err = j.append(bounded, end, b)
	if errors.Is(err, journal.ErrUnknownOutcome) && bounded.Err() != nil && inner.Err() == nil {
		j.avoid(inner)
	}
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

// append puts a batch after the log's end.
func (j *Journal) append(ctx context.Context, end tail, b journal.Batch) error {
	value, digest := journal.EncodeBatch(b)
	key, next := j.keys.batch(b.Last()), newTail(b.Last(), digest)
	response, err := j.client.Txn(ctx).If(
		j.reigns(b.Term),
		j.endIs(end),
		clientv3.Compare(clientv3.CreateRevision(key), "=", 0),
	).Then(
		clientv3.OpPut(key, string(value)),
		clientv3.OpPut(j.keys.head, next.stored),
	).Else(
		clientv3.OpGet(j.keys.writer),
		clientv3.OpGet(j.keys.head),
	).Commit()
	switch {
	case err == nil && !response.Succeeded:
		return j.refusal(b, end, response)
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return fmt.Errorf("%w: etcd: %w", journal.ErrTooLarge, err)
	case errors.Is(err, rpctypes.ErrTooManyRequests):
		// etcd refuses these before it proposes them.
		return fmt.Errorf("journal: etcd is overloaded, nothing was written: %w", err)
	case errors.Is(err, rpctypes.ErrNoSpace):
		err = j.full(ctx, key, value, err)
	case err != nil:
		err = fmt.Errorf("%w: etcd: %w", journal.ErrUnknownOutcome, err)
	}
	if err == nil {
		j.remember(next)
	}
	return err
}

// tailAt returns the log's end if it is at that fact, and else one that it does not have, so that the append is refused by the
// transaction, which tells the reasons in their order. As a rule the end is that of this handle's last append, and etcd is not asked.
func (j *Journal) tailAt(ctx context.Context, head journal.Seq) (tail, error) {
	j.mu.Lock()
	end := j.end
	j.mu.Unlock()
	if end.seq == head && end.linked {
		return end, nil
	}
	end, err := j.tail(ctx)
	switch {
	case err != nil:
		return tail{}, err
	case end.seq != head:
		return oldTail(head), nil
	case end.linked:
		return end, nil
	}
	response, err := j.client.Get(ctx, j.keys.batch(head))
	if err != nil {
		return tail{}, err
	}
	if len(response.Kvs) == 0 {
		return tail{}, fmt.Errorf("%w: the head is %d, but the batch that ends with it, key %s, is missing", journal.ErrCorrupt, head, j.keys.batch(head))
	}
	last, err := j.keys.decodeBatch(j.keys.batch(head), response.Kvs[0].Value)
	end.digest, end.linked = last.Digest, true
	return end, err
}

// tail reads the log's end. The read is linearizable.
func (j *Journal) tail(ctx context.Context) (tail, error) {
	response, err := j.client.Get(ctx, j.keys.head)
	if err != nil {
		return tail{}, err
	}
	if len(response.Kvs) == 0 {
		return emptyTail(), nil
	}
	end, err := decodeTail(j.keys.head, response.Kvs[0].Value)
	if err == nil {
		j.remember(end)
	}
	return end, err
}

// remember keeps an end of the log for the next append.
func (j *Journal) remember(end tail) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.end = end
}

// endIs compares the stored head. An empty log has none.
func (j *Journal) endIs(end tail) clientv3.Cmp {
	if end.seq == 0 {
		return clientv3.Compare(clientv3.CreateRevision(j.keys.head), "=", 0)
	}
	return clientv3.Compare(clientv3.Value(j.keys.head), "=", end.stored)
}

// refusal tells why the transaction did not put the batch after what was believed to be the end. A stale term comes before a wrong
// head: who is fenced must not try again.
func (j *Journal) refusal(b journal.Batch, believed tail, response *clientv3.TxnResponse) error {
	if err := fenced(b.Term, response.Responses[0]); err != nil {
		return err
	}
	heads := response.Responses[1].GetResponseRange().Kvs
	end := emptyTail()
	if len(heads) > 0 {
		var err error
		if end, err = decodeTail(j.keys.head, heads[0].Value); err != nil {
			return err
		}
	}
	switch {
	case end.seq != b.First-1:
		return fmt.Errorf("%w: it is %d, not %d", journal.ErrHeadMoved, end.seq, b.First-1)
	case end.stored != believed.stored:
		return fmt.Errorf("%w: the head, key %s, is %d as before, but was %q and is %q: the log was replaced",
			journal.ErrCorrupt, j.keys.head, end.seq, believed.stored, end.stored)
	}
	return fmt.Errorf("%w: the head is %d, but there is a batch that ends with fact %d, key %s",
		journal.ErrCorrupt, end.seq, b.Last(), j.keys.batch(b.Last()))
}

// reigns compares the writer key with a term. A missing key has revision 0, which is no term.
func (j *Journal) reigns(term journal.Term) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(j.keys.writer), "=", int64(term))
}

// fenced reads the writer key: ErrFenced if the term is not the newest.
func fenced(term journal.Term, response *etcdserverpb.ResponseOp) error {
	writers := response.GetResponseRange().Kvs
	if len(writers) == 0 {
		return fmt.Errorf("%w: term %d was given up, or its writer was not heard of", journal.ErrFenced, term)
	}
	if w := writers[0]; journal.Term(w.ModRevision) != term {
		return fmt.Errorf("%w: term %d, the newest is %d of %s", journal.ErrFenced, term, w.ModRevision, w.Value)
	}
	return nil
}

// full settles an append that etcd refused for want of space. etcd reports that before it proposes the transaction, but also, the
// first time that the limit is crossed, after it has applied it (quotaApplierV3 in etcd's server). Either way the answer is
// final, so looking is enough.
func (j *Journal) full(ctx context.Context, key string, value []byte, cause error) error {
	response, err := j.client.Get(ctx, key)
	if err != nil {
		return fmt.Errorf("%w: etcd: %w, and then: %w", journal.ErrUnknownOutcome, cause, err)
	}
	for _, kv := range response.Kvs {
		if bytes.Equal(kv.Value, value) {
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

	j.stop()
	j.calls.Wait()
	j.mu.Lock()
	last := j.reign // a campaign that was under way has set it by now
	j.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := j.resign(ctx, last)
	if err != nil {
		err = fmt.Errorf("journal: %w", err)
	}
	// Of an in-process client, Close always answers that its context has ended.
	if cerr := j.client.Close(); cerr != nil && !errors.Is(cerr, context.Canceled) {
		err = errors.Join(err, fmt.Errorf("journal: closing the etcd client: %w", cerr))
	}
	return errors.Join(err, j.release())
}
