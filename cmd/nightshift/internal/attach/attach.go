// Package attach lets a run join the control plane of another one that works on the same data directory.
//
// Whoever works on a data directory listens on a socket in it, which its owner alone can reach. The API is served there, to commands that look
// at what is going on; and a run that finds another one at work sends it its Jobs and is sent back what to show. After an HTTP upgrade
// one line of JSON is one message:
//
//	the run                          the control plane
//	Visit ──────────────────────────►
//	                                 ◄────────────────────────── message, many times
//	{} at Ctrl-C ───────────────────►
//	                                 ◄────────────────────────── message with the End
//
// A connection that breaks is an interruption without time to spare. What a Visit holds is never on record: an environment
// holds secrets.
package attach

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/screen"
)

// socketName is the socket's file in the data directory; visitPath is where runs attach, by the upgrade visitProtocol.
const (
	socketName    = "run.sock"
	visitPath     = "/nightshift/run"
	visitProtocol = "nightshift-run"
)

// Visit is what a run that attaches brings with it.
type Visit struct {
	Jobs []*batchv1.Job `json:"jobs"`
	// Images of this run, NAME: EXECUTABLE.
	Images map[string]Bytes `json:"images"`
	// Environ ("NAME=VALUE") and Dir are what the pods of this run's Jobs inherit.
	Environ []Bytes `json:"environ"`
	Dir     Bytes   `json:"dir"`
	// Follow streams what the pods write.
	Follow bool `json:"follow"`
}

// NewVisit returns a Visit with the Jobs, and with what their pods inherit.
func NewVisit(jobs []*batchv1.Job, images map[string]string, environ []string, dir string) Visit {
	v := Visit{Jobs: jobs, Images: make(map[string]Bytes, len(images)), Environ: make([]Bytes, len(environ)), Dir: Bytes(dir)}
	for name, executable := range images {
		v.Images[name] = Bytes(executable)
	}
	for i, variable := range environ {
		v.Environ[i] = Bytes(variable)
	}
	return v
}

// Bytes are text that need not be UTF-8, as variables, paths and what pods write. A string would not come through JSON as it is.
type Bytes string

// MarshalJSON implements json.Marshaler.
func (b Bytes) MarshalJSON() ([]byte, error) { return json.Marshal([]byte(b)) }

// UnmarshalJSON implements json.Unmarshaler.
func (b *Bytes) UnmarshalJSON(text []byte) error {
	var raw []byte
	err := json.Unmarshal(text, &raw)
	*b = Bytes(raw)
	return err
}

// End is what a Visit came to.
type End struct {
	Ended []screen.Conclusion `json:"ended"`
	// Error, in words, and the exit status for it; empty and 0 for none.
	Error  string `json:"error,omitempty"`
	Status int    `json:"status,omitempty"`
	// Closing: the control plane takes nobody in any more; its data directory is free soon.
	Closing bool `json:"closing,omitempty"`
}

// message is what a control plane sends; one of the fields is set.
type message struct {
	Change *screen.Change `json:"change,omitempty"`
	Log    *logLine       `json:"log,omitempty"`
	Tally  *screen.Tally  `json:"tally,omitempty"`
	End    *End           `json:"end,omitempty"`
}

type logLine struct {
	Pod  string `json:"pod"`
	Line Bytes  `json:"line"`
}

// ErrClosing says that the control plane takes nobody in any more.
var ErrClosing = errors.New("the run that works there is ending")

// shortSocket opens the directory of the socket and gives a path to it that is short whatever the directory is called: names of sockets
// hold 107 bytes (unix(7)).
func shortSocket(dataDir string) (path string, dir *os.File, err error) {
	if dir, err = os.Open(dataDir); err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), socketName), dir, nil
}

// Dial connects to the one who works on a data directory.
func Dial(dataDir string) (net.Conn, error) {
	path, dir, err := shortSocket(dataDir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return net.Dial("unix", path)
}

// listen opens the socket, where nobody else comes to, and moves it to its name when its rights are those that it shall have. The data directory's
// lock is held, so what is there under these names is left over.
func listen(dataDir string) (_ net.Listener, err error) {
	private := filepath.Join(dataDir, socketName+".new")
	if err := os.RemoveAll(private); err != nil {
		return nil, err
	}
	if err := os.Mkdir(private, 0o700); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(private)) }()
	path, dir, err := shortSocket(private)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// The path by which it was opened means nothing later; the next owner of the directory replaces the file.
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	made := filepath.Join(private, socketName)
	if err = os.Chmod(made, 0o600); err == nil {
		err = os.Rename(made, filepath.Join(dataDir, socketName))
	}
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}
