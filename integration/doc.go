// Package integration tests the built program as a black box, among the real
// programs it is made for: VNC servers and viewers, browsers, ssh, proxies, and
// WebSocket libraries that nobody here wrote. It has no code but those tests.
//
// Each test starts the processes it needs, on loopback and on ports of their
// own, waits for the lines they print, and ends them by their process id.
// A test whose program is not installed is skipped; with CI=true it fails.
//
//	WSTUN_BINARY=FILE     test this program instead of building one
//	WSTUN_TEST_RACE=1     build it with the race detector
//	WSTUN_SCREENSHOTS=DIR keep the pictures that the tests take
package integration
