//go:build privileged

package integration_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/closured/closured/tests/agent"
)

// hostileWait bounds a conversation with the registry.
const hostileWait = 30 * time.Second

// say sends text over a connection of its own, and reads one answer. A registry
// that closes the connection with an answer that is lost, since what was sent was
// not read to its end, gives the status 0.
func (n node) say(ctx context.Context, text string) (reply, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", n.Registry())
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = conn.Close() }() // whatever became of it
	if err := conn.SetDeadline(time.Now().Add(hostileWait)); err != nil {
		return reply{}, err
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.WriteString(conn, text) // the registry need not read all
	}()
	defer func() { _ = conn.Close(); <-sent }()
	r, err := readReply(conn)
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return reply{}, nil
	}
	return r, err
}

func readReply(conn net.Conn) (reply, error) {
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = res.Body.Close() }() // it was read
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	return reply{res.StatusCode, res.Header, body}, err
}

func get(path string, headers ...string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + strings.Join(append(headers, ""), "\r\n") + "\r\n"
}

// hostileRequests are requests that must be refused, with the answer that is due:
// a status and a code of the specification, or "" where no handler comes to it.
func hostileRequests(repository, digest string) []struct {
	text   string
	status int
	code   string
} {
	v2, zeros := "/v2/"+repository, "sha256:"+strings.Repeat("0", 64)
	long := strings.Repeat("a", 300)
	return []struct {
		text   string
		status int
		code   string
	}{
		{get("/v2/../../etc/passwd"), 404, "UNSUPPORTED"},
		{get("/v2/%2e%2e/%2e%2e/etc/passwd/manifests/latest"), 400, "NAME_INVALID"},
		{get("/v2/pkgs/..%2f..%2fetc/manifests/latest"), 400, "NAME_INVALID"},
		{get("/v2/store/..%2f..%2f..%2fetc%2fpasswd/blobs/" + digest), 400, "NAME_INVALID"},
		{get("/v2/pkgs/a%00b/manifests/latest"), 400, "NAME_INVALID"},
		{get("/v2/pkgs/--option/manifests/latest"), 400, "NAME_INVALID"},
		{get("/v2/pkgs/" + long + "/manifests/latest"), 400, "NAME_INVALID"},
		{get("/v2/PKGS/Tree/manifests/latest"), 400, "NAME_INVALID"},
		{get("/v2/pkgs//manifests/latest"), 400, "NAME_INVALID"},
		{get("/v2/store/" + strings.Repeat("e", 32) + "/manifests/latest"), 404, "NAME_UNKNOWN"},
		{get("/v2/store/00000000000000000000000000000000/manifests/latest"), 404, "NAME_UNKNOWN"},
		{get("/v2/image/ns/name/manifests/latest"), 404, "NAME_UNKNOWN"},
		{get("/v2/library/redis/manifests/latest"), 404, "NAME_UNKNOWN"},
		{get(v2 + "/manifests/v1"), 404, "MANIFEST_UNKNOWN"},
		{get(v2 + "/manifests/" + zeros), 404, "MANIFEST_UNKNOWN"},
		{get(v2 + "/manifests/sha256:zz"), 400, "DIGEST_INVALID"},
		{get(v2 + "/manifests/md5:" + strings.Repeat("0", 32)), 400, "DIGEST_INVALID"},
		{get(v2 + "/blobs/" + zeros), 404, "BLOB_UNKNOWN"},
		{get(v2 + "/blobs/latest"), 400, "DIGEST_INVALID"},
		{get(v2 + "/blobs/sha256:..%2f..%2f..%2fetc%2fpasswd"), 404, "UNSUPPORTED"},
		{get(v2+"/blobs/"+digest, "Range: bytes=99999999999-"), 416, "UNKNOWN"},
		{get(v2 + "/tags/list?n=-1"), 400, "PAGINATION_NUMBER_INVALID"},
		{get(v2 + "/tags/list?n=1e9"), 400, "PAGINATION_NUMBER_INVALID"},
		{get(v2 + "/referrers/latest"), 400, "DIGEST_INVALID"},
		{get(v2 + "/manifests/latest?ns=docker.io"), 404, "NAME_UNKNOWN"},
		{"PUT " + v2 + "/manifests/latest HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}", 405, "UNSUPPORTED"},
		{"POST " + v2 + "/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\nConnection: close\r\n\r\n", 405, "UNSUPPORTED"},
		{"DELETE " + v2 + "/blobs/" + digest + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405, "UNSUPPORTED"},
		{"GET " + v2 + "/manifests/latest HTTP/1.1\r\n\r\n", 400, ""}, // no Host
		{"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03 TLS\r\n\r\n", 400, ""},
		{"GET " + v2 + "/" + strings.Repeat("x/", 1<<16) + " HTTP/1.1\r\nHost: x\r\n\r\n", 431, ""},
		{get(v2+"/manifests/latest", "X-Long: "+strings.Repeat("y", 1<<20)), 431, ""},
	}
}

