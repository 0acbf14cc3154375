package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// record is what is kept of an instance on disk, so that the next provider can look after what this one leaves.
type record struct {
	ID      string `json:"id"`
	Key     string `json:"key"`
	Owner   string `json:"owner"`
	OfferID string `json:"offerId"`
	// Guardian is the agent's process; its zero value before the start.
	Guardian processID `json:"guardian"`
	// Gone says that the instance's lock was seen free after its end.
	Gone bool `json:"gone,omitempty"`
}

func recordPath(dir string) string { return filepath.Join(dir, "record.json") }

func readRecord(dir string) (record, error) {
	var r record
	data, err := os.ReadFile(recordPath(dir))
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		return r, fmt.Errorf("an instance's record: %w", err)
	}
	return r, nil
}

// unfinished is in the names of files that writeJSON has not yet put in their place.
const unfinished = ".new-"

// writeJSON replaces a file by one rename. It is safe against the death of this process, which is all it need survive: no
// instance outlives the machine.
func writeJSON(path string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+unfinished+"*")
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err = errors.Join(err, file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}
