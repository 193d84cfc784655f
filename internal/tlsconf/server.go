// Package tlsconf makes TLS configurations for both ends.
//
// It reads certificate files, makes self-signed certificates and checks pins.
// When to read them again, and what to tell the user, is left to the program.
package tlsconf

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"wstun/internal/secret"
)

// Server is where a server's certificate comes from: files or itself.
type Server struct {
	CertFile   string   // PEM: the certificate, then its chain
	KeyFile    string   // PEM; empty: the key is in CertFile too
	SelfSigned bool     // made by Config, instead of files
	Names      []string // names and addresses for SelfSigned besides this machine's
	MinVersion uint16   // zero: TLS 1.2
}

// Certificate is what users and operators need to know of a certificate.
type Certificate struct {
	Names       []string // that it is valid for, DNS names and addresses
	NotAfter    time.Time
	Pin         string   // of its key, as a [Client] takes it: "sha256/" and base64
	Fingerprint string   // SHA-256 of the certificate, as browsers and openssl show it
	Warnings    []string // one line each
}

// Config reads or makes the certificate. The configuration speaks HTTP/1.1
// only: WebSockets are upgraded from it.
func (s Server) Config() (*tls.Config, *Certificate, error) {
	var cert tls.Certificate
	var warnings []string
	var err error
	switch {
	case s.SelfSigned && cmp.Or(s.CertFile, s.KeyFile) != "":
		return nil, nil, errors.New("a self-signed certificate and a certificate file exclude each other")
	case s.SelfSigned:
		cert, err = selfSigned(s.Names)
	case s.CertFile == "":
		return nil, nil, errors.New("no certificate file")
	default:
		cert, warnings, err = load(s.CertFile, cmp.Or(s.KeyFile, s.CertFile))
	}
	if err != nil {
		return nil, nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{cert},
		MinVersion:   max(s.MinVersion, tls.VersionTLS12),
		NextProtos:   []string{"http/1.1"},
	}, describe(cert.Leaf, warnings), nil
}

func describe(leaf *x509.Certificate, warnings []string) *Certificate {
	names := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	if time.Now().Before(leaf.NotBefore) {
		warnings = append(warnings, "the certificate is not valid before "+leaf.NotBefore.Format(time.DateTime))
	}
	return &Certificate{
		Names:       names,
		NotAfter:    leaf.NotAfter,
		Pin:         pin(leaf),
		Fingerprint: strings.ReplaceAll(fmt.Sprintf("% X", sha256.Sum256(leaf.Raw)), " ", ":"),
		Warnings:    warnings,
	}
}

func load(certFile, keyFile string) (cert tls.Certificate, warnings []string, err error) {
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return cert, nil, fmt.Errorf("certificate: %w", err)
	}
	keyPEM, warning, err := secret.Read(keyFile)
	if err != nil {
		return cert, nil, fmt.Errorf("key: %w", err)
	}
	if warning != "" {
		warnings = append(warnings, "key: "+warning)
	}
	if bytes.Contains(keyPEM, []byte("ENCRYPTED")) {
		return cert, nil, fmt.Errorf("key %s is encrypted: want it without a passphrase", keyFile)
	}
	cert, err = tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return cert, nil, fmt.Errorf("certificate %s with key %s: %w", certFile, keyFile, err)
	}
	if time.Now().After(cert.Leaf.NotAfter) {
		return cert, nil, fmt.Errorf("certificate %s expired on %s", certFile, cert.Leaf.NotAfter.Format(time.DateOnly))
	}
	return cert, warnings, nil
}

// selfSigned makes a certificate for this machine and names, valid for a year.
func selfSigned(names []string) (cert tls.Certificate, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return cert, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return cert, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "wstun"},
		NotBefore:             now.Add(-time.Hour), // for clocks that are behind
		NotAfter:              now.AddDate(1, 0, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	own := []string{"localhost", "127.0.0.1", "::1"}
	if host, err := os.Hostname(); err == nil {
		own = append(own, host)
	}
	for _, name := range append(own, names...) {
		name = strings.ToLower(name)
		ip := net.ParseIP(name)
		switch {
		case ip != nil && !slices.ContainsFunc(template.IPAddresses, ip.Equal):
			template.IPAddresses = append(template.IPAddresses, ip)
		case ip == nil && name != "" && !slices.Contains(template.DNSNames, name):
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return cert, fmt.Errorf("self-signed certificate: %w", err) // a name that is not ASCII
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return cert, fmt.Errorf("self-signed certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}
