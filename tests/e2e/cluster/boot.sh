# Starts the cluster's processes on the state that is in $CLUSTER_DIR and waits for
# them; sourced by up and reboot.
begin=$(date +%s%N)
since() { echo "$((($(date +%s%N) - begin) / 1000000)) ms: $*"; }
fail() {
	echo "$(basename "$0"): $*; see $D/logs" >&2
	tail -n 5 "$D"/logs/*.log >&2
	exit 1
}
wait_for() { # SECONDS COMMAND...
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.2
	done
}

# boot starts init and waits until containerd answers.
boot() {
	# One cgroup of our own; the cpuset of v1 starts empty and must be filled.
	local g f c
	for g in $(cgroup_dirs); do
		mkdir -p "$g"
		for f in cpuset.cpus cpuset.mems; do
			if [ -e "$g/$f" ] && [ -e "$g/../$f" ] && [ -z "$(cat "$g/$f")" ]; then cat "$g/../$f" >"$g/$f"; fi
		done
	done
	if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
		for c in $(cat /sys/fs/cgroup/cgroup.controllers); do echo "+$c" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || :; done
	fi
	setsid unshare --mount --pid --fork --net --uts --ipc -- "$here/init" "$D" >>"$D/logs/init.log" 2>&1 </dev/null &
	wait_for 10 test -s "$D/pid" || fail "the cluster's first process did not start"
	wait_for 30 "$D/ctr" version || fail "containerd does not answer"
}

# settle waits until the node is Ready.
settle() {
	wait_for 120 "$D/kubectl" get --raw /readyz || fail "the API server is not ready"
	since "API server ready"
	wait_for 60 "$D/kubectl" get node $node || fail "the node did not register"
	"$D/kubectl" wait --for=condition=Ready "node/$node" --timeout=90s >/dev/null || fail "the node is not Ready"
	since "node Ready"
	wait_for 60 "$D/kubectl" get -n default serviceaccount default || fail "no default service account"
}

# halt ends every process of the cluster, and with them its mounts and network.
halt() {
	local pid g
	if pid=$(init_pid); then
		kill -KILL "$pid"
		wait_for 30 test ! -e "/proc/$pid" || fail "process $pid does not end"
	fi
	rm -f "$D/pid"
	for g in $(cgroup_dirs); do
		wait_for 10 remove_cgroup "$g" || fail "the cgroup $g is busy"
	done
}

remove_cgroup() {
	[ ! -d "$1" ] || find "$1" -depth -type d -exec rmdir {} +
}
