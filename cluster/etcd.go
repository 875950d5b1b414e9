package cluster

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
)

// EtcdConfig says which etcd cluster a node belongs to. Without Endpoints the
// node runs a member of its own.
type EtcdConfig struct {
	// Endpoints are those of an external cluster.
	Endpoints []string
	// CAFile, CertFile and KeyFile are for TLS to an external cluster, PEM files;
	// Username and Password for its authentication. All may be empty.
	CAFile, CertFile, KeyFile string
	Username, Password        string

	// Dir is where the embedded member keeps its data.
	Dir string
	// Name is the embedded member's in InitialCluster. Default "default".
	Name string
	// ListenClient and ListenPeer are HOST:PORT addresses of the embedded member.
	// Default 127.0.0.1:0: nobody else reaches it.
	ListenClient, ListenPeer string
	// InitialCluster lists the embedded members of all nodes, NAME=URL, separated
	// by commas; empty: this one alone. It counts only when Dir is new. With https
	// URLs the members talk to each other under mutual TLS, with keys that come
	// from Secret; all must have the same scheme.
	InitialCluster string
	// Existing tells that the member joins a cluster that is there, in the place
	// of one that was lost: see [ReplaceMember].
	Existing bool
	// Secret is what the nodes share, as for [PeerTLS].
	Secret []byte
}

// etcd is a client with the member that it may belong to.
type etcd struct {
	*clientv3.Client
	member *embed.Etcd // nil: external
}

// dialTimeout bounds one attempt to reach an etcd cluster.
const dialTimeout = 5 * time.Second

func openEtcd(ctx context.Context, cfg EtcdConfig) (*etcd, error) {
	if len(cfg.Endpoints) > 0 {
		return dialEtcd(cfg)
	}
	member, err := startMember(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("cluster: start the embedded etcd in %s: %w", cfg.Dir, err)
	}
	return &etcd{v3client.New(member.Server), member}, nil
}

func dialEtcd(cfg EtcdConfig) (*etcd, error) {
	var security *tls.Config
	if cfg.CAFile != "" || cfg.CertFile != "" {
		info := transport.TLSInfo{TrustedCAFile: cfg.CAFile, CertFile: cfg.CertFile, KeyFile: cfg.KeyFile}
		var err error
		if security, err = info.ClientConfig(); err != nil {
			return nil, fmt.Errorf("cluster: TLS to etcd: %w", err)
		}
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: cfg.Endpoints, TLS: security, Username: cfg.Username, Password: cfg.Password,
		DialTimeout: dialTimeout, DialKeepAliveTime: 2 * time.Second, DialKeepAliveTimeout: 2 * time.Second, Logger: zap.NewNop(),
	})
	if err != nil {
		return nil, fmt.Errorf("cluster: connect to etcd at %s: %w", strings.Join(cfg.Endpoints, ", "), err)
	}
	return &etcd{Client: client}, nil
}

// startMember starts the embedded member and waits until its cluster has a
// leader.
func startMember(ctx context.Context, cfg EtcdConfig) (*embed.Etcd, error) {
	settings, err := memberConfig(cfg)
	if err != nil {
		return nil, err
	}
	member, err := embed.StartEtcd(settings)
	if err != nil {
		return nil, err
	}
	select {
	case <-member.Server.ReadyNotify():
		return member, nil
	case err = <-member.Err():
	case <-ctx.Done():
		err = fmt.Errorf("no majority of %s answered: %w", settings.InitialCluster, ctx.Err())
	}
	member.Close()
	return nil, err
}

