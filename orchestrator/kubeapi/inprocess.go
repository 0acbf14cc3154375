package kubeapi

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"

	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
)

// Client returns a client that asks this server from within its process, as who: without a port, a certificate or a limit of its
// own. What it asks goes the way that requests from outside go.
func (s *Server) Client(who Identity) (kubernetes.Interface, error) {
	client, err := kubernetes.NewForConfigAndClient(
		&restclient.Config{Host: "https://localhost", QPS: -1},
		&http.Client{Transport: s.Transport(who)},
	)
	if err != nil {
		return nil, fmt.Errorf("client of the API in this process: %w", err)
	}
	return client, nil
}

// Transport carries requests to this server within its process, as who.
func (s *Server) Transport(who Identity) http.RoundTripper { return inProcess{s.handler, who} }

// inProcess gives requests to a handler.
type inProcess struct {
	handler http.Handler
	who     Identity
}

// RoundTrip implements http.RoundTripper. It returns when the answer begins; its body is read while the handler writes it.
func (p inProcess) RoundTrip(request *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(WithIdentity(request.Context(), p.who))
	// A server's request always has a body and a target in its own form.
	served := request.Clone(ctx)
	served.RequestURI = request.URL.RequestURI()
	if served.Body == nil {
		served.Body = http.NoBody
	}
	body, write := io.Pipe()
	a := &answer{header: make(http.Header), body: write, begun: make(chan struct{})}
	go func() {
		defer cancel()
		defer func() {
			a.WriteHeader(http.StatusOK)
			if broken := recover(); broken != nil {
				// The library ends what it cannot serve any more by http.ErrAbortHandler.
				_ = write.CloseWithError(fmt.Errorf("the answer breaks off: %v", broken))
				return
			}
			_ = write.Close() // it never fails
		}()
		p.handler.ServeHTTP(a, served)
	}()
	select {
	case <-a.begun:
	case <-request.Context().Done():
		cancel()
		_ = body.CloseWithError(request.Context().Err()) // nobody reads what the handler still writes
		return nil, request.Context().Err()
	}
	return &http.Response{
		Status: fmt.Sprintf("%d %s", a.status, http.StatusText(a.status)), StatusCode: a.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: a.sent, Body: answerBody{body, cancel}, ContentLength: -1, Request: request,
	}, nil
}

// answerBody ends its request when it is closed.
type answerBody struct {
	*io.PipeReader
	cancel context.CancelFunc
}

// Close implements io.Closer.
func (b answerBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}

// answer is what a handler writes. It belongs to the handler's goroutine until begun is closed; then status and sent are fixed.
type answer struct {
	header http.Header
	body   *io.PipeWriter

	once   sync.Once
	begun  chan struct{}
	status int
	sent   http.Header
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	a.once.Do(func() {
		a.status, a.sent = status, a.header.Clone()
		close(a.begun)
	})
}

// Write implements http.ResponseWriter.
func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p)
}

// Flush implements http.Flusher, which watches and followed logs demand: it sends the header.
func (a *answer) Flush() { a.WriteHeader(http.StatusOK) }
