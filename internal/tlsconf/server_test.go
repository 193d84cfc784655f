package tlsconf_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"wstun/internal/tlsconf"
)

func TestServerFromFiles(t *testing.T) {
	ca := newAuthority(t, "ca")
	good := ca.issue(t, certOptions{names: []string{"db.lab"}})
	other := ca.issue(t, certOptions{})
	expired := ca.issue(t, certOptions{notAfter: time.Date(2024, 1, 2, 0, 0, 0, 0, time.UTC)})
	early := ca.issue(t, certOptions{notBefore: time.Now().Add(time.Hour), notAfter: time.Now().Add(2 * time.Hour)})
	file := func(c tls.Certificate) string { return writePEM(t, "cert.pem", "CERTIFICATE", c.Certificate[0]) }
	text := func(content string, mode os.FileMode) string {
		name := writePEM(t, "some.pem", "X", nil)
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
		return name
	}
	read := func(name string) string {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	key := writeKey(t, good)
	for _, test := range []struct {
		name    string
		server  tlsconf.Server
		want    string // in the error
		warning string
	}{
		{"right", tlsconf.Server{CertFile: file(good), KeyFile: key}, "", ""},
		{"one file", tlsconf.Server{CertFile: text(read(file(good))+read(key), 0o600)}, "", ""},
		{"not yet valid", tlsconf.Server{CertFile: file(early), KeyFile: writeKey(t, early)}, "", "is not valid before"},
		{"nothing", tlsconf.Server{}, "no certificate file", ""},
		{"both ways", tlsconf.Server{CertFile: file(good), KeyFile: key, SelfSigned: true}, "exclude each other", ""},
		{"no certificate", tlsconf.Server{CertFile: "/nowhere/c.pem", KeyFile: key}, "certificate: open /nowhere/c.pem", ""},
		{"no key", tlsconf.Server{CertFile: file(good), KeyFile: "/nowhere/k.pem"}, "key: open /nowhere/k.pem", ""},
		{"junk", tlsconf.Server{CertFile: text("junk", 0o600), KeyFile: key}, "failed to find any PEM data in certificate", ""},
		{"key elsewhere", tlsconf.Server{CertFile: file(good)}, "cert.pem", ""},
		{"other key", tlsconf.Server{CertFile: file(good), KeyFile: writeKey(t, other)}, "private key does not match", ""},
		{"expired", tlsconf.Server{CertFile: file(expired), KeyFile: writeKey(t, expired)}, "cert.pem expired on 2024-01-02", ""},
		{"encrypted", tlsconf.Server{CertFile: file(good), KeyFile: text("-----BEGIN ENCRYPTED PRIVATE KEY-----", 0o600)}, "without a passphrase", ""},
		{"key for all to read", tlsconf.Server{CertFile: file(good), KeyFile: text(read(key), 0o644)}, "", "can be read by others"},
		{"key for the group to read", tlsconf.Server{CertFile: file(good), KeyFile: text(read(key), 0o640)}, "", ""},
		{"key for all to write", tlsconf.Server{CertFile: file(good), KeyFile: text(read(key), 0o602)}, "can be written by others", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, info, err := test.server.Config()
			if test.want != "" {
				if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
					t.Errorf("got %v, want %q", err, test.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if (test.warning == "") != (len(info.Warnings) == 0) || !strings.Contains(strings.Join(info.Warnings, "\n"), test.warning) {
				t.Errorf("warnings %q, want %q", info.Warnings, test.warning)
			}
		})
	}
}

func TestInfo(t *testing.T) {
	cert := newAuthority(t, "ca").issue(t, certOptions{names: []string{"db.lab", "*.web.lab"}})
	_, info, err := tlsconf.Server{CertFile: writePEM(t, "c.pem", "CERTIFICATE", cert.Certificate[0]), KeyFile: writeKey(t, cert)}.Config()
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"db.lab", "*.web.lab"}; !slices.Equal(info.Names, want) {
		t.Errorf("names %q, want %q", info.Names, want)
	}
	if info.Pin != pinOf(cert) || !info.NotAfter.Equal(cert.Leaf.NotAfter) {
		t.Errorf("got %+v", info)
	}
	if n := len(info.Fingerprint); n != 32*3-1 || strings.Count(info.Fingerprint, ":") != 31 {
		t.Errorf("fingerprint %s", info.Fingerprint)
	}
}

func TestSelfSigned(t *testing.T) {
	server, info, err := tlsconf.Server{SelfSigned: true, Names: []string{"Desk.lab", "10.0.0.7", "::1", "localhost", ""}}.Config()
	if err != nil {
		t.Fatal(err)
	}
	leaf := server.Certificates[0].Leaf
	for _, name := range []string{"localhost", "127.0.0.1", "::1", "desk.lab", "10.0.0.7"} {
		if err := leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if n := len(info.Names); n < 5 || n > 6 { // the machine's own name may be localhost
		t.Errorf("names %q", info.Names)
	}
	if year := time.Until(info.NotAfter); year < 364*24*time.Hour || year > 367*24*time.Hour {
		t.Errorf("valid until %v", info.NotAfter)
	}
	if !slices.Equal(server.NextProtos, []string{"http/1.1"}) {
		t.Errorf("protocols %q", server.NextProtos)
	}
	// The certificate itself will do as the CA file.
	ca := writePEM(t, "self.pem", "CERTIFICATE", leaf.Raw)
	conf, err := tlsconf.Client{CAFile: ca}.Config("desk.lab")
	if err != nil {
		t.Fatal(err)
	}
	if _, got, err := exchange(t, server, conf); got != secret || err != nil {
		t.Errorf("sent %q, %v", got, err)
	}
	if _, _, err := (tlsconf.Server{SelfSigned: true, Names: []string{"dß"}}).Config(); err == nil {
		t.Error("a name that no certificate can hold was taken")
	}
}

// writeServer is the configuration for cert; of expired ones too, which Server refuses.
func writeServer(t *testing.T, cert tls.Certificate) *tls.Config {
	t.Helper()
	conf, _, err := tlsconf.Server{SelfSigned: true}.Config()
	if err != nil {
		t.Fatal(err)
	}
	conf.Certificates = []tls.Certificate{cert}
	return conf
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

type certOptions struct {
	names               []string
	notBefore, notAfter time.Time // zero: valid now
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key}
	a.cert = sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, a, key)
	a.file = writePEM(t, name+".pem", "CERTIFICATE", a.cert.Raw)
	return a
}

func (a *authority) issue(t *testing.T, o certOptions) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if o.notAfter.IsZero() {
		o.notAfter = time.Now().Add(time.Hour)
	}
	if o.notBefore.IsZero() {
		o.notBefore = time.Unix(0, 0)
	}
	leaf := sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: o.names, NotBefore: o.notBefore, NotAfter: o.notAfter,
	}, a, key)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

// sign makes a certificate for key; one that is its own authority has no parent yet.
func sign(t *testing.T, template *x509.Certificate, a *authority, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	parent := a.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func pinOf(c tls.Certificate) string {
	sum := sha256.Sum256(c.Leaf.RawSubjectPublicKeyInfo)
	return "sha256/" + base64.StdEncoding.EncodeToString(sum[:])
}
