package netx

import "context"

// What the tests of Watch need of its parts.
type (
	AddressSet = addressSet
	Source     = source
)

var (
	AddressSource = addressSource
	ClockSource   = func(read clock) Source { return clockSource(read) }
	HostAddresses = hostAddresses
	Slept         = slept
)

// WatchSources is Watch with sources of the test's own.
func WatchSources(ctx context.Context, changed func(string), sources ...Source) {
	watch(ctx, changed, sources...)
}
