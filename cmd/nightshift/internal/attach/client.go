package attach

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"

	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/screen"
)

// Transport reaches the API of the one who works on a data directory, if somebody does.
func Transport(dataDir string) (*http.Transport, bool) {
	conn, err := Dial(dataDir)
	if err != nil {
		return nil, false
	}
	_ = conn.Close() // it was only to see whether somebody answers
	return &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return Dial(dataDir) }}, true
}

// Run has a visit carried out over a connection, which it closes, and shows what comes back. When the context ends the other side is told,
// and Run returns when that has come to its end: within the grace of the pods. It fails with ErrClosing when the visit was not begun.
func Run(ctx context.Context, conn net.Conn, brought Visit, show screen.Display) (End, error) {
	defer conn.Close()
	in, err := upgrade(conn)
	out := json.NewEncoder(conn)
	if err == nil {
		err = out.Encode(brought)
	}
	if err != nil {
		// It was ending, and hung up.
		return End{}, fmt.Errorf("%w (%w)", ErrClosing, err)
	}
	defer context.AfterFunc(ctx, func() {
		_ = out.Encode(struct{}{}) // if it cannot be sent the connection is broken, which means the same
	})()
	messages := json.NewDecoder(in)
	for taken := false; ; taken = true {
		var m message
		if err := messages.Decode(&m); err != nil {
			return End{}, fmt.Errorf("the run whose control plane this one had joined is gone (%w); run again, and what is unfinished goes on", err)
		}
		if !taken && (m.End == nil || !m.End.Closing) {
			show.Tell(screen.Say("another nightshift works on this data directory; its nodes and its policy are used"))
		}
		switch {
		case m.Change != nil:
			show.Tell(*m.Change)
		case m.Log != nil:
			show.Log(ctx, m.Log.Pod, string(m.Log.Line))
		case m.Tally != nil:
			show.Count(*m.Tally)
		case m.End != nil && m.End.Closing:
			return End{}, ErrClosing
		case m.End != nil:
			return *m.End, nil
		}
	}
}

// upgrade turns a new connection into one for messages.
func upgrade(conn net.Conn) (*bufio.Reader, error) {
	request, err := http.NewRequest(http.MethodPost, "http://localhost"+visitPath, http.NoBody)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", visitProtocol)
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	in := bufio.NewReader(conn)
	response, err := http.ReadResponse(in, request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("it answers %s", response.Status)
	}
	return in, nil
}
