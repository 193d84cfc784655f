package access

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Why a request has no principal. ErrBusy is no judgement on the credentials:
// they may be right, and the same request may be made again in a moment.
var (
	ErrUnauthenticated = errors.New("not authenticated")
	ErrNoCredentials   = fmt.Errorf("%w: no credentials given", ErrUnauthenticated)
	ErrBadCredentials  = fmt.Errorf("%w: wrong credentials", ErrUnauthenticated)
	ErrBusy            = errors.New("too many logins at once")
)

// Authenticate returns who sent r, by its Authorization header (Basic or
// Bearer) or, where a page can set none, by a subprotocol bearer.<base64url>.
// A wrong header is not made up for by a right subprotocol.
//
// It may take the time of a password check, and gives up when r's context is
// done.
func (p *Policy) Authenticate(r *http.Request) (Principal, error) {
	if p.Users == nil {
		return Anonymous, nil
	}
	c, err := credentialsOf(r)
	if err != nil {
		return Principal{}, err
	}
	return p.Users.check(r.Context(), c)
}

// credentials are a name and password, or a token.
type credentials struct {
	name, password string
	token          string
}

// bearerProtocol starts the subprotocol that carries a token.
const bearerProtocol = "bearer."

func credentialsOf(r *http.Request) (c credentials, err error) {
	switch values := r.Header["Authorization"]; {
	case len(values) > 1:
		return c, fmt.Errorf("%w: more than one Authorization header", ErrBadCredentials)
	case len(values) == 1:
		return fromHeader(r, values[0])
	}
	for _, value := range r.Header["Sec-Websocket-Protocol"] {
		for protocol := range strings.SplitSeq(value, ",") {
			encoded, ok := strings.CutPrefix(strings.TrimSpace(protocol), bearerProtocol)
			if !ok {
				continue
			}
			token, err := base64.RawURLEncoding.DecodeString(encoded)
			if err != nil || len(token) == 0 || c.token != "" {
				return c, fmt.Errorf("%w: a subprotocol %s<token> has to be one token in base64url without padding", ErrBadCredentials, bearerProtocol)
			}
			c.token = string(token)
		}
	}
	if c.token == "" {
		return c, ErrNoCredentials
	}
	return c, nil
}

func fromHeader(r *http.Request, value string) (c credentials, err error) {
	scheme, rest, _ := strings.Cut(value, " ")
	switch rest = strings.TrimSpace(rest); {
	case strings.EqualFold(scheme, "basic"):
		var ok bool
		if c.name, c.password, ok = r.BasicAuth(); !ok {
			return c, fmt.Errorf("%w: malformed Basic credentials", ErrBadCredentials)
		}
		return c, nil
	case strings.EqualFold(scheme, "bearer") && rest != "":
		return credentials{token: rest}, nil
	}
	return c, fmt.Errorf("%w: neither Basic nor Bearer", ErrNoCredentials)
}

// check returns whose credentials c are.
func (u *Users) check(ctx context.Context, c credentials) (Principal, error) {
	if c.token != "" {
		return u.checkToken(c.token)
	}
	if err := u.checkPassword(ctx, c.name, c.password); err != nil {
		return Principal{}, err
	}
	return Principal{Name: c.name}, nil
}
