package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"

	"gocloud.dev/blob"
)

const segmentPrefix = "log/"

var segmentName = regexp.MustCompile(`^log/([0-9]{20})-([0-9]{20})$`)

// Keep keeps a segment of the journal's log, the facts numbered first to last, as log/FIRST-LAST. To keep it again is right.
func (a *Archive) Keep(ctx context.Context, first, last uint64, segment []byte) error {
	if first == 0 || last < first {
		return fmt.Errorf("archive: a segment of facts %d to %d", first, last)
	}
	key := fmt.Sprintf("%s%020d-%020d", segmentPrefix, first, last)
	return a.put(ctx, key, "application/octet-stream", bytes.NewReader(segment), false)
}

// Segments yields what was kept of the journal's log, in the order of the first facts. A segment that was kept again after a crash, shorter or
// longer, comes as often. An error of yield ends it and is returned as it is.
func (a *Archive) Segments(ctx context.Context, yield func(first, last uint64, segment []byte) error) error {
	objects := a.bucket.List(&blob.ListOptions{Prefix: segmentPrefix})
	for {
		object, err := objects.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list the segments of the log: %w", a.why(err))
		}
		numbers := segmentName.FindStringSubmatch(object.Key)
		if numbers == nil {
			continue // left of a write that was broken off
		}
		first, err := strconv.ParseUint(numbers[1], 10, 64)
		if err != nil {
			return fmt.Errorf("segment %s: %w", object.Key, err)
		}
		last, err := strconv.ParseUint(numbers[2], 10, 64)
		if err != nil {
			return fmt.Errorf("segment %s: %w", object.Key, err)
		}
		segment, err := a.bucket.ReadAll(ctx, object.Key)
		if err != nil {
			return fmt.Errorf("segment %s: %w", object.Key, a.why(err))
		}
		if err := yield(first, last, segment); err != nil {
			return err
		}
	}
}
