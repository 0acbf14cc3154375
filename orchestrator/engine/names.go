package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/nightshift-batch/nightshift/orchestrator/job"
)

// launchKey names the i-th launch from here, the same for the same state: 32 hex digits that no other control plane's launches share.
func (s *State) launchKey(i int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "launch %x %d", s.Seed, s.Launched+uint64(i)))
	return hex.EncodeToString(sum[:16])
}

// nodeName names the i-th node of a launch: the provider's name and six letters.
func (s *State) nodeName(launch *Launch, i int) string {
	for salt := 0; ; salt++ {
		name := launch.Provider + "-" + job.Letters(fmt.Sprintf("node %s %d %d", launch.Key, i, salt), 6)
		if _, taken := s.Nodes[name]; !taken {
			return name
		}
	}
}
