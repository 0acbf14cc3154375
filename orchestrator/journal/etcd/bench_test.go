package etcd

import "testing"

// BenchmarkAppend appends batches of 128 facts of 150 bytes, one after the other, as the writer does.
func BenchmarkAppend(b *testing.B) {
	const batch, size = 128, 150
	j, term := openWriter(b, Options{Dir: b.TempDir()})
	facts := manyFacts(1, batch, size)
	b.SetBytes(batch * size)
	head, err := j.Head(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if head, err = j.Append(b.Context(), term, head, facts); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "facts/s")
}
