package manifest

import (
	"testing"
	"time"
)

func TestTheRulesOfAZoneGiveItsLocalTimes(t *testing.T) {
	now := time.Date(2026, 3, 1, 22, 0, 0, 0, time.UTC)
	for _, name := range []string{
		"UTC", "Etc/UTC", "America/New_York", "Europe/Berlin", "Europe/Dublin", "Asia/Kolkata", "Australia/Lord_Howe", "Africa/Casablanca", "America/Sao_Paulo",
		"Pacific/Apia", "Asia/Gaza", "Antarctica/Troll", "Etc/GMT+5", "America/Caracas",
	} {
		rules, err := ZoneRules(name, now)
		if err != nil {
			t.Fatal(err)
		}
		got, err := time.LoadLocationFromTZData(name, rules)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		// An hour is the finest step of any of them but for Lord Howe, which has half of one.
		for at := time.Date(2010, 1, 1, 0, 0, 0, 0, time.UTC); at.Year() < 2060; at = at.Add(30 * time.Minute) {
			gotName, gotOffset := at.In(got).Zone()
			wantName, wantOffset := at.In(want).Zone()
			if gotName != wantName || gotOffset != wantOffset {
				t.Fatalf("%s: at %s it is %s %d, want %s %d", name, at, gotName, gotOffset, wantName, wantOffset)
			}
		}
		if len(rules) > 2048 {
			t.Errorf("%s: its rules are %d bytes", name, len(rules))
		}
	}
	if rules, err := ZoneRules("Mars/Olympus_Mons", now); err == nil {
		t.Errorf("a zone that there is not has the rules %q", rules)
	}
}
