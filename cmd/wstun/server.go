package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"wstun/internal/access"
	"wstun/internal/tlsconf"
	"wstun/server"
)

// serverFlags are what `wstun server` is told.
type serverFlags struct {
	listen, routes, allow, deny []string
	target, web, users          string
	origins, hosts              []string
	subprotocol                 string
	tls                         tlsconf.Server
	ping, halfOpen, resume      time.Duration
	memory                      int64
	maxDetached                 int
	shared
	flags *flags
}

func serverCommand() *cli.Command {
	s := serverFlags{ping: 25 * time.Second, halfOpen: time.Hour, resume: 15 * time.Minute, memory: defaultMemory()}
	f := newFlags("server")
	f.group = "Targets"
	f.text(&s.target, "target", "`TARGET` that a browser reaches on every path: vnc:5900, unix:/run/vnc.sock")
	f.lines(&s.routes, "route", "`PATH=TARGET` that a browser reaches on this path: /lab=lab:5900; PATH alone limits --target to it")
	f.text(&s.web, "web", "`DIR` with static files, such as noVNC's")
	f.group = "Who may do what"
	f.lines(&s.allow, "allow", "`RULE` of what clients may open: vnc:22,5900, 10.0.0.0/8:*, unix:/run/app.sock")
	f.lines(&s.deny, "deny", "`RULE` of what nobody may open, whatever allows it")
	f.text(&s.users, "users", "`FILE` of users with passwords and tokens (YAML or htpasswd); without it nobody is asked who they are")
	f.lines(&s.origins, "origin", "`ORIGIN` of pages on other hosts that may connect: https://page.example")
	f.lines(&s.hosts, "host", "`NAME` that this server is reached by; any turns the check off")
	f.group = "Listening"
	f.lines(&s.listen, "listen", "`ADDR` to listen on (default: 127.0.0.1:8080)")
	f.text(&s.tls.CertFile, "tls-cert", "`FILE` with the certificate and its chain", "cert")
	f.text(&s.tls.KeyFile, "tls-key", "`FILE` with the certificate's key", "key")
	f.toggle(&s.tls.SelfSigned, "tls-self-signed", "make a certificate at start, and print the pin that clients need")
	f.text(&s.subprotocol, "subprotocol", "`NAME` that browsers may ask for besides binary: mqtt")
	f.duration(&s.ping, "ping-interval", "ask a silent browser after this `TIME` whether it lives; 0: never")
	f.duration(&s.halfOpen, "half-open-timeout", "end a half-closed stream after this `TIME` without a byte; 0: never")
	f.duration(&s.resume, "resume-window", "keep the session of a client that has lost its connection for this `TIME`; 0: not at all")
	memory := custom(f, &s.memory, "memory", "`SIZE` that sessions may hold together, such as 256M; when it is full the oldest without a connection go", parseSize)
	memory.DefaultText = "a quarter of this machine's, at most 1G"
	f.number(&s.maxDetached, "max-detached", "keep at most this `NUMBER` of sessions without a connection per user; 0: as many as --memory holds")
	f.shared(&s.shared)
	s.flags = f
	return &cli.Command{
		Name:  "server",
		Usage: "accept WebSockets and dial targets for them",
		Description: `  wstun server --listen :8080 --target vnc:5900 --web /usr/share/novnc
      http://host:8080/vnc.html shows the desktop vnc:5900
  wstun server --listen :8443 --tls-self-signed --users users.yaml --allow db:5432
      clients with a password or a token may reach db:5432
  wstun server --listen :8080 --route /lab=lab:5900 --route /ssh=gate:22
      a browser reaches one target for each path`,
		Flags:  f.list,
		Action: atMost(0, func(c *cli.Context) error { return s.run(c) }),
	}
}

func (s *serverFlags) run(c *cli.Context) error {
	log := s.logger(c.App.ErrWriter)
	for _, w := range s.flags.strangers(os.Environ()) {
		log.Warn(w)
	}
	cfg, err := s.config(c, log)
	if err != nil {
		return err
	}
	if cfg.Web != nil {
		defer cfg.Web.Close()
	}
	soft, hard, stop := interrupts(c.Context)
	defer stop()
	listeners, err := s.listeners(c, cfg, log)
	if err != nil {
		return err
	}
	if len(cfg.Policy.Allow) == 0 {
		log.Warn("nothing may be reached: give --target, --route or --allow")
	}
	srv := server.New(cfg)
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { failed <- srv.Serve(l) }()
	}
	select {
	case err = <-failed:
	case <-soft.Done():
		log.Info("stopping: what runs may end", "within", s.DrainTimeout)
	}
	drain, cancel := context.WithTimeout(hard, s.DrainTimeout)
	defer cancel()
	if cut := srv.Shutdown(drain); cut != nil {
		log.Warn("stopped before everything had ended")
	}
	return err
}

