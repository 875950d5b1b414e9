package rpc

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/protobuf/proto"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
	"github.com/stockledger/stockledger/txn"
)

// queryHandler is what all queries share.
type queryHandler struct {
	queries *txn.Queries
	pages   *pageTokens
}

// Limits of pages, and how old an answer may be where the caller does not say.
const (
	defaultPage      = 50
	defaultStaleness = 10 * time.Second
)

// readOptions says how fresh an answer must be, with the method's own default.
func readOptions(o *stockledgerv1.ReadOptions, otherwise txn.Consistency) txn.ReadOptions {
	options := txn.ReadOptions{
		Consistency: otherwise, MaxStaleness: defaultStaleness, MinSequence: ledger.Sequence(o.GetMinSequence()),
	}
	switch o.GetConsistency() {
	case stockledgerv1.Consistency_CONSISTENCY_STRONG:
		options.Consistency = txn.Strong
	case stockledgerv1.Consistency_CONSISTENCY_BOUNDED:
		options.Consistency = txn.Bounded
	case stockledgerv1.Consistency_CONSISTENCY_CACHED:
		options.Consistency = txn.Cached
	}
	if o.GetMaxStaleness() != nil {
		options.MaxStaleness = o.GetMaxStaleness().AsDuration()
	}
	return options
}

func fromAsOf(a txn.AsOf) *stockledgerv1.AsOf {
	return &stockledgerv1.AsOf{Epoch: a.Epoch, Sequence: int64(a.Sequence), Time: fromInstant(a.Time)}
}

// paged is a request for a part of a list.
type paged interface {
	proto.Message
	GetPage() *stockledgerv1.Page
}

// cursorSeparator stands between the parts of a cursor. No id holds it.
const cursorSeparator = "\x00"

// open returns where a page begins, as so many parts of a key, all empty for
// the first page, and how many rows it may have.
func (h *queryHandler) open(ctx context.Context, req paged, parts int) ([]string, int, error) {
	size := int(req.GetPage().GetPageSize())
	if size == 0 {
		size = defaultPage
	}
	cursor, err := h.pages.open(principalOf(ctx), req, req.GetPage().GetPageToken())
	if err != nil {
		return nil, 0, err
	}
	if cursor == nil {
		return make([]string, parts), size, nil
	}
	key := strings.Split(string(cursor), cursorSeparator)
	if len(key) != parts {
		return nil, 0, fmt.Errorf("rpc: a sealed cursor has %d parts, not %d", len(key), parts)
	}
	return key, size, nil
}

// seal returns the token of the page after a key.
func (h *queryHandler) seal(ctx context.Context, req paged, key ...string) (string, error) {
	return h.pages.seal(principalOf(ctx), req, []byte(strings.Join(key, cursorSeparator)))
}

// only returns the locations that an answer must be limited to, nil for all.
func only(ctx context.Context) []ledger.LocationID {
	if p := principalOf(ctx); p.limited() {
		return p.Locations
	}
	return nil
}

// etagPeriod divides time so that midnight in every time zone begins a period:
// with a day, lots expire, although no command says so.
const etagPeriod = 15 * time.Minute

// unchanged lets caches keep the answer to a GET and ask whether it still
// holds. It must not be used for answers that change from moment to moment.
func unchanged(ctx context.Context, asOf txn.AsOf) error {
	server, ok := connecthttp.ServerInfoForContext(ctx)
	if !ok || server.HTTPMethod() != http.MethodGet {
		return nil
	}
	info, _ := connect.CallInfoForServerContext(ctx)
	etag := fmt.Sprintf(`W/"%d.%d.%d"`, asOf.Epoch, asOf.Sequence, time.Now().Unix()/int64(etagPeriod/time.Second))
	header := info.ResponseHeader()
	header.Set("Etag", etag)
	header.Set("Cache-Control", "private, no-cache")
	header.Add("Vary", "Authorization")
	if info.RequestHeader().Get("If-None-Match") == etag {
		return connecthttp.NewNotModifiedError()
	}
	return nil
}

func decimal[T ~int | ~int64](n T) string { return strconv.FormatInt(int64(n), 10) }
