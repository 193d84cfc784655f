package access

import "golang.org/x/net/idna"

// profile is what resolvers and browsers do to a name, except that what ASCII
// a name may have is left to checkName.
var profile = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.StrictDomainName(false))

// toASCII converts a name with letters beyond ASCII.
func toASCII(name string) (string, error) { return profile.ToASCII(name) }
