package netx

import (
	"cmp"
	"fmt"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpproxy"
)

// ProxyFor returns the proxy that the environment wants for target, nil for
// none: HTTPS_PROXY for wss and https, HTTP_PROXY for ws and http, else
// ALL_PROXY, but none for what NO_PROXY lists and for loopback; the lower-case
// names come first, as with curl. getenv is os.Getenv or the like.
func ProxyFor(target *url.URL, getenv func(string) string) (*url.URL, error) {
	scheme := "http"
	if target.Scheme == "wss" || target.Scheme == "https" {
		scheme = "https"
	}
	look := func(name string) string { return cmp.Or(getenv(name), getenv(strings.ToUpper(name))) }
	for _, name := range []string{scheme + "_proxy", "all_proxy"} {
		value := look(name)
		if value == "" {
			continue
		}
		// httpproxy takes a value that it cannot read for none, and that would mean to go round the proxy.
		if !isProxy(value) {
			// The value may hold a password.
			return nil, fmt.Errorf("%s is no proxy's address: want http://host:port", strings.ToUpper(name))
		}
		conf := httpproxy.Config{HTTPProxy: value, HTTPSProxy: value, NoProxy: look("no_proxy")}
		return conf.ProxyFunc()(&url.URL{Scheme: scheme, Host: target.Host})
	}
	return nil, nil
}

// isProxy reports whether value is a URL, or host:port of an HTTP proxy.
func isProxy(value string) bool {
	if !strings.Contains(value, "://") {
		value = "http://" + value
	}
	u, err := url.Parse(value)
	return err == nil && u.Hostname() != "" && u.Fragment == "" && u.RawQuery == "" && (u.Path == "" || u.Path == "/")
}
