package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/proto"

	"github.com/stockledger/stockledger/loadtest/node"
	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// place is where a load goes: nodes with the database that they write to.
type place struct {
	nodes []*node.Node
	pool  *pgxpool.Pool
}

// node is the one that a caller speaks to.
func (p *place) node(caller int) *node.Node { return p.nodes[caller%len(p.nodes)] }

// ownPlace starts nodes, with flags of each one's own, on a database of their own
// on the same server, oneWay from it: what is compared there has nothing beside
// it, and nobody else keeps its read models.
func (b *bench) ownPlace(name string, oneWay time.Duration, nodes ...[]string) (p *place, stop func(), err error) {
	var closing []func()
	stop = func() {
		for _, end := range slices.Backward(closing) {
			end()
		}
	}
	database := "bench_" + name + "_" + b.run
	if _, err := b.pool.Exec(b.ctx, "CREATE DATABASE "+database); err != nil {
		return nil, stop, fmt.Errorf("make a database: %w", err)
	}
	closing = append(closing, func() {
		_, _ = b.pool.Exec(context.WithoutCancel(b.ctx), "DROP DATABASE "+database)
	})
	at, err := url.Parse(b.database)
	if err != nil {
		return nil, stop, fmt.Errorf("database URL: %w", err)
	}
	at.Path = "/" + database
	if err := txn.Migrate(b.ctx, at.String()); err != nil {
		return nil, stop, err
	}
	p = &place{}
	if p.pool, err = openPool(b.ctx, at.String()); err != nil {
		return nil, stop, err
	}
	closing = append(closing, p.pool.Close)
	if oneWay > 0 {
		end, err := b.setAfar(at, oneWay)
		if err != nil {
			return nil, stop, err
		}
		closing = append(closing, end)
	}
	for _, flags := range nodes {
		n, err := node.Start(b.ctx, b.Node, at.String(), filepath.Join(b.scratch, name+".key"), flags...)
		if err != nil {
			return nil, stop, err
		}
		p.nodes = append(p.nodes, n)
		closing = append(closing, func() { _ = n.Stop() })
	}
	return p, stop, nil
}

// setAfar has a database's URL lead to it from oneWay away, until stop, and tells
// what that comes to.
func (b *bench) setAfar(at *url.URL, oneWay time.Duration) (stop func(), err error) {
	near, err := roundTrip(b.ctx, at.String())
	if err != nil {
		return nil, err
	}
	first, _, _ := strings.Cut(at.Host, ",")
	if at.Host, stop, err = openDistance(b.ctx, first, oneWay); err != nil {
		return nil, err
	}
	far, err := roundTrip(b.ctx, at.String())
	if err != nil {
		stop()
		return nil, err
	}
	b.progress("the database answers after %v, and after %v here\n", far.Round(time.Microsecond), near.Round(time.Microsecond))
	return stop, nil
}

// apart is a spread whose clinics are at a place of their own.
type apart struct {
	*spread
	nodes [][]string // the flags of each node
}

// prepare starts the place in the first round.
func (a apart) prepare(round int) error {
	if a.at == nil {
		at, stop, err := a.b.ownPlace(a.name, 0, a.nodes...)
		a.b.closing = append(a.b.closing, stop)
		if err != nil {
			return err
		}
		a.at = at
	}
	return a.spread.prepare(round)
}

const lagProbes = 4

// lag measures how long after a command was answered a report shows it, while
// others write as fast as they can: so many callers, so many commands at a time.
func (s *spread) lag(callers, size int) func(context.Context, int) (sample, error) {
	return func(ctx context.Context, round int) (sample, error) {
		return s.lagUnder(ctx, round, s.load(callers, size))
	}
}

func (s *spread) lagUnder(ctx context.Context, round int, load func(context.Context, int) (sample, error)) (sample, error) {
	var writers sync.WaitGroup
	var wrote error
	writers.Go(func() { _, wrote = load(ctx, round) })
	wires := make([]*wire, lagProbes)
	for i := range wires {
		w, err := dial(s.place().node(i))
		if err != nil {
			return sample{}, err
		}
		defer func() { _ = w.conn.Close() }()
		wires[i] = w
	}
	run := rand.Uint32()
	var mu sync.Mutex
	var lags []time.Duration
	probed, err := drive(ctx, lagProbes, func(_ context.Context, caller, n int) (int, error) {
		lag, err := s.probe(wires[caller], fmt.Sprintf("probe-%08x-%d-%d", run, caller, n))
		mu.Lock()
		defer mu.Unlock()
		lags = append(lags, lag)
		return 1, err
	})
	writers.Wait()
	slices.Sort(lags)
	probed.latencies = lags
	return probed, errors.Join(err, wrote)
}

// probe gives a command and asks for a report that reflects it.
func (s *spread) probe(w *wire, key string) (time.Duration, error) {
	clinic := s.clinic(rand.IntN(s.clinics))
	body, err := proto.Marshal(&pb.CommandRequest{ClinicId: clinic, Command: s.command(key)})
	if err != nil {
		return 0, err
	}
	answer, err := w.post("InventoryService/ReserveStock", body)
	if err != nil {
		return 0, err
	}
	s.done.Add(1)
	began := time.Now()
	var given pb.CommandResponse
	if err := proto.Unmarshal(answer, &given); err != nil {
		return 0, err
	}
	body, err = proto.Marshal(&pb.ListClinicStockRequest{ClinicId: clinic, Page: &pb.Page{PageSize: 1}, Read: &pb.ReadOptions{
		Consistency: pb.Consistency_CONSISTENCY_CACHED, MinSequence: given.GetAccepted().GetSequence(),
	}})
	if err != nil {
		return 0, err
	}
	_, err = w.post("QueryService/ListClinicStock", body)
	return time.Since(began), err
}

// modelParts compare writing with read models and without, and measure how far
// the models are behind.
func (b *bench) modelParts() []*part {
	without, with := apart{b.newSpread("plain", 100, 50), [][]string{{"--no-read-models"}}}, apart{b.newSpread("models", 100, 50), [][]string{nil}}
	writing := func(key, name string, a apart, callers, size int, against *part) *part {
		return &part{key: key, name: name, prepare: a.prepare, load: a.load(callers, size), agree: a.agree, against: against}
	}
	marked := func(p *part, m mark) *part {
		p.mark = m
		return p
	}
	lag := func(key, name string, callers, size int) *part {
		return &part{key: key, name: name, prepare: with.prepare, load: with.lag(callers, size), agree: with.agree, mark: mark{p99: time.Second}}
	}
	batch := writing("plain_batch", "batch, without read models", without, batchCallers, batchSize, nil)
	unary := writing("plain_unary", "unary, 256 connections, without read models", without, 256, 1, nil)
	return []*part{
		batch,
		marked(writing("models_batch", "batch, with read models", with, batchCallers, batchSize, batch), mark{ratio: 0.85}),
		unary,
		marked(writing("models_unary", "unary, 256 connections, with read models", with, 256, 1, unary), mark{ratio: 0.85}),
		lag("model_lag", "until a report shows a command, at that load", 256, 1),
		lag("model_lag_batch", "until a report shows a command, at the load of batches", batchCallers, batchSize),
	}
}
