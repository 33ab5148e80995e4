package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The bars of the comparison: how many times cheaper than the hard link tree of
// the largest closure a publish has to be, and the agent's memory in bytes.
const (
	barWarm     = 500
	barFirst    = 50
	barResident = 64 << 20
)

func printComparison(about string, rows []row, o options) {
	fmt.Printf("%s\n\n", about)
	line := func(name string, cell func(r row) string) {
		cells := make([]string, len(rows))
		for i, r := range rows {
			cells[i] = cell(r)
		}
		fmt.Printf("| %s | %s |\n", name, strings.Join(cells, " | "))
	}
	line("one volume", func(r row) string { return fmt.Sprintf("%d paths, %d files", r.paths, r.paths*r.files) })
	fmt.Printf("| --- |%s\n", strings.Repeat(" --: |", len(rows)))
	line(fmt.Sprintf("**closured**, first publish, median of %d starts", o.starts), func(r row) string { return ms(r.first.at(0.5)) })
	line(fmt.Sprintf("**closured**, warm publish, p50 of %d", o.rounds), func(r row) string { return ms(r.warm.at(0.5)) })
	line("**closured**, warm publish, p99", func(r row) string { return ms(r.warm.at(0.99)) })
	line("**closured**, unpublish, p50", func(r row) string { return ms(r.unpublish.at(0.5)) })
	line("**closured**, unpublish, p99", func(r row) string { return ms(r.unpublish.at(0.99)) })
	line("bare bind mount of the whole store, p50", func(r row) string { return ms(r.storeBind.at(0.5)) })
	line("bare bind mount of the whole store, p99", func(r row) string { return ms(r.storeBind.at(0.99)) })
	line("hard link tree, made", func(r row) string { return ms(r.link.at(0.5)) })
	line("hard link tree, removed", func(r row) string { return ms(r.linkGone.at(0.5)) })
	line("a bind mount for each path, made", func(r row) string { return ms(r.bindEach.at(0.5)) })
	line("a bind mount for each path, removed", func(r row) string { return ms(r.bindGone.at(0.5)) })
	line("hard link tree ÷ first publish", func(r row) string { return times64(r.link.at(0.5), r.first.at(0.5)) })
	line("hard link tree ÷ warm publish", func(r row) string { return times64(r.link.at(0.5), r.warm.at(0.5)) })

	last := rows[len(rows)-1]
	fmt.Printf("\nTimes in ms; publish and unpublish are whole calls over the socket, the rest system calls only.\n")
	bar(fmt.Sprintf("first publish of %d paths at most 1/%d of the hard link tree", last.paths, barFirst),
		last.first.at(0.5)*barFirst <= last.link.at(0.5))
	bar(fmt.Sprintf("warm publish of %d paths at most 1/%d of the hard link tree", last.paths, barWarm),
		last.warm.at(0.5)*barWarm <= last.link.at(0.5))
	bar(fmt.Sprintf("warm publish of %d paths at most 1 ms (p50, idle machine)", last.paths), last.warm.at(0.5) <= time.Millisecond)
}

func printMany(s shape, crowds []crowd) {
	fmt.Printf("\n| volumes at once, each of the same %d paths | publish p50 | p99 | unpublish p50 | p99 | lines in mountinfo | agent's memory |\n", s.paths)
	fmt.Print("| --: | --: | --: | --: | --: | --: | --: |\n")
	for _, c := range crowds {
		fmt.Printf("| %d | %s | %s | %s | %s | +%d | %.1f MiB |\n", c.volumes, ms(c.publish.at(0.5)), ms(c.publish.at(0.99)),
			ms(c.unpublish.at(0.5)), ms(c.unpublish.at(0.99)), c.lines, float64(c.resident)/(1<<20))
	}
	last := crowds[len(crowds)-1]
	fmt.Println()
	bar(fmt.Sprintf("at most %d MiB resident with %d volumes", barResident>>20, last.volumes), last.resident < barResident)
}

func bar(what string, met bool) {
	verdict := "met"
	if !met {
		verdict = "**missed**"
	}
	fmt.Printf("- %s: %s\n", what, verdict)
}

func ms(d time.Duration) string {
	digits := 0
	switch {
	case d < 10*time.Millisecond:
		digits = 3
	case d < time.Second:
		digits = 1
	}
	return fmt.Sprintf("%.*f", digits, float64(d)/float64(time.Millisecond))
}

func times64(a, b time.Duration) string { return fmt.Sprintf("%.0f", float64(a)/float64(b)) }

// machine describes what the figures depend on.
func machine(dir string) string {
	var name unix.Utsname
	_ = unix.Uname(&name) // never fails with a valid pointer (uname(2))
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		load = []byte("?")
	}
	nix, err := exec.Command("nix-store", "--version").Output() //nolint:noctx // quick
	if err != nil {
		nix = []byte("no Nix")
	}
	var stat unix.Statfs_t
	fs := "?"
	if unix.Statfs(dir, &stat) == nil {
		fs = fmt.Sprintf("%#x", stat.Type)
		if known := map[int64]string{unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.TMPFS_MAGIC: "tmpfs"}[stat.Type]; known != "" {
			fs = known
		}
	}
	return fmt.Sprintf("Linux %s, %d CPUs, store on %s, %s; load before: %s", unix.ByteSliceToString(name.Release[:]),
		runtime.NumCPU(), fs, strings.TrimSpace(string(nix)), strings.Join(strings.Fields(string(load))[:1], ""))
}
