//go:build privileged

package integration_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/closured/closured/tests/agent"
)

// apiServer takes events, knows pods by their hostUsers, and has one tainted
// node. It stands for a real one only as far as the agent's wiring goes; the
// end-to-end tests use a real one.
type apiServer struct {
	*httptest.Server

	mu     sync.Mutex // guards what follows
	notes  []string   // "<pod> <type> <reason>: <message>"
	asked  []string   // methods and paths
	taints int
}

func newAPIServer(t *testing.T) *apiServer {
	t.Helper()
	s := &apiServer{taints: 1}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *apiServer) kubeconfig(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config")
	writeFile(t, path, fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "a",
		"clusters": [{"name": "a", "cluster": {"server": %q}}],
		"contexts": [{"name": "a", "context": {"cluster": "a", "user": ""}}]}`, s.URL))
	return path
}

func (s *apiServer) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	request := r.Method + " " + r.URL.Path
	s.asked = append(s.asked, request)
	w.Header().Set("Content-Type", "application/json")
	switch {
	case request == "POST /api/v1/namespaces/default/events":
		var e struct {
			Type           string `json:"type"`
			Reason         string `json:"reason"`
			Message        string `json:"message"`
			InvolvedObject struct {
				Name string `json:"name"`
			} `json:"involvedObject"`
		}
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		s.notes = append(s.notes, fmt.Sprintf("%s %s %s: %s", e.InvolvedObject.Name, e.Type, e.Reason, e.Message))
		w.WriteHeader(http.StatusCreated)
		_, _ = fmt.Fprint(w, `{"kind": "Event", "apiVersion": "v1"}`)
	case strings.HasPrefix(request, "GET /api/v1/namespaces/default/pods/"):
		own := strings.HasSuffix(request, "/pod-2")
		_, _ = fmt.Fprintf(w, `{"kind": "Pod", "apiVersion": "v1", "spec": {"hostUsers": %t}}`, !own)
	case request == "PATCH /api/v1/nodes/node":
		s.taints = 0
		fallthrough
	case request == "GET /api/v1/nodes/node":
		taint := `{"key": "closured.dev/agent-not-ready", "effect": "NoSchedule"}`
		_, _ = fmt.Fprintf(w, `{"kind": "Node", "apiVersion": "v1", "spec": {"taints": [%s]}}`, strings.Repeat(taint, s.taints))
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// told gives the events that are about a pod.
func (s *apiServer) told(pod string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, note := range s.notes {
		if rest, ok := strings.CutPrefix(note, pod+" "); ok {
			all = append(all, rest)
		}
	}
	return all
}

// requests gives what was asked for, but for NixImages: those are looked for all
// the time, whatever pods do.
func (s *apiServer) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.asked), func(r string) bool { return strings.HasSuffix(r, "/niximages") })
}

// expectTold waits for the events about a pod: as many as want, each with its words.
func (s *apiServer) expectTold(t *testing.T, pod string, want ...[]string) {
	t.Helper()
	eventually(t, 10*time.Second, "events about "+pod, func() error {
		if len(s.told(pod)) < len(want) {
			return errNotYet
		}
		return nil
	})
	told := s.told(pod)
	if len(told) != len(want) {
		t.Fatalf("%s has the events %q", pod, told)
	}
	for i, words := range want {
		for _, word := range words {
			if !strings.Contains(told[i], word) {
				t.Errorf("event %d of %s is %q, which lacks %q", i, pod, told[i], word)
			}
		}
	}
}

func TestWhatPodsAreToldOfColdAndBrokenClosures(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t)
	n := start(t, agent.Config{
		PackageSet: packageSet(t, `
			slow = run "slow" "sleep 3; mkdir $out; echo slow > $out/f";
			broken = run "broken" "echo the disk of the sun is full >&2; exit 3";`),
		Args: []string{"--kubeconfig", s.kubeconfig(t)},
	})
	slow, broken := agent.Packages(1, "slow"), agent.Packages(3, "broken")
	if err := n.Publish(t.Context(), slow); err != nil {
		t.Fatal(err)
	}
	s.expectTold(t, "pod-1",
		[]string{"Normal ClosureRealising: volume nix: realising packages", "slow"},
		[]string{"Normal ClosureReady: volume nix: ", "-slow is mounted after ", ": 1 path, ", " bytes"})

	if err := n.Publish(t.Context(), broken); status.Code(err) != codes.FailedPrecondition {
		t.Fatalf("the broken package: %v", err)
	}
	eventually(t, 10*time.Second, "the failure", func() error {
		if told := s.told("pod-3"); len(told) == 0 || !strings.Contains(told[len(told)-1], "Warning ClosureFailed") {
			return fmt.Errorf("told %q", told)
		}
		return nil
	})
	told := s.told("pod-3")
	if last := told[len(told)-1]; !strings.Contains(last, "broken") || !strings.HasSuffix(last, "log: the disk of the sun is full") {
		t.Errorf("the failure is told as %q", last)
	}

	// Warm: no event, and of the pod only what its volume does not say.
	before := len(s.requests())
	said := agent.Packages(4, "slow")
	said.Attributes["hostUsers"] = "true"
	for _, v := range []agent.Volume{said, agent.Packages(2, "slow")} {
		if err := n.Publish(t.Context(), v); err != nil {
			t.Fatal(err)
		}
	}
	if asked := s.requests()[before:]; len(asked) != 1 || asked[0] != "GET /api/v1/namespaces/default/pods/pod-2" {
		t.Errorf("warm publishes asked %q", asked)
	}
	s.Close()
	if err := n.Publish(t.Context(), agent.Packages(5, "slow")); err != nil {
		t.Errorf("a warm publish with the API server away: %v", err)
	}
	if sent := n.metric("closured_events_sent_total"); sent < 3 {
		t.Errorf("%v events are counted", sent)
	}
	for _, i := range []int{1, 2, 3, 4, 5} {
		n.unpublish(agent.Packages(i, "slow"))
	}
	n.requireNothing()
}

func TestTheTaintGoesAfterTheRegistration(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t)
	n := start(t, agent.Config{Args: []string{"--kubeconfig", s.kubeconfig(t)}})
	time.Sleep(2 * time.Second) // ready since its start, and asked twice
	if asked := s.requests(); len(asked) > 0 {
		t.Fatalf("before the registration it asked %q", asked)
	}
	conn, err := grpc.NewClient("unix://"+filepath.Join(n.KubeletDir(), "plugins_registry", "csi.closured.dev-reg.sock"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	registered := &registerapi.RegistrationStatus{PluginRegistered: true}
	if _, err := registerapi.NewRegistrationClient(conn).NotifyRegistrationStatus(t.Context(), registered); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the end of the taint", func() error {
		if !slices.Contains(s.requests(), "PATCH /api/v1/nodes/node") {
			return errors.New("it is still there")
		}
		return nil
	})
}
