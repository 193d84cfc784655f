package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestNginxInFront: TLS ends at nginx, and both endpoints lie under a path of
// its site.
func TestNginxInFront(t *testing.T) {
	needs(t, "nginx")
	target := echoTarget(t)
	s := startServer(t, "--target", target, "--allow", target)
	cert := makeCertificate(t)
	site := startNginx(t, s.addr, cert).site

	t.Run("tunnel", func(t *testing.T) {
		c := startClient(t, "--tls-ca", cert.file, "-L", "0:"+target, "wss://"+site+"/tunnel/")
		if err := exchange(dial(t, c.local(t, target)), 1, 4<<20); err != nil {
			t.Error(err)
		}
	})
	t.Run("browser", func(t *testing.T) {
		c := dialWS(t, "wss://"+site+"/tunnel/", withHeader("Origin", "https://"+site))
		if err := exchange(c, 2, 4<<20); err != nil {
			t.Error(err)
		}
		c.closeWith(t, 1000)
	})
	t.Run("browser of another site", func(t *testing.T) {
		status, body := refusedWS(t, "wss://"+site+"/tunnel/", withHeader("Origin", "https://example.org"))
		if status != 403 {
			t.Errorf("status %d %q, want 403", status, body)
		}
	})
}

// An nginx serves a site, HOST:PORT, with TLS.
type nginx struct {
	*process
	site string
	args []string // what it was started with
}

// reload is `nginx -s reload`: new workers take over, the old ones end.
func (n *nginx) reload(t testing.TB) {
	t.Helper()
	if code, out := run(t, "nginx", append(n.args, "-s", "reload")...); code != 0 {
		t.Fatalf("nginx -s reload: exit code %d: %s", code, out)
	}
}

// startNginx ends TLS and hands /tunnel/ to the server at addr. When it is
// reloaded, what its old workers carry is cut a second later.
func startNginx(t testing.TB, addr string, cert *certificate) *nginx {
	t.Helper()
	n := &nginx{site: loopback(freePort(t))}
	dir := t.TempDir()
	owner := ""
	if os.Geteuid() == 0 {
		owner = "user root;" // its workers must get into the folder of the test
	}
	config := writeFile(t, dir, "nginx.conf", fmt.Sprintf(`
%s
daemon off;
pid %[2]s/pid;
error_log stderr notice;
worker_shutdown_timeout 1s;
events { worker_connections 1024; }
http {
	access_log off;
	client_body_temp_path %[2]s/body;
	proxy_temp_path %[2]s/proxy;
	fastcgi_temp_path %[2]s/fastcgi;
	uwsgi_temp_path %[2]s/uwsgi;
	scgi_temp_path %[2]s/scgi;
	server {
		listen %[3]s ssl;
		ssl_certificate %[4]s;
		ssl_certificate_key %[5]s;
		location /tunnel/ {
			proxy_pass http://%[6]s/;
			proxy_http_version 1.1;
			proxy_set_header Upgrade $http_upgrade;
			proxy_set_header Connection upgrade;
			proxy_set_header Host $http_host;
			proxy_read_timeout 1h;
			proxy_send_timeout 1h;
		}
	}
}
`, owner, dir, n.site, cert.file, cert.keyFile, addr))
	// -e: without it nginx first tries the log file of the machine's own.
	n.args = []string{"-e", "stderr", "-p", dir, "-c", config}
	n.process = start(t, "nginx", n.args...)
	n.await(t, "start worker process ")
	return n
}

// A certificate is one that signed itself, for 127.0.0.1 and localhost.
type certificate struct{ file, keyFile string }

func makeCertificate(t testing.TB) *certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(now.UnixNano()),
		Subject:               pkix.Name{CommonName: "wstun test"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames:              []string{"localhost"},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		return writeFile(t, dir, name, string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
	}
	c := &certificate{write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", keyDER)}
	if !filepath.IsAbs(c.file) {
		t.Fatalf("%s is not absolute", c.file)
	}
	return c
}
