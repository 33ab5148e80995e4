package kube

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/rest"
)

// line is an API server without network, for tests of times.
type line func(r *http.Request) (code int, body string)

// RoundTrip implements http.RoundTripper.
func (l line) RoundTrip(r *http.Request) (*http.Response, error) {
	code, body := l(r)
	return &http.Response{
		StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(bytes.NewReader([]byte(body))), Request: r,
	}, nil
}

func clientOf(t *testing.T, l line) *Client {
	t.Helper()
	c, err := newClient(&rest.Config{Host: "http://api.example", Transport: l})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// during runs something in a bubble, for a time.
func during(t *testing.T, run func(context.Context) error, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := run(ctx); err != nil {
		t.Errorf("Run: %v", err)
	}
}

const accepted = `{"kind": "Event", "apiVersion": "v1"}`

func TestEventsAreSentAtABoundedRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var last time.Duration
		r, err := NewRecorder(RecorderConfig{Node: "node-a", Client: clientOf(t, func(*http.Request) (int, string) {
			last = time.Since(begin)
			return http.StatusCreated, accepted
		})})
		if err != nil {
			t.Fatal(err)
		}
		for range eventsBurst + 5*eventsPerSecond {
			r.Record(Event{Namespace: "shop", Pod: "redis"})
		}
		during(t, r.Run, time.Minute)
		if r.Sent() != eventsBurst+5*eventsPerSecond || last.Round(time.Second) != 5*time.Second {
			t.Errorf("%d events in %s", r.Sent(), last)
		}
	})
}

func TestEventsAreSentAgainWhenTheAPIServerIsBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin, asked := time.Now(), 0
		r, err := NewRecorder(RecorderConfig{Node: "node-a", Client: clientOf(t, func(r *http.Request) (int, string) {
			asked++
			if time.Since(begin) < 8*time.Second {
				<-r.Context().Done() // no answer
				return http.StatusGatewayTimeout, ""
			}
			return http.StatusCreated, accepted
		})})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for range 10 { // one each 2 s
				r.Record(Event{Namespace: "shop", Pod: "redis"})
				time.Sleep(2 * time.Second)
			}
		}()
		during(t, r.Run, time.Minute)
		// The first takes 5 s to fail; then 10 s are dropped unasked.
		if r.Sent() != 2 || r.Dropped() != 8 || asked != 3 {
			t.Errorf("%d sent, %d dropped, the API server was asked %d times", r.Sent(), r.Dropped(), asked)
		}
	})
}

func TestTheTaintIsLookedForAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var asked []time.Duration
		u, err := NewUntainter(UntainterConfig{
			Node: "node-a", Key: "k", Ready: func() error { return nil },
			Client: clientOf(t, func(*http.Request) (int, string) {
				asked = append(asked, time.Since(begin))
				if len(asked) <= 12 { // away for a while
					return http.StatusBadGateway, ""
				}
				return http.StatusOK, `{"kind": "Node", "apiVersion": "v1"}`
			}),
		})
		if err != nil {
			t.Fatal(err)
		}
		during(t, u.Run, time.Hour)
		var waits []time.Duration
		for i := 1; i < len(asked); i++ {
			waits = append(waits, asked[i]-asked[i-1])
		}
		longest := []float64{1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60, 900, 900, 900}
		ok := func(got time.Duration, want float64) bool {
			return got.Seconds() <= want && got.Seconds() >= want*3/4
		}
		if len(waits) < len(longest) || !slices.EqualFunc(waits[:len(longest)], longest, ok) {
			t.Errorf("it waited %s, want at most %v seconds", waits, longest)
		}
	})
}
