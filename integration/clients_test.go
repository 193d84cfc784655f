package integration

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestOthersClients: WebSocket clients that nobody here wrote send text and
// binary frames of many sizes to a TCP echo, and get the same bytes back. Each
// script ends with the line "same", or says what differed.
func TestOthersClients(t *testing.T) {
	for _, tt := range []struct {
		name   string
		module string
		run    []string
	}{
		{"node ws", "ws", []string{"node", "ws_client.mjs"}},
		{"python3-websocket", "websocket", []string{"/usr/bin/python3", "websocket_client.py"}},
		{"python3-websockets", "websockets", []string{"/usr/bin/python3", "websockets_client.py"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			needs(t, tt.run[0])
			needsModule(t, tt.module)
			s := startServer(t, "--target", echoTarget(t))
			script, err := filepath.Abs(filepath.Join("testdata", tt.run[1]))
			if err != nil {
				t.Fatal(err)
			}
			for _, protocols := range [][]string{nil, {"binary"}, {"binary", "base64"}} {
				name := strings.Join(protocols, " ")
				if name == "" {
					name = "no subprotocol"
				}
				t.Run(name, func(t *testing.T) {
					args := append([]string{script, s.ws() + "/any/path"}, protocols...)
					code, out := run(t, tt.run[0], args...)
					if code != 0 || !strings.Contains(out, "same") {
						t.Errorf("exit code %d: %s", code, out)
					}
				})
			}
		})
	}
}
