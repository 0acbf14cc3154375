package engine_test

import (
	"testing"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/object"
)

func TestWhatEndsThingsCreatesNothing(t *testing.T) {
	for _, test := range []struct {
		command engine.Command
		creates bool
	}{
		{engine.CreateJob{}, true},
		{engine.CreateCronJob{}, true},
		{engine.PutObject{Put: object.Put{Create: true}}, true},
		{engine.PutObject{}, true}, // if it is not there
		{engine.PutObject{Put: object.Put{Version: 7}}, false},
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
