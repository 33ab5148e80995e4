package redact_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/closured/closured/internal/redact"
)

// canary is what no output may hold.
const canary = "c4n4ryS3cr3tV4lue"

func TestTextMasksSecrets(t *testing.T) {
	t.Parallel()
	jwt := "eyJhbGciOiJSUzI1NiJ9.eyJ" + canary + ".sig" + canary
	tests := map[string]string{
		"user and password in a URL":            "fetching https://user:" + canary + "@cache.example/nar",
		"a token alone in a URL":                "fetching https://" + canary + "@cache.example/nar",
		"a password that holds an at sign":      "s3://key:" + canary + "@x@bucket/path",
		"credentials of a git+https reference":  "git+https://oauth2:" + canary + "@git.example/r?ref=main",
		"a token in a query":                    "https://cache.example/x?a=b&access_token=" + canary + "&c=d",
		"a presigned address":                   "https://s3.example/x?X-Amz-Signature=" + canary,
		"a bearer header":                       "Authorization: Bearer " + canary,
		"a basic header":                        "authorization: basic " + canary + "==",
		"a JSON web token":                      "got " + jwt + " from kubelet",
		"a GitHub token":                        "using ghp_" + canary,
		"a GitLab token":                        "using glpat-" + canary,
		"access tokens of nix.conf":             "access-tokens = github.com=" + canary + " gitlab.com=PAT:" + canary,
		"access tokens given as an option":      "--option access-tokens github.com=" + canary,
		"a JSON member":                         `{"token": "` + canary + `", "x": 1}`,
		"a JSON member with an escaped quote":   `{"token":"a\"` + canary + `"}`,
		"an environment variable":               "AWS_SECRET_ACCESS_KEY=x GITHUB_TOKEN=" + canary,
		"a line of a netrc file":                "machine cache.example login bob password " + canary,
		"a private key":                         "-----BEGIN OPENSSH PRIVATE KEY-----\n" + canary + "\n-----END OPENSSH PRIVATE KEY-----",
		"a private key that was cut":            "-----BEGIN PRIVATE KEY-----\n" + canary,
		"a password after a colon":              "password: " + canary,
		"upper case":                            "HTTPS://U:" + canary + "@H/ TOKEN=" + canary,
		"two secrets in one text":               "https://a:" + canary + "@x https://b:" + canary + "@y",
		"a URL in quotes that Nix's errors use": "unable to download 'https://u:" + canary + "@h/nix-cache-info': 403",
	}
	r := redact.New()
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := r.Text(text)
			if strings.Contains(got, canary) {
				t.Errorf("the secret is still there: %s", got)
			}
			if !strings.Contains(got, redact.Mask) {
				t.Errorf("nothing says that something was masked: %s", got)
			}
			if again := r.Text(got); strings.Contains(again, canary) {
				t.Errorf("masking twice brings the secret back: %s", again)
			}
		})
	}
}

func TestTextKeepsWhatIsNoSecret(t *testing.T) {
	t.Parallel()
	tests := []string{
		"",
		"/nix/store/1rz4g4znpzjwh1xymhjpm42vipw92pr7-curl-8.1.2",
		"https://cache.nixos.org/nix-cache-info",
		"git+https://git.example/r?ref=main&dir=sub#packages.x86_64-linux.default",
		"path '/nix/store/x' lacks a valid signature; next: ask the operator",
		"cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=",
		"mail to someone@example.org",
		"the builder of basic tools failed",
		"hash mismatch: specified sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
		`unexpected token "=" at line 3`,
	}
	r := redact.New()
	for _, text := range tests {
		if got := r.Text(text); got != text {
			t.Errorf("Text(%q) = %q, want it unchanged", text, got)
		}
	}
}

func TestErrorMasks(t *testing.T) {
	t.Parallel()
	r := redact.New()
	if got := r.Error(nil); got != "" {
		t.Errorf("Error(nil) = %q, want nothing", got)
	}
	if got := r.Error(errors.New("x://a:b@c")); strings.Contains(got, "a:b") {
		t.Errorf("Error = %q, still holds the password", got)
	}
}

func TestFault47ContextHoldsNoTokens(t *testing.T) {
	t.Parallel()
	in := map[string]string{
		"csi.storage.k8s.io/serviceAccount.tokens": `{"":{"token":"` + canary + `"}}`,
		"CSI.storage.k8s.io/ServiceAccount.Tokens": canary,
		"myPassword":                       canary,
		"nixExpr":                          `"` + canary + `"`,
		"flakeRef":                         "git+https://x:" + canary + "@h/r",
		"csi.storage.k8s.io/pod.namespace": "web",
		"packages":                         "curl jq",
		"https://u:" + canary + "@h":       "x",
	}
	got := redact.New().Context(in)
	if text := fmt.Sprint(got); strings.Contains(text, canary) {
		t.Errorf("the secret is still there: %s", text)
	}
	if got["packages"] != "curl jq" || got["csi.storage.k8s.io/pod.namespace"] != "web" {
		t.Errorf("harmless values changed: %v", got)
	}
	if in["myPassword"] != canary {
		t.Error("the caller's map was changed")
	}
	if redact.New().Context(nil) != nil {
		t.Error("no context must stay no context")
	}
}

func TestContextCutsLongValues(t *testing.T) {
	t.Parallel()
	for _, size := range []int{129, 2048, 2049, 1 << 20} {
		value := strings.Repeat("é", size)
		got := redact.New().Context(map[string]string{"packages": value, value: "x"})
		text := fmt.Sprint(got)
		if len(text) > 700 || !utf8.ValidString(text) || !strings.Contains(got["packages"], fmt.Sprint(2*size, " bytes")) {
			t.Errorf("a value of %d bytes is logged as %q", 2*size, text)
		}
	}
}

func TestDigestTellsTextsApart(t *testing.T) {
	t.Parallel()
	if diff := cmp.Diff("(3 bytes, sha256 ba7816bf8f01)", redact.Digest("abc")); diff != "" {
		t.Error(diff)
	}
	if redact.Digest("a") == redact.Digest("b") {
		t.Error("two texts have one digest")
	}
}

func FuzzText(f *testing.F) {
	f.Add("https://", "@host/x")
	f.Add("x https://a:", "@b@c/")
	f.Fuzz(func(t *testing.T, before, after string) {
		r := redact.New()
		// Whatever stands around it, a password in a URL is masked.
		text := before + " https://user:" + canary + "@host/ " + after
		if got := r.Text(text); strings.Contains(got, canary) {
			t.Errorf("Text(%q) = %q", text, got)
		}
	})
}

func BenchmarkText(b *testing.B) {
	r := redact.New()
	for b.Loop() {
		r.Text("realising /nix/store/1rz4g4znpzjwh1xymhjpm42vipw92pr7-curl-8.1.2: fetching https://cache.example/x.narinfo: 503")
	}
}

func ExampleRedactor_Text() {
	fmt.Println(redact.New().Text("fetching https://bob:hunter2@cache.example/nix-cache-info"))
	// Output: fetching https://[redacted]@cache.example/nix-cache-info
}
