// Package door is how an operator lets others in to serve, in flags and tokens: what may be given, checked before anything is started.
package door

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi"
	"github.com/nightshift-batch/nightshift/orchestrator/kubeapi/access"
)

// Door is what the flags came to.
type Door struct {
	Access access.Options
	Limits kubeapi.Limits
}

// Flags are those of serve by which an operator lets others in, and bounds what they ask. Where kube-apiserver has such a flag, it has this name.
type Flags struct {
	tokensFile string
	oidc       access.Issuer
	audit      access.AuditFile
	limits     kubeapi.Limits
}

// Register makes them known.
func (o *Flags) Register(flags *pflag.FlagSet) {
	flags.StringVar(&o.tokensFile, "tokens-file", "", "file of hashed static tokens; see nightshift token new")
	flags.StringVar(&o.oidc.URL, "oidc-issuer-url", "", "https URL of an OpenID Connect issuer whose ID tokens are taken")
	flags.StringVar(&o.oidc.ClientID, "oidc-client-id", "", "client ID that the issuer's tokens must be for (aud)")
	flags.StringVar(&o.oidc.UsernameClaim, "oidc-username-claim", "sub", "claim that names the user")
	flags.StringVar(&o.oidc.UsernamePrefix, "oidc-username-prefix", "", "goes before the user's name, - for nothing (default: the issuer's URL and #, or nothing if the claim is email)")
	flags.StringVar(&o.oidc.GroupsClaim, "oidc-groups-claim", "", "claim that lists the user's groups (default: no groups)")
	flags.StringVar(&o.oidc.GroupsPrefix, "oidc-groups-prefix", "", "goes before the name of each group")
	flags.StringVar(&o.oidc.CAFile, "oidc-ca-file", "", "PEM file by which the issuer's certificate is trusted (default: the machine's)")
	flags.StringVar(&o.audit.Path, "audit-log", "", "note who asked what in this file, one audit.k8s.io/v1 object a line, without what was in the requests")
	flags.IntVar(&o.audit.MaxMegabytes, "audit-log-maxsize", 100, "megabytes after which the audit log is renamed and begun anew")
	flags.IntVar(&o.audit.Backups, "audit-log-maxbackup", 10, "how many renamed audit logs are kept, 0 for all")
	flags.IntVar(&o.limits.Reads, "max-requests-inflight", 400, "how many reads are answered at the same time, watches not counted; administrators are let in all the same")
	flags.IntVar(&o.limits.Writes, "max-mutating-requests-inflight", 200, "how many writes are carried out at the same time; administrators are let in all the same")
	flags.DurationVar(&o.limits.Timeout, "request-timeout", time.Minute, "how long a request may take, watches and followed logs excepted")
}

// Open checks the flags, and the files that they name. An error is the user's.
func (o *Flags) Open() (Door, error) {
	if err := o.check(); err != nil {
		return Door{}, err
	}
	for _, path := range []*string{&o.tokensFile, &o.audit.Path, &o.oidc.CAFile} {
		if *path == "" {
			continue
		}
		var err error
		if *path, err = filepath.Abs(*path); err != nil {
			return Door{}, err
		}
	}
	door := Door{Access: access.Options{TokensFile: o.tokensFile}, Limits: o.limits}
	if o.oidc.URL != "" {
		door.Access.OIDC = &o.oidc
	}
	if o.audit.Path != "" {
		door.Access.Audit = &o.audit
	}
	return door, door.Access.Check()
}

func (o *Flags) check() error {
	switch {
	case o.limits.Reads < 1 || o.limits.Writes < 1:
		return errors.New("--max-requests-inflight and --max-mutating-requests-inflight must be at least 1")
	case o.limits.Timeout <= 0:
		return fmt.Errorf("--request-timeout %s: it must be positive", o.limits.Timeout)
	case o.audit.MaxMegabytes < 1 || o.audit.Backups < 0:
		return errors.New("--audit-log-maxsize must be at least 1, --audit-log-maxbackup at least 0")
	case (o.oidc.URL == "") != (o.oidc.ClientID == ""):
		return errors.New("--oidc-issuer-url and --oidc-client-id go together")
	case o.oidc.URL == "" && (o.oidc.GroupsClaim != "" || o.oidc.CAFile != "" || o.oidc.UsernamePrefix != "" || o.oidc.GroupsPrefix != ""):
		return errors.New("the other --oidc flags need --oidc-issuer-url")
	}
	return nil
}
