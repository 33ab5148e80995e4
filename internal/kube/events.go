package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/closured/closured/internal/logkey"
)

const (
	// noteMax bounds a note in bytes (events.k8s.io/v1: 1 kB; core/v1 does not
	// check, but whoever copies events does).
	noteMax = 1024
	// queueMax bounds the events that wait to be sent: at most about half a MiB.
	queueMax = 256
	// awayPause is how long events are dropped unsent after the API server did not
	// answer, so that the queue does not hold old news when it is back.
	awayPause = 10 * time.Second
	// nameMax bounds a pod's name inside the name of an event, which is one DNS
	// subdomain of at most 253 characters as well.
	nameMax = 200
)

// Event is one thing to tell about a pod.
type Event struct {
	Namespace, Pod, UID string
	Warning             bool   // its type is Warning, else Normal
	Reason              string // one word in CamelCase, for machines
	Note                string // for people; cut after 1024 bytes
}

// RecorderConfig says who tells events. Client and Node are required.
type RecorderConfig struct {
	Client    *Client
	Component string // the program; default "closured"
	Node      string // the name of the node
	Log       *slog.Logger
}

// Recorder sends events in the order of their recording, one at a time.
type Recorder struct {
	cfg    RecorderConfig
	log    *slog.Logger
	queue  chan *corev1.Event
	sent   atomic.Uint64
	missed atomic.Uint64
}

// NewRecorder makes a recorder, or tells everything that is wrong with cfg.
func NewRecorder(cfg RecorderConfig) (*Recorder, error) {
	var problems []error
	if cfg.Client == nil {
		problems = append(problems, errors.New("kube: Client is missing"))
	}
	if cfg.Node == "" {
		problems = append(problems, errors.New("kube: Node is missing"))
	}
	if cfg.Component == "" {
		cfg.Component = "closured"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Recorder{cfg: cfg, log: cfg.Log, queue: make(chan *corev1.Event, queueMax)}, errors.Join(problems...)
}

// Record hands an event over to Run. It never waits: when too many do, the event
// is dropped, as it is when the API server is away. Secrets must be out of it.
func (r *Recorder) Record(e Event) {
	select {
	case r.queue <- r.object(e, time.Now()):
	default:
		r.missed.Add(1)
	}
}

// Sent counts the events that the API server took.
func (r *Recorder) Sent() uint64 { return r.sent.Load() }

// Dropped counts the events that nobody will see.
func (r *Recorder) Dropped() uint64 { return r.missed.Load() }

// Run sends events until ctx ends, and gives nil then. What waits is dropped.
func (r *Recorder) Run(ctx context.Context) error {
	var away time.Time // until when nothing is sent
	trouble := false   // told already
	for ctx.Err() == nil {
		var e *corev1.Event
		select {
		case <-ctx.Done():
			return nil
		case e = <-r.queue:
		}
		if time.Now().Before(away) {
			r.missed.Add(1)
			continue
		}
		err := r.send(ctx, e)
		if err == nil {
			r.sent.Add(1)
			trouble = false
			continue
		}
		r.missed.Add(1)
		if !refused(err) {
			away = time.Now().Add(awayPause)
		}
		if !trouble && ctx.Err() == nil {
			r.tell(ctx, e, err)
			trouble = true
		}
	}
	return nil
}

func (r *Recorder) send(ctx context.Context, e *corev1.Event) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return r.cfg.Client.events.Post().MaxRetries(1).Namespace(e.Namespace).Resource("events").Body(e).Do(ctx).Error()
}

// refused tells an answer of the API server that is about the event or the
// sender from one that says, by words or by silence, that it cannot answer now.
func refused(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	code := status.Status().Code
	return code >= 400 && code < 500 && !apierrors.IsTooManyRequests(err)
}

// tell logs the first of a row of failures. That the agent may not create events
// is a mistake of the operator's; all else passes, or is about one pod.
func (r *Recorder) tell(ctx context.Context, e *corev1.Event, err error) {
	level := slog.LevelDebug
	if apierrors.IsForbidden(err) && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		level = slog.LevelWarn
	}
	r.log.Log(ctx, level, "event is dropped", slog.String(logkey.Namespace, e.Namespace),
		slog.String(logkey.Pod, e.InvolvedObject.Name), slog.String(logkey.Error, err.Error()))
}

// object makes the API object. It names the pod by its uid, so that a pod of the
// same name that comes later does not inherit it.
func (r *Recorder) object(e Event, now time.Time) *corev1.Event {
	kind := corev1.EventTypeNormal
	if e.Warning {
		kind = corev1.EventTypeWarning
	}
	stamp := metav1.NewTime(now)
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: e.Namespace, Name: eventName(e.Pod)},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "v1", Kind: "Pod", Namespace: e.Namespace, Name: e.Pod, UID: types.UID(e.UID),
		},
		Type: kind, Reason: e.Reason, Message: cut(e.Note, noteMax),
		FirstTimestamp: stamp, LastTimestamp: stamp, Count: 1,
		Source:              corev1.EventSource{Component: r.cfg.Component, Host: r.cfg.Node},
		ReportingController: r.cfg.Component, ReportingInstance: r.cfg.Node,
	}
}

// eventName gives a name that no other event has.
func eventName(pod string) string {
	if len(pod) > nameMax {
		pod = strings.TrimRight(pod[:nameMax], "-.")
	}
	return fmt.Sprintf("%s.%016x", pod, rand.Uint64()) //nolint:gosec // a name, no secret
}

// cut makes text valid UTF-8 of at most limit bytes, at a character's border.
func cut(text string, limit int) string {
	text = strings.ToValidUTF8(text, "�")
	if len(text) <= limit {
		return text
	}
	const ellipsis = "…"
	end := limit - len(ellipsis)
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + ellipsis
}
