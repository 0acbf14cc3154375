package engine

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// outline writes down all that a state holds and that decisions or clients see, the same text for the same state.
func outline(state *State) string {
	var out strings.Builder
	line := func(format string, arguments ...any) { fmt.Fprintf(&out, format+"\n", arguments...) }
	line("seq %d now %s term %d seed %x closed %q epoch %d launched %d homeless %d", state.Seq, at(state.Now), state.Term, state.Seed, state.Closed,
		state.Epoch, state.Launched, state.homeless)
	for _, uid := range sortedKeys(state.Jobs) {
		outlineJob(state.Jobs[uid], line)
	}
	for _, uid := range sortedKeys(state.CronJobs) {
		owner := state.CronJobs[uid]
		progress := &owner.Progress
		line("cronjob %s %s version %d created %s user %q deletion %s since %s, %s last %s successful %s active %v told %+v problem %v zone %s", uid, owner.Name, owner.Version,
			at(owner.Created), owner.User, at(owner.DeletionRequested), at(progress.Created), at(progress.Rescheduled), at(progress.LastSchedule), at(progress.LastSuccessful), progress.Active,
			progress.Told, owner.Spec.Problem, owner.Spec.Zone)
		line("  object %+v made %+v", owner.Object, owner.Made)
		for _, child := range owner.byAge() {
			line("  controls %s", child.UID)
		}
	}
	line("cronjobs held %v names %v zones %x", state.CronJobsHeld, state.CronJobNames, state.Zones)
	for _, name := range sortedKeys(state.Nodes) {
		node := state.Nodes[name]
		line("node %s %s %s %s offer %s launched %s joined %s noticed %s deadline %s released %s %q idle %s accrued %s version %d", node.Name, node.Provider,
			node.InstanceID, node.LaunchKey, message(node.Offer), at(node.Launched), at(node.Joined), at(node.Noticed), at(node.Deadline), at(node.Released),
			node.ReleaseReason, at(node.IdleSince), at(node.Accrued), node.Version)
		if payer, ok := state.payerOf(node); ok {
			line("  paid by %s", payer.UID)
		}
		for _, pod := range node.pods {
			line("  holds %s", pod.UID())
		}
	}
	for _, key := range sortedKeys(state.Launches) {
		launch := state.Launches[key]
		line("launch %s %s %d %s %s %s %q %s", key, launch.Provider, launch.Count, launch.JobUID, launch.Tenant, at(launch.Intended), launch.Reason, message(launch.Offers[0]))
	}
	for _, provider := range sortedKeys(state.Offers) {
		for _, offer := range state.Offers[provider] {
			line("offer %s %s", provider, message(offer))
		}
	}
	line("names %v taken %v pauses %v instances %v jobs %v", state.JobNames, state.taken, state.pauses, state.instances, state.heldIn)
	for _, o := range state.Objects.Sorted() {
		line("object %v uid %s version %d bytes %d finalizers %v owners %v deleting %v expires %s", o.Key, o.UID, o.Version, o.Bytes, o.Finalizers, o.Owners, o.Deleting, at(o.Expires))
	}
	return out.String()
}

func outlineJob(owner *Job, line func(string, ...any)) {
	progress, counts := &owner.Progress, &owner.Counts
	line("job %s %s version %d created %s digest %q user %q deletion %s template %d", owner.UID, owner.Name, owner.Version, at(owner.Created), owner.Digest, owner.User,
		at(owner.DeletionRequested), owner.template.GraceSeconds)
	spec := owner.Spec
	spec.SuccessRules, spec.FailurePolicy = nil, nil
	line("  spec %+v profile %s receipt %s account %+v evictions %v", spec, message(owner.Profile), message(owner.Receipt), owner.Account, owner.Evictions)
	line("  started %s succeeded %d failed %d evicted %d completed %s failed indexes %s row %d last %s retries %v failjob %q", at(progress.Started), progress.Succeeded,
		progress.Failed, progress.Evicted, &progress.Completed, &progress.FailedIndexes, progress.FailuresSinceSuccess, at(progress.LastFailure), progress.Retries, progress.FailJob)
	for _, condition := range progress.Conditions {
		line("  condition %+v", condition)
	}
	line("  active %d ready %d ending %d held %d restarts %d indexes %s, %s, %s begun %s again %v launches %d paying %d", counts.Active, counts.Ready, counts.Ending, counts.Held,
		counts.Restarts, &counts.ActiveIndexes, &counts.EndingIndexes, &counts.HeldIndexes, &owner.begun, owner.again, owner.launches, len(owner.paying))
	for _, pod := range owner.pods {
		line("  pod %+v epoch %d version %d charge %v flags %d", pod.Render(), pod.Epoch, pod.Version, pod.Charge(), pod.flags)
	}
}

func at(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Format(time.RFC3339Nano)
}

// message writes a protobuf message. The spaces that protojson puts in at random are taken out.
func message(m proto.Message) string {
	return strings.ReplaceAll(protojson.Format(m), " ", "")
}
