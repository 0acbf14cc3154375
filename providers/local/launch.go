package local

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nightshift-batch/nightshift/providers"
)

// launch is what is kept of a launch under its key. The bootstrap is not part of it: a control plane that came back at another
// address must be able to repeat what it asked for.
type launch struct {
	Key       string           `json:"key"`
	Owner     string           `json:"owner"`
	OfferIDs  []string         `json:"offerIds"`
	Count     int              `json:"count"`
	Made      time.Time        `json:"made"`
	Instances []launchInstance `json:"instances"`
}

type launchInstance struct {
	ID      string `json:"id"`
	OfferID string `json:"offerId"`
}

func (l launch) isOf(r providers.LaunchRequest) bool {
	return l.Owner == r.Owner && l.Count == r.Count && slices.Equal(l.OfferIDs, r.OfferIDs)
}

// Launch implements providers.Provider. Where the offers cannot give Count, it returns what they give and KindNoCapacity, and a
// repeated call does the same even if there is more by then: another key is another attempt.
func (p *Provider) Launch(ctx context.Context, request providers.LaunchRequest) (providers.LaunchResult, error) {
	const op = "launch"
	if err := p.usable(ctx, op); err != nil {
		return providers.LaunchResult{}, err
	}
	types, err := p.check(request)
	if err != nil {
		return providers.LaunchResult{}, fail(op, providers.KindBadRequest, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isClosed() { // Close may have begun since, and ends only what it saw
		return providers.LaunchResult{}, p.usable(ctx, op)
	}
	if known, ok := p.launches[request.Key]; ok {
		if !known.isOf(request) {
			return providers.LaunchResult{}, fail(op, providers.KindBadRequest, fmt.Errorf("key %q belongs to another launch", request.Key))
		}
		return p.resultOf(known)
	}
	p.forgetLaunches(time.Now())
	made, err := p.prepare(request, types)
	if err == nil {
		err = p.keepLaunch(request, made)
	}
	if err != nil {
		return providers.LaunchResult{}, fail(op, providers.KindTransient, errors.Join(err, discard(made)))
	}
	for _, m := range made {
		p.instances[m.instance.ID] = m.instance
		go p.live(m.instance, m.lock)
	}
	return p.resultOf(p.launches[request.Key])
}

// check returns the types of the request's offers, or why it can never be fulfilled.
func (p *Provider) check(r providers.LaunchRequest) (map[string]Type, error) {
	if len(r.Key) < 1 || len(r.Key) > 64 || slices.ContainsFunc([]byte(r.Key), func(b byte) bool { return b < ' ' || b > '~' }) {
		return nil, fmt.Errorf("key %q is not 1 to 64 printable ASCII characters", r.Key)
	}
	switch {
	case r.Owner == "":
		return nil, errors.New("the owner is missing")
	case r.Count < 1:
		return nil, fmt.Errorf("the count is %d", r.Count)
	case len(r.OfferIDs) == 0:
		return nil, errors.New("no offer is named")
	case r.Bootstrap.Address == "":
		return nil, errors.New("the bootstrap names no control plane")
	}
	types := map[string]Type{}
	for _, id := range r.OfferIDs {
		at := slices.IndexFunc(p.config.Types, func(t Type) bool {
			return id == offerID(t.Name, providers.Spot) || id == offerID(t.Name, providers.OnDemand)
		})
		if at < 0 {
			return nil, fmt.Errorf("there is no offer %q", id)
		}
		types[id] = p.config.Types[at]
	}
	return types, nil
}

// prepared is an instance that has its directory, and its lock if its agent has not, and waits to be started.
type prepared struct {
	instance *instance
	lock     *os.File
}

// prepare makes as many instances as the offers allow, the preferred first. The caller holds p.mu.
func (p *Provider) prepare(request providers.LaunchRequest, types map[string]Type) ([]prepared, error) {
	var made []prepared
	used := map[string]int64{}
	for _, offer := range request.OfferIDs {
		t := types[offer]
		for free := p.available(t) - used[t.Name]; free > 0 && len(made) < request.Count; free-- {
			m, err := p.instanceFor(request, offer, t)
			if err != nil {
				return made, err
			}
			made = append(made, m)
			used[t.Name]++
		}
	}
	return made, nil
}

// instanceFor makes one instance, of the spare if there is one. The caller holds p.mu.
func (p *Provider) instanceFor(request providers.LaunchRequest, offer string, t Type) (prepared, error) {
	i := p.takeSpare()
	if i == nil {
		var err error
		if i, err = p.newInstance(); err != nil {
			return prepared{}, err
		}
	}
	p.sequence++
	i.record.Key, i.record.Owner, i.record.OfferID = request.Key, request.Owner, offer
	i.typ, i.sequence, i.address = t, p.sequence, request.Bootstrap.Address
	m := prepared{instance: i}
	var err error
	if i.started == nil {
		m.lock, err = i.prepare()
	} else {
		err = writeJSON(recordPath(i.dir), i.record)
	}
	if err = errors.Join(err, i.equip(request.Bootstrap)); err != nil {
		return prepared{}, errors.Join(err, m.discard())
	}
	return m, nil
}

func (p *Provider) newInstance() (*instance, error) {
	id, err := newInstanceID()
	if err != nil {
		return nil, err
	}
	return &instance{
		record: record{ID: id}, dir: p.instanceDir(id), state: providers.Pending,
		stop: make(chan struct{}), cut: make(chan struct{}), gone: make(chan struct{}),
	}, nil
}

func discard(made []prepared) error {
	var errs []error
	for _, m := range made {
		errs = append(errs, m.discard())
	}
	return errors.Join(errs...)
}

func (m prepared) discard() error {
	var errs []error
	if m.lock != nil {
		errs = append(errs, m.lock.Close())
	}
	if m.instance.started != nil {
		errs = append(errs, m.instance.started.end())
	}
	return errors.Join(append(errs, os.RemoveAll(m.instance.dir))...)
}

func newInstanceID() (string, error) {
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return "", fmt.Errorf("instance id: %w", err)
	}
	return "local-" + hex.EncodeToString(id[:]), nil
}

// resultOf tells the instances of a launch as they are now. The caller holds p.mu.
func (p *Provider) resultOf(l launch) (providers.LaunchResult, error) {
	var result providers.LaunchResult
	for _, known := range l.Instances {
		if i := p.instances[known.ID]; i != nil {
			result.Instances = append(result.Instances, i.told())
			continue
		}
		result.Instances = append(result.Instances, providers.Instance{ID: known.ID, Key: l.Key, OfferID: known.OfferID, State: providers.Terminated})
	}
	if missing := l.Count - len(l.Instances); missing > 0 {
		return result, fail("launch", providers.KindNoCapacity, fmt.Errorf("%d of %d instances were not to be had of %v", missing, l.Count, l.OfferIDs))
	}
	return result, nil
}

// keepLaunch remembers a launch, on disk first. The caller holds p.mu.
func (p *Provider) keepLaunch(request providers.LaunchRequest, made []prepared) error {
	l := launch{Key: request.Key, Owner: request.Owner, OfferIDs: slices.Clone(request.OfferIDs), Count: request.Count, Made: time.Now()}
	for _, m := range made {
		l.Instances = append(l.Instances, launchInstance{ID: m.instance.ID, OfferID: m.instance.OfferID})
	}
	if err := writeJSON(p.launchPath(l.Key), l); err != nil {
		return fmt.Errorf("keep the launch's key: %w", err)
	}
	p.launches[l.Key] = l
	return nil
}

func (p *Provider) launchPath(key string) string {
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(p.config.Dir, "launches", hex.EncodeToString(sum[:])+".json")
}

// forgetLaunches drops the keys that have been kept for long enough. The caller holds p.mu.
func (p *Provider) forgetLaunches(now time.Time) {
	for key, l := range p.launches {
		if now.Sub(l.Made) < keepKeys || slices.ContainsFunc(l.Instances, func(i launchInstance) bool { return p.instances[i.ID] != nil }) {
			continue
		}
		if err := os.Remove(p.launchPath(key)); err != nil && !errors.Is(err, os.ErrNotExist) {
			p.logger.Warn("cannot forget the key of an old launch", "key", key, "error", err)
			continue
		}
		delete(p.launches, key)
	}
}

// loadLaunches reads the keys that an earlier provider kept.
func (p *Provider) loadLaunches(now time.Time) error {
	halves, err := filepath.Glob(filepath.Join(p.config.Dir, "launches", "*"+unfinished+"*"))
	if err != nil {
		return err
	}
	for _, half := range halves {
		if err := os.Remove(half); err != nil {
			return err
		}
	}
	paths, err := filepath.Glob(filepath.Join(p.config.Dir, "launches", "*.json"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		var l launch
		data, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(data, &l)
		}
		if err != nil {
			return fmt.Errorf("a launch's record: %w", err)
		}
		p.launches[l.Key] = l
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgetLaunches(now)
	return nil
}
