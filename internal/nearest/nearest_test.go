package nearest

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWord(t *testing.T) {
	words := []string{"allow", "allow-listen", "tls-ca", "tls-cert", "tls-insecure", "log-level", "v"}
	for name, want := range map[string]string{
		"alow": "allow", "allowlisten": "allow-listen", "insecure": "tls-insecure", "ca": "tls-ca", "tls_cert": "tls-cert",
		"loglevel": "log-level", "x": "", "": "", "frobnicate": "",
	} {
		if got := Word(name, words); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}
