package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
)

// Words that providers.ErrorKind uses; the engine imports no provider.
const (
	errorNoCapacity = "no-capacity"
	errorQuota      = "quota"
)

// A refused offer is out for FirstPause, doubled at each refusal in a row up to LastPause. Faults of the call itself, such as throttling,
// pause for BriefPause.
const (
	FirstPause = 30 * time.Second
	LastPause  = 15 * time.Minute
	BriefPause = 5 * time.Second
)

func (d *draft) settleLaunch(command SettleLaunch) error {
	launch, ok := d.state.Launches[command.Key]
	if !ok {
		return reject(Stale, "launch %s is settled already", command.Key)
	}
	settled := &event.LaunchSettled{Key: command.Key, ErrorKind: command.ErrorKind, Error: command.Error}
	for i, instance := range command.Instances {
		settled.Nodes = append(settled.Nodes, &event.LaunchedNode{
			Node: d.state.nodeName(launch, i), InstanceId: instance.ID, OfferId: instance.OfferID,
		})
	}
	if command.ErrorKind == "" && len(command.Instances) < int(launch.Count) {
		// Without a pause the same would be asked for at once, for ever.
		settled.ErrorKind, settled.Error = errorNoCapacity, fmt.Sprintf("%d of %d instances came, and the provider did not say why", len(command.Instances), launch.Count)
	}
	if settled.ErrorKind != "" {
		settled.PauseUntilUnixNano = d.now.Add(d.state.pauseAfter(launch, settled.ErrorKind)).UnixNano()
	}
	d.add(launch.Tenant, settled)
	return nil
}

func (s *State) pauseAfter(launch *Launch, kind string) time.Duration {
	if kind != errorNoCapacity && kind != errorQuota {
		return BriefPause
	}
	length := FirstPause
	for range s.pauses[offerKey{launch.Provider, launch.Offers[0].GetId()}].refusals {
		length = min(2*length, LastPause)
	}
	return length
}

func (d *draft) joinNode(command JoinNode) error {
	node, ok := d.state.Nodes[command.Node]
	if !ok {
		return reject(NotFound, "node %q is not on record", command.Node)
	}
	if node.Joined.IsZero() {
		d.add(d.tenantOfNode(node), &event.NodeJoined{Node: node.Name})
	}
	return nil
}

// noticeInstance records the first notice. One for an instance that is not on record, or no more, says nothing.
func (d *draft) noticeInstance(command NoticeInstance) {
	node, ok := d.state.NodeOf(command.Provider, command.InstanceID)
	if ok && node.Noticed.IsZero() {
		d.add(d.tenantOfNode(node), &event.NodeNoticed{Node: node.Name, DeadlineUnixNano: command.Deadline.UnixNano(), Cause: command.Cause})
	}
}

// instanceGone ends what the node held, then the node.
func (d *draft) instanceGone(command InstanceGone) {
	node, ok := d.state.NodeOf(command.Provider, command.InstanceID)
	if !ok {
		return
	}
	for _, pod := range node.pods {
		d.endLost(pod, "NodeGone", "its instance is gone: "+command.Cause)
	}
	d.add(d.tenantOfNode(node), &event.NodeGone{Node: node.Name, Cause: command.Cause})
}

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
