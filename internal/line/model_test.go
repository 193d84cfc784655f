package line

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	modelRuns = flag.Int("runs", 0, "how many runs of the model; 0: 2000, or 200 with the race detector")
	modelSeed = flag.Uint64("seed", 0, "the only run of the model")
)

// TestModel transfers random bytes both ways while everything that a network,
// a server and a client can do to a session is done to it, and asks at all
// times that nothing is lost, repeated or made up. One seed is one run in
// virtual time; -args -seed=N repeats it, as far as the scheduler does.
func TestModel(t *testing.T) {
	if *modelSeed != 0 {
		var all tally
		synctest.Test(t, func(t *testing.T) { runModel(t, *modelSeed, time.Sleep, &all) })
		t.Log(all.String())
		return
	}
	runs := *modelRuns
	if runs == 0 {
		runs = 2000
		if raceEnabled {
			runs = 200
		}
	}
	var all tally
	t.Run("runs", func(t *testing.T) {
		const lanes = 4
		for lane := range lanes {
			t.Run(fmt.Sprint(lane), func(t *testing.T) {
				t.Parallel()
				for seed := 1 + lane; seed <= runs && !t.Failed(); seed += lanes {
					synctest.Test(t, func(t *testing.T) { runModel(t, uint64(seed), time.Sleep, &all) })
				}
			})
		}
	})
	t.Log(all.String())
}

// A tally is what all runs together saw.
type tally struct {
	runs, carriers, attached, bytes, repeated, simulated atomic.Int64
	fates                                                [fates]atomic.Int64
	drained                                              atomic.Int64
}

func (a *tally) String() string {
	s := fmt.Sprintf("%d runs, %d carriers, %d resumes, %d MiB delivered, %d KiB repeated, %v simulated, %d drained; fates:",
		a.runs.Load(), a.carriers.Load(), a.attached.Load(), a.bytes.Load()>>20, a.repeated.Load()>>10, time.Duration(a.simulated.Load()).Round(time.Minute), a.drained.Load())
	for i := range a.fates {
		s += fmt.Sprintf(" %d", a.fates[i].Load())
	}
	return s
}

// calm is the cutEvery of a run in which no carrier breaks.
const calm = 1 << 30

// What happens to a session in the end.
const (
	fateNone = iota
	fateRestart
	fateCrash
	fateBoth
	fateClientAborts
	fateServerAborts
	fates
)

var errAborts = errors.New("had enough")

// A model is one run.
type model struct {
	t     *testing.T
	seed  uint64
	all   *tally
	sleep func(time.Duration)
	begun time.Time

	rmu sync.Mutex
	rng *rand.Rand

	up, down   []byte
	latency    time.Duration // at most, in the usual case
	cutEvery   int           // bytes
	fate       int
	evicts     bool // the server's memory may be short while a session is detached
	ccfg, scfg Config
	limits     Limits
	over       chan struct{} // closed when the transfer is over
	running    sync.WaitGroup

	mu      sync.Mutex
	server  *Server
	servers []*Server
	client  *side
	far     []*side // sessions at the servers
	links   []*link
	kind    int       // how many more attempts nothing is done to
	outage  time.Time // until when there is no network
	gone    bool      // the client has crashed
	fated   bool      // the fate has come
	high    map[[2]any]uint64
}

// A link is a wire and who has it.
type link struct {
	*wire
	owner  atomic.Pointer[Conn] // at the server; nil: nobody yet
	server *Server
}

func (m *model) rn(n int) int {
	m.rmu.Lock()
	defer m.rmu.Unlock()
	return m.rng.IntN(n)
}

func (m *model) one(in int) bool { return m.rn(in) == 0 }

func (m *model) upTo(d time.Duration) time.Duration { return time.Duration(m.rn(int(d) + 1)) }

func (m *model) errorf(format string, a ...any) {
	m.t.Helper()
	m.t.Errorf("seed %d, after %v: "+format, append([]any{m.seed, time.Since(m.begun)}, a...)...)
}

