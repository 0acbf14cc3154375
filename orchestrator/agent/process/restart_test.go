package process_test

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/attempt"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
)

// own gives a container a restart policy of its own, and rules: an action, an operator and exit codes each.
func own(c corev1.Container, policy corev1.ContainerRestartPolicy, rules ...corev1.ContainerRestartRule) corev1.Container {
	c.RestartPolicy, c.RestartPolicyRules = &policy, rules
	return c
}

func onCodes(action corev1.ContainerRestartRuleAction, operator corev1.ContainerRestartRuleOnExitCodesOperator, codes ...int32) corev1.ContainerRestartRule {
	return corev1.ContainerRestartRule{Action: action, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: operator, Values: codes}}
}

// counted is a script that appends to a file, and ends with the code that its case says for the number of lines.
func counted(name, cases string) string {
	return "echo run >> " + name + "; case $(wc -l < " + name + ") in " + cases + " esac"
}

func TestAContainersOwnRestartPolicyGoesBeforeThatOfItsPod(t *testing.T) {
	t.Run("OnFailure in a pod that restarts nothing", func(t *testing.T) {
		end, _ := runToEnd(t, podOf(never,
			containers{own(run("setup", counted("s", "1) exit 3;; 2) exit 0;;")), corev1.ContainerRestartPolicyOnFailure)},
			containers{own(run("main", counted("m", "1) exit 4;; 2) exit 5;;")), corev1.ContainerRestartPolicyOnFailure), run("plain", "true")}))
		if end.Phase != wire.PodReport_SUCCEEDED || states(end) != "setup Completed(0) x1, main Completed(0) x2, plain Completed(0)" {
			t.Errorf("end %v %s", end, states(end))
		}
	})
	t.Run("Never in a pod that restarts", func(t *testing.T) {
		end, _ := runToEnd(t, podOf(onFailure, nil, containers{
			own(run("main", "exit 4"), corev1.ContainerRestartPolicyNever), run("flaky", counted("f", "1) exit 5;;")),
		}))
		if end.Phase != wire.PodReport_FAILED || end.ExitCode != 4 || states(end) != "main Error(4), flaky Completed(0) x1" {
			t.Errorf("end %v %s", end, states(end))
		}
	})
	t.Run("Never of an init container fails the pod", func(t *testing.T) {
		end, _ := runToEnd(t, podOf(onFailure, containers{own(run("setup", "exit 4"), corev1.ContainerRestartPolicyNever)}, containers{run("main", "true")}))
		if end.Phase != wire.PodReport_FAILED || states(end) != "setup Error(4), main PodInitializing" {
			t.Errorf("end %v %s", end, states(end))
		}
	})
	t.Run("Always keeps the pod going until it is stopped", func(t *testing.T) {
		running, r := start(t, podOf(never, nil, containers{own(run("main", counted("m", "4) : > done; exec sleep 1000;;")), corev1.ContainerRestartPolicyAlways)}))
		r.wait(t, "three restarts", func() bool { return len(r.statuses) > 0 && r.statuses[len(r.statuses)-1].Restarts == 3 })
		running.Stop(0, "")
		done(t, running)
		if end := r.statuses[len(r.statuses)-1]; end.Phase != wire.PodReport_FAILED || states(end) != "main Error(137) x3" {
			t.Errorf("end %v %s", end, states(end))
		}
	})
}

