package main

import (
	"fmt"
	"slices"
	"time"
)

// The bars of images.
const (
	barKnown  = time.Millisecond // p50
	barCold   = 1.2              // times plain SHA-256, at most
	barStream = 0.8              // times the speed of tar into sha256sum, at least
	barKept   = 100_000          // bytes
)

func printImages(about string, f imageFigures) {
	fmt.Printf("\n%s\n\n", about)
	fmt.Printf("| one image of %d paths, %d files, %.0f MB in %d layers | | ratio |\n| --- | --: | --: |\n",
		imageShape.paths, f.files, float64(f.bytes)/1e6, f.layers)
	line := func(name, value, ratio string) { fmt.Printf("| %s | %s | %s |\n", name, value, ratio) }
	mid := func(t times) time.Duration { return t.at(0.5) }
	cold, speed := ratio(f.cold, f.plain), ratio(f.tarred, f.stream)
	line("plain SHA-256 of its files, on all cores", ms(mid(f.plain)), "1")
	line("**closured**, manifest of an unknown image", ms(mid(f.cold)), fmt.Sprintf("%.2f", cold))
	line("**closured**, first manifest of a known one after a restart", ms(mid(f.again)), "")
	line(fmt.Sprintf("**closured**, manifest of a known one, GET, p50 of %d", knownRounds), ms(mid(f.get)), "")
	line("**closured**, the same, p99", ms(f.get.at(0.99)), "")
	line("**closured**, the same by HEAD, p50", ms(mid(f.head)), "")
	line("`tar` of its paths into `sha256sum`", ms(mid(f.tarred)), "1")
	line("**closured**, all layers over HTTP, hashed by the client; ratio of speed", ms(mid(f.stream)), fmt.Sprintf("%.2f", speed))
	line("first publish of the closure as a volume", ms(mid(f.publish)), "1")
	line("image pulled and unpacked by `tar`", ms(mid(f.unpacked)), fmt.Sprintf("%.0f", ratio(f.unpacked, f.publish)))
	line("agent's memory: idle, one pull", mib(f.idle)+", "+mib(f.one), "")
	line(fmt.Sprintf("agent's memory, most with %d pulls at once", pullsAtOnce), mib(f.many), "")
	line("kept on disk beside the store", fmt.Sprintf("%d kB", (f.kept+999)/1000), "")

	fmt.Print("\nTimes in ms, medians, taken by the client in turns with what they are compared with; ratios are medians of pairs.\n")
	bar(fmt.Sprintf("known manifest at most %s ms (p50 of GET and HEAD, idle machine)", ms(barKnown)), max(mid(f.get), mid(f.head)) <= barKnown)
	bar(fmt.Sprintf("unknown manifest at most %.1f times plain SHA-256", barCold), cold <= barCold)
	bar(fmt.Sprintf("layers at least %.1f times as fast as tar into sha256sum", barStream), speed >= barStream)
	bar(fmt.Sprintf("at most %d MiB resident with %d pulls at once", barResident>>20, pullsAtOnce), f.many < barResident)
	bar(fmt.Sprintf("at most %d kB on disk", barKept/1000), f.kept <= barKept)
}

// ratio compares what was taken in turns: the median over the pairs, since the
// machine may be slower at one time than at another.
func ratio(a, b times) float64 {
	pairs := make([]float64, min(len(a), len(b)))
	for i := range pairs {
		pairs[i] = float64(a[i]) / float64(b[i])
	}
	slices.Sort(pairs)
	return pairs[len(pairs)/2]
}

func mib(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }
