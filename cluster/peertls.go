package cluster

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
)

// peerName is what nodes' certificates are made out to. Which node it is does
// not matter: each is trusted as much as any other.
const peerName = "node.stockledger.internal"

// PeerTLS returns what nodes that share a secret of 32 bytes recognize each other
// by: a certificate authority that each derives from the secret, and a
// certificate of this node's own that lives as long as the process.
func PeerTLS(secret []byte) (*tls.Config, error) {
	root, own, err := certify(secret)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{own}, ServerName: peerName,
		RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
	}, nil
}

// peerFiles is PeerTLS for etcd's members, which read files: they are written
// anew in a folder that only this user can read.
func peerFiles(secret []byte, dir string) (transport.TLSInfo, error) {
	root, own, err := certify(secret)
	if err != nil {
		return transport.TLSInfo{}, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(own.PrivateKey)
	if err != nil {
		return transport.TLSInfo{}, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return transport.TLSInfo{}, err
	}
	info := transport.TLSInfo{
		TrustedCAFile: filepath.Join(dir, "ca.pem"), CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"),
		// Whoever has the secret is trusted, wherever it connects from.
		ClientCertAuth: true, SkipClientSANVerify: true, ServerName: peerName, MinVersion: tls.VersionTLS13,
	}
	for _, f := range []struct {
		path, kind string
		der        []byte
	}{
		{info.TrustedCAFile, "CERTIFICATE", root.Raw}, {info.CertFile, "CERTIFICATE", own.Certificate[0]}, {info.KeyFile, "PRIVATE KEY", key},
	} {
		if err := os.WriteFile(f.path, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der}), 0o600); err != nil {
			return transport.TLSInfo{}, err
		}
	}
	return info, nil
}

// certify derives the nodes' authority from their secret, and makes a
// certificate of this node's own.
func certify(secret []byte) (root *x509.Certificate, own tls.Certificate, err error) {
	if len(secret) != ed25519.SeedSize {
		return nil, own, fmt.Errorf("cluster: the secret of the nodes has %d bytes and not %d", len(secret), ed25519.SeedSize)
	}
	authority := ed25519.NewKeyFromSeed(secret)
	root = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "stockledger nodes"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(100, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, authority.Public(), authority)
	if err == nil {
		root, err = x509.ParseCertificate(der)
	}
	if err != nil {
		return nil, own, fmt.Errorf("cluster: make the nodes' authority: %w", err)
	}
	if own, err = peerCertificate(root, authority); err != nil {
		return nil, own, fmt.Errorf("cluster: make this node's certificate: %w", err)
	}
	return root, own, nil
}

func peerCertificate(root *x509.Certificate, authority ed25519.PrivateKey) (tls.Certificate, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return tls.Certificate{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: peerName}, DNSNames: []string{peerName},
		// Nodes' clocks differ a little.
		NotBefore: time.Now().AddDate(0, 0, -1), NotAfter: root.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, root, public, authority)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, err
}
