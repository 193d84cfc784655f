package access

import (
	"errors"
	"net"
	"sync"

	"wstun/internal/netx"
)

type listeners []net.Listener

func (ls listeners) Close() error {
	var errs []error
	for _, ln := range ls {
		errs = append(errs, ln.Close())
	}
	return errors.Join(errs...)
}

// A joined listener accepts on several as if they were one. Its address is
// that of the first.
type joined struct {
	listeners
	start    sync.Once
	stop     sync.Once
	accepted chan accepted
	closed   chan struct{}
	wg       sync.WaitGroup
}

type accepted struct {
	conn net.Conn
	err  error
}

func join(lns listeners) *joined {
	return &joined{listeners: lns, accepted: make(chan accepted), closed: make(chan struct{})}
}

func (j *joined) Accept() (net.Conn, error) {
	j.start.Do(func() {
		for _, ln := range j.listeners {
			j.wg.Go(func() { j.acceptOn(ln) })
		}
	})
	select {
	case a := <-j.accepted:
		return a.conn, a.err
	case <-j.closed:
		return nil, net.ErrClosed
	}
}

// acceptOn hands over what ln accepts, errors too: that of one listener is
// that of all.
func (j *joined) acceptOn(ln net.Listener) {
	for {
		c, err := ln.Accept()
		select {
		case j.accepted <- accepted{c, err}:
		case <-j.closed:
			if err == nil {
				netx.Abort(c, net.ErrClosed) // as the system does with its backlog
			}
			return
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// Close closes all, and returns when nothing is accepted any more.
func (j *joined) Close() error {
	err := net.ErrClosed
	j.stop.Do(func() {
		j.start.Do(func() {}) // an Accept that comes now starts nothing
		close(j.closed)
		err = j.listeners.Close()
	})
	j.wg.Wait()
	return err
}

func (j *joined) Addr() net.Addr { return j.listeners[0].Addr() }
