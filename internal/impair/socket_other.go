//go:build !linux

package impair

import (
	"net"
	"time"
)

// What only Linux's kernel is asked for. The package comment says what is
// missed without.

func dead(*net.TCPConn) bool                          { return false }
func hungUp(*net.TCPConn) bool                        { return false }
func awaitDeath(*net.TCPConn) bool                    { return false }
func awaitDelivery(*net.TCPConn, time.Duration)       {}
func reserve() (addr string, release func(), _ error) { return "127.0.0.1:0", func() {}, nil }
