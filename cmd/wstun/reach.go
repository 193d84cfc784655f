package main

// How `wstun client` reaches its server: the URL, TLS, proxies, who it is.

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"unicode"

	"github.com/urfave/cli/v2"

	"wstun/client"
	"wstun/internal/netx"
	"wstun/internal/tlsconf"
)

// secure returns the TLS of wss, nil for ws.
func (s *clientFlags) secure(c *cli.Context, u *url.URL, log *slog.Logger) (*tls.Config, error) {
	for _, pin := range s.tls.Pins {
		if _, err := (tlsconf.Client{Pins: []string{pin}}).Config(""); err != nil {
			return nil, wrongFlag(c, "tls-pin", pin, err)
		}
	}
	if u.Scheme == "wss" {
		if s.tls.Insecure {
			log.Warn("--tls-insecure: anybody on the way can read and change everything")
		}
		return s.tls.Config(u.Hostname())
	}
	for _, name := range []string{"tls-pin", "tls-ca", "tls-insecure", "sni"} {
		if c.IsSet(name) {
			return nil, withHints(usagef("--%s is of no use with ws://, which has no TLS", name), "use wss://, if the server has it")
		}
	}
	return nil, nil
}

// exposed refuses to send a secret where others can read it, and warns of one
// that they can read already.
func (s *clientFlags) exposed(c *cli.Context, cfg client.Config, log *slog.Logger) error {
	secret := cfg.Credentials != nil
	for _, name := range []string{"Authorization", "Proxy-Authorization", "Cookie"} {
		if cfg.Header.Get(name) == "" {
			continue
		}
		secret = true
		if onCommandLine(c, "header") {
			log.Warn("--header " + name + " holds a secret, which others on this machine can see: put it in WSTUN_CLIENT_HEADER")
		}
	}
	here := cfg.Via == "" && isLoopbackName(cfg.URL.Hostname())
	if secret && cfg.URL.Scheme == "ws" && !here && !s.plaintext {
		return withHints(errors.New("a password or token would cross the network in clear"),
			"use wss://, or --allow-plaintext-auth where you trust everything on the way")
	}
	return nil
}

// serverURL returns the URL of the argument or of WSTUN_SERVER, as ws or wss.
func serverURL(c *cli.Context) (*url.URL, error) {
	text, from := c.Args().First(), "the URL"
	if text == "" {
		if text, from = os.Getenv("WSTUN_SERVER"), "WSTUN_SERVER"; text == "" {
			return nil, withHints(usagef("no server"), "give its URL, such as wss://host, or set WSTUN_SERVER")
		}
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, usagef("%s is malformed; write ws://host:8080 or wss://host/path", from)
	}
	schemes := map[string]string{"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
	if schemes[u.Scheme] == "" || u.Hostname() == "" {
		return nil, usagef("%s %q is none of a server; write ws://host:8080 or wss://host/path", from, u.Redacted())
	}
	u.Scheme = schemes[u.Scheme]
	if u.User != nil {
		return nil, withHints(usagef("%s holds a user name or a password", from), "give --user NAME and --password-file FILE")
	}
	if !validPort(u.Port()) {
		return nil, usagef("%s has the port %s; there are ports 1 to 65535", from, u.Port())
	}
	if u.Fragment != "" {
		return nil, usagef("%s has a #fragment, which is not sent", from)
	}
	return u, nil
}

func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return s == "" || err == nil && n > 0
}

