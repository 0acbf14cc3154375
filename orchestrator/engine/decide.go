package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	batchv1 "k8s.io/api/batch/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
	"github.com/nightshift-batch/nightshift/orchestrator/object"
)

// Step decides a command and all that follows from it, applies the facts to the state and returns them. Now is raised to the time of
// the last fact if it is earlier. With an error, a *Rejection, the state is as it was. The facts must be durable before
// any effect of the new state is carried out; if they cannot be made so, the state is worthless and is read from the log again.
func Step(state *State, command Command, now time.Time) ([]*event.Fact, error) {
	if now.Before(state.Now) {
		now = state.Now
	}
	facts, err := Decide(state, command, now)
	if err != nil {
		return nil, err
	}
	for next := facts; ; facts = append(facts, next...) {
		for _, fact := range next {
			state.Apply(fact)
		}
		if next = Settle(state, now); len(next) == 0 {
			return facts, nil
		}
	}
}

// Decide returns the facts that the command itself amounts to. What follows from them is Settle's.
func Decide(state *State, command Command, now time.Time) ([]*event.Fact, error) {
	d := &draft{state: state, now: now}
	var err error
	switch command := command.(type) {
	case BeginTerm:
		d.add("", &event.TermBegan{Term: command.Term, FormatLevel: event.FormatLevel, Seed: firstSeed(state, command.Seed), Closed: command.Closed, CronJobsHeld: command.Only != nil})
		if command.Only != nil {
			d.parkAllBut(command.Only)
		}
	case CloseFleet:
		d.add("", &event.FleetClosed{Reason: command.Reason})
	case ParkJob:
		err = d.parkJob(command)
	case UnparkJob:
		err = d.unparkJob(command)
	case Tick:
	case CreateJob:
		err = d.createJob(command)
	case UpdateJob:
		err = d.updateJob(command)
	case AdmitJob:
		err = d.admitJob(command)
	case DenyJob:
		err = d.denyJob(command)
	case DeleteJob:
		err = d.deleteJob(command)
	case DeletePod:
		err = d.deletePod(command)
	case EvictPod:
		err = d.evictPod(command)
	case PutObject:
		err = d.ofObjects(d.state.Objects.Put(&command.Put, d.now))
	case DeleteObject:
		err = d.ofObjects(d.state.Objects.Delete(command.Key, command.UID, command.Version))
	case ObserveOffers:
		d.observeOffers(command)
	case SettleLaunch:
		err = d.settleLaunch(command)
	case JoinNode:
		err = d.joinNode(command)
	case NoticeInstance:
		d.noticeInstance(command)
	case InstanceGone:
		d.instanceGone(command)
	case ReportPod:
		err = d.reportPod(command)
	default:
		known := false
		if known, err = d.decideCronJob(command); !known {
			panic(fmt.Sprintf("engine: command %T is not known", command))
		}
	}
	return d.facts, err
}

// draft collects facts that are decided at one time.
type draft struct {
	state *State
	now   time.Time
	facts []*event.Fact
	// bound and launched count what was decided already.
	bound    uint64
	launched int
}

func (d *draft) add(tenant string, message proto.Message) {
	d.facts = append(d.facts, event.Of(tenant, d.now, message))
}

func firstSeed(state *State, seed []byte) []byte {
	if len(state.Seed) > 0 {
		return nil
	}
	return seed
}

func (d *draft) createJob(command CreateJob) error {
	given := command.Job
	created := &event.JobCreated{Uid: string(given.UID), Name: given.Name, SpecDigest: command.Digest, User: command.User}
	if err := d.state.checkController(given); err != nil {
		return err
	}
	if holder, taken := d.state.JobOf(given.Namespace, given.Name); taken {
		if !command.ReplaceEnded || !holder.Ended() || holder.Receipt == nil {
			return reject(AlreadyExists, "jobs.batch %q already exists", given.Name)
		}
		created.Replaces = holder.UID
	}
	if d.state.Closed != "" {
		return reject(Unfit, "no new Job is taken: %s", d.state.Closed)
	}
	if err := d.ofObjects(nil, d.state.Objects.CheckNamespace(given.Namespace)); err != nil {
		return err
	}
	var err error
	if created.Job, err = encodeJob(given); err != nil {
		return err
	}
	d.add(given.Namespace, created)
	return nil
}

