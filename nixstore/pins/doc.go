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
// A pin appears and goes as a whole: it is made under a temporary name and
// renamed. kill -9 at any instruction leaves either no pin, the whole pin, or a
// temporary link that the next Open sweeps. Changes are not flushed to the disk:
// a pin has to outlive the agent, and it does, for the kernel holds it. After a
// power cut no mount is left that a pin could protect, and the start sweep drops
// pins without a mount anyway. Flushing the folder would cost a warm publish far
// more than all the rest of it: on ext4 on a virtual disk, Put took 18 µs and
// fsync of the folder 0.4 ms more (BenchmarkPutDrop, BenchmarkPutDropFlushed).
package pins
