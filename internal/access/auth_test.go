package access

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// secretHash is of "secret".
const secretHash = "$2a$10$Tyl0zDrhtAS.BAWJPIEQduu5DQblj2n1EZmkSmKZES6iAUOskyRBW"

// someUsers are alice with the password "secret" and a token, and bob with
// another token only. Their passwords are checked in no time: bcrypt takes the
// better part of a second under the race detector.
func someUsers(t *testing.T) (u *Users, aliceToken, bobToken string) {
	t.Helper()
	aliceToken, aliceSum := NewToken()
	bobToken, bobSum := NewToken()
	u, err := ParseUsers("users.yaml", fmt.Appendf(nil, `# who may log in
- name: alice
  password: %s
  tokens:
  - name: laptop
    sha256: %s
- {name: bob, tokens: [{name: lab7, sha256: %s}]}
`, secretHash, aliceSum, bobSum))
	if err != nil {
		t.Fatal(err)
	}
	u.verifier.compare = func(hash, password []byte) error {
		if string(hash) != secretHash || !strings.HasPrefix(string(password), "secret") {
			return bcrypt.ErrMismatchedHashAndPassword
		}
		return nil
	}
	return u, aliceToken, bobToken
}

func basic(name, password string) http.Header {
	r := &http.Request{Header: http.Header{}}
	r.SetBasicAuth(name, password)
	return r.Header
}

func protocols(token string) http.Header {
	return http.Header{"Sec-Websocket-Protocol": {"binary, bearer." + base64.RawURLEncoding.EncodeToString([]byte(token))}}
}

func TestAuthenticate(t *testing.T) {
	users, aliceToken, bobToken := someUsers(t)
	p := &Policy{Users: users}
	both := protocols(bobToken)
	both.Set("Authorization", "Bearer wrong")
	for _, test := range []struct {
		name   string
		header http.Header
		want   string
		err    error
	}{
		{"nothing", http.Header{}, "", ErrNoCredentials},
		{"password", basic("alice", "secret"), "alice", nil},
		{"password again", basic("alice", "secret"), "alice", nil},
		{"wrong password", basic("alice", "Secret"), "", ErrBadCredentials},
		{"name and password cut elsewhere", basic("alices", "ecret"), "", ErrBadCredentials},
		{"unknown user", basic("mallory", "secret"), "", ErrBadCredentials},
		{"user without a password", basic("bob", ""), "", ErrBadCredentials},
		{"what bcrypt does not see", basic("alice", "secret"+strings.Repeat("x", 70)), "", ErrBadCredentials},
		{"token", http.Header{"Authorization": {"Bearer " + aliceToken}}, "alice", nil},
		{"scheme in small letters", http.Header{"Authorization": {"bearer " + bobToken}}, "bob", nil},
		{"wrong token", http.Header{"Authorization": {"Bearer " + aliceToken + "x"}}, "", ErrBadCredentials},
		{"subprotocol", protocols(bobToken), "bob", nil},
		{"wrong subprotocol", protocols("x"), "", ErrBadCredentials},
		{"subprotocol with padding", http.Header{"Sec-Websocket-Protocol": {"bearer.YQ=="}}, "", ErrBadCredentials},
		{"empty subprotocol", http.Header{"Sec-Websocket-Protocol": {"bearer."}}, "", ErrBadCredentials},
		{"other subprotocols", http.Header{"Sec-Websocket-Protocol": {"binary", "wstun.v1"}}, "", ErrNoCredentials},
		{"wrong header, right subprotocol", both, "", ErrBadCredentials},
		{"two headers", http.Header{"Authorization": {"Bearer " + aliceToken, "Bearer " + bobToken}}, "", ErrBadCredentials},
		{"no base64", http.Header{"Authorization": {"Basic ="}}, "", ErrBadCredentials},
		{"other scheme", http.Header{"Authorization": {"Negotiate abc"}}, "", ErrNoCredentials},
		{"empty header", http.Header{"Authorization": {""}}, "", ErrNoCredentials},
	} {
		t.Run(test.name, func(t *testing.T) {
			pr, err := p.Authenticate(&http.Request{Header: test.header})
			if pr.Name != test.want || !errors.Is(err, test.err) {
				t.Errorf("%q, %v; want %q, %v", pr.Name, err, test.want, test.err)
			}
			if err != nil && !errors.Is(err, ErrUnauthenticated) {
				t.Errorf("%v is not ErrUnauthenticated", err)
			}
		})
	}
}

