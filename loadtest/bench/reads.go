package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/type/date"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/stockledger/stockledger/loadtest/node"
	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

var lastDay = &date.Date{Year: 9999, Month: 12, Day: 31}

// Reads are measured with as many connections as unary commands, and long
// answers with fewer.
const (
	readCallers = 256
	pageCallers = 8
)

// reads measures queries: of many shelves, and of one account with a long
// history.
type reads struct {
	b     *bench
	shelf *spread // what is checked
	card  *spread // one account, with a history
	pages []string
	bare  *node.Node
	stop  func()
}

func (b *bench) newReads() *reads {
	return &reads{b: b, shelf: b.newSpread("reads", 100, 50), card: b.newSpread("card", 1, 1)}
}

// ask measures one query, from many connections.
func (r *reads) ask(callers int, method string, to func() *node.Node, request func(n int) proto.Message) func(context.Context, int) (sample, error) {
	return func(ctx context.Context, _ int) (sample, error) {
		wires := make([]*wire, callers)
		for i := range wires {
			w, err := dial(to())
			if err != nil {
				return sample{}, err
			}
			defer func() { _ = w.conn.Close() }()
			wires[i] = w
		}
		return drive(ctx, callers, func(_ context.Context, caller, n int) (int, error) {
			body, err := proto.Marshal(request(n))
			if err != nil {
				return 0, err
			}
			_, err = wires[caller].post(method, body)
			return 1, err
		})
	}
}

func (r *reads) node() *node.Node { return r.b.node }

// anyShelf is a check of one medicine at one location.
func (r *reads) anyShelf(int) proto.Message {
	return &pb.CheckAvailabilityRequest{
		ClinicId: r.shelf.clinic(rand.IntN(r.shelf.clinics)), LocationIds: []string{"store"},
		Demands: []*pb.Demand{{MedicineId: "m" + strconv.Itoa(rand.IntN(r.shelf.medicines)), Quantity: 1}},
	}
}

func (r *reads) anyShelfStrong(n int) proto.Message {
	check := r.anyShelf(n).(*pb.CheckAvailabilityRequest)
	check.Read = &pb.ReadOptions{Consistency: pb.Consistency_CONSISTENCY_STRONG}
	return check
}

// warm checks every shelf once, in the first round.
func (r *reads) warm() error {
	if r.bare != nil {
		return nil
	}
	w, err := dial(r.b.node)
	if err != nil {
		return err
	}
	defer func() { _ = w.conn.Close() }()
	for clinic := range r.shelf.clinics {
		check := &pb.CheckAvailabilityRequest{ClinicId: r.shelf.clinic(clinic), LocationIds: []string{"store"}}
		for m := range r.shelf.medicines {
			check.Demands = append(check.Demands, &pb.Demand{MedicineId: "m" + strconv.Itoa(m), Quantity: 1})
		}
		body, err := proto.Marshal(check)
		if err != nil {
			return err
		}
		if _, err := w.post("QueryService/CheckAvailability", body); err != nil {
			return err
		}
	}
	return nil
}

// prepareBare starts the server of constant answers in the first round.
func (r *reads) prepareBare(int) (err error) {
	if r.bare == nil {
		r.bare, r.stop, err = startBare(r.b.ctx)
	}
	return err
}

func (r *reads) close() {
	if r.stop != nil {
		r.stop()
	}
}

// history makes one account with as many entries as were asked for, once, and
// remembers where its pages begin.
func (r *reads) history(int) error {
	if len(r.pages) > 0 {
		return nil
	}
	if err := r.card.prepare(0); err != nil {
		return err
	}
	r.b.progress("writing %d entries of one account\n", r.b.History)
	var next atomic.Int64
	var writers sync.WaitGroup
	errs := make([]error, setupCallers)
	for caller := range setupCallers {
		writers.Go(func() {
			w, err := dial(r.b.node)
			for n := next.Add(historyBatch); err == nil && n <= int64(r.b.History) && r.b.ctx.Err() == nil; n = next.Add(historyBatch) {
				err = w.execute(r.receipts(n))
			}
			errs[caller] = err
		})
	}
	writers.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := r.shown(); err != nil {
		return err
	}
	return r.walk()
}

// historyBatch is how many entries are written at a time.
const historyBatch = 1000

// lateEvery is how many entries there are to one that was recorded late.
const lateEvery = 50

// shown waits until the read models show the whole history.
func (r *reads) shown() error {
	const behind = `SELECT count(*) FROM heads AS h LEFT JOIN read_model_cursors AS c ON c.clinic_id = h.clinic_id AND c.sequence = h.sequence
		WHERE h.clinic_id = $1 AND c.clinic_id IS NULL`
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for missing := 1; ; {
		if err := r.b.pool.QueryRow(r.b.ctx, behind, r.card.clinic(0)).Scan(&missing); err != nil || missing == 0 {
			return err
		}
		select {
		case <-tick.C:
		case <-r.b.ctx.Done():
			return r.b.ctx.Err()
		}
	}
}

// receipts are commands that leave nothing behind but their entries.
func (r *reads) receipts(n int64) *pb.ExecuteBatchRequest {
	commands, late := make([]*pb.Command, historyBatch), timestamppb.New(time.Now().Add(-time.Second))
	for i := range commands {
		commands[i] = &pb.Command{
			IdempotencyKey: fmt.Sprintf("receipt-%d-%d", n, i),
			Body:           &pb.Command_ReceiveStock{ReceiveStock: &pb.ReceiveStock{LocationId: "store", LotId: "l0", Quantity: 1}},
		}
		if i%lateEvery == 0 {
			commands[i].OccurredAt = late
		}
	}
	return &pb.ExecuteBatchRequest{ClinicId: r.card.clinic(0), Commands: commands}
}

