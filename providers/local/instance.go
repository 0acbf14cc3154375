package local

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nightshift-batch/nightshift/providers"
)

// instance is one agent and all that it runs.
type instance struct {
	record   // written by live alone, once the instance is in Provider.instances
	typ      Type
	dir      string
	address  string
	sequence int64 // order of launch

	// Guarded by Provider.mu.
	state   providers.InstanceState
	cause   string           // why it ends; the first cause counts
	notice  *providers.Event // the interruption that stands
	reclaim *time.Timer      // ends it at the notice's deadline

	// started is the agent's process, once it is there; live's, and before it is launched its Provider's.
	started *started

	// stop closes to end the instance in order, cut to end it at once. Both are closed under Provider.mu.
	stop, cut chan struct{}
	// gone closes when the state has become Terminated.
	gone chan struct{}
}

// told is the instance as the contract tells it. The caller holds Provider.mu.
func (i *instance) told() providers.Instance {
	return providers.Instance{ID: i.ID, Key: i.Key, OfferID: i.OfferID, State: i.state}
}

// end closes i.stop or i.cut unless it is closed. The caller holds Provider.mu.
func (i *instance) end(how *chan struct{}, cause string) {
	if i.cause == "" {
		i.cause = cause
	}
	select {
	case <-*how:
	default:
		close(*how)
	}
}

func (i *instance) path(name string) string { return filepath.Join(i.dir, name) }

func (p *Provider) instanceDir(id string) string {
	return filepath.Join(p.config.Dir, "instances", id)
}

// prepare makes the instance's directory and takes its lock, which is to be handed to the agent.
func (i *instance) prepare() (*os.File, error) {
	if err := os.MkdirAll(i.path("state"), 0o700); err != nil {
		return nil, err
	}
	if err := writeJSON(recordPath(i.dir), i.record); err != nil {
		return nil, err
	}
	return tryLock(i.path("lock"))
}

// equip puts into the instance's directory what its agent needs to join.
func (i *instance) equip(bootstrap providers.Bootstrap) error {
	return errors.Join(os.WriteFile(i.path("ca.pem"), bootstrap.CACertificate, 0o600), os.WriteFile(i.path("token"), []byte(bootstrap.Token), 0o600))
}

// live leads an instance from its boot to its end. It alone waits for the agent and for the lock.
func (p *Provider) live(i *instance, held *os.File) {
	boot := time.NewTimer(seconds(i.typ.BootSeconds))
	defer boot.Stop()
	select {
	case <-boot.C:
		p.run(i, held)
	case <-i.stop:
		p.neverBooted(i, held)
	case <-i.cut:
		p.neverBooted(i, held)
	}
	p.ended(i)
}

// neverBooted lets go of what an instance holds that ends before it has booted.
func (p *Provider) neverBooted(i *instance, held *os.File) {
	if i.started == nil {
		p.close(i, held)
	} else if err := i.started.end(); err != nil {
		p.logger.Error("end an agent that waited", "instance", i.ID, "error", err)
	}
}

// close closes a file of an instance. It cannot change what happens next if that fails.
func (p *Provider) close(i *instance, file *os.File) {
	if err := file.Close(); err != nil {
		p.logger.Error("close a file of an instance", "instance", i.ID, "file", file.Name(), "error", err)
	}
}

// run starts the agent, unless it is there already, and returns when nothing of the instance is left.
func (p *Provider) run(i *instance, held *os.File) {
	if i.started == nil {
		begun, err := p.start(i, held)
		if err != nil {
			p.logger.Error("cannot start the agent", "instance", i.ID, "error", err)
			p.blame(i, fmt.Sprintf("the agent did not start: %v", err))
			return
		}
		i.started = begun
	} else if err := i.started.tell(i.address); err != nil {
		p.logger.Error("cannot tell a waiting agent its control plane", "instance", i.ID, "error", err)
	}
	agent := i.started.agent
	p.running(i)
	p.untilEnd(i, agent, i.started.exited)
	p.close(i, i.started.lifeline)
	p.untilGone(i)
	// A guardian that let go of the lock without ending breaks its promise, and is no reason to lose a process.
	if err := agent.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.logger.Error("kill an agent without a lock", "instance", i.ID, "error", err)
	}
	<-i.started.exited
	if i.started.address != nil {
		p.close(i, i.started.address)
	}
}

// started is an agent's process. Its own goroutine alone waits for it.
type started struct {
	agent    *exec.Cmd
	lifeline *os.File
	// address is where an agent that was started ahead waits for its control plane's; nil for one that was told at its start.
	address *os.File
	// exited closes when the process has ended.
	exited chan struct{}
}

