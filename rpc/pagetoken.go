package rpc

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/stockledger/stockledger/ledger"
)

// pageTokens seals the place where a page ended, so that a token continues the
// list that it came from and no other: same caller, same method, same filter.
// A sealed cursor is not secret: it holds ids that the page showed, and when.
type pageTokens struct{ key []byte }

func newPageTokens(key []byte) *pageTokens { return &pageTokens{key: key} }

// cursorFormat names what a cursor holds. Tokens of releases with another
// format are refused, not misread.
const cursorFormat = "epoch, sequence, key"

// pageSeal is the length of a token's authenticator.
const pageSeal = 16

var tokenEncoding = base64.RawURLEncoding.Strict()

// seal returns the token of the page that begins after cursor, and none where
// the list ended.
func (t *pageTokens) seal(p *Principal, req proto.Message, cursor []byte) (string, error) {
	if len(cursor) == 0 {
		return "", nil
	}
	sum, err := t.sum(p, req, cursor)
	if err != nil {
		return "", err
	}
	return tokenEncoding.EncodeToString(append(sum, cursor...)), nil
}

// open returns the cursor in a token, nil where there is no token.
func (t *pageTokens) open(p *Principal, req proto.Message, token string) ([]byte, error) {
	if token == "" {
		return nil, nil
	}
	raw, err := tokenEncoding.DecodeString(token)
	if err != nil || len(raw) <= pageSeal {
		return nil, badPageToken()
	}
	sum, err := t.sum(p, req, raw[pageSeal:])
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(sum, raw[:pageSeal]) {
		return nil, badPageToken()
	}
	return raw[pageSeal:], nil
}

func badPageToken() *ledger.Rejection {
	return invalidField("page.page_token", "The page token does not belong to this list: it comes from another filter, caller or method, or was altered. Leave it out to begin anew.")
}

// sum authenticates a cursor together with everything that the list depends on.
func (t *pageTokens) sum(p *Principal, req proto.Message, cursor []byte) ([]byte, error) {
	filter, err := filterOf(req)
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, t.key)
	write := func(part []byte) {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		mac.Write(length[:])
		mac.Write(part)
	}
	write([]byte(cursorFormat))
	write([]byte(p.Subject))
	write([]byte(req.ProtoReflect().Descriptor().FullName()))
	write(filter)
	for _, clinic := range p.Clinics {
		write([]byte(clinic))
	}
	for _, location := range p.Locations {
		write([]byte(location))
	}
	write(cursor)
	return mac.Sum(nil)[:pageSeal], nil
}

// filterOf encodes what a request asks for, without which part of it and how
// fresh.
func filterOf(req proto.Message) ([]byte, error) {
	filter := proto.Clone(req).ProtoReflect()
	for _, name := range []protoreflect.Name{"page", "read"} {
		if field := filter.Descriptor().Fields().ByName(name); field != nil {
			filter.Clear(field)
		}
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(filter.Interface())
}
