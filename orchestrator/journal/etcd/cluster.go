package etcd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// ErrElsewhere: the data directory belongs to a log in another place than the one that was asked for.
var ErrElsewhere = errors.New("journal: the data directory's log is elsewhere")

// answerWithin is a little more than what an election takes. A read is not asked for again after one that was given mostPatience: a page of the
// log is large.
const (
	answerWithin = 2 * time.Second
	mostPatience = 30 * time.Second
)

// clusterName is the file in a data directory that tells in which cluster its log is.
const clusterName = "etcd.cluster"

// openCluster opens the journal in an etcd on other machines. The directory is locked all the same: what else is kept beside a log
// belongs to one process.
func openCluster(ctx context.Context, options Options) (*Journal, error) {
	lock, err := takeDir(options)
	if err != nil {
		return nil, err
	}
	j, err := openInCluster(ctx, options, lock.unlock)
	if err != nil {
		return nil, errors.Join(err, lock.unlock())
	}
	return j, nil
}

func openInCluster(ctx context.Context, options Options, release func() error) (*Journal, error) {
	cluster := options.Cluster
	if err := belongs(options.Dir, cluster.prefix()); err != nil {
		return nil, err
	}
	client, err := cluster.connect(ctx, options.logger())
	if err != nil {
		return nil, err
	}
	j, err := newJournal(ctx, client, keysUnder(cluster.prefix()), options.logger(), release)
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	j.leaseSeconds, j.answerWithin = leaseSeconds, answerWithin
	j.roster.all, j.roster.used = cluster.Endpoints, cluster.Endpoints
	j.defragmentAt = func(ctx context.Context, endpoint string) error {
		_, err := client.Defragment(ctx, endpoint)
		return err
	}
	if host, err := os.Hostname(); err == nil {
		j.owner += " on " + host
	}
	// Only now: a first start that went wrong decides nothing.
	if err := settle(options.Dir, cluster.prefix()); err != nil {
		j.release = func() error { return nil }
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

// takeDir makes the data directory and locks it.
func takeDir(options Options) (*dirLock, error) {
	dir := options.Dir
	if dir == "" {
		return nil, errors.New("journal: no data directory was given")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("journal: making the data directory: %w", err)
	}
	lock, err := lockDir(dir)
	if err == nil && options.Locked != nil {
		options.Locked()
	}
	return lock, err
}

// belongs fails if the directory is of a log in this process's own etcd, or under another prefix. A cluster's addresses may change.
func belongs(dir, prefix string) error {
	is, err := os.ReadFile(filepath.Join(dir, clusterName))
	if err == nil {
		if kept := strings.TrimSpace(string(is)); kept != prefix {
			return fmt.Errorf("%w: in an etcd cluster under %s, and not under %s: %s", ErrElsewhere, kept, prefix, dir)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("journal: looking at the data directory: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, etcdName)); err == nil {
		return fmt.Errorf("%w: in the directory itself, %s, and not in an etcd cluster", ErrElsewhere, dir)
	}
	return nil
}

// belongsHere fails if the directory is of a log in a cluster.
func belongsHere(dir string) error {
	is, err := os.ReadFile(filepath.Join(dir, clusterName))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("journal: looking at the data directory: %w", err)
	}
	return fmt.Errorf("%w: in an etcd cluster under %s, and not in the directory itself, %s", ErrElsewhere, strings.TrimSpace(string(is)), dir)
}

// settle writes down that the directory's log is in a cluster.
func settle(dir, prefix string) error {
	err := os.WriteFile(filepath.Join(dir, clusterName), []byte(prefix+"\n"), 0o600)
	if err = errors.Join(err, syncDir(dir)); err != nil {
		return fmt.Errorf("journal: marking where the log is: %w", err)
	}
	return nil
}
