package binarycache_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/nixstore/binarycache"
)

// seed is that of a key of the tests, which protects nothing.
var exampleKey = "example-1:" + base64.StdEncoding.EncodeToString(append(make([]byte, 32),
	0x3b, 0x6a, 0x27, 0xbc, 0xce, 0xb6, 0xa4, 0x2d, 0x62, 0xa3, 0xa8, 0xd0, 0x2a, 0x6f, 0x0d, 0x73,
	0x65, 0x32, 0x15, 0x77, 0x1d, 0xe2, 0x43, 0xa6, 0x3a, 0xc0, 0x48, 0xa1, 0x8b, 0x59, 0xda, 0x29))

func TestAKeyIsWrittenAndRead(t *testing.T) {
	t.Parallel()
	key := mustKey(t, "install-1")
	again, err := binarycache.ParseSecretKey(key.Secret() + "\n")
	if err != nil || again.Secret() != key.Secret() || again.Public() != key.Public() || again.Name() != "install-1" || again.IsZero() {
		t.Errorf("it came back as %v, %v", again, err)
	}
	if other := mustKey(t, "install-1"); other.Secret() == key.Secret() {
		t.Error("the second key is the first one")
	}
	if len(key.Public()) != len("install-1:")+44 || (binarycache.SecretKey{}).Public() != "" {
		t.Errorf("the public key is %q", key.Public())
	}
}

func TestKeysThatAreNone(t *testing.T) {
	t.Parallel()
	good := mustKey(t, "k").Secret()
	raw := strings.TrimPrefix(good, "k:")
	other := strings.TrimPrefix(mustKey(t, "k").Secret(), "k:")
	mixed, _ := base64.StdEncoding.DecodeString(raw)
	second, _ := base64.StdEncoding.DecodeString(other)
	mixed = append(mixed[:32:32], second[32:]...)
	for name, text := range map[string]string{
		"nothing": "", "no name": ":" + raw, "no colon": raw, "no key": "k:", "a public key": mustKey(t, "k").Public(),
		"a name with a space": "a b:" + raw, "a name with a newline": "a\nb:" + raw, "cut": good[:60], "longer": good + "AAAA",
		"not base 64": "k:" + strings.Repeat("!", 88), "halves of two keys": "k:" + base64.StdEncoding.EncodeToString(mixed),
		"a long name": strings.Repeat("k", 129) + ":" + raw,
	} {
		_, err := binarycache.ParseSecretKey(text)
		if !errors.Is(err, nixstore.ErrInvalid) || strings.Contains(err.Error(), raw[:20]) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := binarycache.GenerateKey("a:b"); !errors.Is(err, nixstore.ErrInvalid) {
		t.Errorf("a name with a colon: %v", err)
	}
}

func TestFault47SecretsOfAKeyStayOutOfTexts(t *testing.T) {
	t.Parallel()
	key := mustKey(t, "install-1")
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", slog.Any("key", key), slog.Any("config", binarycache.Config{Keys: []binarycache.SecretKey{key}}))
	encoded, err := json.Marshal(map[string]any{"key": key})
	if err != nil {
		t.Fatal(err)
	}
	secret := strings.TrimPrefix(key.Secret(), "install-1:")[:40]
	raw, err := base64.StdEncoding.DecodeString(secret)
	if err != nil {
		t.Fatal(err)
	}
	numbers, hexadecimal := fmt.Sprintf("%v", raw[:6]), fmt.Sprintf("%#v", raw[:6])
	forms := []string{secret, strings.Trim(numbers, "[]"), strings.Trim(hexadecimal, "[]byte{}"), string(raw[:6])}
	netrc := binarycache.Netrc{Key: key}
	for _, text := range []string{log.String(), string(encoded), fmt.Sprintf("%v %+v %#v %s %q", key, key, key, key, key), fmt.Sprintf("%v %+v %#v", netrc, netrc, netrc)} {
		for _, form := range forms {
			if strings.Contains(text, form) {
				t.Errorf("the secret stands as %q in %q", form, text)
			}
		}
	}
}

func FuzzParseSecretKey(f *testing.F) {
	for _, s := range []string{exampleKey, "", ":", "k:AAAA", exampleKey[:40]} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		key, err := binarycache.ParseSecretKey(s)
		if err != nil {
			if !errors.Is(err, nixstore.ErrInvalid) || !key.IsZero() {
				t.Errorf("%q: %v, %v", s, key, err)
			}
			return
		}
		again, err := binarycache.ParseSecretKey(key.Secret())
		if err != nil || again.Public() != key.Public() || strings.ContainsAny(key.Public(), " \n") {
			t.Errorf("%q is %q, %v", s, key.Public(), err)
		}
	})
}

func ExampleParseSecretKey() {
	key, err := binarycache.ParseSecretKey(exampleKey)
	fmt.Println(key, err)
	fmt.Println(key.Public())
	// Output:
	// secret key "example-1" <nil>
	// example-1:O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik=
}
