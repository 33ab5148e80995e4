package kube_test

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/closured/closured/internal/kube"
)

// token is the credential of the tests' kubeconfig: it must appear nowhere.
const token = "hunter2canary"

// apiServer speaks just the requests that the package makes, over HTTP.
type apiServer struct {
	*httptest.Server

	mu     sync.Mutex // guards what follows
	pods   map[string]corev1.Pod
	taints []corev1.Taint
	events []corev1.Event
	seen   []string // methods and paths
	agents []string // user agents
	answer func(w http.ResponseWriter, r *http.Request) bool
}

func newServer(t *testing.T) *apiServer {
	t.Helper()
	s := &apiServer{pods: map[string]corev1.Pod{}}
	s.Server = httptest.NewTLSServer( // client-go sends credentials by TLS only
		http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

// client makes a client that finds the server by a kubeconfig.
func (s *apiServer) client(t *testing.T) *kube.Client {
	t.Helper()
	c, err := kube.Open(kube.Config{Kubeconfig: s.kubeconfig(t), UserAgent: "closured/test"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (s *apiServer) kubeconfig(t *testing.T) string {
	t.Helper()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	return writeKubeconfig(t, s.URL, ca)
}

func writeKubeconfig(t *testing.T, url string, ca []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config")
	text := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "a",
		"clusters": [{"name": "a", "cluster": {"server": %q, "certificate-authority-data": %q}}],
		"users": [{"name": "a", "user": {"token": %q}}],
		"contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}]}`, url, base64.StdEncoding.EncodeToString(ca), token)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// intercept lets a function answer first; it tells whether it has.
func (s *apiServer) intercept(answer func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *apiServer) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, r.Method+" "+r.URL.Path)
	s.agents = append(s.agents, r.UserAgent())
	if s.answer != nil && s.answer(w, r) {
		return
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/api/v1/"), "/")
	switch {
	case r.Header.Get("Authorization") != "Bearer "+token:
		refuse(w, http.StatusUnauthorized, metav1.StatusReasonUnauthorized)
	case r.Method == http.MethodPost && len(parts) == 3 && parts[2] == "events":
		s.postEvent(w, r, parts[1])
	case r.Method == http.MethodGet && len(parts) == 4 && parts[2] == "pods":
		s.getPod(w, parts[1]+"/"+parts[3])
	case parts[0] == "nodes" && len(parts) == 2 && parts[1] == "node-a":
		s.node(w, r)
	default:
		refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound)
	}
}

func (s *apiServer) postEvent(w http.ResponseWriter, r *http.Request, namespace string) {
	var e corev1.Event
	if !read(w, r, &e) {
		return
	}
	if e.Namespace != namespace || e.InvolvedObject.Namespace != namespace { // pkg/apis/core/validation, legacyValidateEvent
		refuse(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid)
		return
	}
	s.events = append(s.events, e)
	answer(w, http.StatusCreated, e)
}

func (s *apiServer) getPod(w http.ResponseWriter, name string) {
	pod, ok := s.pods[name]
	if !ok {
		refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound)
		return
	}
	answer(w, http.StatusOK, pod)
}

func (s *apiServer) node(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPatch {
		var patch []map[string]string
		if r.Header.Get("Content-Type") != "application/json-patch+json" || !read(w, r, &patch) {
			return
		}
		taints, ok := apply(s.taints, patch)
		if !ok {
			refuse(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid)
			return
		}
		s.taints = taints
	}
	n := corev1.Node{Spec: corev1.NodeSpec{Taints: s.taints}}
	n.Kind, n.APIVersion = "Node", "v1"
	answer(w, http.StatusOK, n)
}

// apply is JSON patch (RFC 6902) for test and remove below /spec/taints.
func apply(taints []corev1.Taint, patch []map[string]string) ([]corev1.Taint, bool) {
	taints = slices.Clone(taints)
	for _, op := range patch {
		rest, ok := strings.CutPrefix(op["path"], "/spec/taints/")
		index, field, _ := strings.Cut(rest, "/")
		i, err := strconv.Atoi(index)
		if !ok || err != nil || i >= len(taints) {
			return nil, false
		}
		switch op["op"] + " " + field {
		case "test key":
			ok = op["value"] == taints[i].Key
		case "test effect":
			ok = op["value"] == string(taints[i].Effect)
		case "remove ":
			taints = slices.Delete(taints, i, i+1)
		default:
			ok = false
		}
		if !ok {
			return nil, false
		}
	}
	return taints, true
}

func read(w http.ResponseWriter, r *http.Request, into any) bool {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(body, into)
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, metav1.StatusReasonBadRequest)
	}
	return err == nil
}

func answer(w http.ResponseWriter, code int, object any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(object); err != nil {
		panic(http.ErrAbortHandler) // the client is gone
	}
}

func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	answer(w, code, metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Code: int32(code), Reason: reason, Message: "no: " + string(reason),
	})
}

// got gives the events that came.
func (s *apiServer) got() []corev1.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

// requests gives methods and paths of all requests.
func (s *apiServer) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}
