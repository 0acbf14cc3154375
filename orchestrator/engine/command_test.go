package engine_test

import (
	"testing"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
)

func TestWhatEndsThingsCreatesNothing(t *testing.T) {
	for _, test := range []struct {
		command engine.Command
		creates bool
	}{
		{engine.CreateJob{}, true},
		{engine.PutObject{Create: true}, true},
		{engine.PutObject{}, true}, // if it is not there
		{engine.PutObject{Version: 7}, false},
		{engine.UpdateJob{}, false},
		{engine.AdmitJob{}, false},
		{engine.DeleteJob{}, false},
		{engine.DeletePod{}, false},
		{engine.DeleteObject{}, false},
		{engine.ReportPod{}, false},
		{engine.InstanceGone{}, false},
		{engine.CloseFleet{}, false},
		{engine.BeginTerm{}, false},
		{engine.Tick{}, false},
	} {
		if engine.Creates(test.command) != test.creates {
			t.Errorf("%T%+v creates: %t", test.command, test.command, !test.creates)
		}
	}
}
