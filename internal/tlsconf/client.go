package tlsconf

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// sessions is how many TLS sessions a client keeps, one for each server name.
const sessions = 16

// Client says which servers a client takes for the right one. The zero value
// asks the system's roots.
type Client struct {
	CAFile     string   // PEM; these roots instead of the system's
	Pins       []string // "sha256/…" of the keys one of which the server must have; see [Certificate]
	Insecure   bool     // any certificate will do, unless there are Pins
	ServerName string   // in SNI and in the certificate, instead of the host that is dialed
}

// Config is the configuration for connections to host, a name or an address
// without port. Pins replace the checks of chain, name and validity, unless
// there is a CAFile: then both hold.
//
// One configuration is meant for all connections to host: it remembers TLS
// sessions. Resumed ones are checked too.
func (c Client) Config(host string) (*tls.Config, error) {
	if c.Insecure && c.CAFile != "" {
		return nil, errors.New("a CA file and taking any certificate exclude each other")
	}
	if c.ServerName != "" {
		host = c.ServerName
	}
	host, _, _ = strings.Cut(host, "%") // certificates know no zones
	conf := &tls.Config{
		ServerName:         strings.TrimSuffix(host, "."),
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"http/1.1"},
		ClientSessionCache: tls.NewLRUClientSessionCache(sessions),
		InsecureSkipVerify: c.CAFile == "" && (c.Insecure || len(c.Pins) > 0),
	}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("CA certificates: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("no CA certificate in %s", c.CAFile)
		}
	}
	if len(c.Pins) > 0 {
		var err error
		if conf.VerifyConnection, err = checkPins(c.Pins); err != nil {
			return nil, err
		}
	}
	return conf, nil
}

// checkPins returns a tls.Config.VerifyConnection: unlike
// VerifyPeerCertificate that is called for resumed sessions too.
func checkPins(pins []string) (func(tls.ConnectionState) error, error) {
	want := make([]string, len(pins))
	for i, p := range pins {
		var err error
		if want[i], err = parsePin(p); err != nil {
			return nil, err
		}
	}
	return func(s tls.ConnectionState) error {
		if got := pin(s.PeerCertificates[0]); !slices.Contains(want, got) {
			return &PinError{Got: got, Want: want}
		}
		return nil
	}, nil
}

// PinError is a server whose key is none of those that the user pinned.
type PinError struct {
	Got  string
	Want []string
}

func (e *PinError) Error() string {
	return "the server's key is " + e.Got + ", not the pinned one"
}

const pinPrefix = "sha256/"

// pin is of the key, not of the certificate, so that it outlives renewals (RFC 7469, section 2.4).
func pin(leaf *x509.Certificate) string {
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	return pinPrefix + base64.StdEncoding.EncodeToString(sum[:])
}

// parsePin returns the form of pin. curl writes two slashes.
func parsePin(s string) (string, error) {
	digest, ok := strings.CutPrefix(s, pinPrefix)
	if len(digest) == base64.StdEncoding.EncodedLen(sha256.Size)+1 {
		digest = strings.TrimPrefix(digest, "/")
	}
	b, err := base64.StdEncoding.DecodeString(digest)
	if !ok || err != nil || len(b) != sha256.Size {
		return "", fmt.Errorf("%q is no pin: want sha256/ and 44 characters, such as sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", s)
	}
	return pinPrefix + base64.StdEncoding.EncodeToString(b), nil
}
