package etcd

import (
	"context"
	"errors"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

// faults stand between journals and their etcd, on the way of transactions alone.
type faults struct {
	mu   sync.Mutex
	next journal.Fault
	// late is a transaction that was held up.
	late func()
	// stalled, if not nil, is closed when transactions may go on; held is closed when one waits for that, and landed counts those that
	// nobody waits for any more.
	stalled, held chan struct{}
	landed        sync.WaitGroup
}

// wrap puts the faults in the way of a journal.
func (f *faults) wrap(j *Journal) *Journal {
	j.client.KV = &faultyKV{j.client.KV, f}
	return j
}

// Fail implements journaltest.Log.
func (f *faults) Fail(_ *testing.T, fault journal.Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next = fault
}

// Stall implements journaltest.Log.
func (f *faults) Stall(*testing.T) (<-chan struct{}, func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	stalled := make(chan struct{})
	f.stalled, f.held = stalled, make(chan struct{})
	return f.held, func() {
		f.mu.Lock()
		f.stalled = nil
		f.mu.Unlock()
		close(stalled)
		f.landed.Wait()
	}
}

// errLost is what a client says of a connection that broke.
var errLost = errors.New("the connection broke")

// commit sends a transaction, or what the faults make of it.
func (f *faults) commit(ctx context.Context, send func(context.Context) (*clientv3.TxnResponse, error)) (*clientv3.TxnResponse, error) {
	f.mu.Lock()
	if f.late != nil {
		f.late()
		f.late = nil
	}
	fault, stalled := f.next, f.stalled
	f.next = journal.FaultNone
	if fault == journal.FaultLate {
		f.late = func() { _, _ = send(context.Background()) } // its answer finds nobody
	}
	if stalled != nil {
		select {
		case <-f.held:
		default:
			close(f.held)
		}
		f.landed.Add(1)
	}
	f.mu.Unlock()
	switch {
	case stalled != nil:
		return f.wait(ctx, stalled, send)
	case fault == journal.FaultNone:
		return send(ctx)
	case fault == journal.FaultWritten:
		if _, err := send(ctx); err != nil {
			return nil, err
		}
	}
	return nil, errLost
}

// wait sends the transaction when the store goes on, also if the caller does not wait so long.
func (f *faults) wait(ctx context.Context, stalled chan struct{}, send func(context.Context) (*clientv3.TxnResponse, error)) (*clientv3.TxnResponse, error) {
	type answer struct {
		response *clientv3.TxnResponse
		err      error
	}
	answered := make(chan answer, 1)
	go func() {
		defer f.landed.Done()
		<-stalled
		response, err := send(context.Background())
		answered <- answer{response, err}
	}()
	select {
	case a := <-answered:
		return a.response, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// faultyKV sends transactions through the faults.
type faultyKV struct {
	clientv3.KV
	faults *faults
}

func (kv *faultyKV) Txn(ctx context.Context) clientv3.Txn { return &faultyTxn{kv: kv, ctx: ctx} }

// faultyTxn gathers a transaction, which may be sent under another context.
type faultyTxn struct {
	kv         *faultyKV
	ctx        context.Context
	cmps       []clientv3.Cmp
	yes, else_ []clientv3.Op
}

func (txn *faultyTxn) If(cs ...clientv3.Cmp) clientv3.Txn { txn.cmps = cs; return txn }

func (txn *faultyTxn) Then(ops ...clientv3.Op) clientv3.Txn { txn.yes = ops; return txn }

func (txn *faultyTxn) Else(ops ...clientv3.Op) clientv3.Txn { txn.else_ = ops; return txn }

func (txn *faultyTxn) Commit() (*clientv3.TxnResponse, error) {
	return txn.kv.faults.commit(txn.ctx, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return txn.kv.KV.Txn(ctx).If(txn.cmps...).Then(txn.yes...).Else(txn.else_...).Commit()
	})
}