// walk reads the whole card once, for the tokens of its pages.
func (r *reads) walk() error {
	w, err := dial(r.b.node)
	if err != nil {
		return err
	}
	defer func() { _ = w.conn.Close() }()
	request := r.page("")
	for token := ""; ; {
		r.pages = append(r.pages, token)
		request.Page.PageToken = token
		body, err := proto.Marshal(request)
		if err != nil {
			return err
		}
		answer, err := w.post("QueryService/ListMovements", body)
		if err != nil {
			return err
		}
		var page pb.ListMovementsResponse
		if err := proto.Unmarshal(answer, &page); err != nil {
			return err
		}
		if token = page.GetNextPageToken(); token == "" {
			return nil
		}
	}
}

const cardPage = 1000

func (r *reads) page(token string) *pb.ListMovementsRequest {
	return &pb.ListMovementsRequest{
		ClinicId: r.card.clinic(0), LocationId: "store", MedicineId: "m0", LotId: "l0",
		Page: &pb.Page{PageSize: cardPage, PageToken: token},
	}
}

func (r *reads) firstPage(int) proto.Message { return r.page("") }

// latePage is page 1,000 of a million entries, and the last one of fewer.
func (r *reads) latePage(int) proto.Message { return r.page(r.pages[min(999, len(r.pages)-2)]) }

// balanceAt asks for the balance at a share of the history.
func (r *reads) balanceAt(share float64) func(int) proto.Message {
	return func(int) proto.Message {
		return &pb.GetBalanceAtRequest{
			ClinicId: r.card.clinic(0), LocationId: "store", MedicineId: "m0", LotId: "l0",
			Sequence: max(1, int64(share*float64(r.b.History))),
		}
	}
}

// momentOf is when the history had come to a share of itself.
func (r *reads) momentOf(share float64) (at time.Time, err error) {
	err = r.b.pool.QueryRow(r.b.ctx, `SELECT recorded_at FROM journal WHERE clinic_id = $1 AND sequence = $2`,
		r.card.clinic(0), max(1, int64(share*float64(r.b.History)))).Scan(&at)
	return at, err
}

// balanceByOccurrence asks for what was there when the history had come to a
// share of itself, as it is known now.
func (r *reads) balanceByOccurrence(share float64) func(context.Context, int) (sample, error) {
	return func(ctx context.Context, round int) (sample, error) {
		at, err := r.momentOf(share)
		if err != nil {
			return sample{}, err
		}
		return r.ask(pageCallers, "QueryService/GetBalanceAt", r.node, func(int) proto.Message {
			return &pb.GetBalanceAtRequest{ClinicId: r.card.clinic(0), LocationId: "store", MedicineId: "m0", LotId: "l0", OccurredAt: timestamppb.New(at)}
		})(ctx, round)
	}
}

// agree has nothing to compare: what reads answer is for the tests to judge.
func (r *reads) agree(context.Context, int64) error { return nil }

// readParts are the read side's. Checks are compared with a server that answers
// with a constant, and the rest with itself: early with late.
func (b *bench) readParts() []*part {
	r := b.newReads()
	b.closing = append(b.closing, r.close)
	const check, card, balance = "QueryService/CheckAvailability", "QueryService/ListMovements", "QueryService/GetBalanceAt"
	one := func(key, name string, prepare func(int) error, load func(context.Context, int) (sample, error), against *part) *part {
		return &part{key: key, name: name, prepare: prepare, load: load, agree: r.agree, against: against}
	}
	constant := one("bare_check", "checks, a constant, 256 connections", func(round int) error {
		if err := r.shelf.prepare(0); err != nil {
			return err
		}
		if err := r.warm(); err != nil {
			return err
		}
		return r.prepareBare(round)
	}, r.ask(readCallers, check, func() *node.Node { return r.bare }, r.anyShelf), nil)
	first := one("card_first", fmt.Sprintf("stock card, page 1 of %d entries", b.History), r.history, r.ask(pageCallers, card, r.node, r.firstPage), nil)
	early := one("balance_early", "balance at 1 % of that history", r.history, r.ask(pageCallers, balance, r.node, r.balanceAt(0.01)), nil)
	occurred := one("balance_occurred_early", "balance by occurrence at 1 % of it", r.history, r.balanceByOccurrence(0.01), nil)
	marked := func(p *part, ratio float64) *part {
		p.mark = mark{ratio: ratio}
		return p
	}
	return []*part{
		constant,
		marked(one("cached_check", "checks, cached, 256 connections", constant.prepare, r.ask(readCallers, check, r.node, r.anyShelf), constant), 0.6),
		one("strong_check", "checks, strong, 256 connections", constant.prepare, r.ask(readCallers, check, r.node, r.anyShelfStrong), constant),
		first,
		marked(one("card_late", "stock card, page 1,000 of it", r.history, r.ask(pageCallers, card, r.node, r.latePage), first), flat),
		early,
		marked(one("balance_late", "balance at 99 % of that history", r.history, r.ask(pageCallers, balance, r.node, r.balanceAt(0.99)), early), flat),
		occurred,
		marked(one("balance_occurred_late", "balance by occurrence at 99 % of it", r.history, r.balanceByOccurrence(0.99), occurred), flat),
	}
}
