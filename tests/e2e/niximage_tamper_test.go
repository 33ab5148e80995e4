//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// forgery is a way to give the second node something else than what was built.
type forgery struct {
	name  string
	words []string // of the pod's event
	nar   func([]byte) []byte
	info  func(t *testing.T, info, nar []byte) []byte // nar is what nar gives; nil: as it is
}

// forgeries are made on the way between the nodes, each of another path.
func forgeries() []forgery {
	return []forgery{
		{name: "altered", words: []string{"DataLoss"}, nar: altered},
		{name: "described", words: []string{"FailedPrecondition", "no trusted key has signed"}, nar: altered, info: redescribed},
		{name: "signed", words: []string{"FailedPrecondition", "no trusted key has signed"}, nar: altered, info: signedByOthers},
		{name: "unsigned", words: []string{"FailedPrecondition", "no trusted key has signed"}, info: unsigned},
	}
}

// nodesTampered: a pod does not get a closure that was changed, on its way or in the
// store of the node that has it. Its event says why, nothing of it stays in the second
// node's store, and after the repair it starts by itself.
func nodesTampered(t *testing.T) {
	bulk := storeTool(t, nodeName, "nix-store", "-qR", builtOnFirst(t, "bulk"))
	parts := slices.DeleteFunc(slices.Clone(bulk), func(path string) bool { return !strings.Contains(path, "-part-") })
	all := forgeries()
	forget(t)
	if lacks := invalid(t, otherNode, parts); len(lacks) < len(all)+1 {
		t.Fatalf("the second node lacks only %q", lacks)
	}
	byHash := map[string]forgery{}
	for i, f := range all {
		describeStored(t, f.name, parts[i])
		byHash[parts[i][len("/nix/store/"):][:32]] = f
	}
	damagedPath := parts[len(all)]
	describeStored(t, "damaged", damagedPath)
	repair := damage(t, filepath.Join(storeOf(nodeName), damagedPath, "share", "data"))
	stop := intercept(t, byHash)

	pods := map[string]*corev1.Pod{"damaged": createOnOther(t, "damaged", sleeps, closureVolume("damaged"))}
	for _, f := range all {
		pods[f.name] = createOnOther(t, f.name, sleeps, closureVolume(f.name))
	}
	for _, f := range all {
		t.Log(failedMount(t, pods[f.name], 3*time.Minute, f.words...))
	}
	t.Log(failedMount(t, pods["damaged"], 3*time.Minute, damagedPath, "next:"))
	// What Nix refuses may lie on the disk until it is fetched again or collected: without
	// a line in the database it is nothing.
	if lacks := invalid(t, otherNode, parts[:len(all)+1]); len(lacks) != len(all)+1 {
		t.Errorf("of %q the second node lacks only %q", parts[:len(all)+1], lacks)
	}
	stop()
	repair()
	for name, pod := range pods {
		pods[name] = ready(t, pod, 6*time.Minute)
	}
	requireFetched(t, parts[:len(all)+1])
	for _, pod := range pods {
		remove(t, pod)
	}
}

// damage changes one byte of a file of a store, and gives what changes it back.
func damage(t *testing.T, file string) (repair func()) {
	t.Helper()
	flip := func() {
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = f.Close() }()
		var b [1]byte
		if _, err := f.ReadAt(b[:], 1<<20); err != nil {
			t.Error(err)
		}
		b[0] ^= 1
		if _, err := f.WriteAt(b[:], 1<<20); err != nil {
			t.Error(err)
		}
	}
	damaged := true
	flip()
	repair = func() {
		if damaged {
			damaged = false
			flip()
		}
	}
	t.Cleanup(repair)
	return repair
}

