package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"wstun/client"
	"wstun/internal/netx"
	"wstun/internal/tlsconf"
)

// clientFlags are what `wstun client` is told.
type clientFlags struct {
	forwards, headers         []string
	stdio                     string
	user, passFile, tokenFile string
	plaintext                 bool
	proxy, httpHost           string
	tls                       tlsconf.Client
	halfOpen                  time.Duration
	shared
}

func clientCommand() *cli.Command {
	s := clientFlags{halfOpen: time.Hour}
	f := newFlags("client")
	f.group = "Forwards"
	f.lines(&s.forwards, "local-forward", "`SPEC` [BIND:]PORT:HOST:PORT to listen on here and reach there", "L")
	f.text(&s.stdio, "stdio-forward", "`TARGET` to join with standard input and output, for ssh's ProxyCommand", "W")
	f.duration(&s.halfOpen, "half-open-timeout", "end a half-closed stream after this `TIME` without a byte; 0: never")
	f.group = "Who you are"
	f.text(&s.user, "user", "`NAME` to log in with")
	f.text(&s.passFile, "password-file", "`FILE` whose first line is the password (or WSTUN_CLIENT_PASSWORD)")
	f.text(&s.tokenFile, "token-file", "`FILE` whose first line is a token (or WSTUN_CLIENT_TOKEN)")
	f.toggle(&s.plaintext, "allow-plaintext-auth", "send them over ws:// to other machines, too, where anybody on the way can read them")
	f.group = "The way to the server"
	f.text(&s.proxy, "proxy", "`URL` of a proxy: http://user:pass@proxy:3128; none: not even HTTPS_PROXY's")
	f.lines(&s.headers, "header", "`NAME: VALUE` to send with the handshake")
	f.text(&s.httpHost, "http-host", "`NAME` to send as Host in place of the URL's")
	f.text(&s.tls.ServerName, "sni", "`NAME` to ask for in TLS, and to check, in place of the URL's")
	f.text(&s.tls.CAFile, "tls-ca", "`FILE` of authorities to trust in place of the system's")
	f.lines(&s.tls.Pins, "tls-pin", "`PIN` sha256/… of the server's key, in place of other checks")
	f.toggle(&s.tls.Insecure, "tls-insecure", "do not check the server's certificate")
	f.shared(&s.shared)
	return &cli.Command{
		Name:      "client",
		Usage:     "reach what a server reaches",
		ArgsUsage: "URL",
		Description: `  wstun client -L 5900:vnc:5900 ws://host:8080
      a viewer on this machine reaches vnc:5900 at localhost:5900
  wstun client -L 8000:web:80 --proxy http://user:pass@proxy:3128 wss://host
      the same for web:80, out through an HTTP proxy
  ssh -o ProxyCommand='wstun client -W %h:%p wss://host' db1
      ssh reaches db1 from where the server is`,
		Flags:  f.list,
		Action: atMost(1, func(c *cli.Context) error { return s.run(c) }),
	}
}

func (s *clientFlags) run(c *cli.Context) error {
	switch {
	case s.stdio == "" && len(s.forwards) == 0:
		return withHints(usagef("nothing to forward"), "give -L PORT:HOST:PORT or -W HOST:PORT")
	case s.stdio != "" && len(s.forwards) > 0:
		return usagef("-W and -L do not go together")
	}
	if s.stdio != "" && !c.IsSet("log-level") {
		s.LogLevel = slog.LevelWarn // stderr is ssh's as well
	}
	log := s.logger(c.App.ErrWriter)
	cfg, err := s.config(c, log)
	if err != nil {
		return err
	}
	soft, hard, stop := interrupts(c.Context)
	defer stop()
	if s.stdio != "" {
		return s.runStdio(soft, c, cfg)
	}
	cl := client.New(cfg)
	go func() {
		<-soft.Done()
		drain, cancel := context.WithTimeout(hard, s.DrainTimeout)
		defer cancel()
		cl.Shutdown(drain)
	}()
	return cl.Run()
}

