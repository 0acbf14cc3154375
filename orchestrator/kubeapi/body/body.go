// Package body holds the bodies of requests against bounds, before anything reads them that expands or that makes of two bytes an object of a thousand.
//
// The library bounds the bytes of a body, the depth of JSON and YAML, and YAML's aliases by how many they are, not by how much they stand for: a
// hundred kilobytes of YAML with a long string that is named a thousand times become a hundred megabytes, three megabytes a hundred gigabytes.
// And three megabytes of "{}," in a list of containers are a million containers, each with its defaults and its errors. So what a body holds is counted
// here, in memory that its bytes bound: MaxValues in one, MaxExpandedBytes with its aliases resolved, and all large bodies that are being worked on
// together MaxValuesAtOnce.
package body

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
)

const (
	// MaxBytes of a body, as in Kubernetes (k8s.io/apiserver/pkg/server/config.go, MaxRequestBodyBytes).
	MaxBytes = 3 << 20
	// MaxYAMLBytes of a body that is YAML and not JSON: reading it takes a hundred times as much. kubectl and client-go send JSON.
	MaxYAMLBytes = 1 << 20
	// MaxExpandedBytes of a YAML body with its aliases resolved.
	MaxExpandedBytes = MaxBytes
	// MaxValues is how many values, that is objects, lists, keys, strings and numbers, a body holds at most.
	MaxValues = 100_000
	// MaxValuesAtOnce is how many all bodies hold that are being worked on, those with less than smallValues not counted.
	MaxValuesAtOnce = 10 * MaxValues
	smallValues     = 2_000
)

// Guard refuses requests whose bodies are beyond the bounds: 413 or 400, and 429 when too much is being worked on. Those it lets through reach next
// with the same body. It is placed behind authentication and authorization: strangers cost nothing.
func Guard(next http.Handler, serializer runtime.NegotiatedSerializer) http.Handler {
	g := &guard{next: next, serializer: serializer}
	return http.HandlerFunc(g.serve)
}

type guard struct {
	next       http.Handler
	serializer runtime.NegotiatedSerializer
	// yaml is held while YAML is read, so that one at a time takes the memory for that.
	yaml sync.Mutex
	// held are the values of the large bodies that next works on.
	held atomic.Int64
}

func (g *guard) serve(w http.ResponseWriter, request *http.Request) {
	values, err := g.count(request)
	if err == nil && values >= smallValues {
		defer g.held.Add(-values)
		if g.held.Add(values) > MaxValuesAtOnce {
			err = apierrors.NewTooManyRequests("too many large requests are being worked on", 1)
		}
	}
	if err != nil {
		responsewriters.ErrorNegotiated(err, g.serializer, schema.GroupVersion{Version: "v1"}, w, request)
		return
	}
	g.next.ServeHTTP(w, request)
}

// count reads the body, puts it back, and counts what it holds.
func (g *guard) count(request *http.Request) (values int64, err error) {
	if request.Body == nil || request.Body == http.NoBody {
		return 0, nil
	}
	text, err := io.ReadAll(io.LimitReader(request.Body, MaxBytes+1))
	switch {
	case request.Context().Err() != nil:
		return 0, apierrors.NewTimeoutError("the request's body did not come in time", 1)
	case err != nil:
		return 0, apierrors.NewBadRequest("read the request's body: " + err.Error())
	case len(text) > MaxBytes:
		return 0, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", MaxBytes))
	}
	_ = request.Body.Close() // all was read of it that is going to be
	request.Body = io.NopCloser(bytes.NewReader(text))
	kind, _, _ := mime.ParseMediaType(request.Header.Get("Content-Type")) // the library refuses what it does not know
	var measured size
	switch {
	case strings.Contains(kind, "protobuf"):
		measured = measureProtobuf(text)
	case strings.Contains(kind, "yaml") && !json.Valid(text):
		if len(text) > MaxYAMLBytes {
			return 0, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d for YAML; send JSON", MaxYAMLBytes))
		}
		g.yaml.Lock()
		measured, err = measureYAML(text)
		g.yaml.Unlock()
	default:
		measured = measureJSON(text)
	}
	if err == nil {
		err = measured.check()
	}
	if errors.Is(err, errTooMuch) {
		return 0, apierrors.NewRequestEntityTooLargeError(err.Error())
	}
	if err != nil {
		return 0, apierrors.NewBadRequest(err.Error())
	}
	return measured.values, nil
}