// TestFault50HostileRequests sends to a real agent, from many connections at once,
// what no client sends. Each is refused as the specification says, and afterwards
// the agent is as it was.
func TestFault50HostileRequests(t *testing.T) {
	t.Parallel()
	const rounds = 20
	n := start(t, agent.Config{PackageSet: packageSet(t, `tree = synthetic { n = 4; };`), Args: offline()})
	digest := largestLayer(t, n.pull("pkgs/tree")).Digest.String()
	requests := hostileRequests("pkgs/tree", digest)
	for _, r := range requests { // the first time one after the other, to see the answers
		got, err := n.say(t.Context(), r.text)
		if err != nil {
			t.Errorf("%.80q: %v", r.text, err)
			continue
		}
		code, _, problem := errorOf(got.body)
		if r.status == http.StatusRequestHeaderFieldsTooLarge && got.status == 0 {
			continue
		}
		if got.status != r.status || code != r.code || (problem != nil && r.code != "") {
			t.Errorf("%.120q gives %d %s, want %d %s: %.300s", r.text, got.status, code, r.status, r.code, got.body)
		}
		if strings.Contains(string(got.body), "root:") {
			t.Errorf("%.120q reads a file of the node: %s", r.text, got.body)
		}
	}
	goroutines, resident := n.metric("go_goroutines"), n.resident()
	each(8, rounds*len(requests), func(i int) {
		if _, err := n.say(t.Context(), requests[i%len(requests)].text); err != nil && t.Context().Err() == nil {
			t.Errorf("%.80q: %v", requests[i%len(requests)].text, err)
		}
	})
	n.requireAsBefore(goroutines, resident)
	n.requireWork(1, 1)
}

// TestFault50ClientsThatDoNotRead opens streams that nobody reads, and headers that
// never end. Others are served meanwhile, and what they held is given back.
func TestFault50ClientsThatDoNotRead(t *testing.T) {
	t.Parallel()
	n := start(t, agent.Config{PackageSet: packageSet(t, bigSet), Args: offline()})
	image := n.pull("pkgs/big")
	requireBlobs(t, image)
	layer := largestLayer(t, image)
	goroutines, resident := n.metric("go_goroutines"), n.resident()
	ctx, leave := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer leave()
	open := func(text string) net.Conn {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", n.Registry())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		clients.Go(func() { <-ctx.Done(); _ = conn.Close() })
		return conn
	}
	for range 32 { // of 64 streams
		conn := open(get("/v2/pkgs/big/blobs/" + layer.Digest.String()))
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil { // it streams
			t.Fatal(err)
		}
	}
	for range 32 {
		conn := open("GET /v2/ HTTP/1.1\r\n")
		clients.Go(func() {
			for ctx.Err() == nil {
				if _, err := io.WriteString(conn, "X-More: and more\r\n"); err != nil {
					return
				}
				time.Sleep(pollEvery)
			}
		})
	}
	for range 5 {
		requireBlobs(t, n.pull("pkgs/big"))
	}
	if now := n.resident(); now > resident+64<<20 {
		t.Errorf("with clients that do not read the agent has %d MiB, and had %d before", now>>20, resident>>20)
	}
	leave()
	clients.Wait()
	n.requireAsBefore(goroutines, resident)
}

func (n node) resident() int64 {
	n.t.Helper()
	bytes, err := n.Resident()
	if err != nil {
		n.t.Fatal(err)
	}
	return bytes
}

// requireAsBefore checks that the agent serves, and has given back what it took.
func (n node) requireAsBefore(goroutines float64, resident int64) {
	n.t.Helper()
	const (
		others = 10       // goroutines of connections that end, and of the runtime
		more   = 32 << 20 // bytes that the garbage collector has not given back yet
	)
	eventually(n.t, time.Minute, "the end of what the clients began", func() error {
		if now := n.metric("go_goroutines"); now > goroutines+others {
			return fmt.Errorf("there are %v goroutines, and there were %v", now, goroutines)
		}
		return nil
	})
	if now := n.resident(); now > resident+more {
		n.t.Errorf("the agent has %d MiB, and had %d", now>>20, resident>>20)
	}
	if r := n.request(http.MethodGet, "/v2/"); r.status != http.StatusOK {
		n.t.Errorf("the registry answers %d", r.status)
	}
	v := agent.StorePath(1, n.textClosure(3, "after"))
	n.publish(v)
	n.unpublish(v)
}
