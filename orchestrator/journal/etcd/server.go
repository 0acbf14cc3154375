package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"strconv"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

// Options are for Open.
type Options struct {
	// Dir is the data directory; it is made if it is missing. One journal at a time has it. Required.
	Dir string
	// Logger gets what etcd warns of. nil discards it.
	Logger *slog.Logger
	// MaxBytes bounds the stored data; an append beyond it is ErrFull. 0 means DefaultMaxBytes. It can be raised later. etcd's
	// own log, some 64 to 200 MB, comes on top. A cluster has a bound of its own.
	MaxBytes int64
	// Cluster, if it has endpoints, is where the log is, and Dir holds no more than a lock and a mark that says so.
	Cluster Cluster
	// Locked, if not nil, is called once nobody else can have the directory open any more: what needs that and not the log may begin.
	Locked func()
}

func (o Options) logger() *slog.Logger {
	if o.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Logger
}

// DefaultMaxBytes is the most that etcd's authors suggest for one store (MaxQuotaBytes in etcd's server).
const DefaultMaxBytes = 8 << 30

// How the embedded etcd is set; see config.
const (
	memberName = "nightshift"
	// memberURL is never listened on or dialled: etcd wants a peer address, and it is part of the member's identity.
	memberURL = "http://nightshift.invalid:2380"
	// After this many entries etcd lets go of its log before them. At 20 KB an entry that is some 10 MB to replay at a start.
	snapshotEntries = 500
	// Entries that etcd keeps in memory for members that lag; there are none.
	catchUpEntries = 100
	// Files of etcd's log that stay though their entries are let go of. They are 64 MB each, which etcd sets in a variable
	// of the whole process; one more is kept ready. etcd itself would look for files to remove twice a minute, in which a busy
	// log grows by a gigabyte.
	logFiles   = 2
	purgeEvery = 2 * time.Second
	// Revisions of head and writer that compaction leaves; nobody asks for an old one.
	keepRevisions = 1000
	// A lone member waits at a start until its election time is over, up to this.
	electionMillis = 200
	tickMillis     = 20
	// The stored data has been read by the time that this begins to count; what is left takes well under a second.
	readyTimeout = time.Minute
)

// Open opens the journal in a directory, on an etcd server in this process, or in a cluster. It fails with ErrInUse when another journal has
// the directory open, with ErrElsewhere when the directory's log is in another place, with ErrCorrupt when the log's end is
// damaged, and with a *journal.ConnectError when a cluster cannot be used. Close stops the server. The context bounds Open alone.
func Open(ctx context.Context, options Options) (*Journal, error) {
	if len(options.Cluster.Endpoints) > 0 {
		return openCluster(ctx, options)
	}
	s, err := startServer(ctx, options)
	if err != nil {
		return nil, err
	}
	j, err := s.open(ctx, s.stop)
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return j, nil
}

// server is an etcd in this process that owns a data directory.
type server struct {
	etcd *embed.Etcd
	log  *slog.Logger
	lock *dirLock
	// unpurge ends the removing of files of etcd's log, and purged tells that it has ended.
	unpurge context.CancelFunc
	purged  <-chan struct{}
}

// startServer starts etcd in the directory and returns when it serves.
func startServer(ctx context.Context, options Options) (*server, error) {
	if options.MaxBytes < 0 {
		return nil, fmt.Errorf("journal: MaxBytes is %d", options.MaxBytes)
	}
	lock, err := takeDir(options)
	if err != nil {
		return nil, err
	}
	config, err := config(options)
	if err == nil {
		err = belongsHere(options.Dir)
	}
	if err == nil {
		err = beginFirst(options.Dir)
	}
	if err != nil {
		return nil, errors.Join(err, lock.unlock())
	}
	etcd, err := startEtcd(config)
	if errors.Is(err, errPanicked) {
		// What etcd holds of the directory it has not let go, and would wait for without a word: the lock stays taken.
		return nil, err
	}
	if err != nil {
		return nil, errors.Join(err, lock.unlock())
	}
	s := &server{etcd: etcd, log: options.logger(), lock: lock}
	s.purge()
	err = s.ready(ctx)
	if err == nil {
		err = s.forgetFull(ctx)
	}
	if err == nil {
		err = endFirst(options.Dir)
	}
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// errPanicked is in the error of a start in which etcd panicked.
var errPanicked = errors.New("etcd panicked")

// startEtcd is embed.StartEtcd, but for what it makes of a damaged store: an error or a panic, here ErrCorrupt.
func startEtcd(config *embed.Config) (etcd *embed.Etcd, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			etcd, err = nil, fmt.Errorf("%w: %w while it started from %s: %v", journal.ErrCorrupt, errPanicked, config.Dir, cause)
		}
	}()
	if etcd, err = embed.StartEtcd(config); err == nil {
		return etcd, nil
	}
	for _, damage := range []error{walpb.ErrCRCMismatch, wal.ErrFileNotFound, wal.ErrMetadataConflict, wal.ErrSnapshotMismatch, wal.ErrSnapshotNotFound} {
		if errors.Is(err, damage) {
			return nil, fmt.Errorf("%w: etcd in %s: %w", journal.ErrCorrupt, config.Dir, err)
		}
	}
	return nil, fmt.Errorf("journal: starting etcd in %s: %w", config.Dir, err)
}

