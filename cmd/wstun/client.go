package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
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
	halfOpen, maxAge          time.Duration
	noMux                     bool
	shared
	flags *flags
}

func clientCommand() *cli.Command {
	s := clientFlags{halfOpen: time.Hour}
	f := newFlags("client")
	f.group = "Forwards"
	f.lines(&s.forwards, "local-forward", "`SPEC` [BIND:]PORT:HOST:PORT to listen on here and reach there", "L")
	f.text(&s.stdio, "stdio-forward", "`TARGET` to join with standard input and output, for ssh's ProxyCommand", "W")
	f.toggle(&s.noMux, "no-mux", "give every connection a WebSocket of its own")
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
	f.duration(&s.maxAge, "carrier-max-age", "replace the WebSocket after this `TIME`, before a proxy cuts it; 0: never")
	f.shared(&s.shared)
	s.flags = f
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
	for _, w := range s.flags.strangers(os.Environ(), passwordVariable, tokenVariable) {
		log.Warn(w)
	}
	cfg, err := s.config(c, log)
	if err != nil {
		return err
	}
	ctx, hungUp := hangups(c.Context)
	defer hungUp()
	soft, hard, stop := interrupts(ctx)
	defer stop()
	if s.stdio != "" {
		// A reader that is gone is an error of a write, which can still be
		// told to the far end.
		signal.Ignore(syscall.SIGPIPE)
		defer signal.Reset(syscall.SIGPIPE)
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
	err = client.New(cfg).Stdio(ctx, network, address, readCloser{c.App.Reader}, writeCloser{c.App.Writer})
	if err != nil && ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}

// Variables of the environment that hold secrets, and have no flag.
const (
	passwordVariable = "WSTUN_CLIENT_PASSWORD"
	tokenVariable    = "WSTUN_CLIENT_TOKEN"
)

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
	cfg = client.Config{Host: s.httpHost, HalfOpen: s.halfOpen, Single: s.noMux, MaxAge: s.maxAge, Watch: netx.Watch, Agent: "wstun/" + programVersion(), Log: log}
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
	if cfg.TLS, err = s.secure(c, cfg.URL, log); err != nil {
		return cfg, err
	}
	if cfg.Dial, cfg.Via, err = s.way(c, cfg.URL, log); err != nil {
		return cfg, err
	}
	if cfg.Credentials, err = s.credentials(log); err != nil {
		return cfg, err
	}
	return cfg, s.exposed(c, cfg, log)
}
