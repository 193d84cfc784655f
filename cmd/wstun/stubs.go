package main

import (
	"errors"

	"github.com/urfave/cli/v2"
)

// These stand in until server.go, client.go and demo.go exist.

var errStub = errors.New("not written yet")

func serverCommand() *cli.Command {
	var (
		target string
		allow  []string
		cert   string
		listen = []string{"127.0.0.1:8080"}
		s      shared
	)
	f := newFlags("server")
	f.group = "Targets"
	f.text(&target, "target", "`TARGET` that every path reaches: vnc:5900, unix:/run/vnc.sock")
	f.lines(&allow, "allow", "`RULE` of what clients may dial: vnc:22,5900, 10.0.0.0/8:*, service:desk")
	f.group = "Listening"
	f.lines(&listen, "listen", "`ADDR` to listen on")
	f.text(&cert, "tls-cert", "`FILE` with the certificate and its chain", "cert")
	f.shared(&s)
	return &cli.Command{
		Name:  "server",
		Usage: "accept WebSockets and dial targets for them",
		Description: `  wstun server --listen :8080 --target vnc:5900 --web /usr/share/novnc
      http://host:8080/vnc.html shows the desktop vnc:5900
  wstun server --listen :443 --tls-acme host --allow vnc:5900 --users users.yaml
      clients with a password or a token may reach vnc:5900
  wstun server --config wstun.yaml`,
		Flags:  f.list,
		Action: atMost(0, func(*cli.Context) error { return errStub }),
	}
}

func clientCommand() *cli.Command {
	return &cli.Command{Name: "client", Usage: "reach what a server reaches", ArgsUsage: "URL…", Action: func(*cli.Context) error { return errStub }}
}

func demoCommand() *cli.Command {
	return &cli.Command{Name: "demo", Usage: "show a tunnel at work on this machine", Action: func(*cli.Context) error { return errStub }}
}
