// Package controllertest starts what tests of the controller need: an etcd and
// an API server, real ones, with no node and no other controller, so that a test
// plays those parts by hand.
//
// The programs are the ones that the end-to-end cluster builds; without them
// Start skips the test, and says so. Each cluster has a loopback address and a
// folder of its own, so that any number run beside each other; both processes die
// with the test's process. It is not for production.
package controllertest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// The limits of waiting. A machine under load takes its time.
const (
	readyLimit = 3 * time.Minute
	pollEvery  = 200 * time.Millisecond
	token      = "test"
)

// Cluster is a running API server.
type Cluster struct {
	// Config reaches the API server as its administrator.
	Config *rest.Config
	// AuditLog is the file with a line for each request that was answered.
	AuditLog string

	program, dir, address string
	apiserver             *process
}

// Start starts a cluster that ends with the test. It skips the test when the
// programs are not there.
func Start(tb testing.TB) *Cluster {
	tb.Helper()
	c := &Cluster{program: program(tb), dir: tb.TempDir(), address: loopback(tb)}
	c.AuditLog = filepath.Join(c.dir, "audit.log")
	c.writeFiles(tb)
	etcd := "http://" + c.address
	c.run(tb, "etcd", "--data-dir", filepath.Join(c.dir, "etcd"), "--name", "etcd", "--unsafe-no-fsync", "--log-level", "warn",
		"--listen-client-urls", etcd+":2379", "--advertise-client-urls", etcd+":2379",
		"--listen-peer-urls", etcd+":2380", "--initial-advertise-peer-urls", etcd+":2380",
		"--initial-cluster", "etcd="+etcd+":2380")
	c.Config = &rest.Config{
		Host: "https://" + c.address + ":6443", BearerToken: token, QPS: 1000, Burst: 1000,
		TLSClientConfig: rest.TLSClientConfig{Insecure: true}, // its certificate is made at its start
	}
	c.startAPIServer(tb)
	return c
}

// RestartAPIServer kills the API server, and gives back when a new one answers.
func (c *Cluster) RestartAPIServer(tb testing.TB) {
	tb.Helper()
	c.apiserver.kill()
	c.startAPIServer(tb)
}

func (c *Cluster) startAPIServer(tb testing.TB) {
	tb.Helper()
	key := filepath.Join(c.dir, "sa.key")
	c.apiserver = c.run(tb, "apiserver", "--etcd-servers=http://"+c.address+":2379",
		"--bind-address="+c.address, "--advertise-address=10.0.0.1", "--secure-port=6443", "--cert-dir="+c.dir,
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+key, "--service-account-signing-key-file="+key,
		"--token-auth-file="+filepath.Join(c.dir, "tokens.csv"), "--authorization-mode=RBAC",
		// No service accounts, since nobody makes them; owner references as strict clusters have them.
		"--disable-admission-plugins=ServiceAccount", "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
		"--audit-policy-file="+filepath.Join(c.dir, "audit.yaml"), "--audit-log-path="+c.AuditLog, "--audit-log-mode=blocking",
		"--service-cluster-ip-range=10.0.0.0/24")
	client, err := kubernetes.NewForConfig(c.Config)
	if err != nil {
		tb.Fatal(err)
	}
	c.wait(tb, func(ctx context.Context) error {
		return client.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
}

// wait polls until the API server is ready, or one of the processes has ended.
func (c *Cluster) wait(tb testing.TB, ready func(context.Context) error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), readyLimit)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			tb.Fatalf("the API server is not ready: %v\n%s", err, c.logs())
		case <-c.apiserver.ended:
			tb.Fatalf("the API server ended\n%s", c.logs())
		case <-time.After(pollEvery):
		}
	}
}

func (c *Cluster) logs() string {
	const tail = 3000
	var text strings.Builder
	for _, name := range []string{"etcd", "apiserver"} {
		data, _ := os.ReadFile(filepath.Join(c.dir, name+".log"))
		fmt.Fprintf(&text, "%s: %s\n", name, data[max(0, len(data)-tail):])
	}
	return text.String()
}

// program gives the binary of all Kubernetes programs, or skips the test.
func program(tb testing.TB) string {
	tb.Helper()
	dir := os.Getenv("CLUSTER_DIR") //nolint:forbidigo // for tests only
	if dir == "" {
		cache := os.Getenv("XDG_CACHE_HOME") //nolint:forbidigo // for tests only
		if cache == "" {
			cache = "/var/cache"
		}
		dir = filepath.Join(cache, "closured", "e2e")
	}
	kube := filepath.Join(dir, "bin", "kube")
	if _, err := os.Stat(kube); errors.Is(err, os.ErrNotExist) {
		tb.Skipf("%s is not there: tests/e2e/cluster/build makes it, in ten minutes", kube)
	}
	return kube
}

// loopback gives a random address that nobody else has.
func loopback(tb testing.TB) string {
	tb.Helper()
	n, err := rand.Int(rand.Reader, big.NewInt(1<<24-1<<17))
	if err != nil {
		tb.Fatal(err)
	}
	i := n.Int64() + 1<<16 // not 127.0.x.y, where everybody is
	return fmt.Sprintf("127.%d.%d.%d", i>>16&255, i>>8&255, i&255|1)
}

func (c *Cluster) writeFiles(tb testing.TB) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"sa.key":     pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}),
		"tokens.csv": []byte(token + ",admin,admin,system:masters\n"),
		"audit.yaml": []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived, ResponseStarted]\nrules: [{level: Metadata}]\n"),
	} {
		if err := os.WriteFile(filepath.Join(c.dir, name), data, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
}

// process is one program of the cluster.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// run starts one of the Kubernetes programs, until the test ends.
func (c *Cluster) run(tb testing.TB, args ...string) *process {
	tb.Helper()
	log, err := os.OpenFile(filepath.Join(c.dir, args[0]+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		tb.Fatal(err)
	}
	p := &process{cmd: exec.Command(c.program, args...), ended: make(chan struct{})} //nolint:noctx // a cleanup ends it, after the test's context
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait()
		_ = log.Close()
	}()
	tb.Cleanup(p.kill)
	return p
}
