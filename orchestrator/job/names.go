package job

import (
	"crypto/sha256"
	"fmt"
	"strconv"
)

// alphanums are the characters of Kubernetes' generated names, without vowels and look-alikes (k8s.io/apimachinery/pkg/util/rand).
const alphanums = "bcdfghjklmnpqrstvwxz2456789"

// maxGeneratedPrefix is how much of a name goes before the five letters (k8s.io/apiserver/pkg/storage/names).
const maxGeneratedPrefix = 58

// Letters derives n characters, as Kubernetes' generated names use them, from a text.
func Letters(text string, n int) string {
	sum := sha256.Sum256([]byte(text))
	letters := make([]byte, n)
	for i := range letters {
		letters[i] = alphanums[int(sum[i%len(sum)])%len(alphanums)]
	}
	return string(letters)
}

// PodPrefix is what the names of the pods of an index begin with: JOB-, Indexed JOB-INDEX-, where a long name of the Job is cut so that
// the index survives (pkg/controller/job/indexed_job_utils.go: podGenerateNameWithIndex).
func PodPrefix(jobName string, index int32) string {
	suffix := "-"
	if index != NoIndex {
		suffix = "-" + strconv.Itoa(int(index)) + "-"
	}
	if limit := maxGeneratedPrefix - len(suffix); len(jobName) > limit {
		jobName = jobName[:limit]
	}
	return jobName + suffix
}

// PodName names the pod that is the ordinal-th of its Job: five letters after the prefix. Another salt gives another name.
func PodName(jobName, jobUID string, index int32, ordinal, salt int) string {
	return PodPrefix(jobName, index) + Letters(fmt.Sprintf("pod %s %d %d", jobUID, ordinal, salt), 5)
}

// PodUID is the UID of the ordinal-th pod of a Job, a version 8 UUID (RFC 9562) that derives from the Job's.
func PodUID(jobUID string, ordinal int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "pod %s %d", jobUID, ordinal))
	sum[6] = sum[6]&0x0f | 0x80
	sum[8] = sum[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}
