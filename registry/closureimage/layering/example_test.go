package layering_test

import (
	"fmt"

	"github.com/closured/closured/registry/closureimage/layering"
)

// The two tiny files share a layer. Lowest comes what changes least often for its size.
func ExampleCut() {
	layers, err := layering.Cut([]layering.Path{
		{Name: "5gzgbd1kw9drv4cjfs3w4rygkq1ydqdw-app", NarSize: 800_000, References: []string{
			"7ps5wsdm4fw5481qnv4kryn8jmwychns-libc",
			"li1yj7lx8r0p6p6fz2v6gnpwf8hjr5s0-protocols",
			"mf56fk1fy0yf5pcv0y1z3fnsyc42pwpw-time-zones",
		}},
		{Name: "7ps5wsdm4fw5481qnv4kryn8jmwychns-libc", NarSize: 30_000_000},
		{Name: "li1yj7lx8r0p6p6fz2v6gnpwf8hjr5s0-protocols", NarSize: 4_000},
		{Name: "mf56fk1fy0yf5pcv0y1z3fnsyc42pwpw-time-zones", NarSize: 3_000},
	}, "5gzgbd1kw9drv4cjfs3w4rygkq1ydqdw-app", 99)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, l := range layers {
		fmt.Println(l.Size, l.Paths)
	}
	// Output:
	// 30000000 [7ps5wsdm4fw5481qnv4kryn8jmwychns-libc]
	// 800000 [5gzgbd1kw9drv4cjfs3w4rygkq1ydqdw-app]
	// 7000 [li1yj7lx8r0p6p6fz2v6gnpwf8hjr5s0-protocols mf56fk1fy0yf5pcv0y1z3fnsyc42pwpw-time-zones]
}
