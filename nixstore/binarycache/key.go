package binarycache

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"strings"

	"github.com/closured/closured/nixstore"
)

// passwordContext separates the password from all else that may be derived from
// a key. Changing it locks out the nodes of the release before.
const passwordContext = "closured binary cache password v1"

// keyNameMax bounds the name of a key, in bytes.
const keyNameMax = 128

// SecretKey is the key of an installation: it signs what its nodes serve each
// other, and lets them in. Make it with GenerateKey or ParseSecretKey; the zero
// value is no key. It is printed and logged by its name alone.
type SecretKey struct {
	name string
	key  ed25519.PrivateKey
}

// GenerateKey makes a key for the Secret of a new installation. Name is what
// signatures and the public key begin with, such as "closured-1". ErrInvalid says
// what is wrong with it.
func GenerateKey(name string) (SecretKey, error) {
	if err := checkKeyName(name); err != nil {
		return SecretKey{}, err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return SecretKey{}, fmt.Errorf("making a key: %w", err)
	}
	return SecretKey{name: name, key: key}, nil
}

// ParseSecretKey reads a key in the format of Nix's secret key files,
// "<name>:<base 64 of the ed25519 seed and public key>" (libstore/crypto.cc), as
// nix-store --generate-binary-cache-key writes them. White space around it is
// ignored. Its errors are ErrInvalid and never repeat the text.
func ParseSecretKey(text string) (SecretKey, error) {
	name, value, ok := strings.Cut(strings.TrimSpace(text), ":")
	raw, err := base64.StdEncoding.DecodeString(value)
	if !ok || err != nil || len(raw) != ed25519.PrivateKeySize {
		return SecretKey{}, invalidKey("it is not <name>:<base 64 of 64 bytes>")
	}
	if err := checkKeyName(name); err != nil {
		return SecretKey{}, err
	}
	key := ed25519.NewKeyFromSeed(raw[:ed25519.SeedSize])
	if !key.Equal(ed25519.PrivateKey(raw)) {
		return SecretKey{}, invalidKey("its two halves do not belong together")
	}
	return SecretKey{name: name, key: key}, nil
}

func invalidKey(problem string) error {
	return nixstore.Fail(nixstore.ErrInvalid, "make one with nix-store --generate-binary-cache-key",
		"the secret key cannot be used: %s", problem)
}

// checkKeyName keeps out what would end a line or a word of a narinfo or nix.conf.
func checkKeyName(name string) error {
	bad := func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ':' || r == '#' }
	if name == "" || len(name) > keyNameMax || strings.ContainsFunc(name, bad) {
		return nixstore.Fail(nixstore.ErrInvalid, "use letters, digits, dots and dashes",
			"%s is not a name for a key", nixstore.Quote(name))
	}
	return nil
}

// IsZero tells whether k is no key.
func (k SecretKey) IsZero() bool { return len(k.key) == 0 }

// Name gives what signatures of the key begin with.
func (k SecretKey) Name() string { return k.name }

// Secret gives the key in the format of ParseSecretKey. It is for the Secret of
// the installation and for nothing else.
func (k SecretKey) Secret() string {
	return k.name + ":" + base64.StdEncoding.EncodeToString(k.key)
}

// Public gives the public key, "<name>:<base 64>", as trusted-public-keys of
// nix.conf wants it; "" for the zero value.
func (k SecretKey) Public() string {
	if k.IsZero() {
		return ""
	}
	public := k.key[ed25519.SeedSize:]
	return k.name + ":" + base64.StdEncoding.EncodeToString(public)
}

// String hides the secret.
func (k SecretKey) String() string { return "secret key " + nixstore.Quote(k.name) }

// GoString hides the secret from %#v too.
func (k SecretKey) GoString() string { return k.String() }

// LogValue hides the secret from logs.
func (k SecretKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// password gives what the key's holders are let in by: the secret is not to be
// told from it (HKDF, RFC 5869).
func (k SecretKey) password() (string, error) {
	raw, err := hkdf.Key(sha256.New, k.key.Seed(), nil, passwordContext, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("deriving the password of %s: %w", k, err)
	}
	return base64.RawURLEncoding.EncodeToString(raw), nil
}

// sign gives the signature of a fingerprint, "<name>:<base 64>".
func (k SecretKey) sign(fingerprint string) string {
	return k.name + ":" + base64.StdEncoding.EncodeToString(ed25519.Sign(k.key, []byte(fingerprint)))
}
