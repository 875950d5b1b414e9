package cluster

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
)

func freeAddress(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// Three nodes with a member each, under TLS. One of them loses its folder: it is
// refused with an empty one until it has been replaced, and then takes part
// again in the same cluster.
func TestMemberIsReplaced(t *testing.T) {
	t.Parallel()
	db := privateDB(t)
	names, all := []string{"a", "b", "c"}, []string(nil)
	configs := make([]EtcdConfig, len(names))
	for i, name := range names {
		configs[i] = EtcdConfig{Dir: filepath.Join(t.TempDir(), name), Name: name, ListenClient: freeAddress(t), ListenPeer: freeAddress(t), Secret: testSecret()}
		all = append(all, name+"=https://"+configs[i].ListenPeer)
	}
	nodes := make([]*Cluster, len(names))
	var starting sync.WaitGroup
	for i := range configs {
		configs[i].InitialCluster = strings.Join(all, ",")
		starting.Go(func() {
			var err error
			if nodes[i], err = Join(t.Context(), db, Config{Etcd: configs[i], Self: Node{ID: names[i]}, LeaseTTL: 2 * time.Second, Log: quiet}); err != nil {
				t.Errorf("node %s: %v", names[i], err)
			}
		})
	}
	starting.Wait()
	if t.Failed() {
		t.FailNow()
	}
	follow := func(ctx context.Context) { <-ctx.Done() }
	start(t, nodes[0], follow)
	start(t, nodes[1], follow)
	lose := start(t, nodes[2], follow)
	eventually(t, "all are there", func() bool { return len(nodes[0].Nodes()) == 3 })
	// What the members say to each other is for those who have the secret.
	conn, err := tls.Dial("tcp", configs[0].ListenPeer, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	if err == nil {
		_, err = conn.Read(make([]byte, 1)) // where the client's certificate is asked for
		_ = conn.Close()
	}
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a stranger is let in")
	}

	lose()
	if err := os.RemoveAll(configs[2].Dir); err != nil {
		t.Fatal(err)
	}
	peer := "https://" + configs[2].ListenPeer
	living := EtcdConfig{Endpoints: []string{"http://" + configs[0].ListenClient}}
	if err := ReplaceMember(t.Context(), living, "d", peer); err == nil || !strings.Contains(err.Error(), `no member "d"; there are`) {
		t.Errorf("of a member that there is not it says %v", err)
	}
	if err := ReplaceMember(t.Context(), living, "c", peer); err != nil {
		t.Fatal(err)
	}
	configs[2].Existing = true
	for range 2 { // and again, with what it has then
		again := joined(t, db, "c2", configs[2])
		leave := start(t, again, follow)
		eventually(t, "it is back", func() bool { return len(nodes[0].Nodes()) == 3 && len(again.Nodes()) == 3 })
		leave()
		eventually(t, "it has left", func() bool { return len(nodes[0].Nodes()) == 2 })
	}
}

func TestMembersOfTwoSchemes(t *testing.T) {
	t.Parallel()
	_, err := memberConfig(EtcdConfig{Dir: t.TempDir(), InitialCluster: "a=http://127.0.0.1:1,b=https://127.0.0.1:2"})
	if err == nil || !strings.Contains(err.Error(), "https") {
		t.Errorf("it says %v", err)
	}
	_, err = memberConfig(EtcdConfig{Dir: t.TempDir(), InitialCluster: "a=https://127.0.0.1:1,b=https://127.0.0.1:2"})
	if err == nil || !strings.Contains(err.Error(), "secret") {
		t.Errorf("without a secret it says %v", err)
	}
}

// loopbackFiles are a certificate for this machine, and what it is signed by:
// itself.
func loopbackFiles(tb testing.TB) transport.TLSInfo {
	tb.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	certificate := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "this machine"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, certificate, certificate, public, private)
	if err != nil {
		tb.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	files := transport.TLSInfo{TrustedCAFile: filepath.Join(dir, "cert.pem"), CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"), ClientCertAuth: true}
	for path, block := range map[string]*pem.Block{files.CertFile: {Type: "CERTIFICATE", Bytes: der}, files.KeyFile: {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return files
}

// secureEtcd is an etcd server with TLS that wants certificates of its clients,
// and with users.
func secureEtcd(t *testing.T) (endpoint string, files transport.TLSInfo) {
	t.Helper()
	files = loopbackFiles(t)
	c := embed.NewConfig()
	c.Dir, c.LogLevel, c.LogOutputs = t.TempDir(), "error", []string{os.DevNull}
	at := url.URL{Scheme: "https", Host: freeAddress(t)}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{at}, []url.URL{at}
	c.ListenPeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	c.ClientTLSInfo = files
	server, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	<-server.Server.ReadyNotify()
	security, err := files.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{at.String()}, TLS: security})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, step := range []func() error{
		func() error { _, err := client.UserAdd(ctx, "root", "secret"); return err },
		func() error { _, err := client.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := client.RoleAdd(ctx, "nodes"); return err },
		func() error {
			_, err := client.RoleGrantPermission(ctx, "nodes", "/stockledger/", clientv3.GetPrefixRangeEnd("/stockledger/"), clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := client.UserAdd(ctx, "node", "password"); return err },
		func() error { _, err := client.UserGrantRole(ctx, "node", "nodes"); return err },
		func() error { _, err := client.AuthEnable(ctx); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	return at.String(), files
}

// An external cluster with TLS and users: a user who has the ledger's keys alone
// will do, and whoever lacks anything is told of it.
func TestExternalEtcdWithTLSAndUsers(t *testing.T) {
	t.Parallel()
	endpoint, files := secureEtcd(t)
	db := privateDB(t)
	right := EtcdConfig{Endpoints: []string{endpoint}, CAFile: files.TrustedCAFile, CertFile: files.CertFile, KeyFile: files.KeyFile, Username: "node", Password: "password"}
	c, err := Join(t.Context(), db, Config{Etcd: right, Self: Node{ID: "a", Name: "a", Peer: "x"}, LeaseTTL: 2 * time.Second, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	start(t, c, func(ctx context.Context) { <-ctx.Done() })
	eventually(t, "it leads", func() bool { return c.Leading() && c.Leader() == "a" && len(c.Nodes()) == 1 })
	if err := c.Pin(t.Context(), "hillside", "a"); err != nil {
		t.Error(err)
	}
	eventually(t, "the pin is there", func() bool { return c.Pins()["hillside"] == "a" })
	if addresses := c.EtcdAddresses(t.Context()); fmt.Sprint(addresses) != fmt.Sprint([]string{endpoint}) {
		t.Errorf("etcd is at %q", addresses)
	}
	for name, change := range map[string]func(*EtcdConfig){
		"another password": func(c *EtcdConfig) { c.Password = "guessed" },
		"no user":          func(c *EtcdConfig) { c.Username, c.Password = "", "" },
		"no certificate":   func(c *EtcdConfig) { c.CertFile, c.KeyFile = "", "" },
		"no such file":     func(c *EtcdConfig) { c.CAFile = filepath.Join(t.TempDir(), "none.pem") },
		"no TLS":           func(c *EtcdConfig) { c.CAFile, c.CertFile, c.KeyFile = "", "", "" },
	} {
		t.Run(name, func(t *testing.T) {
			wrong := right
			change(&wrong)
			c, err := Join(t.Context(), db, Config{Etcd: wrong, Self: Node{ID: "b"}, Log: quiet})
			if err != nil {
				t.Log(err)
				return
			}
			ctx, cancel := context.WithTimeout(t.Context(), dialTimeout)
			defer cancel()
			if err := c.register(ctx, 0); err == nil {
				t.Error("it is let in")
			}
			_ = c.Close()
		})
	}
}
