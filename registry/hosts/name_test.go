package hosts_test

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/closured/closured/nixstore"
	"github.com/closured/closured/registry/hosts"
)

func TestHostsOfImages(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 63) + "." + strings.Repeat("b", 63) + "." + strings.Repeat("c", 63) + "." + strings.Repeat("d", 61)
	for name, test := range map[string]struct {
		host string
		ok   bool
	}{
		"the default":                         {"nix.internal", true},
		"one with a port":                     {"nix.internal:5000", true},
		"one word with a port":                {"nix:5000", true},
		"digits and dashes":                   {"a-1.b--2", true},
		"as long as names may be":             {long, true},
		"longer":                              {long + "e", false},
		"nothing":                             {"", false},
		"one word, which is a folder of Hub":  {"nix", false},
		"a slash":                             {"nix.internal/a", false},
		"the folder above":                    {"..", false},
		"this folder":                         {".", false},
		"dots only":                           {"....", false},
		"a dot at the end":                    {"nix.internal.", false},
		"two dots":                            {"nix..internal", false},
		"a dash in front":                     {"-nix.internal", false},
		"capitals, which containerd compares": {"Nix.internal", false},
		"containerd's name for all others":    {"_default", false},
		"a port of zero":                      {"nix.internal:0", false},
		"a port that is too large":            {"nix.internal:65536", false},
		"a port with a zero in front":         {"nix.internal:080", false},
		"an empty port":                       {"nix.internal:", false},
		"two ports":                           {"nix.internal:1:2", false},
		"an address of IPv6":                  {"[::1]:5000", false},
		"a NUL":                               {"nix.internal\x00", false},
		"a new line":                          {"nix.internal\n", false},
		"a quote":                             {`nix."internal`, false},
		"letters that look alike":             {"nіx.internal", false}, // Cyrillic
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := hosts.CheckHost(test.host); (err == nil) != test.ok || err != nil && !errors.Is(err, nixstore.ErrInvalid) {
				t.Errorf("CheckHost(%q): %v", test.host, err)
			}
		})
	}
}

func TestAddressesAreOfLoopback(t *testing.T) {
	t.Parallel()
	for address, ok := range map[string]bool{
		"127.0.0.1:5858": true, "127.1.2.3:1": true, "[::1]:5858": true,
		"": false, "127.0.0.1": false, ":5858": false, "0.0.0.0:5858": false, "10.0.0.1:5858": false, "127.0.0.1:0": false, "[::]:5858": false,
		"localhost:5858": false, "127.0.0.1:http": false, "[::ffff:127.0.0.1]:5858": false, "[::1%eth0]:5858": false, "http://127.0.0.1:5858": false,
		"127.0.0.1:5858\"": false, "127.0.0.01:5858": false,
	} {
		if err := hosts.CheckAddress(address); (err == nil) != ok || err != nil && !errors.Is(err, nixstore.ErrInvalid) {
			t.Errorf("CheckAddress(%q): %v", address, err)
		}
	}
}

// FuzzCheckHost: what is taken is one name of a folder, and the host of a URL.
func FuzzCheckHost(f *testing.F) {
	for _, seed := range []string{"nix.internal", "nix:5000", "..", "a/b", "-", "a.b:080", "a\x00b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, host string) {
		if hosts.CheckHost(host) != nil {
			return
		}
		u, err := url.Parse("http://" + host + "/v2/")
		if err != nil || u.Host != host || u.Path != "/v2/" || u.User != nil || u.RawQuery != "" {
			t.Errorf("%q is taken, and no host of a URL: %v, %v", host, u, err)
		}
		if strings.ContainsAny(host, "/\\\x00\n\"' _") || strings.Trim(host, ".") == "" || host[0] == '.' {
			t.Errorf("%q is taken, and no name of a folder", host)
		}
	})
}

// FuzzCheckAddress: what is taken is listened on on loopback only.
func FuzzCheckAddress(f *testing.F) {
	for _, seed := range []string{"127.0.0.1:5858", "[::1]:1", "0.0.0.0:1", "1:1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, address string) {
		if hosts.CheckAddress(address) != nil {
			return
		}
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatalf("%q is taken: %v", address, err)
		}
		if a, err := netip.ParseAddr(host); err != nil || !a.IsLoopback() {
			t.Errorf("%q is taken: %v, %v", address, a, err)
		}
	})
}
