package binarycache

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/closured/closured/nixstore"
)

// Substituters gives what nixstore.RealiseOptions.Substituters takes for the
// binary caches at addresses, each host:port. They come before cache.nixos.org;
// Nix asks the next one, or builds, when one does not answer or is not believed.
// A node that is gone costs Nix its connect-timeout (10 s as closured sets it,
// with several tries): name the few that have the closure, not all. ErrInvalid
// says which address is malformed.
func Substituters(addresses []string) ([]string, error) {
	var all []string
	for _, address := range addresses {
		if _, err := hostOf(address); err != nil {
			return nil, err
		}
		all = append(all, "http://"+address+"?priority="+strconv.Itoa(priority))
	}
	return all, nil
}

// descriptionTTL is for how long Nix goes by the description of a path that a cache
// gave it, in seconds. Its own default is 30 days (narinfo-cache-positive-ttl),
// by which a node that was wrong would stay wrong after its repair, and one that built
// a path anew, or came to the address of another, would be asked for what it lacks. A
// failed realisation is begun again after 10 s at the soonest.
const descriptionTTL = 10

// NixOptions gives the lines of nix.conf by which a daemon believes what the
// holders of keys signed, finds the passwords in the file that Netrc.Write writes, and
// does not go by what other nodes said long ago. They suit nixcli.Config.Options.
func NixOptions(keys []SecretKey, netrc string) map[string]string {
	public := make([]string, len(keys))
	for i, key := range keys {
		public[i] = key.Public()
	}
	return map[string]string{
		"extra-trusted-public-keys": strings.Join(public, " "), "netrc-file": netrc,
		"narinfo-cache-positive-ttl": strconv.Itoa(descriptionTTL),
	}
}

// Netrc is the file that tells Nix's daemon the password of each other node. Nix
// gives it to libcurl, which reads it anew for each request and knows machines by
// their host alone, whatever the port. Its methods must not be called concurrently.
type Netrc struct {
	// Path is the file, in a folder that exists. It is written with mode 0600.
	Path string
	// Operators are files of the same form that Nix would read otherwise: their
	// content comes first. Those that are missing are passed over.
	Operators []string
	// Key is that of the installation; the zero value gives no passwords.
	Key SecretKey
}

// Write replaces the file at once by one that knows the nodes at addresses, each
// host:port: all of them, not only those of one realisation. An equal file is left
// alone. ErrInvalid says which address is malformed.
func (n Netrc) Write(addresses []string) error {
	text, err := n.text(addresses)
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(n.Path); err == nil && bytes.Equal(old, text) {
		return nil
	}
	if err := replaceFile(n.Path, text); err != nil {
		return fmt.Errorf("writing the passwords of other nodes: %w", err)
	}
	return nil
}

func (n Netrc) text(addresses []string) ([]byte, error) {
	var b bytes.Buffer
	for _, file := range n.Operators {
		theirs, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading the operator's netrc: %w", err)
		}
		b.Write(theirs)
		b.WriteString("\n")
	}
	if n.Key.IsZero() {
		return b.Bytes(), nil
	}
	password, err := n.Key.password()
	if err != nil {
		return nil, err
	}
	var hosts []string
	for _, address := range addresses {
		host, err := hostOf(address)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, host)
	}
	slices.Sort(hosts)
	for _, host := range slices.Compact(hosts) {
		fmt.Fprintf(&b, "machine %s\nlogin %s\npassword %s\n", host, userName, password)
	}
	return b.Bytes(), nil
}

// hostOf gives the host of an address, and refuses what could be more than a word
// in nix.conf or netrc, or more than a host in a URL.
func hostOf(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	number, portErr := strconv.ParseUint(port, 10, 16)
	_, ipErr := netip.ParseAddr(host)
	if err != nil || portErr != nil || number == 0 || ipErr != nil && !isHostName(host) || strings.Contains(host, "%") {
		return "", nixstore.Fail(nixstore.ErrInvalid, "write it as host:port",
			"%s is not the address of a binary cache", nixstore.Quote(address))
	}
	return host, nil
}

func isHostName(host string) bool {
	const chars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-."
	return host != "" && len(host) <= 253 && strings.Trim(host, chars) == "" && host[0] != '-' && host[0] != '.'
}

// replaceFile writes a file that its owner alone reads; readers see the old one or
// the new one.
func replaceFile(path string, data []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".netrc-") // with mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }() // not there any more when all went well
	_, err = file.Write(data)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
