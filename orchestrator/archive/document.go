package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// documentName is a path of plain words, so that no name leads out of its folder or is written in two ways.
var documentName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$`)

func documentKey(name string) (string, error) {
	if len(name) > 512 || !documentName.MatchString(name) || strings.Contains(name, "..") {
		return "", fmt.Errorf("%q does not name a document: words of letters, digits, '.', '_' and '-' with '/' between them, at most 512 characters", name)
	}
	return "documents/" + name + ".json", nil
}

// PutDocument keeps v as JSON under a name such as "admissions/UID", in place of what was there. A reader sees the old or the new.
func (a *Archive) PutDocument(ctx context.Context, name string, v any) error {
	key, err := documentKey(name)
	if err != nil {
		return err
	}
	content, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("document %s: %w", name, err)
	}
	return a.put(ctx, key, "application/json", bytes.NewReader(content), false)
}

// GetDocument reads the document of that name into v; ErrNoDocument if there is none.
func (a *Archive) GetDocument(ctx context.Context, name string, v any) error {
	key, err := documentKey(name)
	if err != nil {
		return err
	}
	content, err := a.bucket.ReadAll(ctx, key)
	if err != nil {
		if notFound(err) {
			return fmt.Errorf("document %s: %w", name, ErrNoDocument)
		}
		return fmt.Errorf("document %s: %w", name, a.why(err))
	}
	if err := json.Unmarshal(content, v); err != nil {
		return fmt.Errorf("document %s: %w", name, err)
	}
	return nil
}
