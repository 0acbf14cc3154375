// Package archive keeps what outlives the hot state: the logs of containers, documents such as the inputs of decisions, and what the
// journal lets go of.
//
// It owns the layout of one blob bucket (a directory, or any bucket of a cloud) and nothing else reads or writes there. Every object is written
// whole or not at all. A log is a row of immutable objects, each named by the offset of its first byte, so an append that is repeated after
// an unknown outcome writes the same name again and never doubles a byte:
//
//	logs/TENANT/JOB/POD/CONTAINER/RESTART/00000000000000000000   the first chunk
//	logs/TENANT/JOB/POD/CONTAINER/RESTART/00000000000000004096   the second
//	logs/TENANT/JOB/POD/CONTAINER/RESTART/end                    nothing follows
//	logs/TENANT/JOB/POD/CONTAINER/RESTART/whole                  all of it, in place of chunks and end
//	documents/NAME.json
//	log/FIRST-LAST                                               batches of the journal's log, the facts of these numbers
//
// What an append or a put has returned for survives a crash of the process; in a directory (OpenDir) also one of the machine. Objects of other
// names, such as the temporary files of a write that a crash broke off, are not part of any log.
//
// One process appends to a bucket at a time. It holds the offsets of open logs in memory and finds them by listing after a restart; those who
// follow a log are woken by the append itself, so they must be in the process that appends.
package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	"gocloud.dev/gcerrors"
)

var (
	// ErrNoLog says that nothing was kept of a container run.
	ErrNoLog = errors.New("no log is kept of this container run")
	// ErrNoDocument says that there is no document of that name.
	ErrNoDocument = errors.New("no such document in the archive")
	// ErrClosed is returned for whatever is asked or waits once Close was called.
	ErrClosed = errors.New("the archive is closed")
)

// defaultWholeLimit is the greatest size in bytes of an ended log that is put together into one object. It bounds what the last
// append has to copy; the chunks of a longer log are few for its size.
const defaultWholeLimit = 16 << 20

// Archive reads and writes one bucket. It is safe for concurrent use.
type Archive struct {
	bucket *blob.Bucket
	// root is the bucket's directory, empty for any other bucket.
	root string
	// wholeLimit is defaultWholeLimit but in tests.
	wholeLimit int64
	// closed is closed by Close.
	closed    chan struct{}
	closeOnce sync.Once
	closeErr  error

	mu sync.Mutex
	// logs holds each log that is open for appending or being read.
	logs map[LogRun]*logState
}

// OpenDir opens the archive in a directory, which is made if it is not there and readable by its owner alone.
func OpenDir(dir string) (*Archive, error) {
	root, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("archive directory: %w", err)
	}
	bucket, err := fileblob.OpenBucket(root, &fileblob.Options{
		CreateDir:   true,
		DirFileMode: 0o700,
		// The system's temporary directory may lie on another file system, to which no rename leads.
		NoTempDir: true,
		Metadata:  fileblob.MetadataDontWrite,
	})
	if err != nil {
		return nil, fmt.Errorf("open the archive in %s: %w", root, err)
	}
	a := New(bucket)
	a.root = root
	return a, nil
}

// New is the archive in any bucket, which belongs to the Archive from here on.
func New(bucket *blob.Bucket) *Archive {
	return &Archive{bucket: bucket, wholeLimit: defaultWholeLimit, closed: make(chan struct{}), logs: map[LogRun]*logState{}}
}

// Close wakes all who follow a log, with ErrClosed, and closes the bucket. A second Close does nothing.
func (a *Archive) Close() error {
	a.closeOnce.Do(func() {
		close(a.closed)
		a.closeErr = a.bucket.Close()
	})
	return a.closeErr
}

// put writes one object: all of it or, with an error, none that a reader could see. After an error of the last step the object may be there;
// to put it again is always right. With rooted, an earlier put has made the object's folder durable already.
func (a *Archive) put(ctx context.Context, key, contentType string, content io.Reader, rooted bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var file *os.File
	writer, err := a.bucket.NewWriter(ctx, key, &blob.WriterOptions{
		ContentType: contentType,
		BeforeWrite: func(as func(any) bool) error {
			if a.root != "" && !as(&file) {
				return errors.New("the bucket in a directory shows no file")
			}
			return nil
		},
	})
	if err != nil {
		return fmt.Errorf("archive %s: %w", key, a.why(err))
	}
	_, err = io.Copy(writer, content)
	if err == nil && file != nil {
		err = file.Sync()
	}
	if err != nil {
		// Closing a writer publishes what it holds unless its context has ended.
		cancel()
		return fmt.Errorf("archive %s: %w", key, errors.Join(err, ignoreCanceled(writer.Close())))
	}
	if err := writer.Close(); err != nil {
		return fmt.Errorf("archive %s: %w", key, a.why(err))
	}
	if file != nil {
		if err := a.syncDirs(filepath.Dir(file.Name()), rooted); err != nil {
			return fmt.Errorf("archive %s: %w", key, err)
		}
	}
	return nil
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// syncDirs makes names durable: that of a file in dir, and, unless they are known to be, those of the folders on the way there.
func (a *Archive) syncDirs(dir string, rooted bool) error {
	for ; len(dir) >= len(a.root); dir = filepath.Dir(dir) {
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		if err := errors.Join(d.Sync(), d.Close()); err != nil || rooted {
			return err
		}
	}
	return nil
}

// why names a closed archive, which the bucket reports as a failed precondition like many others.
func (a *Archive) why(err error) error {
	select {
	case <-a.closed:
		return ErrClosed
	default:
		return err
	}
}

func notFound(err error) bool {
	return gcerrors.Code(err) == gcerrors.NotFound || errors.Is(err, fs.ErrNotExist)
}
