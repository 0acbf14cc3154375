package event_test

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
)

func TestAFactIsReadAsItWasWritten(t *testing.T) {
	at := time.Date(2026, 3, 1, 22, 0, 0, 7, time.UTC)
	fact := event.Of("team", at, &event.PodFinished{Uid: "u", Outcome: event.PodFinished_FAILED, IndexFailed: true})
	encoded, err := event.Encode(fact)
	if err != nil {
		t.Fatal(err)
	}
	read, err := event.Decode(encoded)
	if err != nil || !proto.Equal(read, fact) || !read.At().Equal(at) || read.GetKind() != "pod_finished" {
		t.Errorf("read %v, %v", read, err)
	}
}

func TestEveryKindIsNamedByItsField(t *testing.T) {
	for _, message := range []proto.Message{&event.PodCreated{}, &event.PodBound{}, &event.PodStarted{}, &event.PodFinished{}, &event.PodStopping{}, &event.JobCreated{}, &event.NodeGone{}} {
		fact := event.Of("", time.Unix(1, 0), message)
		body := fact.ProtoReflect().WhichOneof(fact.ProtoReflect().Descriptor().Oneofs().ByName("body"))
		if fact.GetKind() != string(body.Name()) {
			t.Errorf("%T is of kind %q, its field is %q", message, fact.GetKind(), body.Name())
		}
	}
}

func TestWhatNewerCodeWroteIsNotRead(t *testing.T) {
	// A body with a number that no kind has.
	unknown, err := proto.Marshal(&event.Fact{Kind: "pod_teleported"})
	if err != nil {
		t.Fatal(err)
	}
	unknown = append(unknown, 0xfa, 0x3f, 0x00) // Field 1023, empty.
	var kind *event.UnknownKindError
	if _, err := event.Decode(unknown); !errors.As(err, &kind) || kind.Kind != "pod_teleported" {
		t.Errorf("a kind that is not known: %v", err)
	}
	encoded, err := event.Encode(event.Of("", time.Unix(1, 0), &event.TermBegan{Term: 1, FormatLevel: event.FormatLevel + 1}))
	if err != nil {
		t.Fatal(err)
	}
	var level *event.NewerFormatError
	if _, err := event.Decode(encoded); !errors.As(err, &level) || level.Level != event.FormatLevel+1 {
		t.Errorf("a newer format level: %v", err)
	}
}
