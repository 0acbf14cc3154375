package etcd

import (
	"cmp"
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
	end, err := j.readTail(ctx)
	return end.seq, err
}

// readTail is tail for those who have not begun a request.
func (j *Journal) readTail(ctx context.Context) (tail, error) {
	inner, done, err := j.request(ctx)
	if err != nil {
		return tail{}, err
	}
	defer done()
	var end tail
	err = j.ask(inner, func(ctx context.Context) (err error) {
		end, err = j.tail(ctx)
		return err
	})
	if err != nil {
		return tail{}, j.explain(ctx, err)
	}
	return end, nil
}

// ask makes a request that reads. If a member of a cluster does not answer in time it asks again, and allows more time: requests go to the
// members in turn, so the next one is for another.
func (j *Journal) ask(ctx context.Context, request func(context.Context) error) error {
	if j.answerWithin == 0 {
		return request(ctx)
	}
	for within := j.answerWithin / 2; ; within *= 2 {
		once, cancel := context.WithTimeout(ctx, within)
		err := request(once)
		late := once.Err() != nil
		cancel()
		if err == nil || !late || ctx.Err() != nil || within > mostPatience {
			return err
		}
		j.avoid(ctx)
	}
}

// Read implements journal.Journal.
func (j *Journal) Read(ctx context.Context, from journal.Seq, yield func(journal.Batch) error) error {
	end, err := j.readTail(ctx)
	if err != nil {
		return err
	}
	return j.readTo(ctx, journal.ChainFrom(max(from, 1)), end, yield)
}

// readTo yields the batches that follow in the chain up to the end of the log, which must exist.
func (j *Journal) readTo(ctx context.Context, chain *journal.Chain, end tail, yield func(journal.Batch) error) error {
	return j.walk(ctx, chain, end, func(b journal.Batch, _ []byte) error { return yield(b) })
}

// walk is readTo with the batches as they are stored. A batch is written once, so pages fetched one after the other fit together
// without a common revision, which compaction could take away.
func (j *Journal) walk(ctx context.Context, chain *journal.Chain, end tail, yield func(b journal.Batch, stored []byte) error) error {
	for chain.Next() <= end.seq {
		page, err := j.page(ctx, chain.Next(), end.seq)
		if err != nil {
			return cmp.Or(j.compacted(ctx, chain.Next()), err)
		}
		for _, kv := range page {
			b, err := j.keys.decodeBatch(string(kv.Key), kv.Value)
			if err != nil {
				return err
			}
			next := chain.Next()
			if err := chain.Add(b); err != nil {
				return cmp.Or(j.compacted(ctx, next), fmt.Errorf("%w; key %s", err, kv.Key))
			}
			if b.Last() == end.seq && end.linked && b.Digest != end.digest {
				return j.otherTail(b, end)
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := yield(b, kv.Value); err != nil {
				return err
			}
		}
	}
	return nil
}

// compacted tells whether a batch that is not where it should be was compacted away, before or while it was to be read: a
// *journal.CompactedError, or nil.
func (j *Journal) compacted(ctx context.Context, next journal.Seq) error {
	inner, done, err := j.request(ctx)
	if err != nil {
		return nil // the other error is as good
	}
	defer done()
	start, err := j.beginning(inner)
	if err != nil || next > start.seq {
		return nil // what is missing stays missing
	}
	return &journal.CompactedError{First: start.seq + 1}
}

// otherTail says that the log's last batch is whole, but not the one that the head was written with.
func (j *Journal) otherTail(b journal.Batch, end tail) error {
	return fmt.Errorf("%w: the batch of facts %d to %d, key %s, has digest %v, but the head, key %s, names %v: the batch was replaced",
		journal.ErrCorrupt, b.First, b.Last(), j.keys.batch(b.Last()), b.Digest, j.keys.head, end.digest)
}

// page fetches some of the batches that hold facts from next to head: at least one.
func (j *Journal) page(ctx context.Context, next, head journal.Seq) ([]*mvccpb.KeyValue, error) {
	inner, done, err := j.request(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	first, last := j.keys.batch(next), j.keys.batch(head)
	var response *clientv3.GetResponse
	err = j.ask(inner, func(ctx context.Context) (err error) {
		response, err = j.client.Get(ctx, first, clientv3.WithRange(last+"\x00"), clientv3.WithLimit(pageBatches))
		return err
	})
	if err != nil {
		return nil, j.explain(ctx, err)
	}
	if len(response.Kvs) == 0 {
		return nil, fmt.Errorf("%w: the batch with fact %d is missing: no key from %s to %s", journal.ErrCorrupt, next, first, last)
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
	end, err := j.readTail(ctx)
	if err != nil {
		return err
	}
	chain := journal.ChainFrom(max(from, 1))
	for {
		if err := j.readTo(ctx, chain, end, yield); err != nil {
			return err
		}
		select {
		case end = <-moves:
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
func (j *Journal) watchHead(ctx context.Context) (moves <-chan tail, failed <-chan error, err error) {
	inner, done, err := j.request(ctx)
	if err != nil {
		return nil, nil, err
	}
	newest, broken := make(chan tail, 1), make(chan error, 1)
	watch := j.client.Watch(inner, j.keys.head, clientv3.WithCreatedNotify(), clientv3.WithFilterDelete())
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
				end, err := decodeTail(j.keys.head, event.Kv.Value)
				if err != nil {
					broken <- err
					return
				}
				select {
				case <-newest:
				default:
				}
				newest <- end
			}
		}
		broken <- errors.New("the watch on the head ended")
	}()
	return newest, broken, nil
}

// checkEnd compares the head with the batches around it: its own is there and whole, and none is beyond. A log that was cut or
// restored by halves is so noticed when it is opened, and not when the writer goes on in the wrong place.
func (j *Journal) checkEnd(ctx context.Context) error {
	end, err := j.readTail(ctx)
	if err != nil {
		return err
	}
	inner, done, err := j.request(ctx)
	if err != nil {
		return err
	}
	defer done()
	key := j.keys.batch(end.seq)
	// Another writer may append in between, so only one batch beyond the head is looked for, together with the head.
	response, err := j.client.Txn(inner).If(j.endIs(end)).Then(
		clientv3.OpGet(key, clientv3.WithRange(j.keys.batchesEnd), clientv3.WithLimit(2)),
	).Commit()
	if err != nil {
		return j.explain(ctx, err)
	}
	if !response.Succeeded {
		return nil // it moved: somebody else is writing, and has checked
	}
	found := response.Responses[0].GetResponseRange().Kvs
	if end.seq > 0 {
		if len(found) == 0 || string(found[0].Key) != key {
			return fmt.Errorf("%w: the head is %d, but the batch that ends with it, key %s, is missing", journal.ErrCorrupt, end.seq, key)
		}
		b, err := j.keys.decodeBatch(key, found[0].Value)
		if err != nil {
			return err
		}
		if end.linked && b.Digest != end.digest {
			return j.otherTail(b, end)
		}
		found = found[1:]
	}
	if len(found) > 0 {
		return fmt.Errorf("%w: the head is %d, but a batch lies beyond it, key %s", journal.ErrCorrupt, end.seq, found[0].Key)
	}
	return nil
}
