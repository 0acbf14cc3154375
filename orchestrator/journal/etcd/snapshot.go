package etcd

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

// manifest is the value of the snapshot key: which snapshot is the newest whole one. Its chunks are a chain, as the log is: each
// begins with the SHA-256 of the digest before and of its bytes, the first going on from the log's digest at that place.
type manifest struct {
	// at is the last fact that is in it, and log the digest of the batch that ends with it.
	at  journal.Seq
	log journal.Digest
	// term in which it was begun; at and term name the keys.
	term   journal.Term
	chunks int
	// last is the digest of the last chunk, or log if there is none.
	last journal.Digest
}

func (m manifest) encode() string {
	return withChecksum(fmt.Sprintf("%020d %x %020d %010d %x", m.at, m.log[:], m.term, m.chunks, m.last[:]))
}

func decodeManifest(key string, value []byte) (m manifest, err error) {
	var log, last []byte
	_, err = fmt.Sscanf(string(value), "%d %x %d %d %x", &m.at, &log, &m.term, &m.chunks, &last)
	copy(m.log[:], log)
	copy(m.last[:], last)
	if err != nil || m.encode() != string(value) {
		return manifest{}, fmt.Errorf("%w: what key %s holds names no snapshot: %q", journal.ErrCorrupt, key, value)
	}
	return m, nil
}

// prefix is where the keys of its chunks begin.
func (m manifest) prefix(k keys) string { return fmt.Sprintf("%s%020d-%020d/", k.chunks, m.at, m.term) }

func (m manifest) chunk(k keys, n int) string { return fmt.Sprintf("%s%010d", m.prefix(k), n) }

// seal is the digest of a chunk.
func seal(previous journal.Digest, chunk []byte) journal.Digest {
	hash := sha256.New()
	hash.Write(previous[:])
	hash.Write(chunk)
	return journal.Digest(hash.Sum(nil))
}

// newest reads which snapshot is the newest; stored is empty if there is none.
func (j *Journal) newest(ctx context.Context) (m manifest, stored string, err error) {
	response, err := j.client.Get(ctx, j.keys.snapshot)
	if err != nil || len(response.Kvs) == 0 {
		return manifest{}, "", err
	}
	m, err = decodeManifest(j.keys.snapshot, response.Kvs[0].Value)
	return m, string(response.Kvs[0].Value), err
}

// Snapshot implements journal.Journal.
func (j *Journal) Snapshot(ctx context.Context, term journal.Term, at journal.Seq, chunks iter.Seq2[[]byte, error]) error {
	j.upkeep.Lock()
	defer j.upkeep.Unlock()
	inner, done, err := j.request(ctx)
	if err != nil {
		return err
	}
	defer done()
	former, stored, err := j.newest(inner)
	if err != nil {
		return j.explain(ctx, err)
	}
	if stored != "" && at <= former.at {
		return fmt.Errorf("journal: there is a snapshot after fact %d already, and none is taken after fact %d", former.at, at)
	}
	m := manifest{at: at, term: term}
	if m.log, err = j.digestAt(inner, at); err != nil {
		return j.explain(ctx, err)
	}
	m.last = m.log
	for chunk, err := range chunks {
		if err != nil {
			return err
		}
		if err := journal.CheckChunk(chunk); err != nil {
			return err
		}
		digest := seal(m.last, chunk)
		put := clientv3.OpPut(m.chunk(j.keys, m.chunks), string(digest[:])+string(chunk))
		if err := j.upkeepTxn(ctx, inner, term, nil, put); err != nil {
			return fmt.Errorf("chunk %d of a snapshot: %w", m.chunks, err)
		}
		m.chunks, m.last = m.chunks+1, digest
	}
	return j.show(ctx, inner, m, stored)
}

// show makes a snapshot whose chunks are all there the newest one, and removes the chunks of all others.
func (j *Journal) show(ctx, inner context.Context, m manifest, former string) error {
	was := clientv3.Compare(clientv3.Value(j.keys.snapshot), "=", former)
	ops := append(m.others(j.keys), clientv3.OpPut(j.keys.snapshot, m.encode()))
	if former == "" {
		was = clientv3.Compare(clientv3.CreateRevision(j.keys.snapshot), "=", 0)
		ops = append(ops, clientv3.OpPut(j.keys.startKnown, ""))
	}
	err := j.upkeepTxn(ctx, inner, m.term, []clientv3.Cmp{was}, ops...)
	if err == nil || errors.Is(err, journal.ErrFenced) || errors.Is(err, errChanged) {
		return err
	}
	// It may have been done all the same.
	_, now, looked := j.newest(inner)
	switch {
	case looked != nil:
		return fmt.Errorf("%w: %w, and then: %w", journal.ErrUnknownOutcome, err, looked)
	case now == m.encode():
		return nil
	}
	return err
}

// others remove the chunks of all snapshots but this one; of all, if this is none.
func (m manifest) others(k keys) []clientv3.Op {
	if m.at == 0 {
		return []clientv3.Op{clientv3.OpDelete(k.chunks, clientv3.WithRange(k.chunksEnd))}
	}
	prefix := m.prefix(k)
	return []clientv3.Op{
		clientv3.OpDelete(k.chunks, clientv3.WithRange(prefix)),
		clientv3.OpDelete(clientv3.GetPrefixRangeEnd(prefix), clientv3.WithRange(k.chunksEnd)),
	}
}