func TestPasswordsAreBcrypt(t *testing.T) {
	u, err := ParseUsers("htpasswd", []byte("alice:"+strings.Replace(secretHash, "$2a$", "$2y$", 1)))
	if err != nil {
		t.Fatal(err)
	}
	for password, want := range map[string]error{"secret": nil, "Secret": ErrBadCredentials} {
		if err := u.checkPassword(t.Context(), "alice", password); !errors.Is(err, want) {
			t.Errorf("%s: %v", password, err)
		}
	}
}

func TestNobodyIsListed(t *testing.T) {
	u, err := ParseUsers("users.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &Policy{Users: u}
	for _, h := range []http.Header{{}, basic("", ""), basic("anonymous", ""), {"Authorization": {"Bearer x"}}} {
		if pr, err := p.Authenticate(&http.Request{Header: h}); !errors.Is(err, ErrUnauthenticated) {
			t.Errorf("%v: %v, %v", h, pr, err)
		}
	}
	if pr, err := (&Policy{}).Authenticate(&http.Request{Header: basic("x", "y")}); pr != Anonymous || err != nil {
		t.Errorf("without users: %v, %v", pr, err)
	}
}

// checks replaces bcrypt by a channel that lets each check end.
func checks(v *verifier, count *int) chan struct{} {
	release := make(chan struct{})
	v.compare = func(hash, password []byte) error {
		*count++ // the channel's receiver has it: one runs at once in these tests
		<-release
		if string(hash) != string(password) {
			return bcrypt.ErrMismatchedHashAndPassword
		}
		return nil
	}
	return release
}

// oneSlot is a verifier that runs one check at once on any machine.
func oneSlot() *verifier {
	v := newVerifier()
	v.running = make(chan struct{}, 1)
	v.entered = make(chan struct{}, 1+verifyQueue)
	return v
}

func TestVerifyQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		count := 0
		v := oneSlot()
		release := checks(v, &count)
		results := make(chan error, 1+verifyQueue)
		for range cap(results) {
			go func() { results <- v.verify(t.Context(), "alice", "x", []byte("x"), nil) }()
		}
		synctest.Wait()
		if err := v.verify(t.Context(), "bob", "x", nil, []byte("y")); !errors.Is(err, ErrBusy) || errors.Is(err, ErrUnauthenticated) {
			t.Errorf("the one too many: %v", err)
		}
		close(release)
		for range cap(results) {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if count != 1 {
			t.Errorf("%d checks of one right password, want 1", count)
		}
		if err := v.verify(t.Context(), "bob", "x", nil, []byte("y")); !errors.Is(err, ErrBadCredentials) {
			t.Errorf("afterwards: %v", err)
		}
	})
}

func TestVerifyGivesUpWithTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		count := 0
		v := oneSlot()
		release := checks(v, &count)
		done := make(chan error)
		go func() { done <- v.verify(t.Context(), "alice", "x", []byte("x"), nil) }()
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := v.verify(ctx, "alice", "x", []byte("x"), nil); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		close(release)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestUnknownUserCostsACheck(t *testing.T) {
	u, _, _ := someUsers(t)
	var against []string
	u.verifier.compare = func(hash, _ []byte) error {
		against = append(against, string(hash))
		return nil // a decoy that matches lets nobody in
	}
	for range 2 { // nor is a wrong one remembered
		if err := u.checkPassword(t.Context(), "mallory", "secret"); !errors.Is(err, ErrBadCredentials) {
			t.Error(err)
		}
	}
	if len(against) != 2 || against[0] != against[1] || against[0] != string(u.passwords["alice"]) {
		t.Errorf("checked against %q", against)
	}
}

func TestRightPasswordIsRememberedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		count := 0
		v := oneSlot()
		close(checks(v, &count))
		verify := func(password string) { v.verify(t.Context(), "alice", password, []byte("x"), nil) }
		verify("x")
		<-time.After(cacheLife - time.Second) // of the bubble's clock
		verify("x")
		if count != 1 {
			t.Errorf("%d checks, want 1", count)
		}
		verify("y")
		verify("y")
		if count != 3 {
			t.Errorf("%d checks, want 3: a wrong password is not remembered", count)
		}
		<-time.After(2 * time.Second)
		verify("x")
		if count != 4 {
			t.Errorf("%d checks, want 4: it is remembered for too long", count)
		}
		for i := range cacheSize + 10 {
			v.remember(v.digest(fmt.Sprint(i), ""))
		}
		if len(v.cache) > cacheSize {
			t.Errorf("%d are remembered", len(v.cache))
		}
	})
}
