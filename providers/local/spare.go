package local

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// addressName is the FIFO in an instance's directory by which an agent that was started ahead is told its control plane.
const addressName = "address"

// startSpare starts the agent of an instance that nobody has asked for yet: most of the time that an agent needs to join goes by before it can
// do anything. It is no instance until it is launched; if it cannot be started the launch starts one as ever.
func (p *Provider) startSpare() {
	i, err := p.newInstance()
	if err != nil {
		p.logger.Warn("cannot start an agent ahead", "error", err)
		return
	}
	if i.started, err = p.startAhead(i); err != nil {
		p.logger.Warn("cannot start an agent ahead", "error", errors.Join(err, os.RemoveAll(i.dir)))
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isClosed() {
		p.endSpare(i)
		return
	}
	p.spare = i
}

func (p *Provider) startAhead(i *instance) (*started, error) {
	held, err := i.prepare()
	if err != nil {
		return nil, err
	}
	if err := syscall.Mkfifo(i.path(addressName), 0o600); err != nil {
		return nil, errors.Join(err, held.Close())
	}
	// Open for both, a FIFO waits for nobody (fifo(7)), and its reader sees the end when this process is gone.
	address, err := os.OpenFile(i.path(addressName), os.O_RDWR, 0)
	if err != nil {
		return nil, errors.Join(err, held.Close())
	}
	begun, err := p.start(i, held)
	if err != nil {
		return nil, errors.Join(err, address.Close())
	}
	begun.address = address
	return begun, nil
}

// takeSpare returns the instance whose agent waits, nil if there is none. The caller holds p.mu.
func (p *Provider) takeSpare() *instance {
	i := p.spare
	p.spare = nil
	if i == nil {
		return nil
	}
	select {
	case <-i.started.exited:
		p.endSpare(i)
		return nil
	default:
		return i
	}
}

// endSpare ends an agent that nobody has asked for.
func (p *Provider) endSpare(i *instance) {
	if err := errors.Join(i.started.end(), os.RemoveAll(i.dir)); err != nil {
		p.logger.Error("end an agent that waited", "instance", i.ID, "error", err)
	}
}

// tell lets an agent go on that was started ahead.
func (s *started) tell(address string) error {
	_, err := fmt.Fprintln(s.address, address)
	return err
}

// end cuts the lifeline of an agent that runs nothing and waits for its process.
func (s *started) end() error {
	err := s.lifeline.Close()
	<-s.exited
	if s.address != nil {
		err = errors.Join(err, s.address.Close())
	}
	return err
}
