package etcd

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

// pageBatches is how many batches one request fetches; with the largest batches that is some 40 MiB in memory.
const pageBatches = 32

// Head implements journal.Journal. The read is linearizable: it sees every append that was acknowledged before it began.
func (j *Journal) Head(ctx context.Context) (journal.Seq, error) {
	inner, done, err := j.request(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	response, err := j.client.Get(inner, headKey)
	if err != nil {
		return 0, j.explain(ctx, err)
	}
	if len(response.Kvs) == 0 {
		return 0, nil
	}
	return decodeHead(response.Kvs[0].Value)
}

// Read implements journal.Journal.
func (j *Journal) Read(ctx context.Context, from journal.Seq, yield func(journal.Batch) error) error {
	head, err := j.Head(ctx)
	if err != nil {
		return err
	}
	_, err = j.readTo(ctx, max(from, 1), head, yield)
	return err
}

// readTo yields the batches that hold the facts from next to head, which must exist, and returns where to go on. A batch is written
// once, so pages fetched one after the other fit together without a common revision, which compaction could take away.
func (j *Journal) readTo(ctx context.Context, next, head journal.Seq, yield func(journal.Batch) error) (journal.Seq, error) {
	middle := true // the first batch may begin before next
	for next <= head {
		page, err := j.page(ctx, next, head)
		if err != nil {
			return next, err
		}
		for _, kv := range page {
			b, err := decodeBatch(string(kv.Key), kv.Value)
			if err != nil {
				return next, err
			}
			if b.First > next || (b.First < next && !middle) {
				return next, fmt.Errorf("%w: the batch with fact %d is missing: key %s, the next one, holds facts %d to %d",
					journal.ErrCorrupt, next, kv.Key, b.First, b.Last())
			}
			middle = false
			if err := ctx.Err(); err != nil {
				return next, err
			}
			if err := yield(b); err != nil {
				return next, err
			}
			next = b.Last() + 1
		}
	}
	return next, nil
}

// page fetches some of the batches that hold facts from next to head: at least one.
func (j *Journal) page(ctx context.Context, next, head journal.Seq) ([]*mvccpb.KeyValue, error) {
	inner, done, err := j.request(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	response, err := j.client.Get(inner, batchKey(next), clientv3.WithRange(batchKey(head)+"\x00"), clientv3.WithLimit(pageBatches))
	if err != nil {
		return nil, j.explain(ctx, err)
	}
	if len(response.Kvs) == 0 {
		return nil, fmt.Errorf("%w: the batch with fact %d is missing: no key from %s to %s",
			journal.ErrCorrupt, next, batchKey(next), batchKey(head))
	}
	return response.Kvs, nil
}

// Follow implements journal.Journal. The watch is on the head alone and wakes the reading, which goes the one way that Read goes:
// a slow yield makes the next page larger, and no queue of batches grows in memory meanwhile.
func (j *Journal) Follow(ctx context.Context, from journal.Seq, yield func(journal.Batch) error) error {
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	moves, failed, err := j.watchHead(inner)
	if err != nil {
		return err
	}
	// The watch is in place, so what is appended after this look will be told.
	head, err := j.Head(ctx)
	if err != nil {
		return err
	}
	next := max(from, 1)
	for {
		if next, err = j.readTo(ctx, next, head, yield); err != nil {
			return err
		}
		select {
		case head = <-moves:
		case err := <-failed:
			return j.explain(ctx, err)
		case <-ctx.Done():
			return ctx.Err()
		case <-j.life.Done():
			return journal.ErrClosed
		}
	}
}

// watchHead starts a watch on the head and returns when it is in place. moves holds the newest head that was not received yet;
// failed gets the error that ended the watch, if the context did not.
func (j *Journal) watchHead(ctx context.Context) (moves <-chan journal.Seq, failed <-chan error, err error) {
	inner, done, err := j.request(ctx)
	if err != nil {
		return nil, nil, err
	}
	newest, broken := make(chan journal.Seq, 1), make(chan error, 1)
	watch := j.client.Watch(inner, headKey, clientv3.WithCreatedNotify(), clientv3.WithFilterDelete())
	if first, ok := <-watch; !ok || first.Err() != nil {
		err := errors.New("the watch on the head ended before it began")
		if ok {
			err = first.Err()
		}
		err = j.explain(ctx, err)
		done()
		return nil, nil, err
	}
	go func() {
		defer done()
		for response := range watch {
			if err := response.Err(); err != nil {
				broken <- err
				return
			}
			for _, event := range response.Events {
				head, err := decodeHead(event.Kv.Value)
				if err != nil {
					broken <- err
					return
				}
				select {
				case <-newest:
				default:
				}
				newest <- head
			}
		}
		broken <- errors.New("the watch on the head ended")
	}()
	return newest, broken, nil
}

// checkEnd compares the head with the batches around it: its own is there and whole, and none is beyond. A log that was cut or
// restored by halves is so noticed when it is opened, and not when the writer goes on in the wrong place.
func (j *Journal) checkEnd(ctx context.Context) error {
	head, err := j.Head(ctx)
	if err != nil {
		return err
	}
	inner, done, err := j.request(ctx)
	if err != nil {
		return err
	}
	defer done()
	// Another writer may append in between, so only one batch beyond the head is looked for, together with the head.
	response, err := j.client.Txn(inner).If(headIs(head)).Then(
		clientv3.OpGet(batchKey(head), clientv3.WithRange(batchEnd), clientv3.WithLimit(2)),
	).Commit()
	if err != nil {
		return j.explain(ctx, err)
	}
	if !response.Succeeded {
		return nil // it moved: somebody else is writing, and has checked
	}
	found := response.Responses[0].GetResponseRange().Kvs
	if head > 0 {
		if len(found) == 0 || string(found[0].Key) != batchKey(head) {
			return fmt.Errorf("%w: the head is %d, but the batch that ends with it, key %s, is missing", journal.ErrCorrupt, head, batchKey(head))
		}
		if _, err := decodeBatch(string(found[0].Key), found[0].Value); err != nil {
			return err
		}
		found = found[1:]
	}
	if len(found) > 0 {
		return fmt.Errorf("%w: the head is %d, but a batch lies beyond it, key %s", journal.ErrCorrupt, head, found[0].Key)
	}
	return nil
}
