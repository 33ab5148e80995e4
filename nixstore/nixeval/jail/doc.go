// Package jail runs one program in a process of its own that can reach next to
// nothing: fresh mount, pid, ipc, uts and (unless asked otherwise) network
// namespaces, a minimal root on a bounded tmpfs that holds only what the Spec
// names, an unprivileged user without groups or capabilities, no_new_privs,
// resource limits, an environment that is empty but for what is given, and a
// deadline that ends every process inside.
//
// It is not a container runtime: it knows no images, no cgroups and no user
// namespaces, and it filters no system calls. It does not hide the kernel, and
// a jail with Network reaches whatever the host reaches. It needs CAP_SYS_ADMIN,
// CAP_SETUID, CAP_SETGID and CAP_SETPCAP of its caller.
//
// The jail is set up by the caller's own program, started again from
// /proc/self/exe: main, and TestMain of tests, call MaybeChild first.
//
// One that runs busybox for at most a second, and sees nothing else:
//
//	result, err := jail.Run(ctx, jail.Spec{
//		Args:        []string{"/bin/busybox", "echo", "hello"},
//		Binds:       []jail.Bind{{From: "/usr/bin/busybox", To: "/bin/busybox"}},
//		UID:         65534,
//		GID:         65534,
//		MemoryBytes: 64 << 20,
//		Timeout:     time.Second,
//	}, nil, 1<<10, 1<<10)
//
// Run may be called concurrently; each call owns one jail and one thread, and
// returns only when every process of its jail is gone. The first process of the
// jail is the first of a pid namespace and dies with the thread that started
// it, so that kill -9 of the caller leaves no process, and the mounts, which
// exist only in the jail's mount namespace, go with it.
package jail
