# Starts the cluster's processes on the state that is in $CLUSTER_DIR and waits for
# them, and ends them; sourced by up, reboot and down.
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

# boot starts init and waits until each containerd answers.
boot() {
	local n
	for n in $(up_nodes); do make_cgroups "$n"; done
	setsid unshare --mount --pid --fork --net --uts --ipc -- "$here/init" "$D" >>"$D/logs/init.log" 2>&1 </dev/null &
	wait_for 10 test -s "$D/pid" || fail "the cluster's first process did not start"
	for n in $(up_nodes); do
		wait_for 30 "$D/ctr${n#1}" version || fail "containerd of node$n does not answer"
	done
}

# make_cgroups makes one node's cgroup of our own; the cpuset of v1 starts empty and
# must be filled.
make_cgroups() {
	local g f c
	for g in $(cgroup_dirs "$1"); do
		mkdir -p "$g"
		for f in cpuset.cpus cpuset.mems; do
			if [ -e "$g/$f" ] && [ -e "$g/../$f" ] && [ -z "$(cat "$g/$f")" ]; then cat "$g/../$f" >"$g/$f"; fi
		done
	done
	if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
		for c in $(cat /sys/fs/cgroup/cgroup.controllers); do echo "+$c" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || :; done
	fi
}

# settle waits until every node is Ready.
settle() {
	local n
	wait_for 120 "$D/kubectl" get --raw /readyz || fail "the API server is not ready"
	since "API server ready"
	for n in $(up_nodes); do
		wait_for 60 "$D/kubectl" get node "node$n" || fail "node$n did not register"
		"$D/kubectl" wait --for=condition=Ready "node/node$n" --timeout=90s >/dev/null || fail "node$n is not Ready"
		since "node$n Ready"
	done
	wait_for 60 "$D/kubectl" get -n default serviceaccount default || fail "no default service account"
}

# halt ends every process of the cluster, and with them its mounts and networks.
halt() {
	local pid g
	if pid=$(init_pid); then
		kill -KILL "$pid"
		wait_for 30 test ! -e "/proc/$pid" || fail "process $pid does not end"
	fi
	rm -f "$D"/pid "$D"/node[1-9]/pid
	for g in $(cgroup_dirs); do
		wait_for 10 remove_cgroup "$g" || fail "the cgroup $g is busy"
	done
}

remove_cgroup() {
	[ ! -d "$1" ] || find "$1" -depth -type d -exec rmdir {} +
}

# The fixed places are folders of the machine, too, to mount on inside the cluster.
# Those that were not there are made, noted for all clusters together, and removed by
# the last cluster that uses them.
noted=/run/closured-e2e.made
make_places() {
	local place dir
	for place in $places; do
		dir=${place%:*}
		[ -d "$dir" ] || { mkdir "$dir" && echo "$dir" >>"$noted"; }
	done
}

remove_places() {
	local dir left=()
	[ -e "$noted" ] || return 0
	while read -r dir; do
		# Removing a folder takes away what other namespaces mounted on it.
		if grep -qsF " $dir " /proc/[0-9]*/mountinfo || { [ -d "$dir" ] && ! rmdir "$dir" 2>/dev/null; }; then left+=("$dir"); fi
	done < <(sort -u "$noted")
	rm -f "$noted"
	[ ${#left[@]} = 0 ] || printf '%s\n' "${left[@]}" >"$noted"
}
