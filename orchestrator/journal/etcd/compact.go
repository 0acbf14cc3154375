package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

const (
	// segmentBatches bounds how many batches one transaction removes: appends wait for it.
	segmentBatches = 256
	// A store is defragmented when it would give back so much, and at least half of what it takes: meanwhile it does nothing else.
	worthBytes = 4 << 20
	// statusTimeout bounds asking one member how much it holds.
	statusTimeout = 2 * time.Second
)

// Compact implements journal.Journal. After the last batch it gives the room back: etcd forgets old revisions, and its file is written anew.
func (j *Journal) Compact(ctx context.Context, term journal.Term, upTo journal.Seq, archiver journal.Archiver) error {
	j.upkeep.Lock()
	defer j.upkeep.Unlock()
	inner, done, err := j.request(ctx)
	if err != nil {
		return err
	}
	defer done()
	newest, _, err := j.newest(inner)
	if err != nil {
		return j.explain(ctx, err)
	}
	if upTo > newest.at {
		return fmt.Errorf("%w up to fact %d", journal.ErrNoSnapshot, upTo)
	}
	start, err := j.beginning(inner)
	if err != nil {
		return j.explain(ctx, err)
	}
	for {
		s, err := j.oldest(ctx, start, upTo)
		if err != nil {
			return err
		}
		if s.batches == 0 {
			return j.finish(ctx, inner, term, start)
		}
		first := uint64(start.seq) + 1
		if err := archiver.Keep(ctx, first, uint64(s.end.seq), s.bytes); err != nil {
			return fmt.Errorf("keep facts %d to %d of the log before they are removed: %w", first, s.end.seq, err)
		}
		if start, err = j.drop(ctx, inner, term, start, s.end); err != nil {
			return err
		}
		j.freed += int64(len(s.bytes))
	}
}

// finish gives the room back, and writes down where the log begins if there was none for that.
func (j *Journal) finish(ctx, inner context.Context, term journal.Term, start beginning) error {
	if err := j.reclaim(ctx, inner, worthBytes); err != nil || start.known {
		return err
	}
	if err := j.upkeepTxn(ctx, inner, term, []clientv3.Cmp{j.startIs(start)}, j.putStart(start.tail)...); err != nil {
		return fmt.Errorf("writing down where the log begins now: %w", err)
	}
	return nil
}

// beginning is where the log begins: after the tail. If it is not known by the start key, the first batch has told it, whose
// predecessor's digest is linked unless that batch is of the first format.
type beginning struct {
	tail
	known bool
	// stored is the start key's value, whether it is known to be right or not.
	stored string
}

// beginning finds where the log begins.
func (j *Journal) beginning(ctx context.Context) (beginning, error) {
	response, err := j.client.Txn(ctx).Then(
		clientv3.OpGet(j.keys.start), clientv3.OpGet(j.keys.startKnown), clientv3.OpGet(j.keys.snapshot),
		clientv3.OpGet(j.keys.batches, clientv3.WithRange(j.keys.batchesEnd), clientv3.WithLimit(1)),
	).Commit()
	if err != nil {
		return beginning{}, err
	}
	kvs := func(i int) []*mvccpb.KeyValue { return response.Responses[i].GetResponseRange().Kvs }
	is := beginning{tail: emptyTail()}
	if found := kvs(0); len(found) > 0 {
		is.stored = string(found[0].Value)
		if is.tail, err = decodeTail(j.keys.start, found[0].Value); err != nil {
			return beginning{}, err
		}
	}
	// Without a snapshot nothing was ever compacted.
	if is.known = len(kvs(1)) > 0 || len(kvs(2)) == 0; is.known {
		return is, nil
	}
	newest, err := decodeManifest(j.keys.snapshot, kvs(2)[0].Value)
	if err != nil {
		return beginning{}, err
	}
	first := kvs(3)
	if len(first) == 0 {
		return is, nil // the last batch stays always; who reads on finds that it is missing
	}
	b, err := j.keys.decodeBatch(string(first[0].Key), first[0].Value)
	if err != nil {
		return beginning{}, err
	}
	if b.First <= newest.at+1 {
		is.tail = tail{seq: b.First - 1, digest: b.Previous, linked: b.Chained()}
	}
	return is, nil
}

// chain is one whose first batch is the first of the log.
func (b beginning) chain() *journal.Chain {
	if b.linked {
		return journal.ChainAfter(b.seq, b.digest)
	}
	return journal.ChainFrom(b.seq + 1)
}

func (j *Journal) startIs(start beginning) clientv3.Cmp {
	if start.stored == "" {
		return clientv3.Compare(clientv3.CreateRevision(j.keys.start), "=", 0)
	}
	return clientv3.Compare(clientv3.Value(j.keys.start), "=", start.stored)
}

func (j *Journal) putStart(end tail) []clientv3.Op {
	return []clientv3.Op{clientv3.OpPut(j.keys.start, newTail(end.seq, end.digest).stored), clientv3.OpPut(j.keys.startKnown, "")}
}

// segment is some of the oldest batches of the log.
type segment struct {
	bytes   []byte
	batches int
	// end is its last fact, and the digest of its last batch.
	end tail
}

// errSegmentFull ends the reading of a segment.
var errSegmentFull = errors.New("the segment is full")

