// Package e2e proves closured with real pods on a real Kubernetes: the one that
// cluster/up brings up on this machine. It is made of tests only, which need the
// build tag e2e and run as a process of the node:
//
//	make e2e                      # everything; takes the cluster down at the end
//	make e2e-up; cd tests/e2e     # brings it up to stay; then, again and again,
//	export CLUSTER_DIR=/var/cache/closured/e2e CGO_ENABLED=0
//	go test -trimpath -tags e2e -exec $CLUSTER_DIR/enter -run TestUsers .
//
// Both begin with what the machine lacks, on a fresh one with packages of Debian
// and half an hour of compiling. One test needs a cluster of two nodes: make e2e
// makes it after the first, NODES=2 make e2e-up at once. A cluster that is up is taken as it is: what a
// run says of an installation is of a cluster without closured only after
// make e2e-down.
//
// A test sees kubelet's folder, the mount table and the processes of the node
// beside the API server. Each test takes its pods away and then looks for mounts,
// pins and folders that they left. Tests run one after the other, since they
// restart what the others need.
//
// What must hold is asserted. Speed is measured and not judged, as the machine is
// shared: figures are printed at the end and kept in $CLUSTER_DIR/logs/figures.txt.
//
// There is one agent for all tests, in the form that $E2E_AGENT says: "process",
// the program as a process of the node, or "daemonset", which some tests need.
// $E2E_DOWN_FOR, such as 60s, shortens the five minutes that the agent is away in
// one of them. $E2E_NIXIMAGES is how many NixImages another one makes at once (30).
package e2e
