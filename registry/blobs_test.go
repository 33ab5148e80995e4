package registry_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/closured/closured/registry"
)

func TestPartsOfABlob(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	root := r.add(t, "tool", strings.Repeat("a tool. ", 100000)) // several pieces
	path := "/v2/store/" + root.Hash()
	doc := r.manifest(t, "store/"+root.Hash(), "latest")
	path += "/blobs/" + doc.Layers[0].Digest
	whole := r.get(t, path).body
	size := len(whole)
	for _, c := range []struct {
		header     string
		status     int
		first, end int // of whole
	}{
		{"bytes=0-0", 206, 0, 1},
		{"bytes=0-", 206, 0, size},
		{"bytes=5-9", 206, 5, 10},
		{"bytes=262143-262145", 206, 262143, 262146},
		{fmt.Sprintf("bytes=%d-", size-1), 206, size - 1, size},
		{fmt.Sprintf("bytes=300000-%d", size*2), 206, 300000, size},
		{"bytes=300000-99999999999999999999", 206, 300000, size},
		{"bytes=-1", 206, size - 1, size},
		{"bytes=-700000", 206, size - 700000, size},
		{"bytes=-99999999999999999999", 206, 0, size},
		{"bytes=0-1,3-4", 200, 0, size},
		{"bytes=9-5", 200, 0, size},
		{"bytes=a-b", 200, 0, size},
		{"bytes=--5", 200, 0, size},
		{"bytes=", 200, 0, size},
		{"lines=1-2", 200, 0, size},
		{"0-5", 200, 0, size},
	} {
		got := r.get(t, path, "Range", c.header).wantStatus(t, c.status)
		if got.body != whole[c.first:c.end] {
			t.Errorf("%s gave %d bytes, want %d to %d", c.header, len(got.body), c.first, c.end)
		}
		want := ""
		if c.status == 206 {
			want = fmt.Sprintf("bytes %d-%d/%d", c.first, c.end-1, size)
		}
		head := r.do(t, http.MethodHead, path, "Range", c.header).wantStatus(t, c.status)
		for _, h := range []http.Header{got.Header, head.Header} {
			if h.Get("Content-Range") != want || h.Get("Accept-Ranges") != "bytes" || h.Get("Content-Length") != fmt.Sprint(c.end-c.first) {
				t.Errorf("%s gave the headers %v", c.header, h)
			}
		}
	}
	for _, header := range []string{fmt.Sprintf("bytes=%d-", size), "bytes=99999999999999999999-", "bytes=-0"} {
		got := r.get(t, path, "Range", header)
		got.wantError(t, http.StatusRequestedRangeNotSatisfiable, "UNKNOWN", "outside")
		if want := fmt.Sprintf("bytes */%d", size); got.Header.Get("Content-Range") != want {
			t.Errorf("%s gave the range %q", header, got.Header.Get("Content-Range"))
		}
	}
}

func TestConditionalRequests(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.define(t, "redis")
	doc := r.manifest(t, "pkgs/redis", "latest")
	layer := doc.Layers[0].Digest
	for _, c := range []struct {
		path, digest, cache string
	}{
		{"manifests/latest", doc.digest, "no-cache"},
		{"manifests/" + doc.digest, doc.digest, "max-age=31536000, immutable"},
		{"blobs/" + layer, layer, "max-age=31536000, immutable"},
	} {
		path, tag := "/v2/pkgs/redis/"+c.path, `"`+c.digest+`"`
		for _, condition := range []string{tag, "W/" + tag, `"other", ` + tag, "*"} {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				got := r.do(t, method, path, "If-None-Match", condition).wantStatus(t, http.StatusNotModified)
				if got.body != "" || got.Header.Get("Etag") != tag || got.Header.Get("Docker-Content-Digest") != c.digest {
					t.Errorf("%s %s gave %q with %v", method, path, got.body, got.Header)
				}
			}
		}
		for _, condition := range []string{`"other"`, c.digest, ""} {
			got := r.get(t, path, "If-None-Match", condition).wantStatus(t, http.StatusOK)
			if got.Header.Get("Cache-Control") != c.cache {
				t.Errorf("%s may be kept %q", path, got.Header.Get("Cache-Control"))
			}
		}
	}
	part := func(condition string) int {
		return r.get(t, "/v2/pkgs/redis/blobs/"+layer, "Range", "bytes=0-4", "If-Range", condition).StatusCode
	}
	if same, weak, other := part(`"`+layer+`"`), part(`W/"`+layer+`"`), part(`"other"`); same != 206 || weak != 200 || other != 200 {
		t.Errorf("If-Range gave %d, %d and %d", same, weak, other)
	}
}

// large makes an image with a layer that no buffer of a connection holds.
func (r *rig) large(t *testing.T) (path string, size int64) {
	t.Helper()
	piece := strings.Repeat("0123456789abcdef", 4<<20/16)
	root := r.add(t, "large", piece)
	for n := range 8 {
		r.fill(t, root, fmt.Sprintf("more/%d", n), piece)
	}
	doc := r.manifest(t, "store/"+root.Hash(), "latest")
	return "/v2/store/" + root.Hash() + "/blobs/" + doc.Layers[0].Digest, doc.Layers[0].Size
}

func TestFault50SlowReadersAreCutAndLongBlobsAreNot(t *testing.T) {
	t.Parallel()
	const stall = 2 * time.Second
	r := newRigWith(t, registry.Config{Stall: stall, Hold: stall})
	path, size := r.large(t)
	open := func() net.Conn {
		t.Helper()
		var dial net.Dialer
		conn, err := dial.DialContext(t.Context(), "tcp", r.server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	manifests := r.metric(t, "closured_registry_requests_total")
	stuck := open() // and never reads
	eventually(t, "the reader that does not read is cut", func() bool { return r.metric(t, "closured_registry_requests_total") > manifests })
	if n, err := io.Copy(io.Discard, stuck); n >= size {
		t.Errorf("it was sent all %d bytes, %v", n, err)
	}

	// One that is slow but reads gets all of it, in much longer than one term.
	resp, err := http.ReadResponse(bufio.NewReader(open()), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var read int64
	for start := time.Now(); ; {
		n, err := io.CopyN(io.Discard, resp.Body, 4<<20)
		read += n
		if errors.Is(err, io.EOF) {
			if took := time.Since(start); took < 2*stall { // the term of a whole request
				t.Errorf("it took only %s", took)
			}
			break
		}
		if err != nil {
			t.Fatalf("cut after %d bytes: %v", read, err)
		}
		time.Sleep(stall * 7 / 20) // a reader that is slow
	}
	if read != size {
		t.Errorf("read %d bytes, want %d", read, size)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	t.Parallel()
	r := newRigWith(t, registry.Config{Limits: registry.Limits{Streams: 1, Waiting: 1}, Hold: 50 * time.Millisecond})
	path, _ := r.large(t)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.server.URL+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := r.server.Client().Do(req) // its body is not read
	if err != nil {
		t.Fatal(err)
	}
	r.get(t, path).wantError(t, http.StatusTooManyRequests, "TOOMANYREQUESTS", "too many blobs are being read")
	r.do(t, http.MethodHead, path).wantStatus(t, http.StatusOK)
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "the place is free again", func() bool { return r.get(t, path, "Range", "bytes=0-0").StatusCode == http.StatusPartialContent })
}
