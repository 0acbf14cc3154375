package process_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
)

func TestTerminationMessages(t *testing.T) {
	const file, fallback = corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError
	numbers := func(from, to int) (text string) {
		for i := from; i <= to; i++ {
			text += fmt.Sprintln(i)
		}
		return text
	}
	for name, c := range map[string]struct {
		policy       corev1.TerminationMessagePolicy
		script, want string
	}{
		"the file's content is the message":                    {file, `printf 'it\nbroke' > $TERMINATION_MESSAGE_PATH; exit 1`, "it\nbroke"},
		"of a success too":                                     {file, `echo fine > $TERMINATION_MESSAGE_PATH`, "fine\n"},
		"the end of a long file is":                            {file, `seq 10000 > $TERMINATION_MESSAGE_PATH`, numbers(1, 10000)[len(numbers(1, 10000))-4096:]},
		"without a message there is none":                      {file, `echo said; exit 1`, ""},
		"the file may be gone":                                 {file, `rm $TERMINATION_MESSAGE_PATH`, ""},
		"what is no text stays readable":                       {file, `printf 'a\377b' > $TERMINATION_MESSAGE_PATH`, "a?b"},
		"output takes its place":                               {fallback, `echo said; echo more >&2; exit 1`, "said\nmore\n"},
		"not if there is a message":                            {fallback, `echo said; echo written > $TERMINATION_MESSAGE_PATH; exit 1`, "written\n"},
		"not of a success":                                     {fallback, `echo said`, ""},
		"of much output the last 80 lines":                     {fallback, `seq 1000; exit 1`, numbers(921, 1000)},
		"a line that is not ended counts as one of them":       {fallback, `seq 1000; printf end; exit 1`, numbers(922, 1000) + "end"},
		"of long lines the last 2048 bytes":                    {fallback, `head -c 300000 /dev/zero | tr '\0' x; echo y; exit 1`, strings.Repeat("x", 2046) + "y\n"},
		"a link is not followed":                               {file, `rm $TERMINATION_MESSAGE_PATH; ln -s /etc/passwd $TERMINATION_MESSAGE_PATH`, "Error on reading termination log"},
		"a pipe does not hold the pod up":                      {file, `rm $TERMINATION_MESSAGE_PATH; mkfifo $TERMINATION_MESSAGE_PATH`, "Error on reading termination log"},
		"the variable is there for arguments and other values": {file, `[ "$1" = "$TERMINATION_MESSAGE_PATH" ] && echo "$COPY" > "$1"`, "via "},
	} {
		t.Run(name, func(t *testing.T) {
			main := run("main", c.script)
			main.Command = append(main.Command, "sh", "$(TERMINATION_MESSAGE_PATH)")
			main.Env = []corev1.EnvVar{{Name: "COPY", Value: "via $(TERMINATION_MESSAGE_PATH)"}}
			main.TerminationMessagePolicy = c.policy
			end, _ := runToEnd(t, podOf(never, nil, containers{main}))
			got := container(t, end, "main").GetTerminated().GetMessage()
			if got != c.want && !(strings.HasSuffix(c.want, " ") || strings.HasPrefix(c.want, "Error")) || !strings.HasPrefix(got, c.want) {
				t.Errorf("message of %d bytes %q, want %q", len(got), got, c.want)
			}
		})
	}
}

func TestEachRunAndEachContainerHasAMessageOfItsOwn(t *testing.T) {
	end, r := runToEnd(t, podOf(onFailure, nil, containers{
		run("a", `[ ! -s $TERMINATION_MESSAGE_PATH ] || echo not empty; echo run >> runs; n=$(wc -l < runs); echo a $n > $TERMINATION_MESSAGE_PATH; [ $n = 2 ]`),
		run("b", `echo b > $TERMINATION_MESSAGE_PATH`),
	}))
	a := container(t, end, "a")
	if a.GetLast().GetMessage() != "a 1\n" || a.GetTerminated().GetMessage() != "a 2\n" || container(t, end, "b").GetTerminated().GetMessage() != "b\n" {
		t.Errorf("containers %v", end.Containers)
	}
	if r.log() != "" {
		t.Errorf("a run found the message of another: %q", r.log())
	}
}

func TestTheContainersOfAPodShareTheSpaceForMessages(t *testing.T) {
	var apps containers
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		apps = append(apps, run(name, `seq 10000 > $TERMINATION_MESSAGE_PATH`))
	}
	end, _ := runToEnd(t, podOf(never, nil, apps))
	for _, c := range end.Containers {
		if n := len(c.GetTerminated().GetMessage()); n != 2048 {
			t.Errorf("container %s has a message of %d bytes, want a sixth of 12288", c.GetName(), n)
		}
	}
}

func TestNothingIsKeptOfAPodThatHasEnded(t *testing.T) {
	end, r := runToEnd(t, shell(`echo $TERMINATION_MESSAGE_PATH; mkdir $TERMINATION_MESSAGE_PATH; : > $TERMINATION_MESSAGE_PATH/more`))
	if end.Phase != wire.PodReport_SUCCEEDED {
		t.Fatalf("end %v", end)
	}
	if exists(strings.TrimSpace(r.log())) {
		t.Errorf("%s is still there", r.log())
	}
}
