# Writes the configuration files of the nodes and the commands of the cluster;
# sourced by up.

# configure writes the files of one node.
configure() {
	local n=$1 N=$D/node$1
	cat >"$N/conf/containerd.toml" <<C
version = 3
root = "$N/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs", "io.containerd.differ.v1.erofs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "localhost/pause:1"
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = "/etc/containerd/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
  # Some hosts withhold CAP_SYS_RESOURCE; runc then cannot lower oom_score_adj
  # and ends with "can't get final child's PID from pipe".
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "$N/conf/cni"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = "$D/bin/runc"
        SystemdCgroup = false
    # The distribution's, by a RuntimeClass with this handler.
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.distribution]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.distribution.options]
        BinaryName = "$(command -v runc)"
        SystemdCgroup = false
C
	cat >"$N/conf/cni/10-bridge.conflist" <<C
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false,
   "ipam": {"type": "host-local", "dataDir": "/run/cni", "ranges": [[{"subnet": "$(pod_net "$n")"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
C
	cat >"$N/conf/kubelet.yaml" <<C
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /$cgroup.$n
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $D/pki/ca.crt}
authorization: {mode: Webhook}
address: $(node_ip "$n")
clusterDNS: [$dns_ip]
clusterDomain: cluster.local
tlsCertFile: $D/pki/node$n.crt
tlsPrivateKeyFile: $D/pki/node$n.key
volumePluginDir: /var/lib/kubelet/volume-plugins
resolvConf: ""
failSwapOn: false
makeIPTablesUtilChains: false
protectKernelDefaults: true
maxPods: 200
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
C
	cat >"$N/conf/proxy.yaml" <<C
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: $D/pki/proxy.kubeconfig}
bindAddress: $(node_ip "$n")
hostnameOverride: node$n
clusterCIDR: $all_pods
# Zero leaves alone the conntrack settings, which are the whole machine's.
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
C
}

# within writes the command $D/NAME, which runs WORDS and its arguments in namespaces
# of the process whose pid is in a file, in the caller's working directory.
within() { # NAME PID-FILE NAMESPACES [WORDS]
	cat >"$D/$1" <<C
#!/bin/sh
export KUBECACHEDIR='$D/run/kubectl' KUBECONFIG='$D/pki/admin.kubeconfig' CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1
exec nsenter -t "\$(cat '$2')" $3 -- sh -c 'cd "\$0" && exec "\$@"' "\$PWD" ${4:-} "\$@"
C
	chmod +x "$D/$1"
}

# commands writes what up describes.
commands() {
	local n suffix
	within kubectl "$D/pid" "-m -n" "'$D/bin/kube' kubectl"
	for n in $(up_nodes); do
		suffix=${n#1}
		within "enter$suffix" "$D/node$n/pid" "-m -p -n -u -i"
		within "ctr$suffix" "$D/node$n/pid" "-m -n" "'$D/bin/ctr' -n k8s.io"
	done
	cat >"$D/import" <<C
#!/bin/sh
set -e
for n in $(up_nodes | tr '\n' ' '); do '$D/ctr'"\${n#1}" images import "\$@" >/dev/null; done
C
	cat >"$D/image" <<C
#!/bin/sh
set -e
tar='$D/images/'\$\$.tar
'$D/bin/helper' image "\$tar" "\$@"
'$D/import' "\$tar"
rm "\$tar"
C
	chmod +x "$D/import" "$D/image"
}