// encodeJob writes a Job down, if it fits into a fact.
func encodeJob(given *batchv1.Job) ([]byte, error) {
	encoded, err := json.Marshal(given)
	if err != nil {
		return nil, reject(Unfit, "the Job cannot be written down: %v", err)
	}
	if len(encoded) > object.MaxBytes {
		return nil, reject(TooLarge, "the Job is of %d bytes; at most %d are stored", len(encoded), object.MaxBytes)
	}
	return encoded, nil
}

func (d *draft) updateJob(command UpdateJob) error {
	owner, ok := d.state.Jobs[string(command.Job.UID)]
	if !ok {
		return reject(NotFound, "jobs.batch %q not found", command.Job.Name)
	}
	if command.Version != 0 && command.Version != owner.Version {
		return reject(Conflict, "the Job has been modified; please apply your changes to the latest version and try again")
	}
	encoded, err := encodeJob(command.Job)
	if err != nil {
		return err
	}
	d.add(owner.Tenant(), &event.JobUpdated{Uid: owner.UID, Job: encoded, SpecDigest: command.Digest, Generation: command.Job.Generation})
	return nil
}

// undecided returns the Job if policy has not decided about it.
func (d *draft) undecided(uid string) (*Job, error) {
	owner, ok := d.state.Jobs[uid]
	if !ok || owner.Profile != nil {
		return nil, reject(Stale, "no Job %q waits for policy's decision", uid)
	}
	return owner, nil
}

func (d *draft) admitJob(command AdmitJob) error {
	owner, err := d.undecided(command.UID)
	if err != nil {
		return err
	}
	d.add(owner.Tenant(), &event.JobAdmitted{Uid: owner.UID, Profile: command.Profile})
	return nil
}

func (d *draft) denyJob(command DenyJob) error {
	owner, err := d.undecided(command.UID)
	if err != nil {
		return err
	}
	d.add(owner.Tenant(), &event.JobDenied{Uid: owner.UID, Reasons: command.Reasons, BundleDigest: command.BundleDigest})
	return nil
}

func (d *draft) deleteJob(command DeleteJob) error {
	owner, ok := d.state.JobOf(command.Namespace, command.Name)
	if !ok {
		return reject(NotFound, "jobs.batch %q not found", command.Name)
	}
	if command.UID != "" && command.UID != owner.UID {
		return reject(Conflict, "the UID in the precondition (%s) is not that of the Job (%s)", command.UID, owner.UID)
	}
	if owner.DeletionRequested.IsZero() {
		d.add(owner.Tenant(), &event.JobDeletionRequested{Uid: owner.UID})
	}
	return nil
}

// refusals are the words of package object in those of the engine.
var refusals = map[object.Problem]RejectionKind{
	object.Missing: NotFound, object.Exists: AlreadyExists, object.Modified: Conflict, object.NoNamespace: NoNamespace, object.Forbidden: Unfit,
	object.TooLarge: TooLarge,
}

// ofObjects adds the facts of package object, or gives its refusal.
func (d *draft) ofObjects(decided []object.Decided, err error) error {
	var refusal *object.Refusal
	if errors.As(err, &refusal) {
		return &Rejection{Kind: refusals[refusal.Problem], Message: refusal.Message}
	}
	for _, each := range decided {
		d.add(each.Tenant, each.Fact)
	}
	return err
}

// observeOffers records the offers if they differ from those on record, less what was asked for since.
func (d *draft) observeOffers(command ObserveOffers) {
	known, seen := d.state.Offers[command.Provider]
	observed := &event.OffersObserved{Provider: command.Provider, Offers: command.Offers}
	if seen && !d.state.asked(command.Provider) && proto.Equal(observed, &event.OffersObserved{Provider: command.Provider, Offers: known}) {
		return
	}
	d.add("", observed)
}

// tenantOfNode is the tenant of the Job that pays for the node.
func (d *draft) tenantOfNode(node *Node) string { return node.tenant }

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
