// Package printed says how the objects of the API are printed: the columns and cells of Kubernetes' own printers
// (pkg/printers/internalversion/printers.go), with what Nightshift has to say beside them.
package printed

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/nightshift-batch/nightshift/orchestrator/view"
)

// Table says how a resource is printed.
type Table struct {
	columns []metav1.TableColumnDefinition
	// cells of one object, one a column.
	cells func(object runtime.Object, now time.Time) []any
	// conditions of a row, for clients that colour it; may be nil.
	conditions func(object runtime.Object) []metav1.TableRowCondition
}

// Convert prints one object or a list, at a time.
func (t Table) Convert(object, options runtime.Object, now time.Time) (*metav1.Table, error) {
	printed := &metav1.Table{}
	if list, err := meta.ListAccessor(object); err == nil {
		printed.ResourceVersion, printed.Continue = list.GetResourceVersion(), list.GetContinue()
	} else if one, err := meta.CommonAccessor(object); err == nil {
		printed.ResourceVersion = one.GetResourceVersion()
	}
	if wanted, ok := options.(*metav1.TableOptions); !ok || !wanted.NoHeaders {
		printed.ColumnDefinitions = t.columns
	}
	add := func(each runtime.Object) error {
		row := metav1.TableRow{Cells: t.cells(each, now), Object: runtime.RawExtension{Object: each}}
		if t.conditions != nil {
			row.Conditions = t.conditions(each)
		}
		printed.Rows = append(printed.Rows, row)
		return nil
	}
	if meta.IsListType(object) {
		return printed, meta.EachListItem(object, add)
	}
	return printed, add(object)
}

// column describes one; a wide one is printed by -o wide alone.
func column(name, description string) metav1.TableColumnDefinition {
	kind := metav1.TableColumnDefinition{Name: name, Type: "string", Description: description}
	if name == "Name" {
		kind.Format = "name"
	}
	return kind
}

func wide(name, description string) metav1.TableColumnDefinition {
	c := column(name, description)
	c.Priority = 1
	return c
}

var (
	nameColumn = column("Name", metav1.ObjectMeta{}.SwaggerDoc()["name"])
	ageColumn  = column("Age", metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"])
)

// since is how long ago a time was, as Kubernetes prints it.
func since(at metav1.Time, now time.Time) string {
	if at.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(at.Time))
}

func orNone(text string) string {
	if text == "" {
		return "<none>"
	}
	return text
}

// Jobs are printed so.
var Jobs = Table{
	columns: []metav1.TableColumnDefinition{
		nameColumn, column("Status", "Status of the job."), column("Completions", batchv1.JobStatus{}.SwaggerDoc()["succeeded"]),
		column("Duration", "Time required to complete the job."), ageColumn,
		wide("Containers", "Names of each container in the template."), wide("Images", "Images referenced by each container in the template."),
		wide("Selector", batchv1.JobSpec{}.SwaggerDoc()["selector"]),
	},
	cells: func(object runtime.Object, now time.Time) []any {
		job := object.(*batchv1.Job)
		took := ""
		switch start, end := job.Status.StartTime, job.Status.CompletionTime; {
		case start != nil && end != nil:
			took = duration.HumanDuration(end.Sub(start.Time))
		case start != nil:
			took = since(*start, now)
		}
		names, images := templateOf(&job.Spec.Template.Spec)
		return []any{
			job.Name, jobState(job), completionsOf(job), took, since(job.CreationTimestamp, now),
			names, images, metav1.FormatLabelSelector(job.Spec.Selector),
		}
	},
}

// completionsOf counts successes against what is wanted. One success ends a work queue, however many pods work on it.
func completionsOf(job *batchv1.Job) string {
	switch {
	case job.Spec.Completions != nil:
		return fmt.Sprintf("%d/%d", job.Status.Succeeded, *job.Spec.Completions)
	case job.Spec.Parallelism != nil && *job.Spec.Parallelism > 1:
		return fmt.Sprintf("%d/1 of %d", job.Status.Succeeded, *job.Spec.Parallelism)
	}
	return fmt.Sprintf("%d/1", job.Status.Succeeded)
}

