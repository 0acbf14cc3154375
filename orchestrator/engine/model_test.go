package engine

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/job"
)

// model is what a Job means, written as plainly as can be: it keeps a list of pods, looks at all of them at each step, and knows nothing of
// facts, counts and sets. It is held against the engine on random histories. Pods are in order of creation, as the engine's are.
type model struct {
	spec      batchv1.JobSpec
	strict    bool
	now       time.Time
	pods      []*modelPod
	started   time.Time
	succeeded map[int32]bool // by index, or by pod where there are no indexes
	failed    int32
	given     map[int32]bool // indexes that are given up
	inRow     int
	lastFail  time.Time
	perIndex  map[int32]*modelRetry
	failJob   bool
	suspended bool
	condition []string
}

type modelRetry struct {
	counted, ignored int
	last             time.Time
}

type modelPod struct {
	index             int32
	before            int // failures of its index that counted before it
	started, stopping time.Time
	evicted, released bool
	ended             bool
	restarts          int32
}

func (m *model) has(kind string) bool { return slices.Contains(m.condition, kind) }

func (m *model) indexed() bool { return *m.spec.CompletionMode == batchv1.IndexedCompletion }

func (m *model) waits() bool {
	return m.spec.PodReplacementPolicy != nil && *m.spec.PodReplacementPolicy == batchv1.Failed
}

func (m *model) limitPerIndex() (int, bool) {
	if m.spec.BackoffLimitPerIndex == nil {
		return 0, false
	}
	return int(*m.spec.BackoffLimitPerIndex), true
}

// judge says what a failure means: whether it counts, fails its index, fails the Job.
func (m *model) judge(pod *modelPod, code int32) (counts, failsIndex, failsJob bool) {
	counts = !pod.evicted || m.strict
	if m.spec.PodFailurePolicy != nil {
		for _, rule := range m.spec.PodFailurePolicy.Rules {
			matches := rule.OnPodConditions != nil && pod.evicted
			if rule.OnExitCodes != nil && code != 0 && (!pod.evicted || m.strict) {
				matches = slices.Contains(rule.OnExitCodes.Values, code) == (rule.OnExitCodes.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn)
			}
			if matches {
				counts = rule.Action != batchv1.PodFailurePolicyActionIgnore
				failsIndex = rule.Action == batchv1.PodFailurePolicyActionFailIndex
				failsJob = rule.Action == batchv1.PodFailurePolicyActionFailJob
				break
			}
		}
	}
	if limit, ok := m.limitPerIndex(); ok && counts && pod.before >= limit {
		failsIndex = true
	}
	return counts, failsIndex, failsJob
}

// fail takes a failure into account. Indexes beyond the completions are nobody's.
func (m *model) fail(pod *modelPod, counts, failsIndex, failsJob bool) {
	if m.indexed() && pod.index >= *m.spec.Completions {
		return
	}
	if counts {
		m.failed++
	}
	m.failJob = m.failJob || failsJob
	m.inRow++
	m.lastFail = m.now
	if _, ok := m.limitPerIndex(); !ok || m.succeeded[pod.index] {
		return
	}
	if failsIndex {
		m.given[pod.index] = true
		delete(m.perIndex, pod.index)
		return
	}
	retry := m.perIndex[pod.index]
	if retry == nil {
		retry = new(modelRetry)
		m.perIndex[pod.index] = retry
	}
	if counts {
		retry.counted++
	} else {
		retry.ignored++
	}
	retry.last = m.now
}

// end is a pod's end on its node.
func (m *model) end(at int, success bool, code int32) {
	pod := m.pods[at]
	pod.ended = true
	switch {
	case pod.released:
	case success:
		if m.indexed() && pod.index >= *m.spec.Completions {
			break
		}
		m.inRow, m.lastFail = 0, time.Time{}
		key := int32(at)
		if m.indexed() {
			key = pod.index
			delete(m.given, key)
			delete(m.perIndex, key)
		}
		m.succeeded[key] = true
	default:
		counts, failsIndex, failsJob := m.judge(pod, code)
		if !pod.evicted || m.strict || counts {
			m.fail(pod, counts, failsIndex, failsJob)
		}
	}
}

