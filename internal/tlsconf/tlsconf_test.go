package tlsconf_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"wstun/internal/tlsconf"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "the first words of the client"

func ExampleClient() {
	serverConf, info, err := tlsconf.Server{SelfSigned: true}.Config()
	if err != nil {
		fmt.Println(err)
		return
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", serverConf)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ln.Close()
	go func() {
		if c, err := ln.Accept(); err == nil {
			io.WriteString(c, "hello")
			c.Close()
		}
	}()

	// The pin was printed when the server started; it is all the client needs.
	conf, err := tlsconf.Client{Pins: []string{info.Pin}}.Config("127.0.0.1")
	if err != nil {
		fmt.Println(err)
		return
	}
	c, err := tls.Dial("tcp", ln.Addr().String(), conf)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	hello, err := io.ReadAll(c)
	fmt.Println(string(hello), err)
	// Output: hello <nil>
}

func TestClientVerifies(t *testing.T) {
	ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
	good := ca.issue(t, certOptions{names: []string{"db.lab"}})
	expired := ca.issue(t, certOptions{names: []string{"db.lab"}, notAfter: time.Now().Add(-time.Hour)})
	const zero = "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	for _, test := range []struct {
		name   string
		server tls.Certificate
		client tlsconf.Client
		host   string
		want   string // in the error
	}{
		{"right CA", good, tlsconf.Client{CAFile: ca.file}, "db.lab", ""},
		{"dot at the end", good, tlsconf.Client{CAFile: ca.file}, "db.lab.", ""},
		{"wrong CA", good, tlsconf.Client{CAFile: other.file}, "db.lab", "unknown authority"},
		{"system roots", good, tlsconf.Client{}, "db.lab", "unknown authority"},
		{"wrong name", good, tlsconf.Client{CAFile: ca.file}, "web.lab", "web.lab"},
		{"other name asked for", good, tlsconf.Client{CAFile: ca.file, ServerName: "db.lab"}, "10.0.0.1", ""},
		{"expired", expired, tlsconf.Client{CAFile: ca.file}, "db.lab", "expired"},
		{"right pin", good, tlsconf.Client{Pins: []string{pinOf(good)}}, "10.0.0.1", ""},
		{"one of two pins", good, tlsconf.Client{Pins: []string{zero, pinOf(good)}}, "db.lab", ""},
		{"pin as curl writes it", good, tlsconf.Client{Pins: []string{strings.Replace(pinOf(good), "/", "//", 1)}}, "db.lab", ""},
		{"pin of an expired one", expired, tlsconf.Client{Pins: []string{pinOf(expired)}}, "db.lab", ""},
		{"wrong pin", good, tlsconf.Client{Pins: []string{zero}}, "db.lab",
			"the server's key is " + pinOf(good) + ", not the pinned one"},
		{"wrong pin, any certificate", good, tlsconf.Client{Pins: []string{zero}, Insecure: true}, "db.lab", "not the pinned one"},
		{"right pin, right CA", good, tlsconf.Client{Pins: []string{pinOf(good)}, CAFile: ca.file}, "db.lab", ""},
		{"right pin, wrong CA", good, tlsconf.Client{Pins: []string{pinOf(good)}, CAFile: other.file}, "db.lab", "unknown authority"},
		{"right pin, wrong name", good, tlsconf.Client{Pins: []string{pinOf(good)}, CAFile: ca.file}, "web.lab", "web.lab"},
		{"wrong pin, right CA", good, tlsconf.Client{Pins: []string{zero}, CAFile: ca.file}, "db.lab", "not the pinned one"},
		{"any certificate", expired, tlsconf.Client{Insecure: true}, "web.lab", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := writeServer(t, test.server)
			conf, err := test.client.Config(test.host)
			if err != nil {
				t.Fatal(err)
			}
			_, got, err := exchange(t, server, conf)
			if test.want == "" && (err != nil || got != secret) {
				t.Errorf("sent %q, %v", got, err)
			}
			if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || got != "") {
				t.Errorf("sent %q, error %v, want %q", got, err, test.want)
			}
		})
	}
}

