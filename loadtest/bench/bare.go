package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"

	"github.com/stockledger/stockledger/loadtest/node"
	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
)

// bareVariable makes this program a server of constant answers, at the address
// that it holds: what a check costs where nothing is looked up and nobody is
// asked who they are.
const bareVariable = "BENCH_BARE"

// bareService answers every check with the same.
type bareService struct {
	stockledgerv1connect.UnimplementedQueryServiceHandler
	answer *pb.CheckAvailabilityResponse
}

// CheckAvailability answers with a constant.
func (s *bareService) CheckAvailability(context.Context, *pb.CheckAvailabilityRequest) (*pb.CheckAvailabilityResponse, error) {
	return s.answer, nil
}

func serveBare(ctx context.Context, address string) error {
	server := connect.NewServer()
	stockledgerv1connect.RegisterQueryServiceHandler(server, &bareService{answer: &pb.CheckAvailabilityResponse{
		Medicines: []*pb.MedicineAvailability{{
			MedicineId: "m0", Usable: setupUnits, Sufficient: true,
			Locations: []*pb.LocationAvailability{{LocationId: "store", Usable: setupUnits, OnHand: setupUnits, EarliestExpiry: lastDay}},
		}},
		AsOf: &pb.AsOf{Epoch: 1, Sequence: 152, Time: benchDeadline},
	}})
	mux := http.NewServeMux()
	connecthttp.Mount(mux, server)
	listener := &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: time.Minute}
	context.AfterFunc(ctx, func() { _ = listener.Close() })
	if err := listener.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// startBare starts this program again as the server of constant answers, and
// returns how to stop it.
func startBare(ctx context.Context) (*node.Node, func(), error) {
	address, err := node.FreeAddress()
	if err != nil {
		return nil, nil, err
	}
	stop, err := startAgain(ctx, bareVariable+"="+address, address)
	if err != nil {
		return nil, nil, fmt.Errorf("start the server of constant answers: %w", err)
	}
	return &node.Node{Address: address, Token: "none"}, stop, nil
}

// startAgain starts this program again with one more variable in its
// environment, and waits until it listens at an address.
func startAgain(ctx context.Context, variable, address string) (stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), variable)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
			return stop, nil
		}
		select {
		case <-ctx.Done():
			stop()
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}
