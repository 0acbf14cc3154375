package cron

import (
	"errors"
	"fmt"
	"strings"
	"time"

	robfig "github.com/robfig/cron/v3"
)

// A Schedule says when runs are due. Parse makes one; it never changes.
type Schedule struct{ times robfig.Schedule }

// standard is what Kubernetes reads: five fields or a descriptor (robfig's ParseStandard).
const standard = robfig.Minute | robfig.Hour | robfig.Dom | robfig.Month | robfig.Dow | robfig.Descriptor

// errZoneInside refuses what Kubernetes refuses in a new schedule. The parser would look such a zone up on the machine, and panics on some.
var errZoneInside = errors.New("cannot use TZ or CRON_TZ in schedule, use timeZone field instead")

// Parse reads a schedule, whose times are local ones of the zone; nil is UTC.
func Parse(expression string, zone *time.Location) (*Schedule, error) {
	if strings.Contains(expression, "TZ") {
		return nil, errZoneInside
	}
	times, err := robfig.NewParser(standard).Parse(expression)
	if err != nil {
		return nil, err
	}
	if fields, ok := times.(*robfig.SpecSchedule); ok {
		// The parser has put the machine's own zone there.
		if fields.Location = zone; zone == nil {
			fields.Location = time.UTC
		}
	}
	return &Schedule{times}, nil
}

// After is the first time of the schedule after another; zero if there is none within five years.
func (s *Schedule) After(t time.Time) time.Time { return s.times.Next(t) }

// isInterval tells whether the times depend on the one before ("@every"), so that they must not be looked for from just anywhere.
func (s *Schedule) isInterval() bool {
	_, interval := s.times.(robfig.ConstantDelaySchedule)
	return interval
}

// errNoTime is what Kubernetes says of a schedule that names no time, such as one for the 31st of February.
var errNoTime = errors.New("time difference between two schedules is less than 1 second")

// tooManyMissed is the number of missed times above which users are warned.
const tooManyMissed = 100

// missed is what a schedule has wanted since a time.
type missed struct {
	// latest is the most recent time, zero if there is none or none is found: count is an estimate.
	latest time.Time
	count  int64
}

// since looks for the times of the schedule after one time and up to another, as mostRecentScheduleTime of
// pkg/controller/cronjob/utils.go does. The distance of the first two times stands for that of all, so that what was missed for years costs
// no more than what was missed for a day; of a schedule whose times are unevenly apart the latest may not be found, in Kubernetes as here.
func (s *Schedule) since(earliest, now time.Time) (missed, error) {
	first := s.After(earliest)
	second := s.After(first)
	switch {
	case now.Before(first):
		return missed{}, nil
	case now.Before(second):
		return missed{latest: first, count: 1}, nil
	}
	apart := int64(second.Sub(first).Round(time.Second) / time.Second)
	if apart < 1 {
		return missed{}, errNoTime
	}
	found := missed{count: int64(now.Sub(first)/time.Second)/apart + 1}
	// One interval back, and from there by the schedule itself.
	begin := first.Add(time.Duration((found.count-2)*apart) * time.Second)
	for t := s.After(begin); !t.IsZero() && !t.After(now); t = s.After(t) {
		found.latest = t
	}
	return found, nil
}

// next is when the schedule is to be looked at again, after nothing was started now (nextScheduleTimeDuration of utils.go).
func (s *Schedule) next(earliest, now time.Time) time.Time {
	found, err := s.since(earliest, now)
	switch {
	case err != nil:
		return time.Time{}
	case !found.latest.IsZero():
		return s.After(found.latest)
	case found.count == 0:
		return s.After(earliest)
	}
	return s.After(now)
}

// Zone reads the rules of a time zone, TZif (RFC 9636).
func Zone(name string, rules []byte) (*time.Location, error) {
	zone, err := time.LoadLocationFromTZData(name, rules)
	if err != nil {
		return nil, fmt.Errorf("rules of time zone %s: %w", name, err)
	}
	return zone, nil
}
