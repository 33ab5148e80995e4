// Package pins keeps the roots of volumes and images on disk: one symbolic link
// for each holder, in a folder of Nix's own gcroots, so that each collector of
// the store (ours, the daemon's, one started by hand) sees it. Together with the
// kernel's mount table the pins are the whole state of the agent.
//
// A pin is <dir>/<kind>/<holder> and links to /nix/store/<root>: the logical
// path, also in a chroot store, because that is what Nix reads there. A pin says
// nothing about validity: it may be made before its path exists. Whoever needs
// "pinned and valid" checks validity after the pin, while no collector runs (see
// package provide).
//
// Methods may be called concurrently; readers never wait for the disk. One
// process owns the folder (the lock on the state directory sees to that), and an
// index in memory answers all questions.
//
// A pin appears and goes as a whole: the first of a root is made under a
// temporary name and renamed, the next ones are further names of the same link.
// kill -9 at any instruction leaves either no pin, the whole pin, or a temporary
// link that the next Open sweeps.
//
// Changes are not flushed to the disk: a pin has to outlive the agent, and it
// does, for the kernel holds it. After a power cut no mount is left that a pin
// could protect, and the start sweep drops pins without a mount anyway. Medians on
// ext4 on a virtual disk, two busy cores: new link 0.4 ms, rename 10 µs, one more
// name 6 µs, unlink 4 µs, and flushing the folder 0.5 to 4 ms more for each pin
// (BenchmarkPutDrop), which would be most of a warm publish.
package pins
