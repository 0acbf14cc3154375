package main_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// jobsThatEnd are about how Jobs without indexes come to their end.
var jobsThatEnd = []acceptance{
	{"J1: a Job whose pods succeed is complete, and they are listed", func(k *tenant) {
		k.run(succeeds, 2, 4)
		job := k.awaitEnd(batchv1.JobComplete, batchv1.JobReasonCompletionsReached)
		k.checkCounts(job, counts{succeeded: 4})
		if pods := k.listed(); countOf(pods, corev1.PodSucceeded) != 4 || len(pods) != 4 {
			k.t.Errorf("the pods are%s", shown(pods))
		}
	}},
	{"J4: an exit code that a rule says FailJob of fails the Job long before its backoff limit", func(k *tenant) {
		k.run(failsOnce, 2, 4, onExit(batchv1.PodFailurePolicyActionFailJob, 1))
		job := k.awaitEnd(batchv1.JobFailed, batchv1.JobReasonPodFailurePolicy)
		said := regexp.MustCompile(`^Container c for pod ` + k.namespace + `/demo-\w{5} failed with exit code 1 matching FailJob rule at index 0$`)
		if message := job.Status.Conditions[len(job.Status.Conditions)-1].Message; !said.MatchString(message) {
			k.t.Errorf("it says %q", message)
		}
		// What was active beside the pod that failed has failed with the Job.
		if job.Status.Failed < 1 || job.Status.Failed > 2 {
			k.t.Errorf("%d failures are counted", job.Status.Failed)
		}
	}},
	{"J20: pods that fail at first are restarted where they are", func(k *tenant) {
		k.run(failsOncePerPod, 2, 4, func(job *batchv1.Job) { job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure })
		job := k.awaitEnd(batchv1.JobComplete, batchv1.JobReasonCompletionsReached)
		k.checkCounts(job, counts{succeeded: 4})
		pods := k.listed()
		for name, pod := range pods {
			if pod.Status.Phase != corev1.PodSucceeded || pod.Status.ContainerStatuses[0].RestartCount != 1 {
				k.t.Errorf("the pod %s is %+v", name, pod.Status)
			}
		}
		if len(pods) != 4 {
			k.t.Errorf("%d pods were made", len(pods))
		}
	}},
	{"J21: a pod that fails is replaced by another, and the Job completes", func(k *tenant) {
		k.run(failsOnce, 2, 4)
		job := k.awaitEnd(batchv1.JobComplete, batchv1.JobReasonCompletionsReached)
		k.checkCounts(job, counts{succeeded: 4, failed: 1})
		if pods := k.listed(); countOf(pods, corev1.PodSucceeded) != 4 || countOf(pods, corev1.PodFailed) != 1 {
			k.t.Errorf("the pods are%s", shown(pods))
		}
	}},
	{"J22: a Job that goes on past its deadline fails", func(k *tenant) {
		k.run(runs, 2, 4, func(job *batchv1.Job) { job.Spec.ActiveDeadlineSeconds = new(int64(1)) })
		job := k.awaitEnd(batchv1.JobFailed, batchv1.JobReasonDeadlineExceeded)
		k.checkCounts(job, counts{failed: 2})
		if since := job.Status.Conditions[len(job.Status.Conditions)-1].LastTransitionTime.Sub(job.Status.StartTime.Time); since < time.Second {
			k.t.Errorf("it failed %s after its start", since)
		}
	}},
	{"J25: a Job fails with one failure more than its backoff limit, and its pods are kept", func(k *tenant) {
		k.run(fails, 1, 1, backoffLimit(1))
		job := k.awaitEnd(batchv1.JobFailed, batchv1.JobReasonBackoffLimitExceeded)
		k.checkCounts(job, counts{failed: 2})
		if pods := k.listed(); len(pods) != 2 || countOf(pods, corev1.PodFailed) != 2 {
			k.t.Errorf("the pods are%s", shown(pods))
		}
	}},
	// There the Job is kept on one node, by its name; here on a kind of node of which there are several, and none may hold more than fits.
	{"J26: ninety pods that each request a fifth of a node's CPU complete, and no node holds more than five", func(k *tenant) {
		node := k.anyNode()
		fifth := resource.NewMilliQuantity(node.Status.Allocatable.Cpu().MilliValue()/5, resource.DecimalSI)
		job := k.newJob(succeeds, 90, 90, backoffLimit(0))
		job.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: *fifth}
		_, err := k.jobs.Create(k.t.Context(), job, metav1.CreateOptions{})
		k.must(err)
		pods := k.awaitPods("ninety pods have succeeded", func(pods map[string]*corev1.Pod) bool {
			held := make(map[string]int)
			for _, pod := range pods {
				if on := pod.Spec.NodeName; on != "" && pod.Status.Phase != corev1.PodSucceeded {
					if held[on]++; held[on] > 5 {
						k.t.Fatalf("node %s holds more than five", on)
					}
				}
			}
			return countOf(pods, corev1.PodSucceeded) == 90
		})
		k.checkCounts(k.awaitEnd(batchv1.JobComplete, batchv1.JobReasonCompletionsReached), counts{succeeded: 90})
		if len(pods) != 90 {
			k.t.Errorf("%d pods were made", len(pods))
		}
	}},
	{"J31: a container that is restarted by a policy of its own is not held against the pod failure policy", func(k *tenant) {
		k.run(failsOncePerPod, 1, 1, backoffLimit(1), onExit(batchv1.PodFailurePolicyActionFailJob, 1), func(job *batchv1.Job) {
			job.Spec.PodFailurePolicy.Rules[0].OnExitCodes.ContainerName = new("c")
			job.Spec.Template.Spec.Containers[0].RestartPolicy = new(corev1.ContainerRestartPolicyOnFailure)
		})
		job := k.awaitEnd(batchv1.JobComplete, batchv1.JobReasonCompletionsReached)
		k.checkCounts(job, counts{succeeded: 1})
		for name, pod := range k.listed() {
			if pod.Status.ContainerStatuses[0].RestartCount != 1 {
				k.t.Errorf("the pod %s is %+v", name, pod.Status)
			}
		}
	}},
	{"T1: a Job is deleted with its pods when its time to live after its end is over, and not before", func(k *tenant) {
		const seconds = 2
		k.run(succeeds, 1, 1, func(job *batchv1.Job) { job.Spec.TTLSecondsAfterFinished = new(int32(seconds)) })
		finished := k.awaitEnd(batchv1.JobComplete, batchv1.JobReasonCompletionsReached).Status.CompletionTime
		k.awaitGone()
		// The time of its end is in whole seconds, cut off.
		if gone := time.Now(); gone.Before(finished.Add(seconds * time.Second)) {
			k.t.Errorf("it ended at %v and was gone at %v", finished, gone)
		}
		k.awaitNoPods()
	}},
}

