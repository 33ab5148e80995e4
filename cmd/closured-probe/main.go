// Command closured-probe asks the agent on its CSI socket whether it lives, for
// the probes of its container: over the socket that kubelet itself uses, so that
// neither the pod network nor an open port decides whether an agent is restarted.
//
// Without --ready an agent that answers is alive, also when it cannot publish:
// a restart would not bring its daemon back. Exit codes: 0 yes, 1 no, 2 misuse.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Exit codes.
const (
	exitNo    = 1
	exitUsage = 2
)

func main() { os.Exit(command(context.Background(), os.Args[1:], os.Stderr)) }

// command is main with its surroundings as arguments; it gives the exit code.
func command(ctx context.Context, args []string, out io.Writer) int {
	fs := flag.NewFlagSet("closured-probe", flag.ContinueOnError)
	fs.SetOutput(out)
	endpoint := fs.String("endpoint", "unix:///csi/csi.sock", "CSI `socket` of the agent")
	ready := fs.Bool("ready", false, "ask whether volumes can be published, not only whether it lives")
	timeout := fs.Duration("timeout", 5*time.Second, "how long it may take to answer")
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil || fs.NArg() > 0:
		return exitUsage
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	if err := probe(ctx, *endpoint, *ready); err != nil {
		_, _ = fmt.Fprintf(out, "closured-probe: %v\n", err)
		return exitNo
	}
	return 0
}

// probe asks once.
func probe(ctx context.Context, endpoint string, ready bool) error {
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", endpoint, err)
	}
	defer func() { _ = conn.Close() }()
	answer, err := csi.NewIdentityClient(conn).Probe(ctx, &csi.ProbeRequest{})
	if err != nil {
		return fmt.Errorf("asking %s: %w", endpoint, err)
	}
	if ready && !answer.GetReady().GetValue() {
		return errors.New("the agent lives but cannot publish; its log and /readyz say why")
	}
	return nil
}
