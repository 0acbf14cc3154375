package process

import "time"

// Backoff says how long a container waits before it is started again in place.
type Backoff struct {
	// Initial delay, doubled by every further restart up to Max.
	Initial, Max time.Duration
	// ResetAfter is how long a run must have lasted for the delays to begin anew.
	ResetAfter time.Duration
}

// KubeletBackoff is Kubernetes' own: 10 s doubling to 5 min, anew after a run of 10 min (pkg/kubelet/kubelet.go,
// newCrashLoopBackOff; the reset is twice the longest delay in client-go's util/flowcontrol/backoff.go).
func KubeletBackoff() Backoff {
	return Backoff{Initial: 10 * time.Second, Max: 5 * time.Minute, ResetAfter: 10 * time.Minute}
}

// delays is the state of a Backoff for one container.
type delays struct {
	Backoff
	next time.Duration
}

// after returns the wait, from its end, after a run of the given length. The first restart, and the one after a long run, is
// immediate, as the kubelet's is: it counts delays from the restart before (kuberuntime_manager.go, doBackOff).
func (d *delays) after(ran time.Duration) time.Duration {
	if d.next == 0 || ran > d.ResetAfter {
		d.next = d.Initial
		return 0
	}
	wait := d.next
	d.next = min(2*d.next, d.Max)
	return wait
}
