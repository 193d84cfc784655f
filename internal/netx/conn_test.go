package netx_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"syscall"
	"testing"
	"time"

	"wstun/internal/netx"
	"wstun/internal/netx/netxtest"
)

// generous is for what must happen at once on this machine.
const generous = 10 * time.Second

var pairs = []struct {
	name string
	make func(*testing.T) (a, b net.Conn)
}{
	{"tcp", tcpPair},
	{"tls", tlsPair},
	{"memory", func(t *testing.T) (net.Conn, net.Conn) {
		a, b := netxtest.Pipe()
		t.Cleanup(func() { a.Close(); b.Close() })
		return a, b
	}},
}

func TestAbortIsAResetToThePeer(t *testing.T) {
	for _, test := range pairs {
		t.Run(test.name, func(t *testing.T) {
			a, b := test.make(t)
			io.WriteString(a, "half of it")
			if _, err := io.ReadFull(b, make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
			if err := netx.Abort(a, errors.New("target reset")); err != nil {
				t.Error(err)
			}
			if _, err := b.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the peer read %v, want a reset", err)
			}
			if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("read after the abort: %v, want closed", err)
			}
		})
	}
}

func TestAbortDoesNotWaitForTheReader(t *testing.T) {
	for _, test := range pairs {
		t.Run(test.name, func(t *testing.T) {
			a, _ := test.make(t)
			wrote := make(chan error)
			go func() {
				_, err := a.Write(make([]byte, 64<<20)) // more than any buffer takes
				wrote <- err
			}()
			netx.Abort(a, nil)
			if err := <-wrote; err == nil {
				t.Error("the write succeeded")
			}
		})
	}
}

func TestAbortOfAConnWithoutResetCloses(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	if err := netx.Abort(a, nil); err != nil {
		t.Error(err)
	}
	if _, err := b.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the peer read %v", err)
	}
}

func TestCloseWriteEndsOneDirection(t *testing.T) {
	for _, test := range pairs {
		t.Run(test.name, func(t *testing.T) {
			a, b := test.make(t)
			if !netx.CanCloseWrite(a) {
				t.Fatal("says that it cannot")
			}
			io.WriteString(a, "question")
			if err := netx.CloseWrite(a); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(b); string(got) != "question" || err != nil {
				t.Errorf("the peer read %q, %v", got, err)
			}
			io.WriteString(b, "answer")
			netx.CloseWrite(b)
			if got, err := io.ReadAll(a); string(got) != "answer" || err != nil {
				t.Errorf("read %q, %v", got, err)
			}
		})
	}
}

func TestCloseWriteUnsupported(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if netx.CanCloseWrite(a) {
		t.Error("says that it can")
	}
	if err := netx.CloseWrite(a); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
	if err := netx.Broken(a); err != nil {
		t.Errorf("broken: %v", err)
	}
}

func tcpPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	var h netx.Host
	ln := listen(t, &h, "127.0.0.1:0")
	a = dial(t, &h, ln.Addr().String())
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	for _, c := range []net.Conn{a, b} {
		c.SetDeadline(time.Now().Add(generous))
	}
	return a, b
}

func tlsPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	cert, roots := certificate(t)
	a, b = tcpPair(t)
	server := tls.Server(b, &tls.Config{Certificates: []tls.Certificate{cert}})
	client := tls.Client(a, &tls.Config{RootCAs: roots, ServerName: "proxy.test"})
	done := make(chan error)
	go func() { done <- server.Handshake() }()
	if err := errors.Join(client.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	return client, server
}

// certificate is one for proxy.test, and the roots that hold it.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"proxy.test"},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}
