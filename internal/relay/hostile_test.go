//go:build unix

package relay

import (
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"wstun/internal/netx/netxtest"
)

// A slowLook takes its time when it is asked whether it is broken, as poll(2)
// may on a loaded machine.
type slowLook struct {
	*netxtest.Conn
	asked        atomic.Int64
	asking, free chan struct{}
}

func (c *slowLook) Broken() error {
	if c.asked.Add(1) == 1 {
		close(c.asking)
		<-c.free
	}
	return nil
}

func TestNothingOfTheRelayLooksAfterRun(t *testing.T) {
	cause := errors.New("over")
	for name, during := range map[string]bool{"a look is under way at the end": true, "none is": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var a *slowLook
				c := join(t, memory, time.Hour, func(conn net.Conn) net.Conn {
					if a != nil {
						return conn
					}
					a = &slowLook{Conn: conn.(*netxtest.Conn), asking: make(chan struct{}), free: make(chan struct{})}
					return a
				})
				go c.client.Write(make([]byte, 1<<20)) // the target does not read
				<-a.asking
				if !during {
					close(a.free)
					time.Sleep(time.Minute)
				}
				c.cancel(cause)
				if err := <-c.ended; !errors.Is(err, cause) {
					t.Errorf("the relay: %v", err)
				}
				n := a.asked.Load()
				if during {
					close(a.free)
				}
				time.Sleep(100 * time.Hour)
				if more := a.asked.Load() - n; more > 0 {
					t.Errorf("asked %d times more after Run", more)
				}
				c.close()
			})
		})
	}
}
