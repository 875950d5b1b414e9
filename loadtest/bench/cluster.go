package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/stockledger/stockledger/loadtest/node"
	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

// clusterNodes is how many nodes are compared with as many that do not know of
// each other.
const clusterNodes = 3

// team is three nodes on a database of their own, where each clinic may have a
// home or none. Its spreads share them.
type team struct {
	b      *bench
	name   string
	homes  bool
	oneWay time.Duration // to the database and between the nodes
	at     *place
}

func (t *team) start() error {
	if t.at != nil {
		return nil
	}
	nodes := make([][]string, clusterNodes)
	for i := range nodes {
		nodes[i] = []string{"--no-cluster", "--read-conns", "4"}
	}
	if t.homes {
		etcd, err := node.FreeAddress()
		if err != nil {
			return err
		}
		nodes[0] = []string{"--etcd-dir", filepath.Join(t.b.scratch, t.name+"-etcd"), "--etcd-listen-client", etcd, "--read-conns", "4"}
		for i := 1; i < len(nodes); i++ {
			nodes[i] = []string{"--etcd-endpoints", "http://" + etcd, "--read-conns", "4"}
		}
		if err := t.setApart(nodes); err != nil {
			return err
		}
	}
	at, stop, err := t.b.ownPlace(t.name, t.oneWay, nodes...)
	t.b.closing = append(t.b.closing, stop)
	if err != nil {
		return err
	}
	t.at = at
	if !t.homes {
		return nil
	}
	for i := range at.nodes {
		if err := t.meet(at.node(i)); err != nil {
			return err
		}
	}
	return nil
}

// setApart puts the team's distance between its nodes.
func (t *team) setApart(nodes [][]string) error {
	if t.oneWay == 0 {
		return nil
	}
	for i := range nodes {
		listen, err := node.FreeAddress()
		if err != nil {
			return err
		}
		afar, end, err := openDistance(t.b.ctx, listen, t.oneWay)
		if err != nil {
			return err
		}
		t.b.closing = append(t.b.closing, end)
		nodes[i] = append(nodes[i], "--peer-listen", listen, "--peer-advertise", afar)
	}
	return nil
}

// meet waits until a node knows all the others.
func (t *team) meet(n *node.Node) error {
	ctx, cancel := context.WithTimeout(t.b.ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		var state pb.GetClusterResponse
		if err := ask(n, "AdminService/GetCluster", &pb.GetClusterRequest{}, &state); err != nil {
			return err
		}
		if len(state.GetNodes()) == clusterNodes {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("a node knows %d of %d nodes: %w", len(state.GetNodes()), clusterNodes, ctx.Err())
		}
	}
}

func ask(n *node.Node, method string, question, answer proto.Message) error {
	w, err := dial(n)
	if err != nil {
		return err
	}
	defer func() { _ = w.conn.Close() }()
	body, err := proto.Marshal(question)
	if err != nil {
		return err
	}
	got, err := w.post(method, body)
	if err != nil {
		return err
	}
	return proto.Unmarshal(got, answer)
}

// among is a spread whose clinics are at a team.
type among struct {
	*spread
	team *team
}

func (t *team) among(name string, clinics, medicines int) among {
	return among{t.b.newSpread(t.name+"-"+name, clinics, medicines), t}
}

func (a among) prepare(round int) error {
	if err := a.team.start(); err != nil {
		return err
	}
	a.at = a.team.at
	return a.spread.prepare(round)
}

// from drives the one clinic through its home, or through a node that is not.
func (a among) from(home bool) func(context.Context, int) (sample, error) {
	return func(ctx context.Context, round int) (sample, error) {
		var answer pb.GetHomeResponse
		if err := ask(a.at.node(0), "AdminService/GetHome", &pb.GetHomeRequest{ClinicId: a.clinic(0)}, &answer); err != nil {
			return sample{}, err
		}
		for _, n := range a.at.nodes {
			if (n.Address == answer.GetHome().GetApiAddress()) == home {
				one := *a.at
				one.nodes = []*node.Node{n}
				a.at = &one
				return a.load(1, 1)(ctx, round)
			}
		}
		return sample{}, errors.New("the clinic has no home")
	}
}

// crowd is a load on a team's clinics.
type crowd struct {
	key, name                   string
	clinics, medicines, callers int
	least                       float64 // what homes should be worth
}

// compare measures a load on three nodes without homes and on three with.
func (c crowd) compare(without, with *team, where string) []*part {
	loose, homes := without.among(c.key, c.clinics, c.medicines), with.among(c.key, c.clinics, c.medicines)
	base := &part{
		key: without.name + "_" + c.key, name: "three nodes" + where + " without homes, unary, " + c.name,
		prepare: loose.prepare, load: loose.load(c.callers, 1), agree: loose.agree,
	}
	return []*part{base, {
		key: with.name + "_" + c.key, name: "three nodes" + where + " with homes, unary, " + c.name,
		prepare: homes.prepare, load: homes.load(c.callers, 1), agree: homes.agree, against: base, mark: mark{ratio: c.least},
	}}
}

// clusterParts compare three nodes where each clinic has a home with three that
// do not know of each other, all on one machine and apart as on a network, and
// tell what it costs to bring a command home.
func (b *bench) clusterParts() []*part {
	oneWay := time.Duration(b.Distance * float64(time.Millisecond))
	without, with := &team{b: b, name: "loose"}, &team{b: b, name: "homes", homes: true}
	farWithout, farWith := &team{b: b, name: "farloose", oneWay: oneWay}, &team{b: b, name: "farhomes", homes: true, oneWay: oneWay}
	few := crowd{"few", "one hot clinic, 6 callers", 1, 1, 6, 2}
	some := crowd{"some", "one hot clinic, 24 callers", 1, 1, 24, 2}
	hot := crowd{"hot", "one hot clinic, 256 callers", 1, 1, 256, 2}
	many := crowd{"many", fmt.Sprintf("%d clinics", b.Many), b.Many, 2, 256, 1.2}
	var parts []*part
	for _, c := range []crowd{few, some, hot, many} {
		parts = append(parts, c.compare(without, with, "")...)
	}
	for _, c := range []crowd{few, some, hot} {
		parts = append(parts, c.compare(farWithout, farWith, " apart")...)
	}
	single := with.among("one", 1, 1)
	direct := &part{key: "forward_none", name: "one caller, at the clinic's home", prepare: single.prepare, load: single.from(true), agree: single.agree}
	return append(parts, direct,
		&part{key: "forward_one", name: "one caller, at another node", prepare: single.prepare, load: single.from(false), agree: single.agree, against: direct})
}
