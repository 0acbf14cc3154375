package access

import (
	"fmt"
	"slices"
	"strings"

	"gopkg.in/natefinch/lumberjack.v2"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	auditlog "k8s.io/apiserver/plugin/pkg/audit/log"
)

// AuditFile is where requests are noted, one JSON object of audit.k8s.io/v1 a line, readable by its owner alone. When it is full it is renamed, with
// the time in its name, and begun anew.
type AuditFile struct {
	Path string
	// MaxMegabytes is when the file is full, at least 1. Backups is how many full ones are kept; 0 is all.
	MaxMegabytes, Backups int
}

// Audit writes what is noted. It is audit.Backend and audit.PolicyRuleEvaluator to the library.
type Audit struct {
	audit.Backend
	file *lumberjack.Logger
}

// OpenAudit opens the file, to note at its end. Close closes it.
func OpenAudit(to AuditFile) (*Audit, error) {
	file := &lumberjack.Logger{Filename: to.Path, MaxSize: to.MaxMegabytes, MaxBackups: to.Backups}
	if _, err := file.Write(nil); err != nil {
		return nil, fmt.Errorf("open the audit log: %w", err)
	}
	return &Audit{Backend: wordless{auditlog.NewBackend(file, auditlog.FormatJson, auditv1.SchemeGroupVersion)}, file: file}, nil
}

// wordless leaves out the words of answers: those to an invalid request quote it. Reason and code stay, and an annotation tells why it was forbidden.
type wordless struct{ audit.Backend }

// ProcessEvents implements audit.Sink.
func (w wordless) ProcessEvents(events ...*auditinternal.Event) bool {
	noted := slices.Clone(events)
	for i, event := range noted {
		if event.ResponseStatus != nil {
			copied, status := *event, *event.ResponseStatus
			status.Message, status.Details = "", nil
			copied.ResponseStatus, noted[i] = &status, &copied
		}
	}
	return w.Backend.ProcessEvents(noted...)
}

// Close closes the file.
func (a *Audit) Close() error { return a.file.Close() }

// Paths that are asked again and again by machines and tell nothing.
var unnoted = []string{"/healthz", "/livez", "/readyz", "/version", "/openapi"}

// EvaluatePolicyRule implements audit.PolicyRuleEvaluator: who asked what and was answered how, and never a body, which may hold secrets. A read is
// noted when it is answered. A write is noted before too, and the library refuses a request that it cannot note: what is nowhere on record is not done.
func (a *Audit) EvaluatePolicyRule(asked authorizer.Attributes) audit.RequestAuditConfig {
	if !asked.IsResourceRequest() && slices.ContainsFunc(unnoted, func(path string) bool {
		return asked.GetPath() == path || strings.HasPrefix(asked.GetPath(), path+"/")
	}) {
		return audit.RequestAuditConfig{Level: auditinternal.LevelNone}
	}
	noted := audit.RequestAuditConfig{Level: auditinternal.LevelMetadata}
	if asked.IsReadOnly() {
		noted.OmitStages = []auditinternal.Stage{auditinternal.StageRequestReceived}
	}
	return noted
}
