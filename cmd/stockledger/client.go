package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"

	pb "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
)

// client calls a node's API as the holder of a token.
type client struct {
	inventory  stockledgerv1connect.InventoryServiceClient
	catalog    stockledgerv1connect.CatalogServiceClient
	pharmacy   stockledgerv1connect.PharmacyServiceClient
	operations stockledgerv1connect.OperationServiceClient
	admin      stockledgerv1connect.AdminServiceClient
	events     stockledgerv1connect.EventServiceClient
}

func newClient(url, token string) *client {
	authorize := func(next connect.ClientFunc) connect.ClientFunc {
		return func(ctx context.Context, spec connect.Spec) (connect.ClientStream, error) {
			if info, ok := connect.CallInfoForClientContext(ctx); ok {
				info.RequestHeader().Set("Authorization", "Bearer "+strings.TrimSpace(token))
			}
			return next(ctx, spec)
		}
	}
	conn := connect.NewClient(connecthttp.NewTransport(http.DefaultClient, strings.TrimSuffix(url, "/")), authorize)
	return &client{
		inventory:  stockledgerv1connect.NewInventoryServiceClient(conn),
		catalog:    stockledgerv1connect.NewCatalogServiceClient(conn),
		pharmacy:   stockledgerv1connect.NewPharmacyServiceClient(conn),
		operations: stockledgerv1connect.NewOperationServiceClient(conn),
		admin:      stockledgerv1connect.NewAdminServiceClient(conn),
		events:     stockledgerv1connect.NewEventServiceClient(conn),
	}
}

// execute carries out a batch of independent commands.
func (c *client) execute(ctx context.Context, clinic string, commands []*pb.Command) ([]*pb.CommandResult, error) {
	response, err := c.inventory.ExecuteBatch(ctx, &pb.ExecuteBatchRequest{ClinicId: clinic, Commands: commands})
	if err != nil {
		return nil, err
	}
	if len(response.GetResults()) != len(commands) {
		return nil, fmt.Errorf("the server answered %d commands with %d verdicts", len(commands), len(response.GetResults()))
	}
	return response.GetResults(), nil
}

// listPage is the size of the pages that listings are read in.
const listPage = 1000

// locations lists all of a clinic's locations.
func (c *client) locations(ctx context.Context, clinic string) ([]*pb.Location, error) {
	return everyPage(func(page *pb.Page) ([]*pb.Location, string, error) {
		response, err := c.catalog.ListLocations(ctx, &pb.ListLocationsRequest{ClinicId: clinic, Page: page, Read: strongly})
		return response.GetLocations(), response.GetNextPageToken(), err
	})
}

// medicines lists all of a clinic's medicines.
func (c *client) medicines(ctx context.Context, clinic string) ([]*pb.Medicine, error) {
	return everyPage(func(page *pb.Page) ([]*pb.Medicine, string, error) {
		response, err := c.catalog.ListMedicines(ctx, &pb.ListMedicinesRequest{ClinicId: clinic, Page: page, Read: strongly})
		return response.GetMedicines(), response.GetNextPageToken(), err
	})
}

// lots lists all of a clinic's lots.
func (c *client) lots(ctx context.Context, clinic string) ([]*pb.Lot, error) {
	return everyPage(func(page *pb.Page) ([]*pb.Lot, string, error) {
		response, err := c.catalog.ListLots(ctx, &pb.ListLotsRequest{ClinicId: clinic, Page: page, Read: strongly})
		return response.GetLots(), response.GetNextPageToken(), err
	})
}

var strongly = &pb.ReadOptions{Consistency: pb.Consistency_CONSISTENCY_STRONG}

func everyPage[T any](list func(*pb.Page) ([]T, string, error)) ([]T, error) {
	var all []T
	page := &pb.Page{PageSize: listPage}
	for {
		rows, next, err := list(page)
		if err != nil {
			return nil, err
		}
		all = append(all, rows...)
		if next == "" {
			return all, nil
		}
		page = &pb.Page{PageSize: listPage, PageToken: next}
	}
}
