package niximages_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/closured/closured/api/v1alpha1"
	"github.com/closured/closured/internal/kube"
	"github.com/closured/closured/internal/niximages"
)

// cluster is an API server that knows NixImages only, over HTTP.
type cluster struct {
	*httptest.Server

	streams bool // lists by a watch, as API servers since 1.34 do

	mu      sync.Mutex // guards what follows
	objects map[string]*v1alpha1.NixImage
	log     []event
	changed chan struct{} // closed at the next change
	refuses int           // with this status; 0: nothing
	away    bool          // closes each connection
	lists   int           // requests that were no watch from a version
}

type event struct {
	Type   string `json:"type"`
	Object any    `json:"object"`
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{objects: map[string]*v1alpha1.NixImage{}, changed: make(chan struct{})}
	c.Server = httptest.NewTLSServer(http.HandlerFunc(c.serve)) // client-go sends credentials by TLS only
	t.Cleanup(func() {
		c.CloseClientConnections() // a watch ends by itself never
		c.Close()
	})
	return c
}

// change changes the cluster, and wakes the watches.
func (c *cluster) change(how func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	how()
	close(c.changed)
	c.changed = make(chan struct{})
}

// put creates or updates an object.
func (c *cluster) put(n *v1alpha1.NixImage) {
	c.change(func() {
		kind, name := "ADDED", n.Namespace+"/"+n.Name
		if c.objects[name] != nil {
			kind = "MODIFIED"
		}
		n.ResourceVersion = strconv.Itoa(len(c.log) + 2)
		c.objects[name] = n
		c.log = append(c.log, event{kind, n.DeepCopy()})
	})
}

func (c *cluster) remove(name string) {
	c.change(func() {
		n := c.objects[name].DeepCopy()
		n.ResourceVersion = strconv.Itoa(len(c.log) + 2)
		delete(c.objects, name)
		c.log = append(c.log, event{"DELETED", n})
	})
}

func (c *cluster) refuse(status int) { c.change(func() { c.refuses = status }) }

func (c *cluster) setAway(away bool) { c.change(func() { c.away = away }) }

func (c *cluster) listed() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lists
}

func (c *cluster) serve(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	initial := q.Get("sendInitialEvents") == "true"
	c.mu.Lock()
	refuses, away := c.refuses, c.away
	if q.Get("watch") != "true" || initial {
		c.lists++
	}
	c.mu.Unlock()
	switch {
	case away:
		panic(http.ErrAbortHandler)
	case refuses != 0:
		status(w, refuses)
	case r.Method != http.MethodGet || r.URL.Path != "/apis/closured.dev/v1alpha1/niximages":
		status(w, http.StatusNotFound)
	case q.Get("watch") != "true":
		c.list(w)
	case initial && !c.streams:
		status(w, http.StatusUnprocessableEntity)
	default:
		c.watch(w, r, initial)
	}
}

func (c *cluster) list(w http.ResponseWriter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := v1alpha1.NixImageList{TypeMeta: metav1.TypeMeta{Kind: "NixImageList", APIVersion: "closured.dev/v1alpha1"}}
	list.ResourceVersion = strconv.Itoa(len(c.log) + 1)
	for _, n := range c.objects {
		list.Items = append(list.Items, *n)
	}
	w.Header().Set("Content-Type", "application/json")
	write(w, list)
}

func (c *cluster) watch(w http.ResponseWriter, r *http.Request, initial bool) {
	w.Header().Set("Content-Type", "application/json")
	flush := http.NewResponseController(w).Flush
	c.mu.Lock()
	at := len(c.log)
	if initial {
		for _, n := range c.objects {
			write(w, event{"ADDED", n})
		}
		end := object("", "", nil)
		end.ResourceVersion, end.Annotations = strconv.Itoa(at+1), map[string]string{metav1.InitialEventsAnnotationKey: "true"}
		write(w, event{"BOOKMARK", end})
	} else if from, err := strconv.Atoi(r.URL.Query().Get("resourceVersion")); err == nil {
		at = from - 1
	}
	for r.Context().Err() == nil && !c.away && c.refuses == 0 {
		for ; at < len(c.log); at++ {
			write(w, c.log[at])
		}
		changed := c.changed
		c.mu.Unlock()
		if flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
		case <-changed:
		}
		c.mu.Lock()
	}
	c.mu.Unlock()
}

// write sends one document.
func write(w http.ResponseWriter, v any) {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		return // the client is gone
	}
}

func status(w http.ResponseWriter, code int) {
	reason := map[int]metav1.StatusReason{
		http.StatusNotFound: metav1.StatusReasonNotFound, http.StatusForbidden: metav1.StatusReasonForbidden,
		http.StatusUnprocessableEntity: metav1.StatusReasonInvalid,
	}[code]
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	write(w, metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason,
	})
}

// follow makes Images that follow the cluster until the test ends.
func (c *cluster) follow(t *testing.T, cfg niximages.Config) *niximages.Images {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate().Raw})
	text := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "a",
		"clusters": [{"name": "a", "cluster": {"server": %q, "certificate-authority-data": %q}}],
		"users": [{"name": "a", "user": {}}],
		"contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}]}`, c.URL, base64.StdEncoding.EncodeToString(ca))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := kube.Open(kube.Config{Kubeconfig: path})
	if err != nil {
		t.Fatal(err)
	}
	cfg.API, cfg.Retry, cfg.System = client.NixImages(), time.Millisecond, "x86_64-linux"
	i, err := niximages.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- i.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return i
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}
