package line

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
)

// What the two sides of a session can prove to each other, and nobody on the
// way can; docs/protocol.md, "Keys".

// sessionKey derives K, which both sides can and nobody on the way can.
func sessionKey(priv *ecdh.PrivateKey, peer []byte, nonceS, nonceC [32]byte, sid [16]byte, instance [8]byte, principal string) ([]byte, error) {
	pub, err := ecdh.X25519().NewPublicKey(peer)
	if err != nil {
		return nil, violation("public key: %v", err)
	}
	ikm, err := priv.ECDH(pub)
	if err != nil {
		return nil, violation("public key: %v", err)
	}
	who := sha256.Sum256([]byte(principal))
	salt := append(nonceS[:], nonceC[:]...)
	info := "wstun1" + string(sid[:]) + string(instance[:]) + string(who[:])
	return hkdf.Key(sha256.New, ikm, salt, info, 32)
}

// Labels keep a proof of one kind from being taken for another.
const (
	byWelcome = "wstun1 W"
	byClient  = "wstun1 C"
	byServer  = "wstun1 S"
	byGrave   = "wstun1 X"
)

// confirmation is the server's proof over all that was said for a new session.
func confirmation(key, challenge, hello, welcome []byte) []byte {
	transcript := sha256.New()
	for _, m := range [][]byte{challenge, hello, welcome} {
		transcript.Write(m)
	}
	return proof(key, byWelcome, transcript.Sum(nil))
}

// resumption is the proof over messages of a resume, the last of which it is
// in. The challenge is that of their carrier, so none can be used again.
func resumption(key []byte, label string, challenge []byte, messages ...[]byte) []byte {
	digest := sha256.Sum256(challenge)
	return proof(key, label, append([][]byte{digest[:]}, messages...)...)
}

func proof(key []byte, label string, parts ...[]byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(label))
	for _, p := range parts {
		mac.Write(p)
	}
	return mac.Sum(nil)
}