// stop tells a pod to end. What its Job does not want gives up its place; what a user deletes, or in strict mode the cloud takes, counts as failed.
func (m *model) stop(pod *modelPod, releases, fails bool) {
	pod.stopping, pod.released = m.now, releases
	if fails {
		counts, failsIndex, _ := m.judge(pod, 0)
		m.fail(pod, counts || !pod.evicted, failsIndex, false)
	}
}

func (m *model) live(keep func(*modelPod) bool) (pods []*modelPod) {
	for _, pod := range m.pods {
		if !pod.ended && keep(pod) {
			pods = append(pods, pod)
		}
	}
	return pods
}

func (m *model) active() []*modelPod {
	return m.live(func(pod *modelPod) bool { return pod.stopping.IsZero() })
}

func (m *model) ending() []*modelPod {
	return m.live(func(pod *modelPod) bool { return !pod.stopping.IsZero() })
}

// settle takes steps until none is left.
func (m *model) settle() {
	for m.step() {
	}
}

// step takes the next one, if there is one.
func (m *model) step() bool {
	set := func(kind string) bool { m.condition = append(m.condition, kind); return true }
	switch {
	case m.has("Complete") || m.has("Failed"):
		return false
	case m.started.IsZero() && !*m.spec.Suspend:
		m.started = m.now
		m.suspended = m.suspended && (m.has("SuccessCriteriaMet") || m.has("FailureTarget"))
		return true
	case m.has("SuccessCriteriaMet") || m.has("FailureTarget"):
		return m.finish(set)
	case m.mustFail() || m.metSuccessPolicy():
		if m.mustFail() {
			return set("FailureTarget")
		}
		return set("SuccessCriteriaMet")
	}
	changed := m.manage()
	if len(m.active()) == 0 && m.enough() {
		return set("SuccessCriteriaMet")
	}
	if *m.spec.Suspend && !m.suspended {
		m.suspended, m.started = true, time.Time{}
		return true
	}
	return changed
}

func (m *model) finish(set func(string) bool) bool {
	active := m.active()
	for _, pod := range active {
		m.stop(pod, true, false)
		if m.has("FailureTarget") {
			m.fail(pod, true, false, false)
		}
	}
	if len(active) > 0 {
		return true
	}
	if len(m.ending()) > 0 {
		return false
	}
	if m.started.IsZero() && (m.spec.Completions == nil || *m.spec.Completions != 0) {
		m.started = m.now
	}
	if m.has("FailureTarget") {
		return set("Failed")
	}
	return set("Complete")
}

func (m *model) mustFail() bool {
	var restarts int32
	for _, pod := range m.live(func(*modelPod) bool { return true }) {
		restarts += pod.restarts
	}
	inPlace := m.spec.Template.Spec.RestartPolicy == "OnFailure"
	late := m.spec.ActiveDeadlineSeconds != nil && !*m.spec.Suspend && !m.started.IsZero() &&
		m.now.Sub(m.started) >= time.Duration(*m.spec.ActiveDeadlineSeconds)*time.Second
	if m.failJob || m.failed > *m.spec.BackoffLimit || late || inPlace && restarts > 0 && restarts >= *m.spec.BackoffLimit {
		return true
	}
	if _, ok := m.limitPerIndex(); !ok {
		return false
	}
	tooMany := m.spec.MaxFailedIndexes != nil && int32(len(m.given)) > *m.spec.MaxFailedIndexes
	return tooMany || len(m.given) > 0 && int32(len(m.given)+len(m.succeeded)) >= *m.spec.Completions
}

func (m *model) metSuccessPolicy() bool {
	if m.spec.SuccessPolicy == nil || len(m.succeeded) == 0 {
		return false
	}
	for _, rule := range m.spec.SuccessPolicy.Rules {
		among := make(map[int32]bool)
		for index := range *m.spec.Completions {
			if rule.SucceededIndexes == nil || slices.Contains(strings.Split(*rule.SucceededIndexes, ","), fmt.Sprint(index)) {
				among[index] = true
			}
		}
		met := 0
		for index := range among {
			if m.succeeded[index] {
				met++
			}
		}
		if rule.SucceededCount != nil && met >= int(*rule.SucceededCount) || rule.SucceededIndexes != nil && len(among) > 0 && met == len(among) {
			return true
		}
	}
	return false
}

func (m *model) enough() bool {
	if m.spec.Completions == nil {
		return len(m.succeeded) > 0
	}
	return len(m.succeeded) >= int(*m.spec.Completions)
}

