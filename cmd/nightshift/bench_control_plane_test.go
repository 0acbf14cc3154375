package main_test

import (
	"encoding/json"
	"testing"
)

func TestTheControlPlaneIsMeasured(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	bench := w.nightshift("bench", "control-plane", "--pods", "300", "--agents", "3", "--pods-per-agent", "20", "-o", "json")
	bench.mustEnd(0)
	var got struct {
		Pods, Agents           int
		PodsPerSecond          float64
		SubmitToRunningSeconds struct{ P50, P99 float64 }
		CPUSeconds             float64
		PeakRSSBytes           int64
		JournalBytes           int64
		AgentsProcess          struct{ PeakRSSBytes int64 }
	}
	if err := json.Unmarshal([]byte(bench.stdout.String()), &got); err != nil {
		t.Fatalf("%v in %q", err, bench.stdout.String())
	}
	waits := got.SubmitToRunningSeconds
	if got.Pods != 300 || got.Agents != 3 || got.PodsPerSecond <= 0 || got.CPUSeconds <= 0 || waits.P50 <= 0 || waits.P99 < waits.P50 {
		t.Errorf("measured %+v", got)
	}
	const least = 10 << 20 // Bytes: less than any such process takes.
	if got.PeakRSSBytes < least || got.AgentsProcess.PeakRSSBytes < least || got.JournalBytes <= 0 {
		t.Errorf("measured %+v", got)
	}
	w.nightshift("bench", "control-plane", "--pods", "0").mustEnd(2)
}
