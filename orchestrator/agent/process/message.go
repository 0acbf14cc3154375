package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/attempt"
)

// messageVariable names the file for a container's termination message.
const messageVariable = "TERMINATION_MESSAGE_PATH"

// The kubelet's bounds (pkg/kubelet/container/runtime.go). A pod's bound is shared evenly by its containers (status/status_manager.go,
// normalizeStatus).
const (
	maxPodMessageBytes  = 12 << 10
	maxMessageBytes     = 4096
	maxMessageLogBytes  = 2048
	maxMessageLogLines  = 80
	errorReadingMessage = "Error on reading termination log %s: %v"
)

// removeMessage removes what is left at the path, which the container may have made anything.
func removeMessage(path string) error {
	err := unix.Unlink(path)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		err = os.RemoveAll(path)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("file for the termination message: %w", err)
	}
	return nil
}

// terminationMessage is what the run has left in its file, or else, if it failed and the policy says so, the end of its output.
func (r *run) terminationMessage(exitCode int32) string {
	text, err := readMessage(r.member.messagePath)
	r.warn("removing a termination message", removeMessage(r.member.messagePath))
	if err != nil {
		return fmt.Sprintf(errorReadingMessage, r.member.messagePath, err)
	}
	if text == "" && exitCode != 0 && r.member.fallbackToLogs {
		text = r.output.text()
	}
	text = text[:min(len(text), maxPodMessageBytes/len(r.pod.members))]
	return strings.ToValidUTF8(text, "?") // As long as the original, at most.
}

// readMessage returns the end of the file; nothing when the container has not made it. What is no plain file any more is not opened: a
// pipe would hold the pod up.
func readMessage(path string) (string, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", errors.New("not a plain file")
	}
	text := make([]byte, min(info.Size(), maxMessageBytes))
	n, err := file.ReadAt(text, info.Size()-int64(len(text)))
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return string(text[:n]), nil
}

// tail passes output on and keeps the end of it.
type tail struct {
	out  attempt.Output
	held []byte
}

// Write implements attempt.Output.
func (t *tail) Write(chunk []byte) {
	t.held = append(t.held, chunk[max(len(chunk)-maxMessageLogBytes, 0):]...)
	t.held = t.held[max(len(t.held)-maxMessageLogBytes, 0):]
	t.out.Write(chunk)
}

// End implements attempt.Output.
func (t *tail) End() { t.out.End() }

// text is the end of the output: so many bytes at most, and so many lines.
func (t *tail) text() string {
	begin, lines := len(t.held), 0
	for begin > 0 {
		if t.held[begin-1] == '\n' && begin < len(t.held) {
			if lines++; lines == maxMessageLogLines {
				break
			}
		}
		begin--
	}
	return string(bytes.Clone(t.held[begin:]))
}