// ready waits until etcd has elected itself and applied its log.
func (s *server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("it took more than %v", readyTimeout))
	defer cancel()
	select {
	case <-s.etcd.Server.ReadyNotify():
		return nil
	case <-s.etcd.Server.StopNotify():
		return fmt.Errorf("journal: etcd in %s stopped while it started", s.etcd.Config().Dir)
	case <-ctx.Done():
		return fmt.Errorf("journal: etcd in %s is not ready: %w", s.etcd.Config().Dir, context.Cause(ctx))
	}
}

// config is an etcd with no listener, for one member.
func config(options Options) (*embed.Config, error) {
	member, err := url.Parse(memberURL)
	if err != nil {
		return nil, err
	}
	c := embed.NewConfig()
	c.Dir = filepath.Join(options.Dir, etcdName)
	c.Name = memberName
	c.InitialCluster = memberName + "=" + memberURL
	c.AdvertisePeerUrls = []url.URL{*member}
	c.ListenPeerUrls, c.ListenClientUrls, c.AdvertiseClientUrls = nil, nil, nil

	c.SnapshotCount, c.SnapshotCatchUpEntries, c.MaxWalFiles = snapshotEntries, catchUpEntries, 0 // see purge
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModeRevision, strconv.Itoa(keepRevisions)
	c.QuotaBackendBytes = options.MaxBytes
	if c.QuotaBackendBytes == 0 {
		c.QuotaBackendBytes = DefaultMaxBytes
	}
	c.TickMs, c.ElectionMs = tickMillis, electionMillis
	// etcd warns from 0.1 s on, with the whole request; a laptop's disk is often that slow and nobody needs to know.
	c.WarningApplyDuration = slowAppend
	// Facts and framing, and the rest of the transaction.
	c.MaxRequestBytes = journal.MaxBatchBytes * 3 / 2

	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(newZap(options.logger()))
	return c, nil
}

// slowAppend is when a transaction is worth a warning.
const slowAppend = 2 * time.Second

// forgetFull lets a store go on that was full when its process ended.
func (s *server) forgetFull(ctx context.Context) error {
	client := v3client.New(s.etcd.Server)
	defer client.Close()
	if err := forgetFull(ctx, client); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// open returns a handle on the log. Its Close calls release.
func (s *server) open(ctx context.Context, release func() error) (*Journal, error) {
	client := v3client.New(s.etcd.Server)
	j, err := newJournal(ctx, client, keysUnder(DefaultPrefix), s.log, release)
	if err != nil {
		_ = client.Close() // of an in-process client it tells only that its context has ended
		return nil, err
	}
	// The service behind an in-process client wants a health server that there is not (v3client.New).
	j.defragmentAt = func(context.Context, string) error { return s.etcd.Server.Backend().Defrag() }
	return j, nil
}

// purge begins to remove the files of etcd's log that it does not need any more: those that it does not hold locked.
func (s *server) purge() {
	ctx, cancel := context.WithCancel(context.Background())
	done, failed := fileutil.PurgeFileWithDoneNotify(zap.NewNop(), s.etcd.Server.Cfg.WALDir(), "wal", logFiles, purgeEvery, ctx.Done())
	s.unpurge, s.purged = cancel, done
	go func() {
		select {
		case err := <-failed:
			s.log.Error("files of etcd's log are not removed any more, and fill the disk", "error", err)
		case <-done:
		}
	}()
}

// stop ends etcd and gives the directory back. All handles must have been closed.
func (s *server) stop() error {
	s.unpurge()
	<-s.purged
	s.etcd.Close()
	return s.lock.unlock()
}
