package rules

import (
	"strings"
	"testing"
	"testing/fstest"
)

// TestRulesCanFail tries each rule on a few lines that break it, and on their
// neighbours that do not: a rule that cannot fail keeps nothing in shape.
func TestRulesCanFail(t *testing.T) {
	lines := func(n int) string { return strings.Repeat("\n", n) }
	for _, tt := range []struct {
		name   string
		rule   string
		file   string
		source string
		want   string // in what the rule says; "" if it says nothing
	}{
		{"server imports client", "imports", "server/x.go", `package server; import _ "wstun/client"`, "knows nothing"},
		{"client imports server", "imports", "client/x.go", `package client; import _ "wstun/server"`, "knows nothing"},
		{"a test of server imports client", "imports", "server/x_test.go", `package server; import _ "wstun/client"`, "knows nothing"},
		{"cmd imports both", "imports", "cmd/wstun/x.go", `package main; import (_ "wstun/client"; _ "wstun/server")`, ""},
		{"someone imports cmd", "imports", "server/x.go", `package server; import _ "wstun/cmd/wstun"`, "nobody imports cmd"},
		{"yamux outside mux", "imports", "client/x.go", `package client; import _ "github.com/hashicorp/yamux"`, "only mux"},
		{"yamux in mux", "imports", "mux/x.go", `package mux; import _ "github.com/hashicorp/yamux"`, ""},
		{"websocket outside wsconn", "imports", "server/x.go", `package server; import _ "github.com/coder/websocket"`, "only internal/wsconn"},
		{"a part of websocket outside wsconn", "imports", "mux/x.go", `package mux; import _ "github.com/coder/websocket/wsjson"`, "only internal/wsconn"},
		{"websocket in another's test", "imports", "server/x_test.go", `package server; import _ "github.com/coder/websocket"`, "only internal/wsconn"},
		{"websocket in wsconn", "imports", "internal/wsconn/x.go", `package wsconn; import _ "github.com/coder/websocket"`, ""},
		{"cli outside cmd", "imports", "server/x.go", `package server; import _ "github.com/urfave/cli/v2"`, "only cmd"},
		{"cli in cmd", "imports", "cmd/wstun/x.go", `package main; import _ "github.com/urfave/cli/v2"`, ""},
		{"mux knows HTTP", "imports", "mux/x.go", `package mux; import _ "net/http"`, "mux knows nothing"},
		{"mux knows access", "imports", "mux/x.go", `package mux; import _ "wstun/internal/access"`, "mux knows nothing"},
		{"mux knows wsconn", "imports", "mux/x.go", `package mux; import _ "wstun/internal/wsconn"`, "mux knows nothing"},
		{"line knows HTTP", "imports", "internal/line/x.go", `package line; import _ "net/http/httptest"`, "line knows nothing"},
		{"line knows access", "imports", "internal/line/x.go", `package line; import _ "wstun/internal/access"`, "leaf"},
		{"relay has a package of others", "imports", "internal/relay/x.go", `package relay; import _ "golang.org/x/sync/errgroup"`, "standard library only"},
		{"relay knows networks", "imports", "internal/relay/x.go", `package relay; import (_ "io"; _ "wstun/internal/netx")`, ""},
		{"a test of relay is free", "imports", "internal/relay/x_test.go", `package relay; import _ "go.uber.org/goleak"`, ""},
		{"netx has a package of others", "imports", "internal/netx/x.go", `package netx; import _ "golang.org/x/net/websocket"`, "standard library only"},
		{"netx has its three", "imports", "internal/netx/x.go", `package netx; import (_ "golang.org/x/sys/unix"; _ "golang.org/x/net/proxy"; _ "golang.org/x/net/http/httpproxy")`, ""},
		{"netxtest is free", "imports", "internal/netx/netxtest/x.go", `package netxtest; import _ "golang.org/x/net/nettest"`, ""},
		{"the fake network in the product", "imports", "server/x.go", `package server; import _ "wstun/internal/netx/netxtest"`, "for tests"},
		{"a leaf that is none", "imports", "internal/tlsconf/x.go", `package tlsconf; import _ "wstun/internal/relay"`, "leaf"},
		{"a leaf imports mux", "imports", "internal/access/x.go", `package access; import _ "wstun/mux"`, "knows nothing"},
		{"an integration test that looks inside", "imports", "integration/x_test.go", `package integration; import _ "wstun/mux"`, "knows nothing"},

		{"no doc comment", "doc comments", "mux/x.go", "// Other words.\npackage mux", "no doc comment"},
		{"doc comment only in a test", "doc comments", "mux/x_test.go", "// Package mux is fine.\npackage mux", "no doc comment"},
		{"doc comment", "doc comments", "mux/x.go", "// Package mux is fine.\npackage mux", ""},

		{"long file", "lengths", "mux/x.go", "package mux" + lines(401), "401 lines"},
		{"file of 400", "lengths", "mux/x.go", "package mux" + lines(400), ""},
		{"long test", "lengths", "mux/x_test.go", "package mux" + lines(401), ""},
		{"long function", "lengths", "mux/x.go", "package mux\nfunc f() {" + lines(60) + "}", "61 lines"},
		{"function of 60", "lengths", "mux/x.go", "package mux\nfunc f() {" + lines(59) + "}", ""},

		{"sleep", "no sleep in tests", "mux/x_test.go", `package mux; import "time"; func f() { time.Sleep(1) }`, "x_test.go:1: time.Sleep"},
		{"sleep under another name", "no sleep in tests", "mux/x_test.go", `package mux; import clock "time"; var f = clock.Sleep`, "time.Sleep"},
		{"sleep in virtual time", "no sleep in tests", "mux/x_test.go", `package mux; import ("time"; "testing/synctest"); func f() { synctest.Test(nil, func() { time.Sleep(1) }) }`, ""},
		{"sleep in the product", "no sleep in tests", "mux/x.go", `package mux; import "time"; func f() { time.Sleep(1) }`, ""},

		{"os.Exit", "only cmd exits", "server/x.go", `package server; import "os"; func f() { os.Exit(1) }`, "only cmd"},
		{"log.Fatalf", "only cmd exits", "server/x.go", `package server; import "log"; func f() { log.Fatalf("") }`, "only cmd"},
		{"os.Exit in cmd", "only cmd exits", "cmd/wstun/x.go", `package main; import "os"; func f() { os.Exit(1) }`, ""},

		{"folder at the top", "top level", "pkg/x.go", `package pkg`, "pkg: not at the top level"},
		{"dot folder at the top", "top level", ".ci/run", ``, ""},

		{"banned type", "names", "mux/x.go", `package mux; type SessionManager struct{}`, `"manager"`},
		{"banned method", "names", "mux/x.go", `package mux; func (s *S) GetInfo() {}`, `"info"`},
		{"banned constant", "names", "mux/x.go", `package mux; const ( A = 1; BaseURL = "" )`, `"base"`},
		{"empty verb", "names", "mux/x.go", `package mux; func ProcessFrame() {}`, `"process"`},
		{"handler without http", "names", "mux/x.go", `package mux; type StreamHandler struct{}`, `"handler"`},
		{"handler of http", "names", "server/x.go", `package server; import "net/http"; func Handler() http.Handler { return nil }`, ""},
		{"longer words", "names", "mux/x.go", `package mux; type Database int; func Document() {}; type Information int`, ""},
		{"not exported", "names", "mux/x.go", `package mux; type dataInfo int`, ""},

		{"staticcheck in the product", "go.mod", "go.mod", "module wstun\nrequire honnef.co/go/tools v0.8.2\n", "belongs into"},
		{"tool directive in the product", "go.mod", "go.mod", "module wstun\ntool example.org/x\n", "belongs into"},
		{"go.mod", "go.mod", "go.mod", "module wstun\nrequire golang.org/x/sys v0.49.0\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tr := parse(t, fstest.MapFS{tt.file: {Data: []byte(tt.source)}})
			got := strings.Join(rules[tt.rule](tr), "\n")
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("the rule says %q, want %q", got, tt.want)
			}
		})
	}
}