func (s *clientFlags) runStdio(ctx context.Context, c *cli.Context, cfg client.Config) error {
	network, address, err := client.ParseTarget(s.stdio)
	if err == nil {
		err = supported(network)
	}
	if err != nil {
		return wrongFlag(c, "stdio-forward", s.stdio, err)
	}
	return client.New(cfg).Stdio(ctx, network, address, readCloser{c.App.Reader}, writeCloser{c.App.Writer})
}

// Standard input and output, which are files, or what a test has in their place.
type (
	readCloser  struct{ io.Reader }
	writeCloser struct{ io.Writer }
)

func (r readCloser) Close() error  { return closeIfCloser(r.Reader) }
func (w writeCloser) Close() error { return closeIfCloser(w.Writer) }

func closeIfCloser(v any) error {
	if c, ok := v.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// supported refuses networks that the wire has and this version does not serve.
func supported(network string) error {
	if network == "tcp" || network == "unix" {
		return nil
	}
	return fmt.Errorf("%s is not forwarded by this version; tcp and unix are", network)
}

func (s *clientFlags) config(c *cli.Context, log *slog.Logger) (cfg client.Config, err error) {
	cfg = client.Config{Host: s.httpHost, HalfOpen: s.halfOpen, Agent: "wstun/" + programVersion(), Log: log}
	if cfg.URL, err = serverURL(c); err != nil {
		return cfg, err
	}
	for _, spec := range s.forwards {
		fs, err := client.ParseForward(spec)
		if err != nil {
			return cfg, err
		}
		for _, f := range fs {
			if err := supported(f.Network); err != nil {
				return cfg, wrongFlag(c, "local-forward", spec, err)
			}
		}
		cfg.Forwards = append(cfg.Forwards, fs...)
	}
	if cfg.Header, err = parseHeaders(c, s.headers); err != nil {
		return cfg, err
	}
	for _, pin := range s.tls.Pins {
		if _, err := (tlsconf.Client{Pins: []string{pin}}).Config(""); err != nil {
			return cfg, wrongFlag(c, "tls-pin", pin, err)
		}
	}
	if cfg.URL.Scheme == "wss" {
		if cfg.TLS, err = s.tls.Config(cfg.URL.Hostname()); err != nil {
			return cfg, err
		}
	}
	if s.tls.Insecure {
		log.Warn("--tls-insecure: anybody on the way can read and change everything")
	}
	if cfg.Dial, cfg.Via, err = s.way(c, cfg.URL, log); err != nil {
		return cfg, err
	}
	cfg.Credentials, err = s.credentials(cfg.URL, log)
	return cfg, err
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
	if u.Fragment != "" {
		return nil, usagef("%s has a #fragment, which is not sent", from)
	}
	return u, nil
}

func parseHeaders(c *cli.Context, lines []string) (http.Header, error) {
	h := http.Header{}
	for _, l := range lines {
		name, value, ok := strings.Cut(l, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		switch {
		case !ok || name == "" || strings.ContainsAny(name, " \t\r\n") || strings.ContainsAny(value, "\r\n"):
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
		if proxy, err = url.Parse(s.proxy); err != nil || proxy.Host == "" {
			return nil, "", usagef("--proxy is malformed; write http://user:pass@proxy:3128")
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

// credentials returns what makes the Authorization header, read anew each time.
func (s *clientFlags) credentials(u *url.URL, log *slog.Logger) (func() (string, error), error) {
	password, token := os.Getenv("WSTUN_CLIENT_PASSWORD"), os.Getenv("WSTUN_CLIENT_TOKEN")
	read := func(name, file, value, scheme string, encode func(string) string) func() (string, error) {
		return func() (string, error) {
			if file != "" {
				var err error
				if value, _, err = readSecret(file); err != nil {
					return "", fmt.Errorf("--%s: %w", name, err)
				}
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
	if u.Scheme == "ws" && !s.plaintext && !isLoopbackName(u.Hostname()) {
		return nil, withHints(errors.New("a password or token would cross the network in clear"),
			"use wss://, or --allow-plaintext-auth where you trust everything on the way")
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
	return err == nil && ip.IsLoopback() || host == "localhost" || strings.HasSuffix(host, ".localhost")
}
