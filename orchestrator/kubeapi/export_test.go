package kubeapi

import "time"

// SetLastWords shortens how long a follower waits for the end of a log that never comes.
func (s *Server) SetLastWords(wait time.Duration) { s.lastWords = wait }

// CloseAudit closes the audit log's file, which the next line opens again.
func (s *Server) CloseAudit() error { return s.audit.Close() }
