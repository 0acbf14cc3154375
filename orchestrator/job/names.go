package job

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
)

// alphanums are the characters of Kubernetes' generated names, without vowels and look-alikes (k8s.io/apimachinery/pkg/util/rand).
const alphanums = "bcdfghjklmnpqrstvwxz2456789"

// maxGeneratedPrefix is how much of a name goes before the five letters (k8s.io/apiserver/pkg/storage/names).
const maxGeneratedPrefix = 58

// Letters derives n characters, as Kubernetes' generated names use them, from a text.
func Letters(text string, n int) string {
	return string(appendLetters(nil, []byte(text), n))
}

func appendLetters(to, text []byte, n int) []byte {
	sum := sha256.Sum256(text)
	for i := range n {
		to = append(to, alphanums[int(sum[i%len(sum)])%len(alphanums)])
	}
	return to
}

// AppendPodPrefix appends what the names of the pods of an index begin with: JOB-, Indexed JOB-INDEX-, where a long name of the Job is cut so
// that the index survives (pkg/controller/job/indexed_job_utils.go: podGenerateNameWithIndex).
func AppendPodPrefix(to []byte, jobName string, index int32) []byte {
	var room [16]byte
	suffix := append(room[:0], '-')
	if index != NoIndex {
		suffix = append(strconv.AppendInt(suffix, int64(index), 10), '-')
	}
	if limit := maxGeneratedPrefix - len(suffix); len(jobName) > limit {
		jobName = jobName[:limit]
	}
	return append(append(to, jobName...), suffix...)
}

// PodName names the pod that is the ordinal-th of its Job: five letters after the prefix. Another salt gives another name.
func PodName(jobName, jobUID string, index int32, ordinal, salt int) string {
	var name, text [96]byte
	source := strconv.AppendInt(append(appendPod(text[:0], jobUID, ordinal), ' '), int64(salt), 10)
	return string(appendLetters(AppendPodPrefix(name[:0], jobName, index), source, 5))
}

// appendPod appends what stands for the ordinal-th pod of a Job.
func appendPod(to []byte, jobUID string, ordinal int) []byte {
	return strconv.AppendInt(append(append(append(to, "pod "...), jobUID...), ' '), int64(ordinal), 10)
}

// PodUID is the UID of the ordinal-th pod of a Job, a version 8 UUID (RFC 9562) that derives from the Job's.
func PodUID(jobUID string, ordinal int) string {
	var text [96]byte
	sum := sha256.Sum256(appendPod(text[:0], jobUID, ordinal))
	sum[6] = sum[6]&0x0f | 0x80
	sum[8] = sum[8]&0x3f | 0x80
	return FormatUID([16]byte(sum[:16]))
}

// FormatUID writes a UUID in its usual form.
func FormatUID(uid [16]byte) string {
	var text [36]byte
	hex.Encode(text[0:8], uid[0:4])
	hex.Encode(text[9:13], uid[4:6])
	hex.Encode(text[14:18], uid[6:8])
	hex.Encode(text[19:23], uid[8:10])
	hex.Encode(text[24:36], uid[10:16])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}