// anyNode is one of those that there are, or the next that comes: nodes are there while Jobs need them.
func (k *tenant) anyNode() (found *corev1.Node) {
	k.t.Helper()
	nodes := k.client.CoreV1().Nodes()
	list, err := nodes.List(k.t.Context(), metav1.ListOptions{})
	k.must(err)
	known := make(map[string]*corev1.Node)
	for i := range list.Items {
		known[list.Items[i].Name] = &list.Items[i]
	}
	follow(k, "there is a node", known, list.ResourceVersion, metav1.ListOptions{}, nodes.Watch, func(nodes map[string]*corev1.Node) bool {
		for _, node := range nodes {
			found = node
		}
		return found != nil
	})
	return found
}

// jobsWithIndexes are about Indexed Jobs, their limits and their policies.
var jobsWithIndexes = []acceptance{
	{"J5: failures that a rule says Ignore of are not counted", func(k *tenant) {
		// Two would be one more than the limit. They delay all the same: twenty seconds, where three would delay forty.
		k.run(failsOncePerIndex, 2, 2, indexed, backoffLimit(1), onExit(batchv1.PodFailurePolicyActionIgnore, 42))
		job := k.awaitEnd(batchv1.JobComplete, batchv1.JobReasonCompletionsReached)
		k.checkCounts(job, counts{succeeded: 2, completedIndexes: "0,1"})
		if pods := k.listed(); countOf(pods, corev1.PodFailed) != 2 {
			k.t.Errorf("the pods are%s", shown(pods))
		}
	}},
	{"J10: the pods of an Indexed Job have their index as annotation and variable, and a host name of it", func(k *tenant) {
		k.run("mkdir index-$JOB_COMPLETION_INDEX", 2, 4, indexed)
		k.checkCounts(k.awaitEnd(batchv1.JobComplete, batchv1.JobReasonCompletionsReached), counts{succeeded: 4, completedIndexes: "0-3"})
		var names []string
		for _, pod := range k.listed() {
			index := pod.Annotations[batchv1.JobCompletionIndexAnnotation]
			names = append(names, index)
			if pod.Spec.Hostname != "demo-"+index || !strings.HasPrefix(pod.Name, "demo-"+index+"-") {
				k.t.Errorf("index %s has the pod %s with the host name %s", index, pod.Name, pod.Spec.Hostname)
			}
		}
		if slices.Sort(names); !slices.Equal(names, []string{"0", "1", "2", "3"}) {
			k.t.Errorf("the indexes are %q", names)
		}
		k.checkLeft("index-0", "index-1", "index-2", "index-3")
	}},
	{"J11: the pods of an Indexed Job are found by their index", func(k *tenant) {
		k.run(succeeds, 2, 4, indexed)
		k.awaitEnd(batchv1.JobComplete, batchv1.JobReasonCompletionsReached)
		for index := range 4 {
			list, err := k.pods.List(k.t.Context(), metav1.ListOptions{LabelSelector: fmt.Sprintf("%s=%d,%s=demo", batchv1.JobCompletionIndexAnnotation, index, batchv1.JobNameLabel)})
			k.must(err)
			if len(list.Items) != 1 || list.Items[0].Labels[batchv1.JobCompletionIndexAnnotation] != fmt.Sprint(index) {
				k.t.Errorf("index %d has the pods%s", index, shown(byName(list.Items)))
			}
		}
	}},
	{"J12: a success policy is met when all indexes have succeeded", func(k *tenant) {
		k.run(succeeds, 2, 2, indexed, successPolicy(batchv1.SuccessPolicyRule{SucceededCount: new(int32(2))}))
		k.checkCounts(k.awaitEnd(batchv1.JobComplete, batchv1.JobReasonSuccessPolicy), counts{succeeded: 2, completedIndexes: "0,1"})
	}},
	{"J13: a success policy is met by the index that it names while others have not succeeded", func(k *tenant) {
		k.run(oddIndexesFail, 2, 5, indexed, successPolicy(batchv1.SuccessPolicyRule{SucceededIndexes: new("0")}))
		if job := k.awaitEnd(batchv1.JobComplete, batchv1.JobReasonSuccessPolicy); job.Status.CompletedIndexes != "0" {
			k.t.Errorf("the indexes %s are complete", job.Status.CompletedIndexes)
		}
	}},
	{"J14: a success policy is met by as many indexes as it wants while others have not succeeded", func(k *tenant) {
		k.run(oddIndexesFail, 2, 5, indexed, backoffLimit(1<<31-1), successPolicy(batchv1.SuccessPolicyRule{SucceededCount: new(int32(1))}))
		if job := k.awaitEnd(batchv1.JobComplete, batchv1.JobReasonSuccessPolicy); job.Status.CompletedIndexes != "0" {
			k.t.Errorf("the indexes %s are complete", job.Status.CompletedIndexes)
		}
	}},
	{"J15: with a backoff limit per index all indexes are executed though some fail", func(k *tenant) {
		k.run(oddIndexesFail, 2, 4, indexed, backoffLimitPerIndex(1))
		job := k.awaitEnd(batchv1.JobFailed, batchv1.JobReasonFailedIndexes)
		k.checkCounts(job, counts{succeeded: 2, failed: 4, completedIndexes: "0,2", failedIndexes: "1,3"})
	}},
	{"J16: a Job is over when more indexes have failed than it bears", func(k *tenant) {
		k.run(fails, 1, 4, indexed, backoffLimitPerIndex(0), func(job *batchv1.Job) { job.Spec.MaxFailedIndexes = new(int32(0)) })
		job := k.awaitEnd(batchv1.JobFailed, batchv1.JobReasonMaxFailedIndexesExceeded)
		k.checkCounts(job, counts{failed: 1, failedIndexes: "0"})
		if pods := k.listed(); len(pods) != 1 {
			k.t.Errorf("the pods are%s", shown(pods))
		}
	}},
	{"J17: pods are annotated with how often their index has failed before", func(k *tenant) {
		k.run(fails, 2, 2, indexed, backoffLimitPerIndex(1))
		job := k.awaitEnd(batchv1.JobFailed, batchv1.JobReasonFailedIndexes)
		k.checkCounts(job, counts{failed: 4, failedIndexes: "0,1"})
		var seen []string
		for _, pod := range k.listed() {
			seen = append(seen, pod.Annotations[batchv1.JobCompletionIndexAnnotation]+" after "+pod.Annotations[batchv1.JobIndexFailureCountAnnotation])
		}
		if slices.Sort(seen); !slices.Equal(seen, []string{"0 after 0", "0 after 1", "1 after 0", "1 after 1"}) {
			k.t.Errorf("the pods are %q", seen)
		}
	}},
	{"J18: an index that a rule says FailIndex of fails without another try", func(k *tenant) {
		k.run(oddIndexesFail, 2, 2, indexed, backoffLimitPerIndex(1), onExit(batchv1.PodFailurePolicyActionFailIndex, 1))
		job := k.awaitEnd(batchv1.JobFailed, batchv1.JobReasonFailedIndexes)
		k.checkCounts(job, counts{succeeded: 1, failed: 1, completedIndexes: "0", failedIndexes: "1"})
	}},
}