func newModel(t *testing.T, seed uint64, sleep func(time.Duration), all *tally) *model {
	m := &model{t: t, seed: seed, all: all, sleep: sleep, begun: time.Now(), rng: rand.New(rand.NewPCG(seed, 1)), over: make(chan struct{}), high: map[[2]any]uint64{}}
	size := func() int {
		switch m.rn(8) {
		case 0:
			return m.rn(100)
		case 1:
			return 1<<18 + m.rn(1<<20)
		default:
			return m.rn(200_000)
		}
	}
	m.up, m.down = noise(seed*2, size()), noise(seed*2+1, size())
	m.latency = time.Duration(1+m.rn(80)) * time.Millisecond
	if m.one(4) {
		m.latency *= 4
	}
	m.cutEvery = 3000 + m.rn((len(m.up)+len(m.down))/16+1)
	if m.one(16) {
		m.cutEvery = calm
	}
	if m.one(3) {
		m.fate = 1 + m.rn(fates-1)
	}
	m.ccfg, m.scfg = m.config(), m.config()
	m.ccfg.Redial = m.dial
	if m.one(3) {
		m.ccfg.MaxAge = 20*time.Second + m.upTo(5*time.Minute)
	}
	if b := m.scfg.Budget; b != nil && b.limit < 1<<20 {
		if m.cutEvery == calm || m.one(4) {
			m.evicts = true
		} else {
			m.scfg.Budget = nil
		}
	}
	m.limits = Limits{ResumeWindow: 15*time.Minute + m.upTo(10*time.Minute), Ping: m.upTo(30 * time.Second)}
	m.newServer()
	return m
}

func (m *model) config() Config {
	c := Config{Budget: m.budget()}
	if !m.one(4) {
		c.Window = minWindow << m.rn(6)
	}
	if m.cutEvery == calm {
		return c
	}
	if m.one(2) {
		c.PingAfter = time.Second + m.upTo(20*time.Second)
	}
	if m.one(2) {
		c.StallAfter = 3*time.Second + m.upTo(7*time.Second)
	}
	return c
}

func (m *model) budget() *Budget {
	switch m.rn(4) {
	case 0:
		return NewBudget(1) // always exceeded
	case 1:
		return NewBudget(int64(100_000 + m.rn(500_000)))
	case 2:
		return NewBudget(64 << 20)
	}
	return nil
}

func (m *model) newServer() {
	cfg := m.scfg
	if cfg.Budget != nil {
		cfg.Budget = NewBudget(cfg.Budget.limit) // another process, other memory
	}
	m.server = NewServer("model", m.limits, cfg)
	m.servers = append(m.servers, m.server)
}

var errModel = errors.New("no route")

type errBusy struct{ after time.Duration }

func (e errBusy) Error() string             { return "busy" }
func (e errBusy) RetryAfter() time.Duration { return e.after }

