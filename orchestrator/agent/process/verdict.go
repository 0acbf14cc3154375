package process

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/attempt"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
)

// status is how far the pod has come.
func (p *pod) status() attempt.Status {
	s := attempt.Status{Phase: wire.PodReport_STARTING}
	stopped := !p.ending().at.IsZero()
	for _, m := range p.members {
		s.Restarts += m.restarted
		if m.begun || m.end != nil && m.end.reason != attempt.ReasonStartError || m.restarted > 0 {
			s.Phase = wire.PodReport_RUNNING
		}
		s.Containers = append(s.Containers, m.status(p.plan, stopped))
	}
	if s.Phase == wire.PodReport_STARTING {
		return s
	}
	if p.lastFailed != nil {
		s.ExitCode, s.Reason = p.lastFailed.exitCode, p.lastFailed.reason
	}
	s.Message = p.plan.warning
	return s
}

// verdict is the last status of a pod: it has succeeded when all its app containers have (pkg/kubelet/kubelet_pods.go, getPhase).
func (p *pod) verdict() attempt.Status {
	s := p.status()
	s.ExitCode, s.Reason, s.Message = 0, attempt.ReasonCompleted, ""
	s.Phase = wire.PodReport_SUCCEEDED
	var cause *ending
	var texts []string
	for _, m := range p.members {
		if m.role == sidecar {
			continue
		}
		if m.end != nil && m.end.exitCode == 0 {
			continue
		}
		s.Phase = wire.PodReport_FAILED
		if m.end == nil {
			continue // Its turn did not come.
		}
		texts = append(texts, m.end.text)
		if cause == nil || m.end.finished.Before(cause.finished) {
			cause = m.end
		}
	}
	if s.Phase == wire.PodReport_SUCCEEDED {
		return s
	}
	if cause == nil {
		// Its containers had no time to run, or to fail.
		cause = &ending{exitCode: 128 + int32(unix.SIGTERM), reason: attempt.ReasonError}
		texts = append(texts, "stopped before it was started")
	}
	s.ExitCode, s.Reason = cause.exitCode, cause.reason
	if reason := p.stopReason(); reason != "" {
		texts = append(texts, "the pod was stopped: "+reason)
	}
	s.Message = strings.Join(texts, "; ")
	return s
}
