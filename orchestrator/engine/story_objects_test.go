package engine

import (
	"strings"

	"github.com/nightshift-batch/nightshift/orchestrator/object"
)

// namespace of what the line is about.
func (a arguments) namespace() string {
	if given, ok := a.settings["in"]; ok {
		return given
	}
	return "default"
}

// object carries out "put", "replace" and "remove", with the resource and the name. The UID is "uid-" and the name; owners are UIDs, with "!" for one that
// they block and "?" for one of a foreign kind.
func (a arguments) object(verb string) []string {
	key := object.Key{Resource: a.names[0], Namespace: a.namespace(), Name: a.names[1]}
	if key.Resource == object.Namespaces {
		key.Namespace = ""
	}
	known, _ := a.s.state.Objects.Get(key)
	var version uint64
	switch a.settings["version"] {
	case "current":
		version = known.Version
	case "former":
		version = known.Version - 1
	}
	if verb == "remove" {
		return a.s.submit(DeleteObject{Key: key, UID: a.settings["uid"], Version: version})
	}
	put := object.Put{
		Key: key, UID: "uid-" + key.Name + a.settings["uid"], Object: make([]byte, *a.int32("bytes", 1)), Create: verb == "put", Version: version,
		Deleting: a.settings["deleting"] == "true",
	}
	if text := a.settings["lasts"]; text != "" {
		put.Lasts = a.duration(text)
	}
	if text := a.settings["finalizers"]; text != "" {
		put.Finalizers = strings.Split(text, ",")
	}
	if text := a.settings["owners"]; text != "" {
		for owner := range strings.SplitSeq(text, ",") {
			put.Owners = append(put.Owners, object.Owner{
				UID: "uid-" + strings.Trim(owner, "!?"), Blocks: strings.HasSuffix(owner, "!"), Foreign: strings.HasSuffix(owner, "?"),
			})
		}
	}
	return a.s.submit(PutObject{put})
}
