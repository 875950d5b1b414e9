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
		Consistency: otherwise, MaxStaleness: defaultStaleness,
		MinSequence: ledger.Sequence(o.GetMinSequence()), MinEpoch: o.GetMinEpoch(),
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

// opened is a request for a part of a list whose token was read.
type opened struct {
	key  []string // where the page begins; all parts are empty on the first one
	size int      // how many rows it may have
	// from is where the clinic stood when the page before was read.
	from txn.Place
	read *stockledgerv1.ReadOptions
}

// options says how fresh the page must be, with the method's own default.
func (o *opened) options(otherwise txn.Consistency) txn.ReadOptions {
	options := readOptions(o.read, otherwise)
	options.Continues = o.from
	return options
}

// open reads where a page begins, as so many parts of a key.
func (h *queryHandler) open(ctx context.Context, req paged, parts int) (*opened, error) {
	o := &opened{size: int(req.GetPage().GetPageSize())}
	if o.size == 0 {
		o.size = defaultPage
	}
	if fresh, ok := req.(interface {
		GetRead() *stockledgerv1.ReadOptions
	}); ok {
		o.read = fresh.GetRead()
	}
	cursor, err := h.pages.open(principalOf(ctx), req, req.GetPage().GetPageToken())
	if err != nil {
		return nil, err
	}
	if cursor == nil {
		o.key = make([]string, parts)
		return o, nil
	}
	key := strings.Split(string(cursor), cursorSeparator)
	if len(key) != parts+2 {
		return nil, fmt.Errorf("rpc: a sealed cursor has %d parts, not %d", len(key), parts+2)
	}
	epoch, err := strconv.ParseInt(key[0], 10, 64)
	if err != nil {
		return nil, fmt.Errorf("rpc: a sealed cursor: %w", err)
	}
	sequence, err := strconv.ParseInt(key[1], 10, 64)
	if err != nil {
		return nil, fmt.Errorf("rpc: a sealed cursor: %w", err)
	}
	o.key, o.from = key[2:], txn.Place{Epoch: epoch, Sequence: ledger.Sequence(sequence)}
	return o, nil
}

// seal returns the token of the page after a key, in a list that was read as
// of a certain command; the zero AsOf where the list is of no one clinic.
func (h *queryHandler) seal(ctx context.Context, req paged, asOf txn.AsOf, key ...string) (string, error) {
	parts := append([]string{decimal(asOf.Epoch), decimal(asOf.Sequence)}, key...)
	return h.pages.seal(principalOf(ctx), req, []byte(strings.Join(parts, cursorSeparator)))
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

// cacheGets says of every answer to a GET who may keep it: the caller alone, who
// asks each time whether it still holds. A method that has an ETag says so with
// [unchanged]; the others are read anew.
func cacheGets(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		if server, ok := connecthttp.ServerInfoForContext(ctx); ok && server.HTTPMethod() == http.MethodGet {
			info, _ := connect.CallInfoForServerContext(ctx)
			info.ResponseHeader().Set("Cache-Control", "private, no-cache")
			info.ResponseHeader().Add("Vary", "Authorization")
		}
		return next(ctx, spec, stream)
	}
}

// unchanged lets caches ask whether the answer to a GET still holds. It must not
// be used for answers that change from moment to moment.
func unchanged(ctx context.Context, asOf txn.AsOf) error {
	server, ok := connecthttp.ServerInfoForContext(ctx)
	if !ok || server.HTTPMethod() != http.MethodGet {
		return nil
	}
	info, _ := connect.CallInfoForServerContext(ctx)
	etag := fmt.Sprintf(`W/"%d.%d.%d.%x"`, asOf.Epoch, asOf.Sequence, time.Now().Unix()/int64(etagPeriod/time.Second), principalOf(ctx).digest())
	info.ResponseHeader().Set("Etag", etag)
	if etagListed(info.RequestHeader().Values("If-None-Match"), etag) {
		return connecthttp.NewNotModifiedError()
	}
	return nil
}

// etagListed reports whether an If-None-Match names a tag. It compares weakly, as
// RFC 9110 has it: with or without W/ the tag is the same. Our tags hold neither
// commas nor quotes, so no other tag can be taken for one. A * is not for
// answers that nobody has seen.
func etagListed(lines []string, etag string) bool {
	opaque := strings.TrimPrefix(etag, "W/")
	for _, line := range lines {
		for tag := range strings.SplitSeq(line, ",") {
			if strings.TrimPrefix(strings.TrimSpace(tag), "W/") == opaque {
				return true
			}
		}
	}
	return false
}

func decimal[T ~int | ~int64](n T) string { return strconv.FormatInt(int64(n), 10) }
