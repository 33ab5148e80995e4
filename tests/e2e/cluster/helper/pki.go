package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

type signer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// server is a certificate in a file of its own, client one in a kubeconfig.
type (
	server struct {
		file, cn, org string
		dns           []string
		ips           []net.IP
	}
	client struct{ file, cn, org string }
)

// pki writes into dir: ca.crt, the API server's serving certificate, its
// client certificate for kubelets, each kubelet's serving certificate, the
// service account key, and one kubeconfig for each client. A node is NAME=IP.
func pki(dir, apiIP, serviceIP string, nodes []string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	ca, err := newCA()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), ca.pem, 0o644); err != nil {
		return err
	}
	local := net.IPv4(127, 0, 0, 1)
	servers := []server{
		{"apiserver", "kube-apiserver", "",
			[]string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"},
			[]net.IP{local, net.ParseIP(apiIP), net.ParseIP(serviceIP)}},
		{"apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters", nil, nil},
	}
	clients := []client{
		{"admin", "admin", "system:masters"},
		{"controller-manager", "system:kube-controller-manager", ""},
		{"scheduler", "system:kube-scheduler", ""},
		{"proxy", "system:kube-proxy", ""},
	}
	for _, node := range nodes {
		name, ip, _ := strings.Cut(node, "=")
		servers = append(servers, server{name, "system:node:" + name, "system:nodes", []string{name}, []net.IP{local, net.ParseIP(ip)}})
		clients = append(clients, client{name, "system:node:" + name, "system:nodes"})
	}
	for _, c := range servers {
		cert, key, err := ca.issue(c.cn, c.org, c.dns, c.ips)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, c.file+".crt"), cert, 0o644); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, c.file+".key"), key, 0o600); err != nil {
			return err
		}
	}
	for _, c := range clients {
		cert, key, err := ca.issue(c.cn, c.org, nil, nil)
		if err != nil {
			return err
		}
		conf := fmt.Sprintf(kubeconfig, b64(ca.pem), apiIP, b64(cert), b64(key))
		if err := os.WriteFile(filepath.Join(dir, c.file+".kubeconfig"), []byte(conf), 0o600); err != nil {
			return err
		}
	}
	sa, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(sa)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "sa.key"),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}

const kubeconfig = `apiVersion: v1
kind: Config
clusters:
- name: c
  cluster:
    certificate-authority-data: %s
    server: https://%s:6443
users:
- name: u
  user:
    client-certificate-data: %s
    client-key-data: %s
contexts:
- name: c
  context: {cluster: c, user: u}
current-context: c
`

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func template(cn string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: cn},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(30 * 24 * time.Hour),
	}
}

func newCA() (*signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := template("closured-e2e")
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &signer{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}

func (s *signer) issue(cn, org string, dns []string, ips []net.IP) (cert, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	t := template(cn)
	if org != "" {
		t.Subject.Organization = []string{org}
	}
	t.DNSNames, t.IPAddresses = dns, ips
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, t, s.cert, &k.PublicKey, s.key)
	if err != nil {
		return nil, nil, err
	}
	kder, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: kder}), nil
}
