package line

import "time"

// A deadline makes reads or writes of a line fail from a moment on.
type deadline struct {
	timer  *time.Timer
	set    int // counts SetDeadlines, so that a late timer is void
	passed bool
}

func (d *deadline) store(c *Conn, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		d.passed = false // nothing waits any more, and what came can be read
		return c.err
	}
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.set++
	d.passed = false
	if t.IsZero() {
		return nil
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.passed = true
		c.changed.Broadcast()
		return nil
	}
	n := d.set
	d.timer = time.AfterFunc(wait, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if d.set == n {
			d.passed = true
			c.changed.Broadcast()
		}
	})
	return nil
}

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline makes reads fail with os.ErrDeadlineExceeded from t on. The
// line lives on; a zero t lets them wait again.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.in.deadline.store(c, t) }

// SetWriteDeadline is the same for writes. What a Write that failed so had
// taken is sent.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.out.deadline.store(c, t) }
