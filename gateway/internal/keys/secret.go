package keys

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"strings"
)

// A secret is "fd_", 160 random bits and a CRC-32 of all before it, both in
// lower-case base32 without padding. The prefix lets scanners find secrets
// that were published by mistake; the checksum tells them, and us, a secret
// from a string that only looks like one.
const (
	prefix      = "fd_"
	randomBytes = 20
)

var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

func newSecret() string {
	random := make([]byte, randomBytes)
	_, _ = rand.Read(random) // it never fails
	body := prefix + encoding.EncodeToString(random)
	return body + checksum(body)
}

func checksum(body string) string {
	return encoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(body))))
}

// wellFormed says whether a secret can be one of ours. It reads nothing that is secret.
func wellFormed(secret string) bool {
	length := len(prefix) + encoding.EncodedLen(randomBytes)
	return strings.HasPrefix(secret, prefix) && len(secret) > length && secret[length:] == checksum(secret[:length])
}

// digest is what is kept of a secret. A plain SHA-256 does: slow hashes protect
// passwords, which can be guessed; nobody guesses 160 random bits, and a slow
// hash would let strangers make every request expensive.
type digest [sha256.Size]byte

func digestOf(secret string) digest { return sha256.Sum256([]byte(secret)) }

func (d digest) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, d[:]), nil }

func (d *digest) UnmarshalText(text []byte) error {
	if hex.DecodedLen(len(text)) != len(d) {
		return errDigest
	}
	if _, err := hex.Decode(d[:], text); err != nil {
		return errDigest
	}
	return nil
}
