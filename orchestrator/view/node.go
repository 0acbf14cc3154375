package view

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
)

// Labels of nodes beside those of Kubernetes.
const (
	LabelMarket   = "nightshift.dev/market"
	LabelProvider = "nightshift.dev/provider"
)

const labelRole = "node-role.kubernetes.io/"

// TaintInterruption is on nodes that the cloud takes back.
const TaintInterruption = "nightshift.dev/interruption"

// nodeRecord renders a node as a v1.Node.
func nodeRecord(node *engine.Node) *Record {
	offer := node.Offer
	shown := &corev1.Node{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{
			Name: node.Name, UID: types.UID(uidOf("node", node.LaunchKey, node.Name)), CreationTimestamp: metav1.NewTime(node.Launched),
			Labels: map[string]string{
				corev1.LabelHostname: node.Name, corev1.LabelOSStable: string(corev1.Linux), corev1.LabelArchStable: offer.GetArch(),
				LabelMarket: offer.GetMarket(), LabelProvider: node.Provider,
			},
		},
		Spec: corev1.NodeSpec{ProviderID: fmt.Sprintf("%s:///%s/%s", node.Provider, offer.GetZone(), node.InstanceID)},
	}
	if market := offer.GetMarket(); market != "" {
		shown.Labels[labelRole+market] = "" // what clients print as the node's role
	}
	for label, value := range map[string]string{corev1.LabelInstanceTypeStable: offer.GetInstanceType(), corev1.LabelTopologyZone: offer.GetZone()} {
		if value != "" {
			shown.Labels[label] = value
		}
	}
	if !node.Open() {
		shown.Spec.Unschedulable = true
		shown.Spec.Taints = append(shown.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
	}
	if !node.Noticed.IsZero() {
		at := metav1.NewTime(node.Noticed)
		shown.Spec.Taints = append(shown.Spec.Taints, corev1.Taint{Key: TaintInterruption, Effect: corev1.TaintEffectNoExecute, TimeAdded: &at})
	}
	shown.Status = nodeStatus(node)
	return &Record{key: Key{Name: node.Name}, id: node.Name, version: node.Version, content: &fixedContent{
		shown: shown, selectable: fields.Set{"spec.unschedulable": fmt.Sprint(shown.Spec.Unschedulable)},
	}}
}

func nodeStatus(node *engine.Node) corev1.NodeStatus {
	capacity := make(corev1.ResourceList, len(node.Capacity))
	for _, name := range slices.Sorted(maps.Keys(node.Capacity)) {
		amount := node.Capacity[name]
		switch corev1.ResourceName(name) {
		case corev1.ResourceCPU:
			capacity[corev1.ResourceCPU] = *resource.NewMilliQuantity(amount, resource.DecimalSI)
		case corev1.ResourceMemory:
			capacity[corev1.ResourceMemory] = *resource.NewQuantity(amount, resource.BinarySI)
		default:
			capacity[corev1.ResourceName(name)] = *resource.NewQuantity(amount, resource.DecimalSI)
		}
	}
	ready := corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "AgentReady", Message: "the node's agent has joined",
		LastTransitionTime: metav1.NewTime(node.Joined), LastHeartbeatTime: metav1.NewTime(node.Joined)}
	switch {
	case !node.Released.IsZero():
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, "Released", "the instance is given back: "+node.ReleaseReason
		ready.LastTransitionTime = metav1.NewTime(node.Released)
	case node.Joined.IsZero():
		ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, "Launched", "the instance was launched and its agent has not joined yet"
		ready.LastTransitionTime, ready.LastHeartbeatTime = metav1.NewTime(node.Launched), metav1.NewTime(node.Launched)
	}
	return corev1.NodeStatus{
		Capacity: capacity, Allocatable: capacity.DeepCopy(), Conditions: []corev1.NodeCondition{ready},
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: node.Name}},
		NodeInfo:  corev1.NodeSystemInfo{Architecture: node.Offer.GetArch(), OperatingSystem: string(corev1.Linux), MachineID: node.InstanceID, SystemUUID: node.InstanceID},
	}
}
