// Package access decides who may use which network.
//
// A [Policy] answers the two questions, who sent a request and may they have
// this target; [Guard] puts its answers in front of a network; a [Front] judges
// what a browser says about a request. What is done with a refusal, its HTTP
// status and its log line, is left to others.
package access

import (
	"net/netip"
	"slices"
	"strings"

	"wstun/internal/netx"
)

// A Principal is who a request was found to come from.
type Principal struct {
	Name string
}

// Anonymous is everyone where no users are configured.
var Anonymous = Principal{Name: "anonymous"}

// An Op is what a principal does on a network.
type Op uint8

const (
	Dial Op = iota
	Listen
)

func (op Op) String() string {
	if op == Listen {
		return "listen"
	}
	return "dial"
}

// A Policy says who may do what. The zero value takes everyone for [Anonymous]
// and allows nothing. It may be used concurrently, and not be changed once used.
//
// A dial is allowed to an address if an Allow rule matches and no Deny rule
// does. Of an allow rule, an address or range allows what it holds, except that
// a range reaches a special one (private, loopback, link-local, …) only from
// within it; an exact name also private addresses, and loopback if the name
// has no dot, ends in .localhost or is a target's; any other name, and "*" for
// an address asked for as such, public addresses only; GLOB=CIDR what CIDR
// holds. A deny rule means all that it says, special addresses too, and IPv4
// addresses that IPv6 ones carry.
//
// For a listen the rules are AllowListen's and Deny's, and their host part is
// the bind address: "localhost" is both loopbacks, "*" any. Ports below 1024
// must be named.
type Policy struct {
	Users       *Users // nil: everyone is Anonymous
	Allow       []Rule
	AllowListen []Rule
	Deny        []Rule
}

// Authorize returns nil if pr may do op on t, else a [*Refusal].
//
// While t.IP is not known the answer is the one that needs no resolver: nil if
// some address may still be allowed. With t.IP it is final.
func (p *Policy) Authorize(pr Principal, op Op, t Target) error {
	t.IP = t.IP.Unmap()
	// A zone names an interface of this host, which no rule can.
	if t.IP.Zone() != "" {
		return &Refusal{Principal: pr, Op: op, Target: t}
	}
	if i := slices.IndexFunc(p.Deny, func(r Rule) bool { return r.denies(op, t) }); i >= 0 {
		return &Refusal{Principal: pr, Op: op, Target: t, Deny: &p.Deny[i]}
	}
	if slices.ContainsFunc(p.rules(pr, op), func(r Rule) bool { return r.allows(op, t) }) {
		return nil
	}
	return &Refusal{Principal: pr, Op: op, Target: t}
}

// rules returns the rules that let pr do op. Those of users and groups will
// join here.
func (p *Policy) rules(_ Principal, op Op) []Rule {
	if op == Listen {
		return p.AllowListen
	}
	return p.Allow
}

// allows reports whether r, as an allow rule, matches.
func (r Rule) allows(op Op, t Target) bool {
	if !t.isHost() || r.kind != hostKind {
		return r.matchesNamed(t)
	}
	if !r.matchesPort(op, t) {
		return false
	}
	if op == Listen {
		return r.allowsBind(t)
	}
	if !r.matchesName(t) {
		return false
	}
	return !t.IP.IsValid() || r.reaches(t.IP)
}

// matchesNamed is allows for services and sockets.
func (r Rule) matchesNamed(t Target) bool {
	switch t.Network {
	case "service":
		return r.kind == serviceKind && matchGlob(r.glob, t.Host)
	case "unix":
		return r.kind == unixKind && r.glob == t.Host
	}
	return false
}

func (r Rule) matchesPort(op Op, t Target) bool {
	switch {
	case r.network != "" && r.network != t.Network:
		return false
	case op == Listen && t.Port == 0: // one of r's
		return true
	case op == Listen && t.Port < 1024 && r.ports == nil: // S08
		return false
	}
	return r.ports.contains(t.Port)
}

// matchesName reports whether r is about what t was asked for as. An address
// rule is about any name, the zero Rule about none.
func (r Rule) matchesName(t Target) bool {
	if r.glob == "" {
		return r.prefix.IsValid()
	}
	if t.isLiteral() {
		return r.glob == "*"
	}
	return matchGlob(r.glob, t.Host)
}