// intercept puts a proxy, which forges, between the second node and the cache of the
// first. The rule stands in the network of the first node, in which this test runs.
func intercept(t *testing.T, byHash map[string]forgery) (stop func()) {
	t.Helper()
	target := net.JoinHostPort(agentOn(t, nodeName).Status.PodIP, cachePort)
	listener, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: forging(t, target, byHash), ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	const table = "e2e-intercept"
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		if out, err := exec.Command("nft", "delete", "table", "ip", table).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		_ = server.Close()
		<-done
	}
	t.Cleanup(stop)
	host, port, _ := net.SplitHostPort(target)
	_, own, _ := net.SplitHostPort(listener.Addr().String())
	rules := fmt.Sprintf("table ip %[1]s\ndelete table ip %[1]s\ntable ip %[1]s {\n chain pre {\n  type nat hook prerouting priority -110;\n  ip daddr %[2]s tcp dport %[3]s redirect to :%[4]s\n }\n}\n",
		table, host, port, own)
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s\n%s", err, out, rules)
	}
	return stop
}

// forging passes requests on, and changes the answers for the paths of some hashes.
func forging(t *testing.T, target string, byHash map[string]forgery) http.Handler {
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: target})
	proxy.ModifyResponse = func(res *http.Response) error {
		name := strings.TrimPrefix(strings.TrimPrefix(res.Request.URL.Path, "/"), "nar/")
		if len(name) < 32 || res.StatusCode != http.StatusOK {
			return nil
		}
		f, found := byHash[name[:32]]
		if !found {
			return nil
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return err
		}
		switch {
		case strings.HasSuffix(name, ".nar") && f.nar != nil:
			body = f.nar(body)
		case strings.HasSuffix(name, ".narinfo") && f.info != nil:
			nar, err := contentOf(res.Request, body)
			if err != nil {
				return err
			}
			if f.nar != nil {
				nar = f.nar(nar)
			}
			body = f.info(t, body, nar)
		}
		res.Body = io.NopCloser(bytes.NewReader(body))
		res.ContentLength = int64(len(body))
		res.Header.Set("Content-Length", strconv.Itoa(len(body)))
		return nil
	}
	return proxy
}

// contentOf fetches what a description speaks of, as the one who asked for that.
func contentOf(asked *http.Request, info []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(asked.Context(), http.MethodGet, "http://"+asked.URL.Host+"/"+field(info, "URL"), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", asked.Header.Get("Authorization"))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	return io.ReadAll(res.Body)
}

// field gives a line's value of a description.
func field(info []byte, name string) string {
	for line := range strings.Lines(string(info)) {
		if value, ok := strings.CutPrefix(line, name+": "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// withField replaces a line's value of a description.
func withField(info []byte, name, value string) []byte {
	return bytes.Replace(info, []byte(name+": "+field(info, name)+"\n"), []byte(name+": "+value+"\n"), 1)
}

// altered changes one bit in the middle, which is in the one file.
func altered(nar []byte) []byte {
	nar = bytes.Clone(nar)
	nar[len(nar)/2] ^= 1
	return nar
}

// redescribed describes another content, with the signature that was there.
func redescribed(t *testing.T, info, nar []byte) []byte {
	hash := "sha256:" + base32(t, nar)
	return withField(withField(info, "NarHash", hash), "FileHash", hash)
}

// signedByOthers describes another content and signs that, by another key of the same name.
func signedByOthers(t *testing.T, info, nar []byte) []byte {
	info = redescribed(t, info, nar)
	var references []string
	for name := range strings.FieldsSeq(field(info, "References")) {
		references = append(references, "/nix/store/"+name)
	}
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	text := strings.Join([]string{"1", field(info, "StorePath"), field(info, "NarHash"), field(info, "NarSize"), strings.Join(references, ",")}, ";")
	return withField(info, "Sig", "closured-1:"+base64.StdEncoding.EncodeToString(ed25519.Sign(key, []byte(text))))
}

// unsigned leaves out the signature.
func unsigned(_ *testing.T, info, _ []byte) []byte {
	return bytes.Replace(info, []byte("Sig: "+field(info, "Sig")+"\n"), nil, 1)
}

// base32 gives the hash of some bytes as Nix writes it.
func base32(t *testing.T, data []byte) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "nix-hash", "--type", "sha256", "--to-base32", fmt.Sprintf("%x", sha256.Sum256(data))).Output()
	if err != nil {
		t.Error(err)
	}
	return strings.TrimSpace(string(out))
}