// jobState is the first of these that holds, in the order of printJob.
func jobState(job *batchv1.Job) string {
	has := map[batchv1.JobConditionType]bool{}
	for _, condition := range job.Status.Conditions {
		has[condition.Type] = condition.Status == corev1.ConditionTrue
	}
	switch {
	case has[batchv1.JobComplete]:
		return "Complete"
	case has[batchv1.JobFailed]:
		return "Failed"
	case job.DeletionTimestamp != nil:
		return "Terminating"
	case has[batchv1.JobSuspended]:
		return "Suspended"
	case has[batchv1.JobFailureTarget]:
		return "FailureTarget"
	case has[batchv1.JobSuccessCriteriaMet]:
		return "SuccessCriteriaMet"
	}
	return "Running"
}

// Pods are printed so.
var Pods = Table{
	columns: []metav1.TableColumnDefinition{
		nameColumn, column("Ready", "The aggregate readiness state of this pod for accepting traffic."),
		column("Status", "The aggregate status of the containers in this pod."),
		column("Restarts", "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted."), ageColumn,
		wide("IP", corev1.PodStatus{}.SwaggerDoc()["podIP"]), wide("Node", corev1.PodSpec{}.SwaggerDoc()["nodeName"]),
		wide("Nominated Node", corev1.PodStatus{}.SwaggerDoc()["nominatedNodeName"]), wide("Readiness Gates", corev1.PodSpec{}.SwaggerDoc()["readinessGates"]),
	},
	cells: func(object runtime.Object, now time.Time) []any {
		pod := object.(*corev1.Pod)
		ready, total, restarts := containersOf(pod)
		return []any{
			pod.Name, fmt.Sprintf("%d/%d", ready, total), podState(pod), restarts.cell(now), since(pod.CreationTimestamp, now),
			orNone(pod.Status.PodIP), orNone(pod.Spec.NodeName), orNone(pod.Status.NominatedNodeName), "<none>",
		}
	},
	conditions: func(object runtime.Object) []metav1.TableRowCondition {
		switch phase := object.(*corev1.Pod).Status.Phase; phase {
		case corev1.PodSucceeded:
			return []metav1.TableRowCondition{{Type: metav1.RowCompleted, Status: metav1.ConditionTrue, Reason: string(phase), Message: "The pod has completed successfully."}}
		case corev1.PodFailed:
			return []metav1.TableRowCondition{{Type: metav1.RowCompleted, Status: metav1.ConditionTrue, Reason: string(phase), Message: "The pod failed."}}
		}
		return nil
	},
}

// restarts is how often containers were restarted, and when the last of the runs before ended.
type restarts struct {
	count int32
	last  metav1.Time
}

func (r *restarts) add(status *corev1.ContainerStatus) {
	r.count += status.RestartCount
	if before := status.LastTerminationState.Terminated; before != nil && r.last.Before(&before.FinishedAt) {
		r.last = before.FinishedAt
	}
}

func (r *restarts) cell(now time.Time) string {
	if r.count == 0 || r.last.IsZero() {
		return strconv.Itoa(int(r.count))
	}
	return fmt.Sprintf("%d (%s ago)", r.count, since(r.last, now))
}

// containersOf counts the containers that run with the pod, sidecars among them, and how many of these are ready; and restarts: of the init containers
// while the pod is initialized, later of the others (printPod).
func containersOf(pod *corev1.Pod) (ready, total int, restarted restarts) {
	var before restarts
	for i := range pod.Status.InitContainerStatuses {
		status := &pod.Status.InitContainerStatuses[i]
		before.add(status)
		if isSidecar(pod, status.Name) {
			restarted.add(status)
			total++
			if status.Ready && status.State.Running != nil {
				ready++
			}
		}
	}
	if initState(pod) != "" {
		return ready, total + len(pod.Spec.Containers), before
	}
	for i := range pod.Status.ContainerStatuses {
		status := &pod.Status.ContainerStatuses[i]
		restarted.add(status)
		if status.Ready && status.State.Running != nil {
			ready++
		}
	}
	return ready, total + len(pod.Spec.Containers), restarted
}

func isSidecar(pod *corev1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.InitContainers, func(container corev1.Container) bool {
		return container.Name == name && container.RestartPolicy != nil && *container.RestartPolicy == corev1.ContainerRestartPolicyAlways
	})
}

// initState is how far the init containers are; empty when they have done their work.
func initState(pod *corev1.Pod) string {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodInitialized && condition.Status == corev1.ConditionTrue && pod.Status.Phase != corev1.PodFailed {
			return ""
		}
	}
	for i := range pod.Status.InitContainerStatuses {
		status := &pod.Status.InitContainerStatuses[i]
		switch state := status.State; {
		case state.Terminated != nil && state.Terminated.ExitCode == 0, isSidecar(pod, status.Name) && status.Started != nil && *status.Started:
		case isSidecar(pod, status.Name) && pod.Status.Phase == corev1.PodFailed:
		case state.Terminated != nil:
			return "Init:" + state.Terminated.Reason
		case state.Waiting != nil && state.Waiting.Reason != "PodInitializing":
			return "Init:" + state.Waiting.Reason
		default:
			return fmt.Sprintf("Init:%d/%d", i, len(pod.Spec.InitContainers))
		}
	}
	return ""
}

