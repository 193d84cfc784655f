package access

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/bcrypt"

	"wstun/internal/secret"
)

// Users are who may log in, and with what. They may be used concurrently.
type Users struct {
	// Warnings is what the operator should hear at start.
	Warnings []string

	passwords map[string][]byte // bcrypt hashes by name
	hashes    [][]byte          // the same, and never none
	tokens    []storedToken
	verifier  *verifier
}

// A storedToken lets its user in without a password. Only its digest is kept, which
// will do: nobody can search 128 random bits.
type storedToken struct {
	user, name string
	sum        digest
}

// decoyHash is checked against where no user has a password. Nobody knows
// what it is the hash of.
const decoyHash = "$2a$10$X52xs56MUodM8JBrlxifg.HnZJ7OwN/wjNLGkhXh9Ks9oGsMczFSu"

// Bounds of what a users file may hold.
const (
	minCost     = 10
	maxCost     = 16 // 4 s; a login has 10
	maxPassword = 72 // bytes, what bcrypt knows of a password
	maxName     = 255
)

// ReadUsers reads the file at path, as ParseUsers does. It refuses one that
// anybody but its owner may write, and warns of one that others may read.
func ReadUsers(path string) (*Users, error) {
	data, warning, err := secret.Read(path)
	if err != nil {
		return nil, err
	}
	u, err := ParseUsers(path, data)
	if err == nil && warning != "" {
		u.Warnings = append(u.Warnings, warning)
	}
	return u, err
}

// ParseUsers reads users in YAML or in the form of htpasswd, whichever data
// is. The name is that of the file, for errors. In an empty file nobody is
// listed, and nobody may log in.
func ParseUsers(name string, data []byte) (*Users, error) {
	u := &Users{passwords: make(map[string][]byte), verifier: newVerifier()}
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // of Windows editors
	parse := u.parseHtpasswd
	if looksLikeYAML(string(data)) {
		parse = u.parseYAML
	}
	if at, err := parse(data); err != nil {
		return nil, fmt.Errorf("%s%s: %w", name, at, err)
	}
	for _, hash := range u.passwords {
		u.hashes = append(u.hashes, hash)
	}
	if len(u.hashes) == 0 {
		u.hashes = [][]byte{[]byte(decoyHash)}
	}
	return u, nil
}

// looksLikeYAML tells by the first line that says something. In htpasswd that
// line's user cannot have a name that starts as a YAML list or directive does.
func looksLikeYAML(s string) bool {
	for line := range strings.Lines(s) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		_, value, isPair := strings.Cut(line, ":")
		return strings.ContainsAny(line[:1], "-[{%") || !isPair || value == "" || value[0] == ' '
	}
	return false
}

// Basic reports whether some user has a password, which browsers remember and
// then send whatever page asks.
func (u *Users) Basic() bool { return len(u.passwords) > 0 }

// A place is where in a file an error is: ":3:5", ":3", or "" for none.
type place string

func (u *Users) parseHtpasswd(data []byte) (place, error) {
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		line = strings.TrimRight(line, "\r\n")
		if blank := strings.TrimSpace(line); blank == "" || blank[0] == '#' {
			continue
		}
		name, hash, ok := strings.Cut(line, ":")
		at := place(fmt.Sprintf(":%d", n))
		if !ok {
			return at, errors.New("no colon: write NAME:HASH, with a hash from wstun hash-password")
		}
		if err := u.addName(name); err != nil {
			return at, err
		}
		if err := u.addPassword(name, strings.TrimRight(hash, " \t")); err != nil {
			return at, err
		}
	}
	return "", nil
}

// addName makes name a user, as yet without a password.
func (u *Users) addName(name string) error {
	if err := checkUserName(name); err != nil {
		return err
	}
	if _, ok := u.passwords[name]; ok {
		return fmt.Errorf("the user %q is there twice", name)
	}
	return nil
}

func checkUserName(name string) error {
	switch {
	case name == "":
		return errors.New("a user has no name")
	case len(name) > maxName:
		return fmt.Errorf("a user's name has at most %d bytes", maxName)
	case name == Anonymous.Name:
		return fmt.Errorf("%q is everyone who does not log in: take another name", name)
	case strings.Contains(name, ":"):
		return fmt.Errorf("the user's name %q has a colon, which nobody could log in with", name)
	}
	for _, c := range name {
		if c < ' ' || 0x7f <= c && c < 0xa0 || c == '\ufffd' {
			return fmt.Errorf("the user's name %q has control characters", name)
		}
	}
	return nil
}

func (u *Users) addPassword(name, hash string) error {
	if err := checkHash(hash); err != nil {
		return fmt.Errorf("the password of %s %w", name, err)
	}
	u.passwords[name] = []byte(hash)
	return nil
}

// checkHash refuses what is not bcrypt without repeating it: it may be the
// password itself.
func checkHash(hash string) error {
	const fix = "make one with wstun hash-password"
	var rest string
	for _, prefix := range []string{"$2a$", "$2b$", "$2y$"} {
		if after, ok := strings.CutPrefix(hash, prefix); ok {
			rest = after
		}
	}
	const alphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	if len(rest) != 2+1+53 || rest[2] != '$' || strings.Trim(rest[3:], alphabet) != "" {
		return errors.New("is not a bcrypt hash ($2a$, $2b$ or $2y$): " + fix)
	}
	cost, err := bcrypt.Cost([]byte(hash))
	switch {
	case err != nil:
		return fmt.Errorf("is not a bcrypt hash (%w): %s", err, fix)
	case cost < minCost:
		return fmt.Errorf("has bcrypt cost %d, which is too quick to guess; at least %d: %s", cost, minCost, fix)
	case cost > maxCost:
		return fmt.Errorf("has bcrypt cost %d, which takes longer than a login may; at most %d: %s", cost, maxCost, fix)
	}
	return nil
}

// addToken gives the user a token, of which sum is the SHA-256 in hex.
func (u *Users) addToken(user, name, sum string) error {
	t := storedToken{user: user, name: name}
	raw, err := hex.DecodeString(sum)
	if err != nil || len(raw) != len(t.sum) {
		return errors.New("sha256 is not 64 hex digits: make a token and its sha256 with wstun token")
	}
	t.sum = digest(raw)
	for _, other := range u.tokens {
		if other.sum == t.sum {
			return fmt.Errorf("%s's token %q is also %s's %q", user, name, other.user, other.name)
		}
	}
	u.tokens = append(u.tokens, t)
	return nil
}

// HashPassword returns what a users file keeps of pw.
func HashPassword(pw []byte) (string, error) {
	switch {
	case len(pw) == 0:
		return "", errors.New("the password is empty")
	case len(pw) > maxPassword:
		return "", fmt.Errorf("the password has %d bytes, and bcrypt knows only %d: take a shorter one", len(pw), maxPassword)
	}
	hash, err := bcrypt.GenerateFromPassword(pw, minCost)
	return string(hash), err
}

// NewToken makes a token, and what a users file keeps of it.
func NewToken() (token, sha256hex string) {
	token = "wstun_" + rand.Text()
	sum := sha256.Sum256([]byte(token))
	return token, hex.EncodeToString(sum[:])
}
