package rpc

import (
	"github.com/stockledger/stockledger/proto/gen/stockledger/v1/stockledgerv1connect"
)

type queryHandler struct {
	stockledgerv1connect.UnimplementedCatalogServiceHandler
	queries any
	pages   *pageTokens
}
type queryService struct {
	stockledgerv1connect.UnimplementedQueryServiceHandler
	*queryHandler
}
