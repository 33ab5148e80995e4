// Command bench measures what a volume and an image cost, beside the alternatives,
// in one run on one machine, and prints tables in Markdown.
//
// It is started by `make bench`, as root. Closures of small files are put into
// the store of an agent of its own; the agent is called over its socket as
// kubelet calls it. Single figures depend on the machine and on what else it
// does; the ratios hardly do.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/closured/closured/tests/agent"
)

// shapes are the closures of the comparison.
var shapes = []shape{{"small", 60, 50, 0}, {"medium", 400, 75, 0}, {"large", 1500, 100, 0}}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", "", "folder for the store, on the file system to measure; default: a new one in /tmp")
	flag.StringVar(&o.binary, "binary", "", "closured; default: $CLOSURED_BIN, else built")
	flag.IntVar(&o.rounds, "rounds", 300, "warm publishes to time for each closure")
	flag.IntVar(&o.starts, "starts", 5, "starts of the agent to time first publishes after")
	flag.StringVar(&o.only, "only", "", "measure only volumes, or only images")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	dir, binary, only string
	rounds, starts    int
}

func run(ctx context.Context, o options) (err error) {
	a, err := agent.New(agent.Config{Dir: o.dir, Binary: o.binary})
	if err != nil {
		return err
	}
	defer func() {
		if closed := a.Close(); err == nil {
			err = closed
		}
	}()
	b := bench{agent: a, options: o}
	if o.only != "images" {
		if err := b.volumes(ctx); err != nil {
			return err
		}
	}
	if o.only == "volumes" {
		return nil
	}
	return b.images(ctx)
}

// volumes measures and prints what volumes cost.
func (b *bench) volumes(ctx context.Context) error {
	if err := b.fill(ctx); err != nil {
		return err
	}
	if err := b.first(ctx); err != nil {
		return err
	}
	for i := range b.rows {
		if err := b.compare(ctx, &b.rows[i]); err != nil {
			return err
		}
	}
	printComparison(machine(b.agent.StateDir()), b.rows, b.options)
	many, err := b.many(ctx, b.rows[len(b.rows)-1].root, []int{1, 100, 500})
	if err != nil {
		return err
	}
	printMany(b.rows[len(b.rows)-1].shape, many)
	return nil
}
