package engine

import (
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/job"
)

// step takes one random step in the engine and tells the model of it.
func (h *history) step() string {
	owner := h.state.Jobs["uid"]
	var live []*Pod
	for pod := range owner.Live() {
		if pod.Node() != "" {
			live = append(live, pod)
		}
	}
	switch choice := h.random.IntN(20); {
	case choice < 11 && len(live) > 0:
		return h.report(live[h.random.IntN(len(live))])
	case choice < 12 && len(live) > 0:
		return h.delete(live[h.random.IntN(len(live))])
	case choice < 13 && len(live) > 0:
		return h.notice(live[h.random.IntN(len(live))].node)
	case choice < 14 && len(live) > 0:
		return h.lose(live[h.random.IntN(len(live))].node)
	case choice < 16 && !owner.Ended():
		return h.update(owner)
	case choice < 17:
		for pod := range owner.Pods() {
			if !pod.IsLive() {
				h.do(DeletePod{Namespace: "default", Name: pod.Name()})
				return fmt.Sprintf("pod %d, which has ended, is deleted", pod.ordinal)
			}
		}
	}
	length := pick(h.random, 1, 5, 10, 20, 40)
	h.now = h.now.Add(time.Duration(length) * time.Second)
	h.model.now = h.now
	h.do(Tick{})
	return fmt.Sprintf("%d s pass", length)
}

func (h *history) report(pod *Pod) string {
	report := ReportPod{Node: pod.Node(), UID: pod.UID(), Epoch: pod.Epoch, Restarts: pod.Restarts}
	known := h.model.pods[pod.ordinal]
	inPlace := pod.Job().Spec.RestartsInPlace
	start := func() {
		if known.started.IsZero() && known.stopping.IsZero() {
			known.started = h.now
		}
	}
	switch choice := h.random.IntN(8); {
	case choice < 2:
		report.Phase = ReportRunning
		start()
	case choice < 3 && inPlace:
		report.Phase = ReportRunning
		report.Restarts++
		report.ExitCode = 1
		start()
		known.restarts++
	case choice < 5:
		report.Phase = ReportSucceeded
		start()
		h.model.end(int(pod.ordinal), true, 0)
	default:
		report.Phase, report.ExitCode = ReportFailed, pick[int32](h.random, 1, 7, 42, 143)
		h.model.end(int(pod.ordinal), false, report.ExitCode)
	}
	h.do(report)
	return fmt.Sprintf("pod %d reports %d with exit code %d", pod.ordinal, report.Phase, report.ExitCode)
}

func (h *history) delete(pod *Pod) string {
	known := h.model.pods[pod.ordinal]
	if known.stopping.IsZero() {
		h.model.stop(known, !h.model.waits(), !h.model.waits())
	}
	h.do(DeletePod{Namespace: "default", Name: pod.Name()})
	return fmt.Sprintf("pod %d is deleted", pod.ordinal)
}

func (h *history) notice(node *Node) string {
	if node.Noticed.IsZero() {
		for _, pod := range node.pods {
			if known := h.model.pods[pod.ordinal]; known.stopping.IsZero() {
				known.evicted = true
				atOnce := h.model.strict && !h.model.waits()
				h.model.stop(known, atOnce, atOnce)
			}
		}
	}
	h.do(NoticeInstance{Provider: "cloud", InstanceID: node.InstanceID, Deadline: h.now.Add(2 * time.Minute)})
	return "a node is noticed"
}

func (h *history) lose(node *Node) string {
	for _, pod := range node.pods {
		if known := h.model.pods[pod.ordinal]; known.stopping.IsZero() {
			known.evicted = true
		}
		h.model.end(int(pod.ordinal), false, 0)
	}
	h.do(InstanceGone{Provider: "cloud", InstanceID: node.InstanceID, Cause: "hardware"})
	return "a node is gone"
}

func (h *history) update(owner *Job) string {
	object := owner.Object.DeepCopy()
	spec := &object.Spec
	what := ""
	switch choice := h.random.IntN(5); {
	case choice == 0:
		spec.Suspend = pointer(!*spec.Suspend)
		what = fmt.Sprintf("suspend is %v", *spec.Suspend)
	case choice == 1 && owner.Spec.Indexed && spec.SuccessPolicy == nil && spec.MaxFailedIndexes == nil:
		size := h.random.Int32N(6)
		spec.Completions, spec.Parallelism = &size, pointer(size)
		what = fmt.Sprintf("completions and parallelism are %d", size)
	case choice == 2:
		spec.BackoffLimit = pointer(pick[int32](h.random, 0, 2, 100))
		what = fmt.Sprintf("the backoff limit is %d", *spec.BackoffLimit)
	case choice == 3 && spec.PodFailurePolicy == nil:
		spec.PodReplacementPolicy = pointer(pick(h.random, batchv1.Failed, batchv1.TerminatingOrFailed))
		what = fmt.Sprintf("pods are replaced once %s", *spec.PodReplacementPolicy)
	default:
		spec.Parallelism = pointer(h.random.Int32N(5))
		what = fmt.Sprintf("parallelism is %d", *spec.Parallelism)
	}
	h.model.spec = *spec.DeepCopy()
	if h.model.indexed() {
		h.model.resize()
	}
	h.do(UpdateJob{Job: object})
	if owner.Spec.Indexed != (job.SpecOf(object).Indexed) {
		h.t.Fatal("an update has changed the mode")
	}
	return what
}