func TestWrongPinIsTyped(t *testing.T) {
	cert := newAuthority(t, "ca").issue(t, certOptions{})
	const zero = "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	conf, err := tlsconf.Client{Pins: []string{zero}}.Config("db.lab")
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = exchange(t, writeServer(t, cert), conf)
	perr, ok := errors.AsType[*tlsconf.PinError](err)
	if !ok || perr.Got != pinOf(cert) || len(perr.Want) != 1 || perr.Want[0] != zero {
		t.Errorf("got %#v", err)
	}
}

// A session that was made before the pin changed is no way round it.
func TestResumedSessionsAreChecked(t *testing.T) {
	cert := newAuthority(t, "ca").issue(t, certOptions{})
	server := writeServer(t, cert)
	conf, err := tlsconf.Client{Pins: []string{pinOf(cert)}}.Config("db.lab")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		state, _, err := exchange(t, server, conf)
		if err != nil || state.DidResume != (i == 1) {
			t.Fatalf("connection %d: resumed %v, %v", i, state.DidResume, err)
		}
	}
	wrong, err := tlsconf.Client{Pins: []string{"sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}}.Config("db.lab")
	if err != nil {
		t.Fatal(err)
	}
	wrong.ClientSessionCache = conf.ClientSessionCache
	_, got, err := exchange(t, server, wrong)
	if _, ok := errors.AsType[*tlsconf.PinError](err); !ok || got != "" {
		t.Errorf("sent %q, %v", got, err)
	}
}

func TestOldVersionsAreRefused(t *testing.T) {
	cert := newAuthority(t, "ca").issue(t, certOptions{})
	ours, err := tlsconf.Client{Pins: []string{pinOf(cert)}}.Config("db.lab")
	if err != nil {
		t.Fatal(err)
	}
	old := &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11, InsecureSkipVerify: true,
		Certificates: []tls.Certificate{cert}}
	twelve := &tls.Config{MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true}
	server := writeServer(t, cert)
	strict := server.Clone()
	strict.MinVersion = tls.VersionTLS13
	for _, test := range []struct {
		name           string
		server, client *tls.Config
		ok             bool
	}{
		{"old client", server, old, false},
		{"old server", old, ours, false},
		{"1.2 client", server, twelve, true},
		{"1.2 client of a 1.3 server", strict, twelve, false},
		{"both ours", server, ours, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, got, err := exchange(t, test.server, test.client)
			if test.ok != (err == nil) || (got != "") != test.ok {
				t.Errorf("sent %q, %v", got, err)
			}
		})
	}
}

func TestClientMistakes(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		client tlsconf.Client
		want   string
	}{
		{"no CA file", tlsconf.Client{CAFile: "/nowhere/ca.pem"}, "CA certificates: open /nowhere/ca.pem"},
		{"empty CA file", tlsconf.Client{CAFile: empty}, "no CA certificate in " + empty},
		{"CA and any", tlsconf.Client{CAFile: empty, Insecure: true}, "exclude each other"},
		{"pin without kind", tlsconf.Client{Pins: []string{"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}}, "want sha256/ and 44 characters, such as sha256/47DE"},
		{"pin of another kind", tlsconf.Client{Pins: []string{"sha1/AAAA"}}, `"sha1/AAAA" is no pin`},
		{"short pin", tlsconf.Client{Pins: []string{"sha256/AAAA"}}, "is no pin"},
		{"pin in hex", tlsconf.Client{Pins: []string{"sha256/" + strings.Repeat("ab", 32)}}, "is no pin"},
		{"empty pin", tlsconf.Client{Pins: []string{""}}, "is no pin"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := test.client.Config("db.lab"); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// exchange connects and sends the secret. It returns what the server got of it
// and why the client failed.
func exchange(t *testing.T, server, client *tls.Config) (state tls.ConnectionState, got string, err error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	received := make(chan string, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			received <- err.Error()
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		b, _ := io.ReadAll(tls.Server(c, server)) // does the handshake
		received <- string(b)
	}()
	c, err := tls.Dial("tcp", ln.Addr().String(), client)
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = io.WriteString(c, secret)
		c.CloseWrite()
		io.Copy(io.Discard, c) // takes the session ticket
		state = c.ConnectionState()
	}
	return state, <-received, err
}

func writePEM(t *testing.T, name, kind string, der []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	b := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func writeKey(t *testing.T, cert tls.Certificate) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return writePEM(t, "key.pem", "PRIVATE KEY", der)
}