func parseHeaders(c *cli.Context, lines []string) (http.Header, error) {
	h := http.Header{}
	for _, l := range lines {
		name, value, ok := strings.Cut(l, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		switch {
		case !ok || name == "" || strings.ContainsFunc(name, notToken) || strings.ContainsFunc(value, unicode.IsControl):
			return nil, wrongFlag(c, "header", l, errors.New("write 'Name: value'"))
		case strings.EqualFold(name, "host"):
			return nil, wrongFlag(c, "header", l, errors.New("write --http-host NAME"))
		}
		h.Add(name, value)
	}
	return h, nil
}

// way returns how to reach the server, and what to call that.
func (s *clientFlags) way(c *cli.Context, u *url.URL, log *slog.Logger) (netx.DialFunc, string, error) {
	host := &netx.Host{}
	proxy, err := netx.ProxyFor(u, os.Getenv)
	if s.proxy == "none" {
		return host.Dial, "", nil
	}
	if s.proxy != "" {
		if proxy, err = parseProxy(s.proxy); err != nil {
			return nil, "", err
		}
		if _, secret := proxy.User.Password(); secret && onCommandLine(c, "proxy") {
			log.Warn("--proxy holds a password, which others on this machine can see: put it in WSTUN_CLIENT_PROXY")
		}
	}
	if err != nil {
		return nil, "", usagef("%w", err)
	}
	if proxy == nil {
		return host.Dial, "", nil
	}
	dial, err := netx.Via(proxy, host.Dial)
	if err != nil {
		if s.proxy != "" {
			return nil, "", usagef("--proxy %s: %w", proxy.Redacted(), err)
		}
		return nil, "", usagef("the environment's proxy %s: %w", proxy.Redacted(), err)
	}
	return dial, "proxy " + proxy.Host, nil
}

// parseProxy never repeats what it was given: it may hold a password.
func parseProxy(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil, u.Hostname() == "", u.Fragment != "", u.RawQuery != "", u.Path != "" && u.Path != "/":
		return nil, withHints(usagef("--proxy is malformed; write http://user:pass@proxy:3128"),
			"in a user name or password, # / ? @ : and % are written %23 %2F %3F %40 %3A %25")
	case !validPort(u.Port()):
		return nil, usagef("--proxy has the port %s; there are ports 1 to 65535", u.Port())
	}
	return u, nil
}

// credentials returns what makes the Authorization header, read anew each time.
func (s *clientFlags) credentials(log *slog.Logger) (func() (string, error), error) {
	password, token := os.Getenv(passwordVariable), os.Getenv(tokenVariable)
	read := func(name, file, value, scheme string, encode func(string) string) func() (string, error) {
		return func() (string, error) {
			if file != "" {
				var err error
				if value, _, err = readSecret(file); err != nil {
					return "", fmt.Errorf("--%s: %w", name, err)
				}
			}
			if strings.ContainsFunc(value, unicode.IsControl) {
				return "", errors.New("the password or token has control characters")
			}
			return scheme + " " + encode(value), nil
		}
	}
	var get func() (string, error)
	switch hasToken, hasPassword := s.tokenFile != "" || token != "", s.passFile != "" || password != ""; {
	case hasToken && (s.user != "" || hasPassword):
		return nil, usagef("a token and a user name do not go together")
	case hasToken:
		get = read("token-file", s.tokenFile, token, "Bearer", func(v string) string { return v })
	case s.user != "" && hasPassword:
		get = read("password-file", s.passFile, password, "Basic", func(v string) string {
			return base64.StdEncoding.EncodeToString([]byte(s.user + ":" + v))
		})
	case s.user != "":
		return nil, withHints(usagef("--user %s has no password", s.user), "give --password-file FILE")
	case hasPassword:
		return nil, withHints(usagef("a password without a user name"), "give --user NAME")
	default:
		return nil, nil
	}
	if strings.Contains(s.user, ":") {
		return nil, usagef("--user %q: a name has no colon", s.user)
	}
	if _, err := get(); err != nil { // now, rather than at the first handshake
		return nil, err
	}
	for _, file := range []string{s.passFile, s.tokenFile} {
		if file != "" {
			if _, warning, _ := readSecret(file); warning != "" {
				log.Warn(warning)
			}
		}
	}
	return get, nil
}

func isLoopbackName(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback() || host == "localhost"
}