// manage stops pods or makes some, and tells whether it has.
func (m *model) manage() bool {
	active := m.active()
	if *m.spec.Suspend {
		for _, pod := range active {
			m.stop(pod, true, false)
		}
		return len(active) > 0
	}
	wanted := int(*m.spec.Parallelism)
	if m.spec.Completions == nil && len(m.succeeded) > 0 {
		wanted = len(active)
	} else if m.spec.Completions != nil {
		wanted = max(0, min(wanted, int(*m.spec.Completions)-len(m.succeeded)))
	}
	beyond := func(pod *modelPod) bool { return m.indexed() && pod.index >= *m.spec.Completions }
	surplus := max(len(active)-wanted, len(m.live(func(pod *modelPod) bool { return pod.stopping.IsZero() && beyond(pod) })))
	if surplus > 0 {
		// The newest first of those that are alike: the list is turned round, and the sort is stable.
		slices.Reverse(active)
		sort.SliceStable(active, func(i, j int) bool {
			a, b := active[i], active[j]
			switch {
			case beyond(a) != beyond(b):
				return beyond(a)
			case a.started.IsZero() != b.started.IsZero():
				return a.started.IsZero()
			case !a.started.Equal(b.started):
				return a.started.After(b.started)
			}
			return a.restarts > b.restarts
		})
		for _, pod := range active[:surplus] {
			m.stop(pod, true, false)
		}
		return true
	}
	holding := m.live(func(pod *modelPod) bool { return !pod.stopping.IsZero() && (m.waits() || !pod.released) })
	return m.create(wanted-len(active)-len(holding), append(active, holding...))
}

func (m *model) create(missing int, taken []*modelPod) bool {
	if _, perIndex := m.limitPerIndex(); !perIndex && m.inRow > 0 && m.now.Before(m.lastFail.Add(modelDelay(m.inRow))) {
		return false
	}
	made := 0
	for index := int32(0); missing > 0; index++ {
		if !m.indexed() {
			m.pods = append(m.pods, &modelPod{index: job.NoIndex})
			made++
			missing--
			continue
		}
		if index >= *m.spec.Completions {
			break
		}
		if m.succeeded[index] || m.given[index] || slices.ContainsFunc(taken, func(pod *modelPod) bool { return pod.index == index }) {
			continue
		}
		missing--
		retry := m.perIndex[index]
		if retry == nil {
			retry = new(modelRetry)
		} else if m.now.Before(retry.last.Add(modelDelay(retry.counted + retry.ignored))) {
			continue
		}
		m.pods = append(m.pods, &modelPod{index: index, before: retry.counted})
		made++
	}
	return made > 0
}

func modelDelay(failures int) time.Duration {
	return min(10*time.Minute, 10*time.Second<<min(failures-1, 10))
}

// resize follows completions.
func (m *model) resize() {
	for _, set := range []map[int32]bool{m.succeeded, m.given} {
		for index := range set {
			if index >= *m.spec.Completions {
				delete(set, index)
			}
		}
	}
	for index := range m.perIndex {
		if index >= *m.spec.Completions {
			delete(m.perIndex, index)
		}
	}
}

// String is all that a client sees of it, in the form of status below.
func (m *model) String() string {
	ready := 0
	for _, pod := range m.active() {
		if !pod.started.IsZero() {
			ready++
		}
	}
	started := "-"
	if !m.started.IsZero() {
		started = m.started.Format("15:04:05")
	}
	text := fmt.Sprintf("start %s active %d ready %d terminating %d succeeded %d failed %d", started, len(m.active()), ready, len(m.ending()), len(m.succeeded), m.failed)
	if m.indexed() {
		text += fmt.Sprintf(" completed %v", sortedIndexes(m.succeeded))
	}
	if _, ok := m.limitPerIndex(); ok {
		text += fmt.Sprintf(" given up %v", sortedIndexes(m.given))
	}
	text += fmt.Sprintf(" suspended %v %v pods", m.suspended, m.condition)
	for _, pod := range m.pods {
		text += fmt.Sprintf(" %d", pod.index)
		if pod.ended {
			text += "."
		} else if !pod.stopping.IsZero() {
			text += "!"
		}
	}
	return text
}

func sortedIndexes(set map[int32]bool) []int32 {
	indexes := make([]int32, 0, len(set))
	for index := range set {
		indexes = append(indexes, index)
	}
	slices.Sort(indexes)
	return indexes
}
