package process

import "strings"

// expand replaces $(NAME) by what lookup finds, as Kubernetes does in commands, arguments and environment values: $$ stands for
// one $, and a name that is not found, an unclosed reference and any other $ stay as they are. What a value brings in is not
// looked at again. The rule is that of k8s.io/kubernetes/third_party/forked/golang/expansion.
func expand(text string, lookup func(name string) (string, bool)) string {
	var out strings.Builder
	for {
		before, after, found := strings.Cut(text, "$")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		text = after
		switch {
		case strings.HasPrefix(after, "$"):
			out.WriteByte('$')
			text = after[1:]
		case strings.HasPrefix(after, "("):
			name, rest, closed := strings.Cut(after[1:], ")")
			if !closed {
				// Only the opening is passed over: what follows may hold escapes of its own.
				out.WriteString("$(")
				text = after[1:]
				continue
			}
			value, known := lookup(name)
			if !known {
				value = "$(" + name + ")"
			}
			out.WriteString(value)
			text = rest
		default:
			out.WriteByte('$')
		}
	}
}