// start starts the agent. It consumes held: the agent has the lock from then on, or nobody.
func (p *Provider) start(i *instance, held *os.File) (*started, error) {
	defer p.close(i, held)
	log, err := os.OpenFile(i.path("agent.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer p.close(i, log)
	read, lifeline, err := os.Pipe() // both close on exec; the agent gets a copy of the read end alone
	if err != nil {
		return nil, err
	}
	defer p.close(i, read)
	where := []string{"--control-plane", i.address}
	if i.address == "" {
		where = []string{"--control-plane-from", i.path(addressName)}
	}
	agent := exec.Command(p.agent, p.config.AgentCommand[1:]...)
	agent.Args = append(append(agent.Args, where...),
		"--ca-file", i.path("ca.pem"), "--token-file", i.path("token"),
		"--instance-id", i.ID, "--state-dir", i.path("state"), "--lifeline-fd", "3", "--hold-fd", "4")
	agent.Env = append(os.Environ(), p.config.Env...)
	agent.Stdout, agent.Stderr = log, log
	agent.ExtraFiles = []*os.File{read, held}
	agent.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := agent.Start(); err != nil {
		p.close(i, lifeline)
		return nil, err
	}
	begun := &started{agent: agent, lifeline: lifeline, exited: make(chan struct{})}
	if err := i.recordGuardian(agent.Process.Pid); err != nil {
		// The next provider will find the process by the lock that it holds.
		p.logger.Warn("cannot record the agent's process", "instance", i.ID, "error", err)
	}
	go func() {
		defer close(begun.exited)
		// How it ended is in the process' state.
		_ = agent.Wait()
	}()
	return begun, nil
}

func (i *instance) recordGuardian(pid int) error {
	guardian, err := identify(pid)
	if err != nil {
		return err
	}
	i.Guardian = guardian
	return writeJSON(recordPath(i.dir), i.record)
}

// untilEnd returns when the instance has no more right to live: its agent has ended, its grace is over, or it was cut off.
func (p *Provider) untilEnd(i *instance, agent *exec.Cmd, exited <-chan struct{}) {
	select {
	case <-exited:
		p.blame(i, fmt.Sprintf("the agent ended by itself: %v", agent.ProcessState))
		return
	case <-i.cut:
	case <-i.stop:
	}
	if err := agent.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.logger.Error("tell an agent to end", "instance", i.ID, "error", err)
	}
	grace := time.NewTimer(seconds(p.config.TerminateGraceSeconds))
	defer grace.Stop()
	select {
	case <-exited:
	case <-i.cut:
	case <-grace.C:
		p.logger.Warn("the agent does not end on SIGTERM; its lifeline is cut", "instance", i.ID)
	}
}

// untilGone returns when the instance's lock is free. An instance whose lifeline is cut and that does not go is killed, again and
// again.
func (p *Provider) untilGone(i *instance) {
	free := make(chan error, 1)
	go func() {
		file, err := lock(i.path("lock")) // waits in the kernel
		if err == nil {
			err = file.Close()
		}
		free <- err
	}()
	kill := time.NewTimer(killAfter)
	defer kill.Stop()
	closed := p.closed
	for {
		select {
		case err := <-free:
			if err != nil {
				p.logger.Error("the lock of an instance cannot be watched; its processes are killed", "instance", i.ID, "error", err)
				p.killAll(i.record, i.path("lock"))
			}
			return
		case <-closed:
			closed = nil
			kill.Reset(killAfterClose)
		case <-kill.C:
			p.killAll(i.record, i.path("lock"))
			kill.Reset(time.Second)
		}
	}
}

// blame notes why an instance ended, if nobody ended it.
func (p *Provider) blame(i *instance, cause string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i.cause == "" {
		i.cause = cause
	}
}

// running tells that the instance has booted.
func (p *Provider) running(i *instance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i.state = providers.Running
	p.tell(i.Owner, providers.Event{Kind: providers.InstanceRunning, InstanceID: i.ID})
}

// ended tells that nothing of the instance is left. What the next provider must know goes to disk first.
func (p *Provider) ended(i *instance) {
	i.Gone = true
	if err := errors.Join(writeJSON(recordPath(i.dir), i.record), os.Remove(i.path("token"))); err != nil {
		p.logger.Warn("cannot record the end of an instance", "instance", i.ID, "error", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	i.state = providers.Terminated
	if i.reclaim != nil {
		i.reclaim.Stop()
	}
	p.tell(i.Owner, i.farewell())
	p.gone = append(p.gone, i.ID)
	for len(p.gone) > keepGone {
		p.forgetInstance(p.gone[0])
		p.gone = p.gone[1:]
	}
	close(i.gone)
}

// farewell is the last event of an instance. The caller holds Provider.mu.
func (i *instance) farewell() providers.Event {
	return providers.Event{Kind: providers.InstanceTerminated, InstanceID: i.ID, Cause: i.cause}
}

// forgetInstance drops an ended instance and its directory. The caller holds p.mu.
func (p *Provider) forgetInstance(id string) {
	delete(p.instances, id)
	if err := os.RemoveAll(p.instanceDir(id)); err != nil {
		p.logger.Warn("cannot remove the directory of an ended instance", "instance", id, "error", err)
	}
}
