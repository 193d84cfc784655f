package wsconn

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A wire is the TCP conn under a WebSocket, and under its TLS if there is any.
//
// coder/websocket masks what a client sends through a buffer of 4 KiB, one
// write each, and crypto/tls makes one write per record. A wire gathers them,
// so that a batch of messages leaves in one system call. And it makes the
// library's own writes never wait: a pong that has to wait 5 s for a lock,
// because the peer does not read, would kill the reader. Whoever writes data
// waits in flush, outside the library.
//
// A wire also takes the library's Close for a wish: the TCP conn is ended by
// its owner, the Conn, when everything is flushed.
type wire struct {
	net.Conn
	byRef bool // large writes stay valid until flush: no TLS, no masking above

	mu     sync.Mutex
	free   sync.Cond   // busy has become false
	async  bool        // the WebSocket stands; until then writes go straight through
	busy   bool        // somebody gathers or flushes
	data   bool        // it is data that is gathered: from begin to flush
	buf    []byte      // gathered copies
	vec    net.Buffers // gathered, in order: parts of buf, and references
	copied bool        // the last of vec is a part of buf
	pooled *[]byte     // where buf came from
	spare  net.Buffers // the memory of the vec before
	err    error
	closed bool // by the library

	running sync.WaitGroup // flushes of control frames

	rx, tx atomic.Uint32 // count reads and writes that moved bytes
	alive  func()        // called when bytes come before the upgrade; may be nil
}

// byRefMin is above the size of the library's own write buffer: a larger write
// is the caller's slice.
const byRefMin = 4<<10 + 1

var flushBuffers = sync.Pool{New: func() any { return new([]byte) }}

func newWire(c net.Conn) *wire {
	w := &wire{Conn: c}
	w.free.L = &w.mu
	return w
}

// wireOf returns the wire under c, which may have TLS between, and whether it
// has; if there is none it makes one on top of c.
func wireOf(c net.Conn) (w *wire, top net.Conn, secure bool) {
	switch t := c.(type) {
	case *wire:
		return t, c, false
	case *tls.Conn:
		if w, ok := t.NetConn().(*wire); ok {
			return w, c, true
		}
	}
	w = newWire(c)
	return w, w, false
}

// upgrade ends the time of plain HTTP.
func (w *wire) upgrade(byRef bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.async = true
	w.byRef = byRef
	w.alive = nil
}

// NetConn returns the conn below, as tls.Conn's does.
func (w *wire) NetConn() net.Conn { return w.Conn }

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if n > 0 {
		w.rx.Add(1)
		w.noteAlive()
	}
	return n, err
}

// watched has alive told that the conn is there, and of bytes until the upgrade.
func (w *wire) watched(alive func()) {
	w.alive = alive
	w.noteAlive()
}

func (w *wire) noteAlive() {
	if w.alive != nil {
		w.alive()
	}
}

// Write gathers p, and has it sent if nobody is about to do that.
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	if !w.async {
		w.mu.Unlock()
		return w.Conn.Write(p)
	}
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, w.err
	}
	if w.closed {
		return 0, net.ErrClosed
	}
	w.gather(p)
	if !w.data && len(w.buf) > maxControl {
		// Pongs are held back before it comes to this; answers of TLS are not.
		w.err = errFlood
		return 0, w.err
	}
	if !w.busy { // a control frame
		w.busy = true
		w.running.Go(w.flushAlone)
	}
	return len(p), nil
}

// maxControl bounds what waits for a peer that asks and does not read.
const maxControl = 16 << 10

var errFlood = errors.New("the peer asks for more than it reads")

// answers reports whether one more pong may be gathered: half of maxControl is
// more than a peer that reads now and then ever leaves waiting.
func (w *wire) answers() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.data || len(w.buf) < maxControl/2
}

// gather keeps p for the next flush, by reference where that is safe: flush
// returns before the caller of WriteMessages does.
func (w *wire) gather(p []byte) {
	if w.byRef && len(p) >= byRefMin {
		w.vec = append(w.vec, p)
		w.copied = false
		return
	}
	if w.pooled == nil {
		w.pooled = flushBuffers.Get().(*[]byte)
		w.buf = *w.pooled
	}
	at := len(w.buf)
	w.buf = append(w.buf, p...)
	if at > 0 && w.copied {
		last := len(w.vec) - 1 // one piece with the copy before, also where append has moved them
		w.vec[last] = w.buf[at-len(w.vec[last]):]
		return
	}
	w.vec = append(w.vec, w.buf[at:])
	w.copied = true
}

