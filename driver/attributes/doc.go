// Package attributes turns the words of a pod, the volume context of a CSI call,
// into a typed request, or says all that is wrong with them.
//
// The words are hostile until Parse has accepted them. What it accepts holds no
// NUL and no control character but line ends, no word that a program could take
// for an option, no path that leaves the store, and nothing that is longer than
// the limits below; all later code relies on that. Whether the request is
// allowed is not asked here but in package policy, and whether what it names
// exists is for the store to find out.
//
// Parse is pure: it reads no file, keeps nothing and may be called concurrently.
package attributes
