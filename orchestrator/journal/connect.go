package journal

import "fmt"

// Problem says in what way a store on other machines cannot be used.
type Problem int

const (
	// Unreachable: nobody answers at the address.
	Unreachable Problem = iota + 1
	// Untrusted: its certificate is not one of the authority that it should be of, or not for this address.
	Untrusted
	// Refused: it does not accept this client's certificate, or gives it no rights.
	Refused
	// WantsTLS: it speaks TLS, and was spoken to without.
	WantsTLS
	// LacksTLS: it was spoken to by TLS, and does not speak it.
	LacksTLS
	// NoMajority: it answers, but cannot write: too few of its members are there.
	NoMajority
)

// ConnectError says why a store on other machines cannot be used.
type ConnectError struct {
	// Where are the address or addresses.
	Where   string
	Problem Problem
	Err     error
}

// Error implements error.
func (e *ConnectError) Error() string {
	what := map[Problem]string{
		Unreachable: "cannot be reached",
		Untrusted:   "shows a certificate that is not trusted",
		Refused:     "does not accept this client",
		WantsTLS:    "speaks TLS, which http:// does not",
		LacksTLS:    "does not speak TLS, which https:// does",
		NoMajority:  "answers, but has no leader: a majority of its members is needed",
	}[e.Problem]
	return fmt.Sprintf("the log's store at %s %s: %v", e.Where, what, e.Err)
}

// Unwrap returns the cause.
func (e *ConnectError) Unwrap() error { return e.Err }
