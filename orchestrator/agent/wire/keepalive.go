package wire

import "time"

// How an agent watches an idle session. The control plane's server has to allow it, by a keepalive.EnforcementPolicy whose MinTime
// is at most KeepaliveTime; gRPC's default of five minutes ends such a session.
const (
	KeepaliveTime    = 20 * time.Second
	KeepaliveTimeout = 10 * time.Second
)
