package main

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// identity answers probes; hang keeps the caller waiting.
type identity struct {
	csi.UnimplementedIdentityServer

	ready, hang bool
}

func (i identity) Probe(ctx context.Context, _ *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	if i.hang {
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err() // whoever's clock is first, it is no answer
	}
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(i.ready)}, nil
}

func serve(t *testing.T, i identity) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	csi.RegisterIdentityServer(server, i)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() { server.Stop(); <-done })
	return "unix://" + path
}

func TestTheAnswerIsTheExitCode(t *testing.T) {
	t.Parallel()
	ready, waiting := serve(t, identity{ready: true}), serve(t, identity{})
	hanging, nobody := serve(t, identity{hang: true}), "unix://"+filepath.Join(t.TempDir(), "s")
	tests := map[string]struct {
		args []string
		code int
		says string
	}{
		"a ready agent lives":                 {[]string{"--endpoint", ready}, 0, ""},
		"a ready agent is ready":              {[]string{"--endpoint", ready, "--ready"}, 0, ""},
		"an agent without a daemon lives":     {[]string{"--endpoint", waiting}, 0, ""},
		"an agent without a daemon waits":     {[]string{"--endpoint", waiting, "--ready"}, 1, "cannot publish"},
		"an agent that hangs does not live":   {[]string{"--endpoint", hanging, "--timeout", "50ms"}, 1, "DeadlineExceeded"},
		"nobody listens":                      {[]string{"--endpoint", nobody, "--timeout", "50ms"}, 1, "asking unix://"},
		"help is no failure":                  {[]string{"-h"}, 0, "CSI socket of the agent"},
		"a flag that is unknown":              {[]string{"--redy"}, 2, "redy"},
		"an argument where none is looked at": {[]string{"ready"}, 2, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if code := command(ctx, test.args, &out); code != test.code {
				t.Errorf("exit code %d, want %d; it said %q", code, test.code, out.String())
			}
			if !strings.Contains(out.String(), test.says) {
				t.Errorf("it said %q, want %q", out.String(), test.says)
			}
		})
	}
}