func memberConfig(cfg EtcdConfig) (*embed.Config, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	c := embed.NewConfig()
	c.Dir = filepath.Join(cfg.Dir, "member-data")
	if cfg.Name != "" {
		c.Name = cfg.Name
	}
	scheme, err := peerScheme(cfg.InitialCluster)
	if err != nil {
		return nil, err
	}
	if scheme == "https" {
		if c.PeerTLSInfo, err = peerFiles(cfg.Secret, filepath.Join(cfg.Dir, "tls")); err != nil {
			return nil, err
		}
	}
	for _, l := range []struct {
		address, scheme        string
		listening, advertising *[]url.URL
	}{
		{cfg.ListenClient, "http", &c.ListenClientUrls, &c.AdvertiseClientUrls},
		{cfg.ListenPeer, scheme, &c.ListenPeerUrls, &c.AdvertisePeerUrls},
	} {
		if l.address == "" {
			l.address = "127.0.0.1:0"
		}
		if _, _, err := net.SplitHostPort(l.address); err != nil {
			return nil, err
		}
		at := []url.URL{{Scheme: l.scheme, Host: l.address}}
		*l.listening, *l.advertising = at, at
	}
	c.InitialCluster = cfg.InitialCluster
	// etcd derives a cluster's id from its first members' URLs and this token:
	// two clusters of one member each must not be taken for one another.
	sum := sha256.Sum256([]byte(cfg.InitialCluster))
	c.InitialClusterToken = fmt.Sprintf("stockledger-%x", sum[:8])
	if cfg.InitialCluster == "" {
		c.InitialCluster = c.InitialClusterFromName(c.Name)
		c.InitialClusterToken = "stockledger-" + rand.Text()
	}
	if cfg.Existing {
		c.ClusterState = embed.ClusterStateFlagExisting
	}
	c.AutoCompactionMode, c.AutoCompactionRetention = "periodic", "1h"
	c.EnableGRPCGateway = false
	c.LogOutputs, c.LogLevel = []string{filepath.Join(cfg.Dir, "etcd.log")}, "warn"
	return c, nil
}

// peerScheme is the scheme of the members' URLs, http where there is one member.
func peerScheme(initialCluster string) (string, error) {
	encrypted, plain := strings.Contains(initialCluster, "=https://"), strings.Contains(initialCluster, "=http://")
	switch {
	case encrypted && plain:
		return "", fmt.Errorf("some members of %s are to talk under TLS, and some are not: give all of them https", initialCluster)
	case encrypted:
		return "https", nil
	}
	return "http", nil
}

// ReplaceMember makes room for an embedded member in the place of one whose data
// is lost: it takes the lost one off the list of members, and puts one at a peer
// URL on it. That one then starts with an empty folder and Existing. More than
// half of the members must be there, one of them at the endpoints of cfg.
func ReplaceMember(ctx context.Context, cfg EtcdConfig, name, peerURL string) error {
	ctx, cancel := context.WithTimeout(ctx, 4*dialTimeout)
	defer cancel()
	e, err := dialEtcd(cfg)
	if err != nil {
		return err
	}
	defer func() { _ = e.close() }()
	list, err := e.MemberList(ctx)
	if err != nil {
		return fmt.Errorf("cluster: ask etcd for its members: %w", away(err))
	}
	var names []string
	for _, m := range list.Members {
		if names = append(names, m.Name); m.Name != name {
			continue
		}
		err := whenHealthy(ctx, func() error { _, err := e.MemberRemove(ctx, m.ID); return err })
		if err != nil {
			return fmt.Errorf("cluster: take member %s off the list: %w", name, away(err))
		}
		err = whenHealthy(ctx, func() error { _, err := e.MemberAdd(ctx, []string{peerURL}); return err })
		if err != nil {
			return fmt.Errorf("cluster: put a member at %s on the list; that in its place is off it already: %w", peerURL, away(err))
		}
		return nil
	}
	return fmt.Errorf("cluster: there is no member %q; there are %s", name, strings.Join(names, ", "))
}

// whenHealthy tries until etcd allows a change of its members: those that are
// there must have been connected for some seconds.
func whenHealthy(ctx context.Context, change func() error) error {
	for {
		err := change()
		if !errors.Is(err, rpctypes.ErrUnhealthy) {
			return err
		}
		pause(ctx, time.Second)
		if ctx.Err() != nil {
			return err
		}
	}
}

// clusterID is etcd's own id of the cluster.
func (e *etcd) clusterID(ctx context.Context) (string, error) {
	answer, err := e.MemberList(ctx)
	if err != nil {
		return "", fmt.Errorf("cluster: ask etcd who it is: %w", err)
	}
	return fmt.Sprintf("%x", answer.Header.ClusterId), nil
}

// addresses are where members serve clients: this node's own, and those that the
// others tell of while they answer.
func (e *etcd) addresses(ctx context.Context) []string {
	var all []string
	if e.member != nil {
		for _, l := range e.member.Clients {
			all = append(all, "http://"+l.Addr().String())
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	answer, err := e.MemberList(ctx)
	if err != nil && e.member == nil {
		return e.Endpoints()
	}
	if err == nil {
		for _, m := range answer.Members {
			all = append(all, m.ClientURLs...)
		}
	}
	slices.Sort(all)
	// A member on a free port tells no other the port.
	return slices.DeleteFunc(slices.Compact(all), func(url string) bool { return strings.HasSuffix(url, ":0") })
}

func (e *etcd) close() error {
	err := e.Close()
	if e.member != nil {
		e.member.Close()
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
