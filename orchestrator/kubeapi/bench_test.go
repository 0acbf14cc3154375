package kubeapi_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
)

// BenchmarkCreates measures whole creates, over TLS and through policy, by eight clients at a time.
func BenchmarkCreates(b *testing.B) {
	p := newPlane(b)
	jobs := p.client.BatchV1().Jobs("default")
	numbers := make(chan int)
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for n := range numbers {
				job := newJob(fmt.Sprintf("job-%d", n), 1)
				*job.Spec.Parallelism = 0
				if _, err := jobs.Create(b.Context(), job, metav1.CreateOptions{}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	b.ResetTimer()
	for n := range b.N {
		numbers <- n
	}
	close(numbers)
	clients.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
}

// BenchmarkListPods measures lists of ten thousand pods as tables, the form that kubectl asks for.
func BenchmarkListPods(b *testing.B) {
	const pods = 10_000
	p := newPlane(b)
	job := newJob("many", pods)
	_, err := p.client.BatchV1().Jobs("default").Create(b.Context(), job, metav1.CreateOptions{})
	p.must(err)
	p.until("all pods are made", func(s *engine.State) bool { return len(slices.Collect(s.Pods())) == pods })
	b.ResetTimer()
	for range b.N {
		_, err := p.client.CoreV1().RESTClient().Get().Namespace("default").Resource("pods").
			SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(b.Context())
		p.must(err)
	}
	b.ReportMetric(pods*float64(b.N)/b.Elapsed().Seconds(), "pods/s")
}
