package line

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// runModel is one run: a session with everything that happens to it.
func runModel(t *testing.T, seed uint64, sleep func(time.Duration), all *tally) {
	m := newModel(t, seed, sleep, all)
	client := m.start()
	if *modelSeed != 0 {
		t.Logf("at most %v of latency, cut every %d bytes, fate %d, evicts %v, %d bytes up, %d down\n%+v\nclient %+v\nserver %+v",
			m.latency, m.cutEvery, m.fate, m.evicts, len(m.up), len(m.down), m.limits, m.ccfg, m.scfg)
	}
	var loops []chan struct{}
	beside := func(f func()) {
		done := make(chan struct{})
		loops = append(loops, done)
		go func() {
			defer close(done)
			f()
		}()
	}
	beside(m.checkNowAndThen)
	beside(m.disturb)
	beside(m.strike)
	client.run()
	m.wait()
	for _, done := range loops {
		<-done
	}
	m.judge()
}

// start makes the first session that comes about, as a client does.
func (m *model) start() *side {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		car, err := m.dial(ctx, func() {})
		if err == nil {
			var c *Conn
			if c, err = Dial(ctx, car, Hello{Agent: "model"}, m.ccfg); err == nil {
				cancel()
				s := m.newSide("client", c, m.up, m.down)
				m.mu.Lock()
				m.client = s
				m.mu.Unlock()
				return s
			}
		}
		cancel()
		m.sleep(m.upTo(time.Second))
		if time.Since(m.begun) > 24*time.Hour {
			m.t.Fatalf("seed %d: no session", m.seed)
		}
	}
}

// wait waits for the other end of the client's session, and ends the run.
func (m *model) wait() {
	synctest.Wait()
	m.mu.Lock()
	far := m.farOf(m.client)
	m.mu.Unlock()
	if far != nil {
		<-far.done
	}
	close(m.over)
	m.running.Wait()
}

// every calls f at random times until the run is over.
func (m *model) every(atMost time.Duration, f func()) {
	for {
		select {
		case <-m.over:
			return
		case <-time.After(m.upTo(atMost)):
			f()
		}
	}
}

func (m *model) sides() []*side {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]*side{m.client}, m.far...)
}

func (m *model) checkNowAndThen() {
	m.every(5*time.Second, func() {
		for _, s := range m.sides() {
			s.check()
		}
	})
}

// disturb does what owners of lines and the network may do at any time.
func (m *model) disturb() {
	var stalled time.Time
	pace := 20 * time.Second
	if m.one(2) {
		pace = 300 * time.Millisecond
	}
	m.every(pace, func() {
		m.mu.Lock()
		client, far, l := m.client.c, m.farOf(m.client), m.links[len(m.links)-1]
		m.mu.Unlock()
		if far == nil {
			return
		}
		switch m.rn(8) {
		case 0:
			client.Renew()
		case 1:
			far.c.GoAway(GoAway{Deadline: m.upTo(time.Minute), Flags: Redial | byte(m.rn(2))})
		case 2:
			if m.cutEvery < calm { // else a stall would look dead
				client.Probe()
			}
		case 3:
			if m.cutEvery < calm {
				far.c.Probe()
			}
		case 4:
			if m.cutEvery == calm {
				return // nor is it evicted then
			}
			far.c.Detach(CodeClean, m.upTo(3*time.Second))
		case 5:
			if m.cutEvery < calm && m.one(4) {
				l.cutNow(m.rn(cutModes))
			}
		case 6:
			if m.cutEvery < calm || time.Since(stalled) > 20*time.Second {
				stalled = time.Now()
				l.stall(m.upTo(5 * time.Second))
			}
		}
	})
}

// strike brings the run's fate.
func (m *model) strike() {
	if m.fate == fateNone {
		return
	}
	select {
	case <-m.over:
		return
	case <-time.After(m.upTo(time.Duration(1+m.rn(60)) * time.Second)):
	}
	m.all.fates[m.fate].Add(1)
	m.mu.Lock()
	m.fated = true
	client, far := m.client, m.farOf(m.client)
	m.mu.Unlock()
	switch m.fate {
	case fateRestart:
		m.restart()
	case fateCrash:
		m.crash()
	case fateBoth:
		m.restart()
		m.sleep(m.upTo(10 * time.Second))
		m.crash()
	case fateClientAborts:
		client.c.Abort(CodeAborted, errAborts)
	case fateServerAborts:
		if far != nil {
			far.c.Abort(CodeAborted, errAborts)
		}
	}
}

// restart puts a server in place of the one that is there, which says nothing.
func (m *model) restart() {
	m.mu.Lock()
	old, links := m.server, m.links
	var lines []*Conn
	for _, s := range m.far {
		lines = append(lines, s.c)
	}
	mode := []int{cutTold, cutHole}[m.rn(2)]
	for _, l := range links {
		if l.server == old || l.server == nil {
			l.cutNow(mode)
		}
	}
	m.newServer()
	m.mu.Unlock()
	for _, c := range lines {
		c.Abort(CodeAborted, errAborts)
		c.Abort(CodeAborted, errAborts)
	}
}

// crash has the client go silent for ever.
func (m *model) crash() {
	m.mu.Lock()
	m.gone = true
	for _, l := range m.links {
		l.cutNow(cutHole)
	}
	c := m.client.c
	m.mu.Unlock()
	c.Abort(CodeAborted, errAborts)
	c.Abort(CodeAborted, errAborts)
}

// mayLose: a server may forget sessions while its memory is short, and one whose
// client has never been heard of.
func (s *side) mayLose() bool {
	var evicted *evictedError
	return !s.c.confirmed || s.m.evicts && errors.As(s.c.Err(), &evicted)
}

func (s *side) String() string {
	if s == nil {
		return "none"
	}
	return fmt.Sprintf("%s: got %d of %d, read: %v, line: %v, drained: %v", s.name, s.got.Load(), len(s.in), s.readErr, s.c.Err(), s.err)
}

// judge is called when all has ended.
func (m *model) judge() {
	m.all.runs.Add(1)
	m.all.simulated.Add(int64(time.Since(m.begun)))
	m.mu.Lock()
	defer m.mu.Unlock()
	far := m.farOf(m.client)
	fair := !m.fated
	switch err := m.client.err; {
	case fair && errors.Is(err, ErrLost) && far != nil && far.mayLose():
	case fair && err != nil:
		m.errorf("client: %v (%v), reads and writes: %v, server: %v", err, m.client.c.Err(), m.client.readErr, far)
	case m.fate == fateRestart && err != nil && !errors.Is(err, ErrLost):
		m.errorf("client of a server that was restarted: %v", err)
	}
	if fair && far != nil && far.err != nil && !(errors.Is(far.err, ErrLost) && far.readErr != nil) {
		m.errorf("server: %v", far.err)
	}
	for _, s := range append([]*side{m.client}, m.far...) {
		select {
		case <-s.done:
		default:
			m.errorf("%s still runs", s.name)
		}
		if s != m.client && s != far && s.got.Load() > 0 {
			m.errorf("a session without a client has got %d bytes", s.got.Load())
		}
	}
	for _, srv := range m.servers {
		srv.Wait()
		if n, _ := srv.Sessions(); n != 0 {
			m.errorf("%d sessions are left", n)
		}
		if n := srv.Config.Budget.Held(); n != 0 {
			m.errorf("%d bytes of the server's budget are held", n)
		}
	}
	if n := m.ccfg.Budget.Held(); n != 0 {
		m.errorf("%d bytes of the client's budget are held", n)
	}
}
