package kube_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/closured/closured/internal/kube"
	"github.com/closured/closured/internal/logtest"
)

// record makes a recorder that runs until the test ends.
func record(t *testing.T, s *apiServer, log *logtest.Buffer) *kube.Recorder {
	t.Helper()
	r := newRecorder(t, s, log)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

func newRecorder(t *testing.T, s *apiServer, log *logtest.Buffer) *kube.Recorder {
	t.Helper()
	r, err := kube.NewRecorder(kube.RecorderConfig{Client: s.client(t), Node: "node-a", Log: log.Logger(slog.LevelDebug)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func event(note string) kube.Event {
	return kube.Event{Namespace: "shop", Pod: "redis-0", UID: "0a-1", Reason: "ClosureReady", Note: note}
}

func TestNewRecorderTellsEveryProblem(t *testing.T) {
	t.Parallel()
	_, err := kube.NewRecorder(kube.RecorderConfig{})
	if err == nil || !strings.Contains(err.Error(), "Client") || !strings.Contains(err.Error(), "Node") {
		t.Errorf("an empty configuration: %v", err)
	}
}

func TestAnEventNamesThePodAndTheNode(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	r := record(t, s, &logtest.Buffer{})
	warning := event("it failed")
	warning.Warning, warning.Reason = true, "ClosureFailed"
	r.Record(event("it is there"))
	r.Record(warning)
	eventually(t, "both events are there", func() bool { return r.Sent() == 2 })
	got := s.got()
	want := corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: "shop"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: "shop", Name: "redis-0", UID: "0a-1"},
		Reason:         "ClosureReady", Message: "it is there", Type: "Normal", Count: 1,
		Source:              corev1.EventSource{Component: "closured", Host: "node-a"},
		ReportingController: "closured", ReportingInstance: "node-a",
	}
	if diff := cmp.Diff(want, got[0], cmpopts.IgnoreFields(corev1.Event{}, "TypeMeta", "ObjectMeta.Name", "FirstTimestamp", "LastTimestamp")); diff != "" {
		t.Errorf("the event (-want +got):\n%s", diff)
	}
	if got[1].Type != "Warning" || got[1].Reason != "ClosureFailed" || got[1].Message != "it failed" {
		t.Errorf("the warning is %+v", got[1])
	}
	if got[0].Name == got[1].Name || !strings.HasPrefix(got[0].Name, "redis-0.") {
		t.Errorf("the events are called %q and %q", got[0].Name, got[1].Name)
	}
	if age := time.Since(got[0].FirstTimestamp.Time); age > time.Minute || !got[0].FirstTimestamp.Equal(&got[0].LastTimestamp) {
		t.Errorf("the event is of %s and %s", got[0].FirstTimestamp, got[0].LastTimestamp)
	}
	for _, request := range s.requests() {
		if request != "POST /api/v1/namespaces/shop/events" {
			t.Errorf("it asked %s", request)
		}
	}
}

func TestFault56NotesAndNamesAreCut(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	r := record(t, s, &logtest.Buffer{})
	notes := []string{
		strings.Repeat("a", 1024), strings.Repeat("a", 1025), strings.Repeat("日", 2000), strings.Repeat("\xffa", 1500), "€\xe2\x82",
	}
	for _, note := range notes {
		e := event(note)
		e.Pod = strings.Repeat("pod.", 63) + "x" // 253 characters
		r.Record(e)
	}
	eventually(t, "all events are there", func() bool { return r.Sent() == uint64(len(notes)) })
	for i, e := range s.got() {
		if len(e.Message) > 1024 || !utf8.ValidString(e.Message) {
			t.Errorf("note %d has %d bytes: %q", i, len(e.Message), e.Message)
		}
		if cut := len(notes[i]) > 1024; cut != strings.HasSuffix(e.Message, "…") {
			t.Errorf("note %d of %d bytes ends as %q", i, len(notes[i]), e.Message)
		}
		if len(e.Name) > 253 || strings.Contains(e.Name, "..") || e.InvolvedObject.Name != strings.Repeat("pod.", 63)+"x" {
			t.Errorf("the event is called %q and is about %q", e.Name, e.InvolvedObject.Name)
		}
	}
}

func TestRecordNeverWaits(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	r := newRecorder(t, s, &logtest.Buffer{}) // nobody runs it
	for i := range 1000 {
		r.Record(event(fmt.Sprint(i)))
	}
	if dropped := r.Dropped(); dropped != 1000-256 {
		t.Errorf("%d are dropped", dropped)
	}
	if len(s.requests()) > 0 {
		t.Error("Record speaks to the API server itself")
	}
}

func TestEventsThatAreRefusedDoNotStopTheOthers(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		if len(s.seen) > 2 {
			return false
		}
		refuse(w, http.StatusForbidden, metav1.StatusReasonForbidden)
		return true
	})
	log := &logtest.Buffer{}
	r := record(t, s, log)
	for i := range 4 {
		r.Record(event(fmt.Sprint(i)))
	}
	eventually(t, "two are sent", func() bool { return r.Sent() == 2 })
	if got := s.got(); got[0].Message != "2" || r.Dropped() != 2 {
		t.Errorf("the first event is %q, and %d are dropped", got[0].Message, r.Dropped())
	}
	if text := log.String(); strings.Count(text, "event is dropped") != 1 || !strings.Contains(text, `"level":"WARN"`) {
		t.Errorf("the log: %s", text)
	}
}

func TestEventsAreDroppedWhileTheAPIServerIsAway(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.intercept(func(w http.ResponseWriter, _ *http.Request) bool {
		refuse(w, http.StatusInternalServerError, metav1.StatusReasonInternalError)
		return true
	})
	log := &logtest.Buffer{}
	r := record(t, s, log)
	for i := range 50 {
		r.Record(event(fmt.Sprint(i)))
	}
	eventually(t, "all are dropped", func() bool { return r.Dropped() == 50 })
	if n := len(s.requests()); n > 2 {
		t.Errorf("it tried %d times", n)
	}
	text := log.String()
	if strings.Count(text, "event is dropped") != 1 || !strings.Contains(text, `"level":"DEBUG"`) {
		t.Errorf("the log: %s", text)
	}
	if strings.Contains(text, token) {
		t.Errorf("the log tells the token: %s", text)
	}
}
