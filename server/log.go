package server

import (
	"errors"
	"log/slog"
	"net"
	"time"

	"wstun/internal/relay"
)

// logRelay writes the one line of a relay that has ended. names are what its
// two conns are called.
func logRelay(log *slog.Logger, r *relay.Relay, start time.Time, err error, names map[net.Conn]string) {
	why := "ended"
	var fault *relay.Fault
	if errors.As(err, &fault) {
		why = names[fault.Of] + ": " + fault.Error()
	} else if err != nil {
		why = err.Error()
	}
	log.Info("relay ended", "sent", r.Sent.Load(), "received", r.Received.Load(),
		"took", time.Since(start).Round(time.Millisecond), "why", why)
}
