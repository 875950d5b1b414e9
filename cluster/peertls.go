package cluster

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"
)

// peerName is what nodes' certificates are made out to. Which node it is does
// not matter: each is trusted as much as any other.
const peerName = "node.stockledger.internal"

// PeerTLS returns what nodes that share a secret of 32 bytes recognize each other
// by: a certificate authority that each derives from the secret, and a
// certificate of this node's own that lives as long as the process.
func PeerTLS(secret []byte) (*tls.Config, error) {
	if len(secret) != ed25519.SeedSize {
		return nil, fmt.Errorf("cluster: the secret of the nodes has %d bytes and not %d", len(secret), ed25519.SeedSize)
	}
	authority := ed25519.NewKeyFromSeed(secret)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "stockledger nodes"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(100, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, authority.Public(), authority)
	if err != nil {
		return nil, fmt.Errorf("cluster: make the nodes' authority: %w", err)
	}
	if root, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("cluster: make the nodes' authority: %w", err)
	}
	own, err := peerCertificate(root, authority)
	if err != nil {
		return nil, fmt.Errorf("cluster: make this node's certificate: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{own}, ServerName: peerName,
		RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
	}, nil
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