func TestTheFirstRuleThatMatchesTheExitCodeDecidesAboutARestart(t *testing.T) {
	end, _ := runToEnd(t, podOf(never, nil, containers{
		own(run("main", counted("m", "1) exit 42;; 2) exit 43;; 3) exit 42;; *) exit 7;;")), corev1.ContainerRestartPolicyNever,
			onCodes(corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleOnExitCodesOpIn, 42),
			onCodes(corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleOnExitCodesOpNotIn, 42, 7)),
	}))
	if end.Phase != wire.PodReport_FAILED || end.ExitCode != 7 || states(end) != "main Error(7) x3" {
		t.Errorf("end %v %s", end, states(end))
	}
	t.Run("an init container that has succeeded is done whatever they say", func(t *testing.T) {
		end, _ := runToEnd(t, podOf(never, containers{
			own(run("setup", "true"), corev1.ContainerRestartPolicyNever, onCodes(corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleOnExitCodesOpIn, 0)),
		}, containers{run("main", "true")}))
		if end.Phase != wire.PodReport_SUCCEEDED || end.Restarts != 0 {
			t.Errorf("end %v %s", end, states(end))
		}
	})
	t.Run("an action that nobody knows is passed over for the policy", func(t *testing.T) {
		end, _ := runToEnd(t, podOf(never, nil, containers{
			own(run("main", counted("m", "1) exit 9;;")), corev1.ContainerRestartPolicyOnFailure, onCodes("Ponder", corev1.ContainerRestartRuleOnExitCodesOpIn, 9)),
		}))
		if end.Phase != wire.PodReport_SUCCEEDED || end.Restarts != 1 {
			t.Errorf("end %v %s", end, states(end))
		}
		end, _ = runToEnd(t, podOf(never, nil, containers{
			own(run("main", "exit 9"), corev1.ContainerRestartPolicyNever, onCodes("Ponder", corev1.ContainerRestartRuleOnExitCodesOpIn, 9),
				onCodes(corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleOnExitCodesOpIn, 9)),
		}))
		if end.Phase != wire.PodReport_FAILED || end.Restarts != 0 {
			t.Errorf("a later rule was asked: end %v %s", end, states(end))
		}
	})
	t.Run("a restart alone goes before one of everything where its rule comes first", func(t *testing.T) {
		end, _ := runToEnd(t, podOf(never, nil, containers{
			own(run("main", counted("m", "1) exit 42;;")), corev1.ContainerRestartPolicyNever,
				onCodes(corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleOnExitCodesOpIn, 42),
				onCodes(corev1.ContainerRestartRuleActionRestartAllContainers, corev1.ContainerRestartRuleOnExitCodesOpNotIn, 0)),
			run("beside", "true"),
		}))
		if end.Phase != wire.PodReport_SUCCEEDED || states(end) != "main Completed(0) x1, beside Completed(0)" {
			t.Errorf("end %v %s", end, states(end))
		}
	})
}

func TestARuleBeginsTheWholePodAgain(t *testing.T) {
	dir := t.TempDir()
	end, r := runIn(t, dir, podOf(never,
		containers{run("setup", "echo setup >> order"), beside(run("side", `echo side >> order; exec sleep 1000`))},
		containers{
			own(run("main", "while [ $(grep -c watcher order) != $(grep -c setup order) ]; do sleep 0.01; done; "+counted("m", "1) exit 42;; 2) exit 42;;")),
				corev1.ContainerRestartPolicyNever, onCodes(corev1.ContainerRestartRuleActionRestartAllContainers, corev1.ContainerRestartRuleOnExitCodesOpIn, 42)),
			// It would take its time to end; the kubelet gives it none.
			run("watcher", `trap '' TERM; echo watcher >> order; [ $(grep -c watcher order) = 3 ] || exec sleep 1000`),
		}))
	if end.Phase != wire.PodReport_SUCCEEDED || states(end) != "setup Completed(0) x2, side Error(143) x2, main Completed(0) x2, watcher Completed(0) x2" {
		t.Errorf("end %v %s", end, states(end))
	}
	order := strings.Fields(read(t, dir, "order"))
	for round := range slices.Chunk(order, 3) {
		if len(round) != 3 || round[0] != "setup" || !slices.Contains(round, "side") || !slices.Contains(round, "watcher") {
			t.Errorf("the containers began in the order %v", order)
		}
	}
	if last := container(t, end, "watcher").GetLast(); last.GetExitCode() != 137 {
		t.Errorf("the container beside it was ended by %v", last)
	}
	phase := wire.PodReport_STARTING
	for _, s := range r.statuses {
		if s.Phase < phase {
			t.Errorf("the pod went back to %v", s)
		}
		phase = s.Phase
	}
}

func TestAStopEndsABeginningAnew(t *testing.T) {
	pod := podOf(never, nil, containers{own(run("main", "exit 42"), corev1.ContainerRestartPolicyNever,
		onCodes(corev1.ContainerRestartRuleActionRestartAllContainers, corev1.ContainerRestartRuleOnExitCodesOpIn, 42))})
	running, r := start(t, pod)
	r.wait(t, "two beginnings", func() bool { return len(r.statuses) > 0 && r.statuses[len(r.statuses)-1].Restarts >= 2 })
	running.Stop(0, "enough")
	done(t, running)
	if end := r.statuses[len(r.statuses)-1]; end.Phase != wire.PodReport_FAILED || end.Reason != attempt.ReasonError {
		t.Errorf("end %v %s", end, states(end))
	}
}
