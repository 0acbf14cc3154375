package agent

import (
	"bytes"
	"slices"
	"sync"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
)

// chunkBytes is the most that one LogChunk carries.
const chunkBytes = 64 << 10

// streamKey names a container run as the protocol does.
type streamKey struct {
	uid       string
	container string
	restart   int32
}

// stream holds the output of one container run from the first byte that the control plane has not acknowledged. The node's lock
// guards it.
type stream struct {
	node *node
	pod  *held
	key  streamKey
	// base is the offset of data[0] in the run's output.
	base int64
	data []byte
	// ended: nothing follows.
	ended bool
	// sent is the offset up to which this session has sent; base <= sent <= base+len(data).
	sent int64
	// endSent: this session has sent the end.
	endSent bool
}

// Write implements attempt.Output: it blocks while the pod has more output unacknowledged than it may.
func (s *stream) Write(chunk []byte) {
	n := s.node
	n.mu.Lock()
	defer n.mu.Unlock()
	for s.pod.unacked > 0 && s.pod.unacked+len(chunk) > n.logLimit && !s.pod.unlimited {
		s.pod.space.Wait()
	}
	if s.pod.void {
		return
	}
	s.data = append(s.data, chunk...)
	s.pod.unacked += len(chunk)
	n.changed.tell()
}

// End implements attempt.Output. Of a run that has written nothing nothing is sent.
func (s *stream) End() {
	n := s.node
	n.mu.Lock()
	defer n.mu.Unlock()
	s.ended = true
	if s.base == 0 && len(s.data) == 0 {
		n.streams = slices.DeleteFunc(n.streams, func(other *stream) bool { return other == s })
	}
	n.changed.tell()
}

// unsent says that this session has yet to send something of the stream.
func (s *stream) unsent() bool {
	return s.sent < s.base+int64(len(s.data)) || s.ended && !s.endSent
}

// next takes the next chunk to send: whole lines, unless one is longer than a chunk.
func (s *stream) next() *wire.LogChunk {
	data := s.data[s.sent-s.base:]
	if len(data) > chunkBytes {
		data = data[:chunkBytes]
		if end := bytes.LastIndexByte(data, '\n'); end >= 0 {
			data = data[:end+1]
		}
	}
	chunk := &wire.LogChunk{
		PodUid: s.key.uid, Container: s.key.container, Restart: s.key.restart,
		Offset: s.sent,
		// A copy: the message is encoded outside the lock, and an acknowledgement may move what is held.
		Data: bytes.Clone(data),
	}
	s.sent += int64(len(data))
	if s.ended && s.sent == s.base+int64(len(s.data)) {
		chunk.End, s.endSent = true, true
	}
	return chunk
}

// acknowledge forgets what the control plane keeps; true when it keeps all and the stream has ended.
func (s *stream) acknowledge(offset int64, end bool) (finished bool) {
	forget := min(max(offset-s.base, 0), int64(len(s.data)))
	s.base += forget
	s.data = s.data[forget:]
	if len(s.data) == 0 {
		s.data = nil // Give the memory back.
	}
	s.sent = max(s.sent, s.base)
	s.pod.unacked -= int(forget)
	if forget > 0 {
		s.pod.space.Broadcast()
	}
	return end && s.ended && len(s.data) == 0
}

// signal wakes whoever waits for a change; its owner's lock guards it.
type signal struct{ ch chan struct{} }

func newSignal() signal { return signal{make(chan struct{})} }

// wait returns a channel that the next tell closes.
func (s *signal) wait() <-chan struct{} { return s.ch }

func (s *signal) tell() {
	close(s.ch)
	s.ch = make(chan struct{})
}

// newSpace returns what writers of a pod's output wait on.
func newSpace(n *node) *sync.Cond { return sync.NewCond(&n.mu) }
