package archive_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/nightshift-batch/nightshift/orchestrator/archive"
	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

var _ journal.Archiver = (*archive.Archive)(nil)

func TestWhatAJournalLetsGoOfIsInTheArchiveAndReadsAsOneChain(t *testing.T) {
	dir := t.TempDir()
	kept, err := archive.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	log := journal.NewMemory().Open()
	term, err := log.Campaign(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var head journal.Seq
	large := make([]byte, journal.MaxBatchBytes/2)
	for round := range 3 {
		for range 12 {
			if head, err = log.Append(t.Context(), term, head, [][]byte{fmt.Appendf(nil, "fact %d", head+1), large}); err != nil {
				t.Fatal(err)
			}
		}
		if err := log.Snapshot(t.Context(), term, head, func(func([]byte, error) bool) {}); err != nil {
			t.Fatal(err)
		}
		if err := log.Compact(t.Context(), term, head, kept); err != nil {
			t.Fatal(err)
		}
		if round == 0 { // what a crash leaves
			if err := os.WriteFile(filepath.Join(dir, "log", "fileblob123"), []byte("torn"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := kept.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := archive.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	chain, segments := journal.ChainAfter(0, journal.Digest{}), 0
	err = again.Segments(t.Context(), func(first, last uint64, segment []byte) error {
		segments++
		if journal.Seq(first) != chain.Next() {
			return fmt.Errorf("a segment begins with fact %d, want %d", first, chain.Next())
		}
		err := journal.ReadSegment(segment, chain, func(b journal.Batch) error {
			if want := fmt.Sprintf("fact %d", b.First); string(b.Facts[0]) != want {
				return fmt.Errorf("%q where %q should be", b.Facts[0], want)
			}
			return nil
		})
		if err == nil && journal.Seq(last) != chain.Next()-1 {
			err = fmt.Errorf("the segment goes to fact %d, and not %d", chain.Next()-1, last)
		}
		return err
	})
	if err != nil || segments < 3 {
		t.Fatalf("after %d segments: %v", segments, err)
	}
	// The log's last batch is not let go of, and goes on where the archive ends.
	if err := log.Read(t.Context(), chain.Next(), chain.Add); err != nil || chain.Next() != head+1 {
		t.Errorf("archive and log go to fact %d of %d: %v", chain.Next()-1, head, err)
	}
}

func TestASegmentThatIsKeptAgainIsTheSame(t *testing.T) {
	a, err := archive.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	for range 2 {
		if err := a.Keep(t.Context(), 5, 9, []byte("facts")); err != nil {
			t.Fatal(err)
		}
	}
	var found []string
	if err := a.Segments(t.Context(), func(first, last uint64, segment []byte) error {
		found = append(found, fmt.Sprintf("%d to %d: %s", first, last, segment))
		return nil
	}); err != nil || fmt.Sprint(found) != "[5 to 9: facts]" {
		t.Errorf("kept are %q: %v", found, err)
	}
	enough := errors.New("enough")
	if err := a.Segments(t.Context(), func(uint64, uint64, []byte) error { return enough }); err != enough { //nolint:errorlint // the contract: returned as it is
		t.Errorf("an error of yield came back as %v", err)
	}
	for _, numbers := range [][2]uint64{{0, 5}, {5, 4}} {
		if err := a.Keep(t.Context(), numbers[0], numbers[1], nil); err == nil {
			t.Errorf("a segment of facts %d to %d was kept", numbers[0], numbers[1])
		}
	}
}