// begin waits until nobody else gathers or flushes, and reserves that to the
// caller until flush.
func (w *wire) begin() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.busy && w.err == nil {
		w.free.Wait()
	}
	if w.err != nil {
		return w.err
	}
	w.busy, w.data = true, true
	return nil
}

// flush writes what was gathered since begin, and what is gathered meanwhile.
// It blocks while the peer does not take it.
func (w *wire) flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.data = false
	return w.flushLocked()
}

func (w *wire) flushLocked() error {
	for len(w.vec) > 0 && w.err == nil {
		vec, buf, pooled := w.vec, w.buf, w.pooled
		w.vec, w.buf, w.pooled, w.copied = w.spare, nil, nil, false
		w.mu.Unlock()
		err := w.write(vec)
		w.mu.Lock()
		clear(vec)
		w.spare = vec[:0]
		if pooled != nil && cap(buf) <= 1<<20 {
			*pooled = buf[:0]
			flushBuffers.Put(pooled)
		}
		if err != nil {
			w.err = err
		}
	}
	w.busy = false
	w.free.Broadcast()
	return w.err
}

func (w *wire) write(vec net.Buffers) (err error) {
	w.tx.Add(1)
	if len(vec) == 1 {
		_, err = w.Conn.Write(vec[0])
	} else {
		_, err = vec.WriteTo(w.Conn)
	}
	return err
}

func (w *wire) flushAlone() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flushLocked()
}

// Close is what the library calls. It ends reading, and nothing else once the
// WebSocket stands: what was gathered is still sent.
func (w *wire) Close() error {
	w.mu.Lock()
	async := w.async
	w.closed = true
	w.mu.Unlock()
	if !async {
		return w.Conn.Close()
	}
	w.Conn.SetReadDeadline(longAgo)
	return nil
}

var longAgo = time.Unix(1, 0)

// SetWriteDeadline means nothing once the WebSocket stands, since Write never
// waits. crypto/tls sets one that is past when it closes, which would keep what
// was gathered from being sent.
func (w *wire) SetWriteDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.async {
		return nil
	}
	return w.Conn.SetWriteDeadline(t)
}

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (w *wire) SetDeadline(t time.Time) error {
	if err := w.Conn.SetReadDeadline(t); err != nil {
		return err
	}
	return w.SetWriteDeadline(t)
}

// idle waits until all is flushed, or failed.
func (w *wire) idle() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.busy && w.err == nil {
		w.free.Wait()
	}
	return w.err
}

// fail ends waiting writers.
func (w *wire) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	w.free.Broadcast()
}

// discard reads and drops what the peer still sends, until its end or for the
// given time, and longer while it still takes what was sent: a close with bytes
// unread destroys data in flight to the peer.
func (w *wire) discard(quiet time.Duration) {
	buf := make([]byte, 4<<10)
	unsent := unsentBytes(w.Conn)
	w.Conn.SetReadDeadline(time.Now().Add(quiet))
	for {
		_, err := w.Conn.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if now := unsentBytes(w.Conn); now < unsent {
				unsent = now
				w.Conn.SetReadDeadline(time.Now().Add(quiet))
				continue
			}
		}
		if err != nil {
			return
		}
	}
}

// expect calls stuck, at most once, when the peer has taken nothing for the
// given time, until the returned func is called.
func (w *wire) expect(quiet time.Duration, stuck func()) (stop func()) {
	var mu sync.Mutex
	var timer *time.Timer
	over := false
	unsent, tx := unsentBytes(w.Conn), w.tx.Load()
	check := func() {
		mu.Lock()
		defer mu.Unlock()
		now, sent := unsentBytes(w.Conn), w.tx.Load()
		switch {
		case over:
		case now < unsent || sent != tx:
			unsent, tx = now, sent
			timer.Reset(quiet)
		default:
			stuck()
		}
	}
	mu.Lock()
	timer = time.AfterFunc(quiet, check)
	mu.Unlock()
	return func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
		timer.Stop()
	}
}