// config reads files and checks values, before anything is opened.
func (s *serverFlags) config(c *cli.Context, log *slog.Logger) (cfg server.Config, err error) {
	cfg = server.Config{
		Policy: &access.Policy{}, Subprotocol: s.subprotocol,
		PingInterval: s.ping, HalfOpen: s.halfOpen, ResumeWindow: s.resume, Memory: s.memory, MaxDetached: s.maxDetached, Agent: "wstun/" + programVersion(), Log: log,
	}
	if s.resume > 0 && s.resume < time.Second {
		return cfg, wrongFlag(c, "resume-window", s.resume.String(), errors.New("too short; write 1s or more, or 0"))
	}
	if p := s.subprotocol; strings.ContainsFunc(p, notToken) || strings.HasPrefix(p, "wstun.") || strings.HasPrefix(p, "bearer.") {
		return cfg, wrongFlag(c, "subprotocol", p, errors.New("no browser can ask for that; write one word, such as mqtt"))
	}
	if s.target != "" {
		t, err := server.ParseTarget(s.target)
		if err != nil {
			return cfg, wrongFlag(c, "target", s.target, err)
		}
		cfg.Routes.Default = &t
	}
	for _, r := range s.routes {
		if err := cfg.Routes.Add(r); err != nil {
			return cfg, wrongFlag(c, "route", r, err)
		}
	}
	if len(cfg.Routes.Only) > 0 && cfg.Routes.Default == nil {
		return cfg, usagef("--route %s has no target, and there is no --target it could limit", cfg.Routes.Only[0])
	}
	for _, list := range []struct {
		name  string
		texts []string
		rules *[]access.Rule
	}{{"allow", s.allow, &cfg.Policy.Allow}, {"deny", s.deny, &cfg.Policy.Deny}} {
		for _, text := range list.texts {
			rule, err := access.ParseRule(text)
			if err != nil {
				return cfg, wrongFlag(c, list.name, text, err)
			}
			*list.rules = append(*list.rules, rule)
		}
	}
	cfg.Policy.Allow = append(cfg.Policy.Allow, cfg.Routes.Rules()...)
	if s.users != "" {
		if cfg.Policy.Users, err = access.ReadUsers(s.users); err != nil {
			return cfg, fmt.Errorf("--users: %w", err)
		}
		for _, w := range cfg.Policy.Users.Warnings {
			log.Warn(w)
		}
	}
	if s.web != "" {
		if cfg.Web, err = os.OpenRoot(s.web); err != nil {
			return cfg, fmt.Errorf("--web: %w", err)
		}
	}
	return cfg, nil
}

// listeners opens every address, and says what stands open to whom.
func (s *serverFlags) listeners(c *cli.Context, cfg server.Config, log *slog.Logger) (list []server.Listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range list {
				l.Close()
			}
		}
	}()
	var secure *tls.Config
	var cert *tlsconf.Certificate
	if s.tls.CertFile != "" || s.tls.KeyFile != "" || s.tls.SelfSigned {
		secure, cert, err = s.tls.Config()
		switch {
		case s.tls.SelfSigned && (s.tls.CertFile != "" || s.tls.KeyFile != ""):
			return nil, usagef("--tls-self-signed and --tls-cert do not go together")
		case s.tls.CertFile == "" && s.tls.KeyFile != "":
			return nil, usagef("--tls-key %s without --tls-cert", s.tls.KeyFile)
		case err != nil && s.tls.CertFile != "" && s.tls.KeyFile == "":
			return nil, withHints(err, "if the key is in a file of its own, give --tls-key FILE")
		case err != nil:
			return nil, err
		}
	}
	addrs := s.listen
	if len(addrs) == 0 {
		addrs = []string{"127.0.0.1:8080"}
	}
	for _, addr := range addrs {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return list, listenError(c, addr, err)
		}
		l := server.Listener{Listener: ln, TLS: secure, Front: access.Front{
			Hosts: s.hosts, Origins: s.origins, Loopback: isLoopback(ln.Addr()),
			Public: cfg.Policy.Users == nil, Basic: cfg.Policy.Users != nil && cfg.Policy.Users.Basic(),
		}}
		if cert != nil {
			l.Front.CertNames = cert.Names
		}
		list = append(list, l)
		if err := l.Front.Validate(); err != nil {
			return list, usagef("%w", err)
		}
		s.announce(l, cfg, log)
	}
	if cert != nil {
		for _, w := range cert.Warnings {
			log.Warn(w)
		}
		if s.tls.SelfSigned {
			log.Info("self-signed certificate", "fingerprint", cert.Fingerprint, "client-flag", "--tls-pin "+cert.Pin)
		}
	}
	if slices.Contains(s.hosts, "any") {
		log.Warn("--host any: a page that is rebound to this address can use what is public here")
	}
	return list, nil
}

// announce says in a line each what a listener is and what is risky about it.
func (s *serverFlags) announce(l server.Listener, cfg server.Config, log *slog.Logger) {
	scheme := "http"
	if l.TLS != nil {
		scheme = "https"
	}
	log.Info("listening", "addr", l.Addr(), "url", scheme+"://"+l.Addr().String()+"/")
	if l.Front.Loopback {
		return
	}
	if l.Front.Public && len(cfg.Policy.Allow) > 0 {
		var open []string
		for _, r := range cfg.Policy.Allow {
			open = append(open, r.String())
		}
		log.Warn("open to everybody who reaches this port, since there is no --users", "addr", l.Addr(), "targets", strings.Join(open, " "))
	}
	if l.Front.Basic && l.TLS == nil {
		log.Warn("passwords and tokens cross the network in clear on this port, since it has no TLS", "addr", l.Addr())
	}
}

// notToken reports whether r cannot be in a token of HTTP, RFC 9110 §5.6.2.
func notToken(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
}

func isLoopback(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	return ok && t.IP.IsLoopback()
}

// listenError says what is wrong with --listen addr.
func listenError(c *cli.Context, addr string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return withHints(fmt.Errorf("--listen %s: the port is in use", addr), "another program has it; choose another port, such as --listen 127.0.0.1:0 for a free one")
	case errors.Is(err, syscall.EACCES):
		return withHints(fmt.Errorf("--listen %s: ports below 1024 need a privilege", addr), "use a higher port, or give the program CAP_NET_BIND_SERVICE")
	}
	var ae *net.AddrError
	var de *net.DNSError
	if errors.As(err, &ae) || errors.As(err, &de) {
		return wrongFlag(c, "listen", addr, fmt.Errorf("%w; write HOST:PORT, such as 127.0.0.1:8080 or :8080", err))
	}
	return fmt.Errorf("--listen %s: %w", addr, err)
}
