package server

import (
	"fmt"
	"net/http"
	"path"
	"strconv"
	"strings"

	"wstun/internal/access"
)

// Routes say which target a browser's request is for.
type Routes struct {
	// Default is the target of every path that is in none of the others;
	// nil: those are not found.
	Default *access.Target

	// Only limits Default to these paths; empty: it has all.
	Only []string

	// Exact maps paths, cleaned, to targets.
	Exact map[string]access.Target
}

// Add adds a route of the form PATH=TARGET, or PATH alone, which limits the
// default target to PATH.
func (r *Routes) Add(s string) error {
	p, target, found := strings.Cut(s, "=")
	if !strings.HasPrefix(p, "/") {
		return fmt.Errorf("the path %q does not begin with /; write /vnc=localhost:5900", p)
	}
	if strings.ContainsAny(p, "{}?#*") {
		return fmt.Errorf("the path %q is not a plain one; write /vnc=localhost:5900", p)
	}
	p = clean(p)
	if !found {
		r.Only = append(r.Only, p)
		return nil
	}
	t, err := ParseTarget(target)
	if err != nil {
		return err
	}
	if _, twice := r.Exact[p]; twice {
		return fmt.Errorf("the path %s has two targets", p)
	}
	if r.Exact == nil {
		r.Exact = map[string]access.Target{}
	}
	r.Exact[p] = t
	return nil
}

// ParseTarget reads HOST:PORT or unix:PATH.
func ParseTarget(s string) (access.Target, error) {
	network, address := "tcp", s
	if p, ok := strings.CutPrefix(s, "unix:"); ok && (strings.HasPrefix(p, "/") || strings.HasPrefix(p, "@")) {
		network, address = "unix", p
	}
	t, err := access.ParseTarget(network, address)
	if _, numeric := strconv.Atoi(s); err != nil && numeric == nil {
		return t, fmt.Errorf("the target %q has no host; write localhost:%s", s, s)
	}
	if err != nil && network == "tcp" && !strings.Contains(s, ":") {
		return t, fmt.Errorf("the target %q has no port; write %s:5900", s, s)
	}
	return t, err
}

// Rules returns what clients may open because it is a target here.
func (r *Routes) Rules() (rules []access.Rule) {
	if r.Default != nil {
		rules = append(rules, access.RuleFor(*r.Default))
	}
	for _, t := range r.Exact {
		rules = append(rules, access.RuleFor(t))
	}
	return rules
}

// clean is path.Clean, which also ignores one trailing slash.
func clean(p string) string { return path.Clean("/" + p) }

// target returns what r is for, if p may have it as far as its name tells.
func (s *Server) target(r *http.Request, p access.Principal) (access.Target, error) {
	t, ok := s.cfg.Routes.find(clean(r.URL.Path))
	if !ok {
		return t, &httpError{status: http.StatusNotFound, text: "nothing is here"}
	}
	return t, s.cfg.Policy.Authorize(p, access.Dial, t)
}

func (r *Routes) find(p string) (access.Target, bool) {
	if t, ok := r.Exact[p]; ok {
		return t, true
	}
	if r.Default == nil {
		return access.Target{}, false
	}
	for _, only := range r.Only {
		if only == p {
			return *r.Default, true
		}
	}
	return *r.Default, len(r.Only) == 0
}
