// Package e2e proves closured with real pods on a real Kubernetes: the one that
// cluster/up brings up on this machine. It is made of tests only, which need the
// build tag e2e and run as a process of the node:
//
//	make e2e-run                   # everything, from nothing
//	make e2e-up; cd tests/e2e     # once, then
//	export CLUSTER_DIR=/var/cache/closured/e2e CGO_ENABLED=0
//	go test -trimpath -tags e2e -exec $CLUSTER_DIR/enter -run TestUsers .
//
// A test sees kubelet's folder, the mount table and the processes of the node
// beside the API server. Each test takes its pods away and then looks for mounts,
// pins and folders that they left. Tests run one after the other, since they
// restart what the others need.
//
// There is one agent for all tests, in the form that $E2E_AGENT says: "process",
// the program as a process of the node, or "daemonset".
package e2e
