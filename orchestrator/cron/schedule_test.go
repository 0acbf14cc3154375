package cron

import (
	"testing"
	"time"

	_ "time/tzdata" // the zones of these tests are there on every machine
)

// thursday is the time around which Kubernetes' own tests of schedules turn.
var thursday = time.Date(2016, 5, 19, 10, 0, 0, 0, time.UTC)

func mustParse(t *testing.T, expression, zone string) *Schedule {
	t.Helper()
	location := time.UTC
	if zone != "" {
		var err error
		if location, err = time.LoadLocation(zone); err != nil {
			t.Fatal(err)
		}
	}
	schedule, err := Parse(expression, location)
	if err != nil {
		t.Fatal(err)
	}
	return schedule
}

// The cases of TestMostRecentScheduleTime and TestNextScheduleTimeDuration in pkg/controller/cronjob/utils_test.go: times are after thursday.
func TestTheMostRecentMissedTimeIsThatOfKubernetes(t *testing.T) {
	const h, m = time.Hour, time.Minute
	for _, c := range []struct {
		name, schedule             string
		since, now, latest, next   time.Duration // 0 for no latest
		few, many, wrong, unlooked bool
	}{
		{name: "before the first time", schedule: "0 * * * *", now: 30 * time.Second, next: h},
		{name: "just after a time", schedule: "0 * * * *", now: 61 * m, latest: h, few: true, next: 2 * h},
		{name: "five times were missed", schedule: "0 * * * *", since: 10 * time.Second, now: 301 * m, latest: 300 * m, few: true, next: 6 * h},
		{name: "times unevenly apart, a day later", schedule: "30 6-16/4 * * 1-5", since: 30 * m, now: 24*h + 31*m, latest: 24*h + 30*m, few: true, next: 28*h + 30*m},
		{name: "times unevenly apart, where the latest is not found", schedule: "30 10,11,12 * * 1-5", since: 30 * m, now: 30*h + 30*m, few: true, next: 96*h + 30*m},
		{name: "times unevenly apart, over a weekend", schedule: "30 6-16/4 * * 1-5", since: 30 * m, now: 96*h + 31*m, latest: 96*h + 30*m, few: true, next: 100*h + 30*m},
		{name: "times unevenly apart, from the creation", schedule: "30 6-16/4 * * 1-5", now: 24*h + 31*m, latest: 24*h + 30*m, few: true, next: 28*h + 30*m},
		{name: "every hour from the last run, for a week", schedule: "@every 1h", since: m, now: 7 * 24 * h, latest: 6*24*h + 23*h + m, many: true, next: 7*24*h + m},
		{name: "a date that no year has", schedule: "59 23 31 2 *", since: 10 * time.Second, now: h, wrong: true, unlooked: true},
		{name: "the last run was just now", schedule: "*/5 * * * *", since: 30 * m, now: 31 * m, next: 35 * m},
		{name: "once a week, two were missed", schedule: "0 12 * * 4", since: 2 * h, now: 19*24*h + h + 30*m, latest: 14*24*h + 2*h, few: true, next: 21*24*h + 2*h},
		{name: "once a week, and no run before", schedule: "0 12 * * 5", now: 6 * h, next: 26 * h},
	} {
		t.Run(c.name, func(t *testing.T) {
			schedule, since, now := mustParse(t, c.schedule, ""), thursday.Add(c.since), thursday.Add(c.now)
			found, err := schedule.since(since, now)
			if (err != nil) != c.wrong {
				t.Fatalf("it is refused as %v", err)
			}
			want := time.Time{}
			if c.latest != 0 {
				want = thursday.Add(c.latest)
			}
			if !found.latest.Equal(want) {
				t.Errorf("the latest is %s, want %s", found.latest, want)
			}
			if few, many := found.count > 0 && found.count <= tooManyMissed, found.count > tooManyMissed; few != c.few || many != c.many {
				t.Errorf("%d are missed", found.count)
			}
			next := schedule.next(since, now)
			if want := thursday.Add(c.next); c.unlooked != next.IsZero() || (!c.unlooked && !next.Equal(want)) {
				t.Errorf("it is looked at again at %s, want %s", next, want)
			}
		})
	}
}

