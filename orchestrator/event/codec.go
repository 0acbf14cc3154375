// Package event holds the facts of Nightshift and their codec.
//
// A fact says what happened, with every choice spelled out; state is nothing but facts applied in order. The kinds are messages
// of event.proto, versioned as protobuf is: fields are added and never reused, so newer code reads older logs. What a reader
// does not know it must not skip: Decode refuses a fact of an unknown kind and names the kind.
package event

import (
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// FormatLevel is the newest level of kinds that this code writes and reads. It rises when a kind is added.
const FormatLevel = 4

// UnknownKindError is a fact that was written by newer code.
type UnknownKindError struct {
	Kind string
}

func (e *UnknownKindError) Error() string {
	return fmt.Sprintf("the log holds a fact of kind %q, which this version of Nightshift does not know; run a version that does", e.Kind)
}

// NewerFormatError is a term that was begun by code which writes facts that this code would misread.
type NewerFormatError struct {
	Level uint32
}

func (e *NewerFormatError) Error() string {
	return fmt.Sprintf("the log is of format level %d and this version of Nightshift reads up to %d; run a newer version", e.Level, FormatLevel)
}

// bodyFields maps a body message's name to its field in Fact. Generated messages cannot be asked before the package is initialized.
var bodyFields = sync.OnceValue(func() map[protoreflect.FullName]protoreflect.FieldDescriptor {
	body := new(Fact).ProtoReflect().Descriptor().Oneofs().ByName("body")
	fields := make(map[protoreflect.FullName]protoreflect.FieldDescriptor)
	for i := range body.Fields().Len() {
		field := body.Fields().Get(i)
		fields[field.Message().FullName()] = field
	}
	return fields
})

// Of wraps one of the body messages of Fact for a tenant, at a time. It panics when the message is not a body of Fact.
func Of(tenant string, now time.Time, message proto.Message) *Fact {
	if fact, ok := ofPod(message); ok {
		fact.TimeUnixNano, fact.Tenant = now.UnixNano(), tenant
		return fact
	}
	reflected := message.ProtoReflect()
	field, ok := bodyFields()[reflected.Descriptor().FullName()]
	if !ok {
		panic(fmt.Sprintf("event: %s is not a fact", reflected.Descriptor().FullName()))
	}
	fact := &Fact{TimeUnixNano: now.UnixNano(), Tenant: tenant, Kind: string(field.Name())}
	fact.ProtoReflect().Set(field, protoreflect.ValueOfMessage(reflected))
	return fact
}

// ofPod wraps the kinds of which there are very many, without reflection.
func ofPod(message proto.Message) (*Fact, bool) {
	switch body := message.(type) {
	case *PodCreated:
		return &Fact{Kind: "pod_created", Body: &Fact_PodCreated{body}}, true
	case *PodBound:
		return &Fact{Kind: "pod_bound", Body: &Fact_PodBound{body}}, true
	case *PodStarted:
		return &Fact{Kind: "pod_started", Body: &Fact_PodStarted{body}}, true
	case *PodFinished:
		return &Fact{Kind: "pod_finished", Body: &Fact_PodFinished{body}}, true
	}
	return nil, false
}

// At returns the time of the fact, in UTC.
func (f *Fact) At() time.Time { return time.Unix(0, f.GetTimeUnixNano()).UTC() }

// Encode returns the fact's bytes, the same for the same fact.
func Encode(fact *Fact) ([]byte, error) {
	encoded, err := proto.MarshalOptions{Deterministic: true}.Marshal(fact)
	if err != nil {
		return nil, fmt.Errorf("encode fact %s: %w", fact.GetKind(), err)
	}
	return encoded, nil
}

// Decode reads what Encode wrote. It fails with *UnknownKindError for a kind that this code does not know, and with *NewerFormatError where a
// newer format begins.
func Decode(encoded []byte) (*Fact, error) {
	fact := new(Fact)
	if err := proto.Unmarshal(encoded, fact); err != nil {
		return nil, fmt.Errorf("decode fact: %w", err)
	}
	if fact.Body == nil {
		return nil, &UnknownKindError{Kind: fact.GetKind()}
	}
	if level := fact.GetTermBegan().GetFormatLevel(); level > FormatLevel {
		return nil, &NewerFormatError{Level: level}
	}
	return fact, nil
}
