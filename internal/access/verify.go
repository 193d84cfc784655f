package access

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

const (
	verifyQueue = 64               // password checks that wait for a processor
	cacheLife   = 10 * time.Minute // for which a right password is remembered
	cacheSize   = 4096
)

// A verifier checks passwords. A check costs a processor tens of
// milliseconds, so it bounds how many run and wait, and remembers which were
// right: neither a guesser nor ten thousand clients that reconnect starve the
// streams.
type verifier struct {
	key     [32]byte      // of cache, so that what it holds is no hash of a password
	entered chan struct{} // one for each check that runs or waits
	running chan struct{} // one for each that runs
	compare func(hash, password []byte) error

	mu    sync.Mutex
	cache map[digest]time.Time // until when
}

type digest [sha256.Size]byte

func newVerifier() *verifier {
	v := &verifier{compare: bcrypt.CompareHashAndPassword, cache: make(map[digest]time.Time)}
	rand.Read(v.key[:]) // never fails
	slots := max(1, runtime.GOMAXPROCS(0)/2)
	v.running = make(chan struct{}, slots)
	v.entered = make(chan struct{}, slots+verifyQueue)
	return v
}

// verify reports whether password is name's, whose hash is given. With no
// hash there is no such user, and after the time of a check it is wrong.
func (v *verifier) verify(ctx context.Context, name, password string, hash, decoy []byte) error {
	key := v.digest(name, password)
	if len(hash) > 0 && v.remembers(key) {
		return nil
	}
	select {
	case v.entered <- struct{}{}:
		defer func() { <-v.entered }()
	default:
		return ErrBusy
	}
	select {
	case v.running <- struct{}{}:
		defer func() { <-v.running }()
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrBusy, context.Cause(ctx))
	}
	if len(hash) == 0 {
		v.compare(decoy, []byte(password))
		return ErrBadCredentials
	}
	if v.remembers(key) { // learnt while this one waited
		return nil
	}
	// bcrypt knows no more than 72 bytes: two longer passwords may be one to it.
	if v.compare(hash, []byte(password)) != nil || len(password) > maxPassword {
		return ErrBadCredentials
	}
	v.remember(key)
	return nil
}

// digest is the cache's key. The name's length keeps ("ab","c") and ("a","bc") apart.
func (v *verifier) digest(name, password string) (d digest) {
	mac := hmac.New(sha256.New, v.key[:])
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(len(name))))
	mac.Write([]byte(name))
	mac.Write([]byte(password))
	mac.Sum(d[:0])
	return d
}

func (v *verifier) remembers(key digest) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return time.Now().Before(v.cache[key])
}

func (v *verifier) remember(key digest) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	if len(v.cache) >= cacheSize {
		for k, until := range v.cache {
			if !now.Before(until) {
				delete(v.cache, k)
			}
		}
	}
	for k := range v.cache {
		if len(v.cache) < cacheSize {
			break
		}
		delete(v.cache, k)
	}
	v.cache[key] = now.Add(cacheLife)
}

// checkPassword reports whether name may log in with password. Whoever does
// not exist takes as long to be refused as someone who does: the decoy is a
// real user's hash, the same one for the same name, so that costs that differ
// from user to user give nothing away either.
func (u *Users) checkPassword(ctx context.Context, name, password string) error {
	d := u.verifier.digest(name, "")
	decoy := u.hashes[binary.BigEndian.Uint64(d[:])%uint64(len(u.hashes))]
	return u.verifier.verify(ctx, name, password, u.passwords[name], decoy)
}

// checkToken compares with every token there is, so that the time taken does
// not tell how much of one was right.
func (u *Users) checkToken(token string) (Principal, error) {
	sum := sha256.Sum256([]byte(token))
	found := -1
	for i, t := range u.tokens {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(sum[:], t.sum[:]), i, found)
	}
	if found < 0 {
		return Principal{}, ErrBadCredentials
	}
	return Principal{Name: u.tokens[found].user}, nil
}
