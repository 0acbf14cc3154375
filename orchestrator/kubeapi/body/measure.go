package body

import (
	"errors"
	"fmt"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protowire"
)

// errTooMuch: a body holds more than may be.
var errTooMuch = errors.New("the request holds too much")

// size is what a body comes to when it is decoded.
type size struct{ values, bytes int64 }

func (s size) check() error {
	switch {
	case s.values > MaxValues:
		return fmt.Errorf("%w: limit is %d values", errTooMuch, MaxValues)
	case s.bytes > MaxExpandedBytes:
		return fmt.Errorf("%w: limit is %d bytes with aliases resolved", errTooMuch, MaxExpandedBytes)
	}
	return nil
}

// measureJSON counts by the marks between values. What is no JSON is refused by who reads it, and costs no more until then.
func measureJSON(text []byte) (measured size) {
	quoted, escaped := false, false
	for _, c := range text {
		switch {
		case escaped:
			escaped = false
		case quoted:
			escaped, quoted = c == '\\', c != '"'
		case c == '"':
			quoted = true
		case c == '{', c == '[', c == ',', c == ':':
			measured.values++
		}
	}
	measured.bytes = int64(len(text))
	return measured
}

// measureYAML counts with aliases resolved, without resolving any: each anchor is counted once.
func measureYAML(text []byte) (size, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return size{}, fmt.Errorf("not YAML: %w", err)
	}
	return (&yamlMeasure{anchors: make(map[*yaml.Node]size)}).of(&document)
}

// yamlMeasure knows the anchors that were counted to their end.
type yamlMeasure struct{ anchors map[*yaml.Node]size }

// of counts a node; what is beyond the bounds is not counted to its end.
func (m *yamlMeasure) of(node *yaml.Node) (total size, err error) {
	if node.Kind == yaml.AliasNode {
		known, ok := m.anchors[node.Alias]
		if !ok {
			return size{}, fmt.Errorf("line %d: the alias *%s stands within what it names", node.Line, node.Value)
		}
		return known, nil
	}
	total = size{values: 1, bytes: int64(len(node.Value)) + 1}
	for _, part := range node.Content {
		counted, err := m.of(part)
		if err != nil {
			return size{}, err
		}
		total.values += counted.values
		total.bytes += counted.bytes
		if err := total.check(); err != nil {
			return size{}, err
		}
	}
	if node.Anchor != "" {
		m.anchors[node] = total
	}
	return total, nil
}

// maxProtobufDepth is deeper than any message of Kubernetes nests.
const maxProtobufDepth = 64

// measureProtobuf counts the fields of messages within messages. Whether bytes are a message or a text cannot be told without its schema: all are
// counted as far as they read as messages, so that a count may be too high by what texts look like, and never too low.
func measureProtobuf(text []byte) size {
	// "k8s\x00" comes before the message (k8s.io/apimachinery/pkg/runtime/serializer/protobuf).
	const mark = 4
	measured := size{bytes: int64(len(text))}
	if len(text) > mark {
		measured.values = countFields(text[mark:], 0)
	}
	return measured
}

// countFields counts until the end or until what is no field: a decoder may have made objects of all until there.
func countFields(message []byte, depth int) (values int64) {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return values
		}
		message = message[n:]
		if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
			return values
		}
		values++
		if inner, isBytes := protowire.ConsumeBytes(message[:n]); kind == protowire.BytesType && isBytes == n && depth < maxProtobufDepth {
			values += countFields(inner, depth+1)
		}
		message = message[n:]
	}
	return values
}
