package kubeapi

import "time"

// SetLastWords shortens how long a follower waits for the end of a log that never comes.
func (s *Server) SetLastWords(wait time.Duration) { s.lastWords = wait }