// reaches reports whether r, found to match by name and port, allows ip.
func (r Rule) reaches(ip netip.Addr) bool {
	s := spanOf(ip)
	if r.prefix.IsValid() {
		return r.prefix.Contains(ip) && (s.class == public || s.holds(r.prefix))
	}
	exact := !strings.Contains(r.glob, "*")
	switch s.class {
	case public:
		return true
	case private:
		return exact
	case loopback:
		return exact && (r.target || !strings.Contains(r.glob, ".") || strings.HasSuffix(r.glob, ".localhost"))
	}
	return false
}

// loopbacks are the bind addresses of "localhost".
var loopbacks = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}

// allowsBind is allows for a bind address.
func (r Rule) allowsBind(t Target) bool {
	switch {
	case r.glob == "*" && !r.prefix.IsValid():
		return true
	case t.Host == "*":
		return false
	case r.glob == "localhost" && !r.prefix.IsValid():
		return t.Host == "localhost" || slices.Contains(loopbacks, t.IP)
	case !r.prefix.IsValid() || r.glob != "":
		return false
	case !t.IP.IsValid(): // localhost, either will do
		return slices.ContainsFunc(loopbacks, r.reaches)
	}
	return r.reaches(t.IP)
}

// denies reports whether r, as a deny rule, matches. What is not known yet is
// not denied yet.
func (r Rule) denies(op Op, t Target) bool {
	if !t.isHost() || r.kind != hostKind {
		return r.matchesNamed(t)
	}
	if r.network != "" && r.network != t.Network {
		return false
	}
	if !r.ports.contains(t.Port) {
		return false // nor does a deny rule of some ports forbid to bind any other
	}
	if op == Listen {
		return r.deniesBind(t)
	}
	if !r.matchesName(t) {
		return false
	}
	return !r.prefix.IsValid() || r.holds(t.IP)
}

// deniesBind is denies for a bind address; to bind every address is to bind
// the unspecified ones.
func (r Rule) deniesBind(t Target) bool {
	switch {
	case r.glob == "*" && !r.prefix.IsValid():
		return true
	case r.glob == "localhost" && !r.prefix.IsValid():
		return t.Host == "localhost" || slices.Contains(loopbacks, t.IP)
	case r.glob != "":
		return false
	case t.Host == "*":
		return r.holds(netip.IPv4Unspecified()) || r.holds(netip.IPv6Unspecified())
	}
	return r.holds(t.IP)
}

func (r Rule) holds(ip netip.Addr) bool {
	if !ip.IsValid() {
		return false
	}
	hidden, ok := hiddenIPv4(ip)
	return r.prefix.Contains(ip) || ok && r.prefix.Contains(hidden)
}

// A Refusal is why a policy refuses. It wraps [netx.ErrDenied], whose text is
// all that a peer is told; Error and Flag are for the operator.
type Refusal struct {
	Principal Principal
	Op        Op
	Target    Target
	Deny      *Rule // the rule that denies it; nil if only none allows it
}

// Error says which rule denies the target, or which flag would allow it.
func (e *Refusal) Error() string {
	what := e.Target.String()
	if e.Target.IP.IsValid() && !e.Target.isLiteral() {
		what += " at " + e.Target.IP.String()
	}
	if e.Op == Listen {
		what = "to listen on " + what
	}
	if e.Deny != nil {
		return netx.ErrDenied.Error() + ": the rule --deny " + shellQuote(e.Deny.String()) + " forbids " + what
	}
	text := netx.ErrDenied.Error() + ": no rule permits " + what
	if flag := e.Flag(); flag != "" {
		text += "; " + flag + " would"
	}
	return text
}

func (e *Refusal) Unwrap() error { return netx.ErrDenied }

// Flag returns the narrowest rule that would allow the target, as a flag to
// paste into a shell; "" if a rule denies it or none can allow it.
func (e *Refusal) Flag() string {
	r := ruleFor(e.Target)
	ip := e.Target.IP
	if e.Op == Dial && ip.IsValid() && r.glob != "" && spanOf(ip).class != public {
		r.prefix = netip.PrefixFrom(ip, ip.BitLen())
	}
	flag, parse := "--allow ", ParseRule
	if e.Op == Listen {
		flag, parse = "--allow-listen ", ParseListenRule
	}
	// It is read back, so that what is printed is what would work.
	back, err := parse(r.String())
	if err != nil || e.Deny != nil || !back.allows(e.Op, e.Target) {
		return ""
	}
	return flag + shellQuote(back.String())
}

// shellQuote returns s as a POSIX shell reads it back.
func shellQuote(s string) string {
	plain := strings.IndexFunc(s, func(c rune) bool {
		return !isNameByte(c) && !('A' <= c && c <= 'Z') && !strings.ContainsRune(".,:/@%+", c)
	}) < 0
	if plain && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