// oldest reads the next batches to remove, none beyond upTo. The last batch of the log stays: the next one is to follow it.
func (j *Journal) oldest(ctx context.Context, start beginning, upTo journal.Seq) (s segment, err error) {
	end, err := j.readTail(ctx)
	if err != nil {
		return segment{}, err
	}
	to := min(upTo, end.seq-1)
	if start.seq >= to || end.seq == 0 {
		return segment{}, nil
	}
	err = j.walk(ctx, start.chain(), end, func(b journal.Batch, value []byte) error {
		if b.Last() > to || s.batches == segmentBatches || len(s.bytes) >= journal.SegmentBytes {
			return errSegmentFull
		}
		s.bytes = journal.AppendToSegment(s.bytes, value)
		s.batches, s.end = s.batches+1, newTail(b.Last(), b.Digest)
		return nil
	})
	if err != nil && !errors.Is(err, errSegmentFull) {
		return segment{}, err
	}
	return s, nil
}

// drop removes the batches after start up to end, and returns where the log begins then.
func (j *Journal) drop(ctx, inner context.Context, term journal.Term, start beginning, end tail) (beginning, error) {
	remove := clientv3.OpDelete(j.keys.batches, clientv3.WithRange(j.keys.batch(end.seq)+"\x00"))
	err := j.upkeepTxn(ctx, inner, term, []clientv3.Cmp{j.startIs(start)}, append(j.putStart(end), remove)...)
	switch {
	case err == nil:
		return beginning{end, true, end.stored}, nil
	case !errors.Is(err, journal.ErrFull):
		return start, err
	}
	// A full store takes no put, but it removes. That the start is not known any more is told by removing too. Or it has taken the
	// put after all, which it sometimes says of the one that fills it: then the start is as it is now.
	if start, err = j.beginning(inner); err != nil {
		return start, j.explain(ctx, err)
	}
	if start.seq < end.seq {
		if err := j.upkeepTxn(ctx, inner, term, []clientv3.Cmp{j.startIs(start)}, clientv3.OpDelete(j.keys.startKnown), remove); err != nil {
			return start, fmt.Errorf("removing from a full store: %w", err)
		}
		start = beginning{end, false, start.stored}
	}
	return start, j.reclaim(ctx, inner, 0)
}

// reclaim gives the room of what was removed back to the store, and by it to the disk, and lets a store go on that was full. In a cluster that
// does not allow it to this client, it is for the cluster's operator. Files are written anew if that gives worth bytes back.
func (j *Journal) reclaim(ctx, inner context.Context, worth int64) error {
	err := j.forgetPast(inner)
	if err == nil {
		err = j.defragment(inner, worth)
	}
	if err == nil {
		err = forgetFull(inner, j.client)
	}
	if errors.Is(err, rpctypes.ErrPermissionDenied) {
		j.log.Warn("this client may not compact and defragment etcd; its operator must, or the store fills up", "error", err)
		return nil
	}
	if err != nil {
		return j.explain(ctx, fmt.Errorf("giving room back: %w", err))
	}
	return nil
}

// forgetPast has etcd drop all revisions but the current one.
func (j *Journal) forgetPast(ctx context.Context) error {
	now, err := j.client.Get(ctx, j.keys.head, clientv3.WithCountOnly())
	if err != nil {
		return err
	}
	_, err = j.client.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical())
	if errors.Is(err, rpctypes.ErrCompacted) {
		return nil
	}
	return err
}

// defragment has each member write its file anew, where that gives back at least so many bytes and half of the file; the leader last, since
// the others wait for it. What was just removed a member does not count as free yet.
func (j *Journal) defragment(ctx context.Context, least int64) error {
	var worth []string
	for _, endpoint := range j.members() {
		status, err := j.client.Status(ctx, endpoint)
		if err != nil {
			return err
		}
		if free := max(status.DbSize-status.DbSizeInUse, j.freed); least > 0 && (free < least || free < status.DbSize/2) {
			continue
		}
		if status.Leader == status.Header.MemberId {
			worth = append(worth, endpoint)
		} else {
			worth = slices.Insert(worth, 0, endpoint)
		}
	}
	for _, endpoint := range worth {
		if err := j.defragmentAt(ctx, endpoint); err != nil {
			return err
		}
		j.freed = 0
	}
	return nil
}

// members are where the store's members are asked one by one. The client of a server in this process takes any name for that.
func (j *Journal) members() []string {
	if all := j.client.Endpoints(); len(all) > 0 {
		return all
	}
	return []string{memberName}
}

// forgetFull clears etcd's alarms that the store is full, which outlive processes. etcd raises one again by itself if it still is.
func forgetFull(ctx context.Context, client *clientv3.Client) error {
	alarms, err := client.AlarmList(ctx)
	if err != nil {
		return fmt.Errorf("asking etcd for alarms: %w", err)
	}
	for _, alarm := range alarms.Alarms {
		if alarm.Alarm != etcdserverpb.AlarmType_NOSPACE {
			continue
		}
		if _, err := client.AlarmDisarm(ctx, (*clientv3.AlarmMember)(alarm)); err != nil {
			return fmt.Errorf("clearing etcd's alarm of a full store: %w", err)
		}
	}
	return nil
}

// Space implements journal.Journal: that of the fullest member which answers, as one member that is full stops all.
func (j *Journal) Space(ctx context.Context) (journal.Space, error) {
	inner, done, err := j.request(ctx)
	if err != nil {
		return journal.Space{}, err
	}
	defer done()
	var fullest *journal.Space
	var last error
	for _, endpoint := range j.members() {
		once, cancel := context.WithTimeout(inner, statusTimeout)
		status, err := j.client.Status(once, endpoint)
		cancel()
		if err != nil {
			last = err
			continue
		}
		if is := (journal.Space{Used: status.DbSize, Quota: status.DbSizeQuota}); fullest == nil || is.Share() > fullest.Share() {
			fullest = &is
		}
	}
	if fullest == nil {
		return journal.Space{}, j.explain(ctx, fmt.Errorf("asking for the store's size: %w", last))
	}
	return *fullest, nil
}