// What a schedule means, as the standard parser of github.com/robfig/cron reads it. The first time after thursday, a Thursday.
func TestSchedulesAreReadAsKubernetesReadsThem(t *testing.T) {
	for expression, want := range map[string]string{
		"*/1 * * * ?":           "2016-05-19T10:01:00Z",
		"15,45 8-18/5 * * *":    "2016-05-19T13:15:00Z",
		"0 0 1 JAN *":           "2017-01-01T00:00:00Z",
		"0 12 * * mon":          "2016-05-23T12:00:00Z",
		"0 12 1 * fri":          "2016-05-20T12:00:00Z", // either the day of the month or that of the week
		"0 12 1 * *":            "2016-06-01T12:00:00Z",
		"0 0 * * 0":             "2016-05-22T00:00:00Z",
		"0 0 29 2 *":            "2020-02-29T00:00:00Z",
		"@yearly":               "2017-01-01T00:00:00Z",
		"@annually":             "2017-01-01T00:00:00Z",
		"@monthly":              "2016-06-01T00:00:00Z",
		"@weekly":               "2016-05-22T00:00:00Z",
		"@daily":                "2016-05-20T00:00:00Z",
		"@midnight":             "2016-05-20T00:00:00Z",
		"@hourly":               "2016-05-19T11:00:00Z",
		"@every 90m":            "2016-05-19T11:30:00Z",
		"  0   11 * *  * ":      "2016-05-19T11:00:00Z",
		"@every 1h30m10s500ms":  "2016-05-19T11:30:10Z",
		"0-10/5,50-59 11 * * *": "2016-05-19T11:00:00Z",
	} {
		if got := mustParse(t, expression, "").After(thursday).Format(time.RFC3339); got != want {
			t.Errorf("%q is due at %s, want %s", expression, got, want)
		}
	}
	for _, expression := range []string{
		"", "TZ=0", "TZ=UTC 0 * * * *", "CRON_TZ=America/New_York 0 * * * *", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *",
		"* * * 13 *", "* * * * 7", "5-1 * * * *", "*/0 * * * *", "@reboot", "@every", "@every soon", "a * * * *", "1-2-3 * * * *",
	} {
		if schedule, err := Parse(expression, time.UTC); err == nil {
			t.Errorf("%q is taken, as %+v", expression, schedule.times)
		}
	}
}

// Local times that a clock skips or shows twice.
func TestSummertimeIsKeptAsKubernetesKeepsIt(t *testing.T) {
	const newYork, saoPaulo = "America/New_York", "America/Sao_Paulo"
	for _, c := range []struct {
		name, schedule, zone string
		from                 string
		want                 []string
	}{
		{
			"a local time is that of the zone", "30 9 * * *", newYork, "2026-01-10T00:00:00Z",
			[]string{"2026-01-10T14:30:00Z", "2026-01-11T14:30:00Z"},
		},
		{
			"a time that is skipped does not come that day", "30 2 * * *", newYork, "2026-03-07T12:00:00Z",
			[]string{"2026-03-09T06:30:00Z", "2026-03-10T06:30:00Z"},
		},
		{
			"a time that comes twice comes twice", "30 1 * * *", newYork, "2026-10-31T12:00:00Z",
			[]string{"2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z", "2026-11-02T06:30:00Z"},
		},
		{
			"each hour comes once, whatever the clock shows", "0 * * * *", newYork, "2026-11-01T04:30:00Z",
			[]string{"2026-11-01T05:00:00Z", "2026-11-01T06:00:00Z", "2026-11-01T07:00:00Z"},
		},
		{
			"a midnight that is skipped is not made up for by another time of the day", "0 0 * * *", saoPaulo, "2018-11-03T12:00:00Z",
			[]string{"2018-11-05T02:00:00Z"},
		},
		{
			"half hours of a zone are kept", "0 9 * * *", "Asia/Kolkata", "2026-01-10T00:00:00Z",
			[]string{"2026-01-10T03:30:00Z"},
		},
		{
			"an interval knows no zone", "@every 24h", newYork, "2026-03-07T12:00:00Z",
			[]string{"2026-03-08T12:00:00Z", "2026-03-09T12:00:00Z"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			at, err := time.Parse(time.RFC3339, c.from)
			if err != nil {
				t.Fatal(err)
			}
			schedule := mustParse(t, c.schedule, c.zone)
			for _, want := range c.want {
				at = schedule.After(at)
				if got := at.UTC().Format(time.RFC3339); got != want {
					t.Fatalf("it is due at %s, want %s", got, want)
				}
			}
		})
	}
}