// dial is the client's DialFunc.
func (m *model) dial(ctx context.Context, alive func()) (Carrier, error) {
	select {
	case <-time.After(m.upTo(3 * m.latency)):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	spared := m.kind > 0
	if m.gone || time.Now().Before(m.outage) || !spared && m.one(8) {
		hangs := m.one(2)
		m.mu.Unlock()
		defer m.mu.Lock()
		switch {
		case hangs:
			<-ctx.Done()
			return nil, ctx.Err()
		case m.one(4):
			return nil, errBusy{m.upTo(5 * time.Second)}
		}
		return nil, errModel
	}
	alive()
	l := m.connect(spared)
	if spared {
		m.kind--
	} else if m.cutEvery < calm && m.one(40) {
		m.outage = time.Now().Add(m.upTo(10 * time.Minute))
		m.kind = 1 // else outages in a row might outlast the session
	}
	return l.ends[0], nil
}

// connect makes a carrier to the server.
func (m *model) connect(spared bool) *link {
	l := &link{wire: newWire(m.seed<<20 + uint64(len(m.links)))}
	m.all.carriers.Add(1)
	l.peek = m.peek
	for i := range l.ways {
		l.ways[i].latency = m.upTo(m.latency)
		l.ways[i].room = 1000 << m.rn(10)
	}
	late := time.Duration(0)
	if !spared && m.cutEvery < calm {
		if m.one(10) {
			l.ways[m.rn(2)].latency = m.upTo(8 * time.Second)
		}
		if m.one(10) {
			late = m.upTo(8 * time.Second)
		}
		l.mode = m.rn(cutModes)
		l.left = m.rn(2 * m.cutEvery)
		if m.one(6) {
			l.left = m.rn(500) // in the handshake
		}
	}
	m.links = append(m.links, l)
	m.running.Go(func() {
		m.sleep(late)
		m.mu.Lock()
		srv := m.server
		l.server = srv
		m.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		c, resumed, err := srv.Accept(ctx, l.ends[1], "alice")
		if err != nil {
			if !l.ends[1].isClosed() {
				m.errorf("a refused carrier is open")
			}
			return
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		l.owner.Store(c)
		if resumed {
			m.all.attached.Add(1)
			return
		}
		s := m.newSide("server", c, m.down, m.up)
		m.far = append(m.far, s)
		m.running.Go(s.run)
	})
	return l
}

// peek counts what is delivered again.
func (m *model) peek(from int, msg []byte) {
	a, b := extent(msg)
	if b == 0 {
		return
	}
	m.rmu.Lock()
	defer m.rmu.Unlock()
	key := [2]any{from}
	if h := m.high[key]; a < h {
		m.all.repeated.Add(int64(min(b, h) - a))
	}
	m.high[key] = max(m.high[key], b)
}

// A side is one end of a session, and the program there.
type side struct {
	m       *model
	name    string
	c       *Conn
	out, in []byte
	window  int

	offered atomic.Int64 // bytes given to Write
	got     atomic.Int64
	err     error // of Drained; set when done is closed
	readErr error
	done    chan struct{}

	was struct{ una, limit, granted, rcv, maxSent, epoch uint64 }
	cmu sync.Mutex // of was
}

func (m *model) isFated() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fated
}

func (m *model) newSide(name string, c *Conn, out, in []byte) *side {
	c.OnEvent(func(e Event) {
		if *modelSeed != 0 {
			m.t.Logf("%v: %s: %+v", time.Since(m.begun), name, e)
		}
		if e.Kind == Detached && errors.Is(e.Err, ErrDead) && m.cutEvery == calm && !m.isFated() {
			m.errorf("%s: a carrier that worked was given up: %v", name, e.Err)
		}
	})
	return &side{m: m, name: name, c: c, out: out, in: in, window: c.cfg.Window, done: make(chan struct{})}
}

// run writes, reads, waits until all is known to have arrived, and closes.
func (s *side) run() {
	defer close(s.done)
	var both sync.WaitGroup
	both.Go(s.write)
	both.Go(s.read)
	both.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 48*time.Hour)
	defer cancel()
	s.err = s.c.Drained(ctx)
	if ctx.Err() != nil {
		s.m.errorf("%s: not drained: %v", s.name, s.err)
	}
	if s.err == nil {
		s.m.drained(s)
	}
	s.c.Close()
	s.c.Wait()
	s.ended()
}

func (s *side) write() {
	m := s.m
	for p := s.out; len(p) > 0; {
		n := 1 + m.rn(2000)
		if m.one(4) {
			n = 1 + m.rn(100_000)
		}
		n = min(n, len(p))
		s.offered.Add(int64(n))
		k, err := s.c.Write(p[:n])
		if err != nil {
			return
		}
		if k != n {
			m.errorf("%s: wrote %d of %d", s.name, k, n)
		}
		p = p[n:]
		s.pause(8, 300*time.Millisecond)
		s.pause(200, time.Minute)
		s.check()
	}
	if m.one(4) {
		m.sleep(m.upTo(10 * time.Second))
	}
	s.c.CloseWrite()
}

func (s *side) pause(oneIn int, atMost time.Duration) {
	if s.m.one(oneIn) {
		s.m.sleep(s.m.upTo(atMost))
	}
}

