package kubeapi

import (
	"bytes"
	"fmt"
	"io"
	"net/http"

	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
)

// Client returns a client that asks this server from within its process, as who: without a port, a certificate or a limit of its
// own. What it asks goes the way that requests from outside go. It is for requests that end; it does not stream.
func (s *Server) Client(who Identity) (kubernetes.Interface, error) {
	client, err := kubernetes.NewForConfigAndClient(
		&restclient.Config{Host: "https://localhost", QPS: -1},
		&http.Client{Transport: inProcess{s.handler, who}},
	)
	if err != nil {
		return nil, fmt.Errorf("client of the API in this process: %w", err)
	}
	return client, nil
}

// inProcess gives requests to a handler.
type inProcess struct {
	handler http.Handler
	who     Identity
}

// RoundTrip implements http.RoundTripper.
func (p inProcess) RoundTrip(request *http.Request) (*http.Response, error) {
	// A server's request always has a body and a target in its own form.
	served := request.Clone(WithIdentity(request.Context(), p.who))
	served.RequestURI = request.URL.RequestURI()
	if served.Body == nil {
		served.Body = http.NoBody
	}
	answer := &answer{header: make(http.Header)}
	p.handler.ServeHTTP(answer, served)
	if err := request.Context().Err(); err != nil {
		return nil, err
	}
	status := max(answer.status, http.StatusOK)
	return &http.Response{
		Status: fmt.Sprintf("%d %s", status, http.StatusText(status)), StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: answer.header, Body: io.NopCloser(&answer.body), ContentLength: int64(answer.body.Len()), Request: request,
	}, nil
}

// answer is a response that is kept until it is whole.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

// Write implements http.ResponseWriter.
func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p)
}

// Flush implements http.Flusher, which some of the library's handlers demand.
func (a *answer) Flush() {}