// podState follows printPod: the container's own reason, unless the pod is on its way out. What ended the pod from outside, an
// eviction above all, is told before the container's exit.
func podState(pod *corev1.Pod) string {
	ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	if pod.DeletionTimestamp != nil && !ended {
		return "Terminating"
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.DisruptionTarget && condition.Status == corev1.ConditionTrue {
			return "Evicted"
		}
	}
	if initializing := initState(pod); initializing != "" && pod.Spec.NodeName != "" {
		return initializing
	}
	for _, container := range pod.Status.ContainerStatuses {
		switch state := container.State; {
		case state.Waiting != nil && pod.Spec.NodeName != "" && state.Waiting.Reason != "":
			return state.Waiting.Reason
		case state.Terminated != nil && state.Terminated.Reason != "":
			return state.Terminated.Reason
		}
	}
	if pod.Status.Reason != "" {
		return pod.Status.Reason
	}
	return string(pod.Status.Phase)
}

// Nodes are printed so.
var Nodes = Table{
	columns: []metav1.TableColumnDefinition{
		nameColumn, column("Status", "The status of the node"), column("Roles", "The roles of the node"), ageColumn,
		column("Version", corev1.NodeSystemInfo{}.SwaggerDoc()["kubeletVersion"]),
		wide("Provider", "The provider that the instance is from."), wide("Instance-Type", "The type of the instance."), wide("Zone", "The zone of the instance."),
		wide("Instance", "The provider's own name of the instance."),
	},
	cells: func(object runtime.Object, now time.Time) []any {
		node := object.(*corev1.Node)
		state := "Unknown"
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady {
				state = "NotReady"
				if condition.Status == corev1.ConditionTrue {
					state = "Ready"
				}
			}
		}
		if node.Spec.Unschedulable {
			state += ",SchedulingDisabled"
		}
		return []any{
			node.Name, state, orNone(node.Labels[view.LabelMarket]), since(node.CreationTimestamp, now), orNone(node.Status.NodeInfo.KubeletVersion),
			orNone(node.Labels[view.LabelProvider]), orNone(node.Labels[corev1.LabelInstanceTypeStable]), orNone(node.Labels[corev1.LabelTopologyZone]),
			orNone(node.Status.NodeInfo.SystemUUID),
		}
	},
}

// Namespaces are printed so.
var Namespaces = Table{
	columns: []metav1.TableColumnDefinition{nameColumn, column("Status", "The status of the namespace"), ageColumn},
	cells: func(object runtime.Object, now time.Time) []any {
		namespace := object.(*corev1.Namespace)
		return []any{namespace.Name, string(namespace.Status.Phase), since(namespace.CreationTimestamp, now)}
	},
}

// Events are printed so.
var Events = Table{
	columns: []metav1.TableColumnDefinition{
		column("Last Seen", corev1.Event{}.SwaggerDoc()["lastTimestamp"]), column("Type", corev1.Event{}.SwaggerDoc()["type"]),
		column("Reason", corev1.Event{}.SwaggerDoc()["reason"]), column("Object", corev1.Event{}.SwaggerDoc()["involvedObject"]),
		wide("Source", corev1.Event{}.SwaggerDoc()["source"]), column("Message", corev1.Event{}.SwaggerDoc()["message"]),
		wide("Name", metav1.ObjectMeta{}.SwaggerDoc()["name"]),
	},
	cells: func(object runtime.Object, now time.Time) []any {
		event := object.(*corev1.Event)
		return []any{
			since(event.LastTimestamp, now), event.Type, event.Reason, strings.ToLower(event.InvolvedObject.Kind) + "/" + event.InvolvedObject.Name,
			event.Source.Component, strings.TrimSpace(event.Message), event.Name,
		}
	},
}

// templateOf are the names of a template's containers and their images, a comma between.
func templateOf(pod *corev1.PodSpec) (names, images string) {
	var named, of []string
	for _, container := range pod.Containers {
		named, of = append(named, container.Name), append(of, container.Image)
	}
	return strings.Join(named, ","), strings.Join(of, ",")
}