func (s *side) read() {
	m := s.m
	buf := make([]byte, 100_000)
	for {
		size := 1 + m.rn(4000)
		if m.one(4) {
			size = len(buf)
		}
		n, err := s.c.Read(buf[:size])
		at := int(s.got.Load())
		if at+n > len(s.in) || !bytes.Equal(buf[:n], s.in[at:at+n]) {
			m.errorf("%s: other bytes than were written, at %d", s.name, at)
			s.c.Abort(CodeAborted, nil)
			return
		}
		s.got.Add(int64(n))
		if err != nil {
			s.readErr = err
			if err == io.EOF && at+n != len(s.in) {
				m.errorf("%s: an end at %d of %d", s.name, at+n, len(s.in))
			}
			return
		}
		s.pause(16, 200*time.Millisecond)
		s.pause(300, 20*time.Second)
		s.check()
	}
}

// check asks for what is true of a line at all times.
func (s *side) check() {
	m, c := s.m, s.c
	if !c.outgoingIsSound() || !c.incomingIsSound() {
		m.errorf("%s: the books do not balance", s.name)
	}
	s.cmu.Lock()
	defer s.cmu.Unlock()
	m.mu.Lock()
	links := m.links
	m.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	now := s.was
	now.una, now.limit, now.granted, now.rcv, now.maxSent, now.epoch = c.out.una, c.out.limit, c.in.limit, c.in.rcv, c.out.maxSent, c.epoch
	if w := s.was; now.una < w.una || now.limit < w.limit || now.granted < w.granted || now.rcv < w.rcv || now.maxSent < w.maxSent || now.epoch < w.epoch {
		m.errorf("%s: went back from %+v to %+v", s.name, w, now)
	}
	s.was = now
	if c.in.held > s.window || c.err == nil && c.out.blocks > max(s.window/sendBlock, 1) || c.out.end > uint64(len(s.out)) {
		m.errorf("%s: holds %d bytes and %d blocks of %d", s.name, c.in.held, c.out.blocks, s.window)
	}
	open := 0
	for i, l := range links {
		end := l.ends[1]
		if s.name == "client" {
			end = l.ends[0]
		} else if l.owner.Load() != c {
			continue
		}
		if end.isClosed() || c.at != nil && c.at.car == end {
			continue
		}
		if s.name == "client" && i == len(links)-1 && c.redial.cancel != nil {
			continue // an attempt
		}
		open++
	}
	if open > 0 {
		m.errorf("%s: %d carriers are open beside the current one", s.name, open)
	}
}

// drained: both ends have everything.
func (m *model) drained(s *side) {
	m.all.drained.Add(1)
	m.mu.Lock()
	peer := m.client
	if s.name == "client" {
		peer = m.farOf(s)
	}
	m.mu.Unlock()
	if peer == nil {
		m.errorf("%s: drained without a peer", s.name)
		return
	}
	peer.c.mu.Lock()
	defer peer.c.mu.Unlock()
	read := int(s.got.Load()) == len(s.in) && s.readErr == io.EOF
	if !read && !errors.Is(s.readErr, errAborts) || peer.c.in.rcv != uint64(len(s.out)) || !peer.c.in.complete() {
		m.errorf("%s: drained with %d of %d read, %d of %d accepted there", s.name, s.got.Load(), len(s.in), peer.c.in.rcv, len(s.out))
	}
}

// farOf returns the server's side of the client's session. m.mu is held.
func (m *model) farOf(s *side) *side {
	for _, f := range m.far {
		if f.c.hello.ID == s.c.hello.ID {
			return f
		}
	}
	return nil
}

// ended: nothing is left of a line.
func (s *side) ended() {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	timers := []*time.Timer{c.live.timer, c.in.timer, c.in.deadline.timer, c.out.deadline.timer}
	for _, t := range timers {
		if t != nil && t.Stop() {
			s.m.errorf("%s: a timer is left", s.name)
		}
	}
	if c.at != nil || c.out.blocks != 0 || len(c.in.queue) != 0 || c.redial != nil && c.redial.running {
		s.m.errorf("%s: something is left: %v %d %d", s.name, c.at, c.out.blocks, len(c.in.queue))
	}
	s.m.all.bytes.Add(s.got.Load())
}
