package netx

import "context"

// OpenNetlink begins to listen; then Run says what happened.
var OpenNetlink = openNetlink

func (n *netlink) Run(ctx context.Context, report func(string)) error { return n.watch(ctx, report) }

// NewKnown knows nothing.
func NewKnown() *known { return new(newKnown()) }

// Learn says in words what is news.
func (k *known) Learn(b []byte) string { return k.learn(b).String() }