// sweep removes what is left of snapshots that were not finished.
func (j *Journal) sweep(ctx context.Context, term journal.Term) error {
	m, _, err := j.newest(ctx)
	if err != nil {
		return err
	}
	_, err = j.client.Txn(ctx).If(j.reigns(term)).Then(m.others(j.keys)...).Commit()
	return err
}

// errChanged: what a transaction compared beside the term is not so.
var errChanged = errors.New("journal: somebody else has taken a snapshot or compacted the log meanwhile")

// upkeepTxn is a transaction of the writer's beside appends: whatever it does, it does whole and in its term.
func (j *Journal) upkeepTxn(ctx, inner context.Context, term journal.Term, also []clientv3.Cmp, ops ...clientv3.Op) error {
	response, err := j.client.Txn(inner).If(append(also, j.reigns(term))...).Then(ops...).Else(clientv3.OpGet(j.keys.writer)).Commit()
	switch {
	case err != nil:
		return j.explain(ctx, err)
	case response.Succeeded:
		return nil
	}
	if err := fenced(term, response.Responses[0]); err != nil {
		return err
	}
	return errChanged
}

// digestAt is the digest of the batch that ends with a fact.
func (j *Journal) digestAt(ctx context.Context, at journal.Seq) (journal.Digest, error) {
	key := j.keys.batch(at)
	response, err := j.client.Get(ctx, key)
	if err != nil {
		return journal.Digest{}, err
	}
	if len(response.Kvs) == 0 {
		return journal.Digest{}, fmt.Errorf("no batch ends with fact %d, and a snapshot is taken between batches", at)
	}
	b, err := j.keys.decodeBatch(key, response.Kvs[0].Value)
	return b.Digest, err
}

// ReadSnapshot implements journal.Journal.
func (j *Journal) ReadSnapshot(ctx context.Context, yield func(chunk []byte) error) (journal.Seq, error) {
	m, stored, err := j.readNewest(ctx)
	if err != nil || stored == "" {
		return 0, err
	}
	digest := m.log
	for n := range m.chunks {
		chunk, err := j.readChunk(ctx, m, n, digest)
		if err != nil {
			if _, now, again := j.readNewest(ctx); again == nil && now != stored {
				return 0, journal.ErrReplaced
			}
			return 0, err
		}
		digest = seal(digest, chunk)
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if n == m.chunks-1 && digest != m.last {
			return 0, fmt.Errorf("%w: the last chunk of the snapshot after fact %d, key %s, has digest %v, but key %s names %v",
				journal.ErrCorrupt, m.at, m.chunk(j.keys, n), digest, j.keys.snapshot, m.last)
		}
		if err := yield(chunk); err != nil {
			return 0, err
		}
	}
	if err := j.checkFits(ctx, m, stored); err != nil {
		return 0, err
	}
	return m.at, nil
}

// readNewest is newest for those who have not begun a request.
func (j *Journal) readNewest(ctx context.Context) (m manifest, stored string, err error) {
	inner, done, err := j.request(ctx)
	if err != nil {
		return manifest{}, "", err
	}
	defer done()
	err = j.ask(inner, func(ctx context.Context) (err error) {
		m, stored, err = j.newest(ctx)
		return err
	})
	if err != nil {
		err = j.explain(ctx, err)
	}
	return m, stored, err
}

func (j *Journal) readChunk(ctx context.Context, m manifest, n int, previous journal.Digest) (chunk []byte, err error) {
	inner, done, err := j.request(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	key := m.chunk(j.keys, n)
	var response *clientv3.GetResponse
	err = j.ask(inner, func(ctx context.Context) (err error) {
		response, err = j.client.Get(ctx, key)
		return err
	})
	switch {
	case err != nil:
		return nil, j.explain(ctx, err)
	case len(response.Kvs) == 0:
		return nil, fmt.Errorf("%w: chunk %d of the snapshot after fact %d, key %s, is missing", journal.ErrCorrupt, n, m.at, key)
	}
	value := response.Kvs[0].Value
	size := len(journal.Digest{})
	if len(value) <= size || seal(previous, value[size:]) != journal.Digest(value[:size]) {
		return nil, fmt.Errorf("%w: chunk %d of the snapshot after fact %d, key %s, is not what was written there", journal.ErrCorrupt, n, m.at, key)
	}
	return value[size:], nil
}

// checkFits holds a snapshot against the log that goes on after it: the next batch must follow the one that the snapshot was taken after.
func (j *Journal) checkFits(ctx context.Context, m manifest, stored string) error {
	end, err := j.readTail(ctx)
	if err != nil {
		return err
	}
	enough := errors.New("enough")
	if end.seq > m.at {
		err = j.readTo(ctx, journal.ChainAfter(m.at, m.log), end, func(journal.Batch) error { return enough })
	} else if end.seq < m.at || (end.linked && end.digest != m.log) {
		err = fmt.Errorf("%w: the head, key %s, is fact %d with digest %v", journal.ErrCorrupt, j.keys.head, end.seq, end.digest)
	}
	if err == nil || errors.Is(err, enough) {
		return nil
	}
	if _, now, again := j.readNewest(ctx); again == nil && now != stored {
		return journal.ErrReplaced // and the log was compacted up to the newer one
	}
	return fmt.Errorf("the snapshot after fact %d, key %s, and the log do not fit: %w", m.at, j.keys.snapshot, err)
}
