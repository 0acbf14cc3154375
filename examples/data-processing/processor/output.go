package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// errClaimed says that another process holds the claim.
var errClaimed = errors.New("claimed by another process")

// output is the directory of the reports. Claims are locks on files in .claims below it, which are never removed: a lock
// on a removed file would exclude nobody.
type output struct{ dir string }

func openOutput(dir string) (output, error) {
	o := output{dir: dir}
	if err := os.MkdirAll(o.claims(), 0o755); err != nil {
		return o, fmt.Errorf("cannot make the output directory: %w", err)
	}
	return o, nil
}

func (o output) claims() string { return filepath.Join(o.dir, ".claims") }

// flat makes one file name of a slash-separated path.
func flat(name string) string { return strings.ReplaceAll(name, "/", "~") }

func (o output) reportPath(name string) string { return filepath.Join(o.dir, flat(name)+".json") }

func (o output) published(name string) (bool, error) {
	_, err := os.Stat(o.reportPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// publish makes the report of a claimed file appear whole or not at all. The claim makes this process the only writer of
// the temporary file; what an attempt that died has left of it is overwritten.
func (o output) publish(name string, r report) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write the report on %s: %w", name, err)
	}
	temporary := filepath.Join(o.claims(), flat(name)+".tmp")
	if err := writeSynced(temporary, append(text, '\n')); err != nil {
		return fmt.Errorf("cannot write the report on %s: %w", name, err)
	}
	if err := os.Rename(temporary, o.reportPath(name)); err != nil {
		return fmt.Errorf("cannot publish the report on %s: %w", name, err)
	}
	if err := syncDir(o.dir); err != nil {
		return fmt.Errorf("cannot publish the report on %s: %w", name, err)
	}
	return nil
}

func writeSynced(path string, text []byte) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := file.Write(text); err != nil {
		return errors.Join(err, file.Close())
	}
	return errors.Join(file.Sync(), file.Close())
}

// syncDir makes a rename in the directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// claim is a lock that this process holds until it releases it or ends.
type claim struct{ file *os.File }

// claim takes the claim on a name, or gives errClaimed at once.
func (o output) claim(name string) (*claim, error) { return o.lock(name, unix.LOCK_EX|unix.LOCK_NB) }

// waitForClaim takes the claim on a name as soon as nobody else holds it.
func (o output) waitForClaim(name string) (*claim, error) { return o.lock(name, unix.LOCK_EX) }

func (o output) lock(name string, how int) (*claim, error) {
	file, err := os.OpenFile(filepath.Join(o.claims(), flat(name)+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cannot claim %s: %w", name, err)
	}
	for {
		err := unix.Flock(int(file.Fd()), how)
		switch {
		case err == nil:
			return &claim{file}, nil
		case errors.Is(err, unix.EINTR): // the Go runtime signals its own threads
			continue
		case errors.Is(err, unix.EWOULDBLOCK):
			return nil, errors.Join(errClaimed, file.Close())
		default:
			return nil, fmt.Errorf("cannot claim %s: %w", name, errors.Join(err, file.Close()))
		}
	}
}

// release gives the claim back. The kernel does so at the end of the process as well, so a failure here holds nobody up
// for longer.
func (c *claim) release() { _ = c.file.Close() }
