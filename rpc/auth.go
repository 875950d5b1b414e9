package rpc

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/golang-jwt/jwt/v5"

	"github.com/stockledger/stockledger/ledger"
)

// AllClinics in a principal's clinics stands for every clinic.
const AllClinics ledger.ClinicID = "*"

// Principal is who calls, as their token says.
type Principal struct {
	// Subject becomes the actor of every command.
	Subject ledger.Actor
	Roles   []Role
	// Clinics are the only ones that the principal reaches; [AllClinics]
	// stands for all of them.
	Clinics []ledger.ClinicID
	// Locations, where there are any, are the only ones whose stock the
	// principal sees and moves.
	Locations []ledger.LocationID
	// Expires is when the token is not accepted any more; zero: it is not told.
	Expires time.Time
}

// digest is a fingerprint of who the principal is and what it reaches: two that
// differ in it may not see each other's answers.
func (p *Principal) digest() []byte {
	if p == nil {
		return nil
	}
	h := sha256.New()
	write := func(words []string) {
		_, _ = fmt.Fprintf(h, "%d", len(words))
		for _, word := range slices.Sorted(slices.Values(words)) {
			_, _ = fmt.Fprintf(h, " %d:%s", len(word), word)
		}
	}
	write([]string{string(p.Subject)})
	write(each(p.Roles, func(r Role) string { return string(r) }))
	write(each(p.Clinics, func(id ledger.ClinicID) string { return string(id) }))
	write(each(p.Locations, func(id ledger.LocationID) string { return string(id) }))
	return h.Sum(nil)[:8]
}

func (p Principal) validate() error {
	if p.Subject == "" {
		return errors.New("a token needs a subject")
	}
	if p.Subject == ledger.SystemActor {
		return fmt.Errorf("the subject %q is the ledger itself", p.Subject)
	}
	if len(p.Roles) == 0 {
		return fmt.Errorf("a token needs a role: one of %s", joinRoles())
	}
	for _, role := range p.Roles {
		if !role.known() {
			return fmt.Errorf("there is no role %q: use one of %s", role, joinRoles())
		}
	}
	if len(p.Clinics) == 0 {
		return errors.New("a token needs a clinic, or * for all")
	}
	return nil
}

// reaches reports whether the principal may do anything at all in a clinic.
func (p *Principal) reaches(clinic ledger.ClinicID) bool {
	return slices.Contains(p.Clinics, clinic) || slices.Contains(p.Clinics, AllClinics)
}

// limited reports whether the principal is limited to some locations.
func (p *Principal) limited() bool { return len(p.Locations) > 0 }

func (p *Principal) reachesLocation(location ledger.LocationID) bool {
	return !p.limited() || slices.Contains(p.Locations, location)
}

// TrustedIssuer is somebody whose tokens are accepted.
type TrustedIssuer struct {
	// Name is the token's iss claim.
	Name string
	// Algorithms are the only ones that its tokens may be signed with.
	Algorithms []string
	// Keys are its public keys by the token's kid header.
	Keys map[string]any
}

// Verifier checks tokens. It is safe for concurrent use.
type Verifier struct {
	issuers map[string]TrustedIssuer
	parser  *jwt.Parser
	now     func() time.Time

	mu    sync.RWMutex
	known map[tokenHash]verified
}

type tokenHash [sha256.Size]byte

// verified is a token that passed, kept so that a signature, which costs more
// than the rest of a request, is checked once a minute and not every time.
type verified struct {
	principal *Principal
	until     time.Time
}

const (
	// maxToken is far above any token that names its clinics one by one.
	maxToken     = 16 << 10
	maxKnown     = 10_000
	rememberFor  = time.Minute
	clockLeeway  = 30 * time.Second
	bearerScheme = "Bearer"
)

// NewVerifier returns a verifier that accepts the tokens of the given issuers.
func NewVerifier(issuers ...TrustedIssuer) *Verifier { return newVerifier(time.Now, issuers...) }

func newVerifier(now func() time.Time, issuers ...TrustedIssuer) *Verifier {
	v := &Verifier{
		issuers: make(map[string]TrustedIssuer, len(issuers)),
		now:     now,
		known:   make(map[tokenHash]verified),
	}
	var algorithms []string
	for _, issuer := range issuers {
		v.issuers[issuer.Name] = issuer
		algorithms = append(algorithms, issuer.Algorithms...)
	}
	v.parser = jwt.NewParser(
		jwt.WithValidMethods(algorithms),
		jwt.WithAudience(Audience),
		jwt.WithExpirationRequired(),
		jwt.WithLeeway(clockLeeway),
		jwt.WithTimeFunc(now),
	)
	return v
}

// Verify returns the principal that a token names, or an error that says, for
// the token's holder, what is wrong with it.
func (v *Verifier) Verify(token string) (*Principal, error) {
	if len(token) > maxToken {
		return nil, fmt.Errorf("the token has %d bytes; at most %d are accepted", len(token), maxToken)
	}
	now, hash := v.now(), tokenHash(sha256.Sum256([]byte(token)))
	v.mu.RLock()
	hit, ok := v.known[hash]
	v.mu.RUnlock()
	if ok && now.Before(hit.until) {
		return hit.principal, nil
	}
	var c claims
	if _, err := v.parser.ParseWithClaims(token, &c, v.key); err != nil {
		return nil, tokenError(err)
	}
	principal := &Principal{
		Subject: ledger.Actor(c.Subject), Roles: c.Roles, Clinics: c.Clinics, Locations: c.Locations,
		Expires: c.ExpiresAt.Add(clockLeeway),
	}
	if err := principal.validateClaims(); err != nil {
		return nil, err
	}
	v.remember(hash, verified{principal, earlier(c.ExpiresAt.Time, now.Add(rememberFor))}, now)
	return principal, nil
}

// validateClaims is less strict than validate: another release may know more
// roles, and a role that this one does not know permits nothing.
func (p *Principal) validateClaims() error {
	if p.Subject == "" {
		return errors.New("the token names no subject (sub)")
	}
	if p.Subject == ledger.SystemActor {
		return fmt.Errorf("the token's subject %q is the ledger itself", p.Subject)
	}
	if len(p.Subject) > maxSubject {
		return fmt.Errorf("the token's subject has %d bytes; at most %d are accepted", len(p.Subject), maxSubject)
	}
	return nil
}

// maxSubject is the core's limit on an actor.
const maxSubject = 200

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// key finds the key that a token must be signed with. It also binds each
// issuer to its own algorithms: the parser only knows those of all of them.
func (v *Verifier) key(token *jwt.Token) (any, error) {
	name, err := token.Claims.GetIssuer()
	if err != nil {
		return nil, err
	}
	issuer, ok := v.issuers[name]
	if !ok {
		return nil, errUnknownIssuer
	}
	if !slices.Contains(issuer.Algorithms, token.Method.Alg()) {
		return nil, errUnknownKey
	}
	id, _ := token.Header["kid"].(string)
	key, ok := issuer.Keys[id]
	if !ok {
		return nil, errUnknownKey
	}
	return key, nil
}

var (
	errUnknownIssuer = errors.New("rpc: unknown issuer")
	errUnknownKey    = errors.New("rpc: unknown key")
)

// tokenError says what a token's holder may know: enough to mend it.
func tokenError(err error) error {
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return errTokenExpired
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return errors.New("the token is not valid yet: check the clock of its issuer")
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return fmt.Errorf("the token is not meant for %s (aud)", Audience)
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return errors.New("the token must name its audience and when it ends (aud, exp)")
	case errors.Is(err, errUnknownIssuer):
		return errors.New("the token's issuer (iss) is not trusted here")
	case errors.Is(err, errUnknownKey), errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return errors.New("the token is not signed with a key that is trusted here")
	}
	return errors.New("the token is malformed")
}

func (v *Verifier) remember(hash tokenHash, entry verified, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.known) >= maxKnown {
		v.forget(now)
	}
	v.known[hash] = entry
}

// forget makes room: what is over goes, and where that is not enough, half of
// the rest. The worst that it costs is a few signatures.
func (v *Verifier) forget(now time.Time) {
	for hash, entry := range v.known {
		if !now.Before(entry.until) {
			delete(v.known, hash)
		}
	}
	for hash := range v.known {
		if len(v.known) <= maxKnown/2 {
			return
		}
		delete(v.known, hash)
	}
}

type principalKey struct{}

// principalOf returns who calls. It is nil only in methods that are open to
// everybody.
func principalOf(ctx context.Context) *Principal {
	p, _ := ctx.Value(principalKey{}).(*Principal)
	return p
}

type actingKey struct{}

// actingFor lets this process make calls to itself for somebody who has asked
// for them before, and leaves no trace of them in the request at hand. No call
// from outside comes with such a context.
func actingFor(ctx context.Context, p *Principal) context.Context {
	return context.WithValue(context.WithValue(ctx, recordKey{}, new(requestRecord)), actingKey{}, p)
}

func actsFor(ctx context.Context) *Principal {
	p, _ := ctx.Value(actingKey{}).(*Principal)
	return p
}

// authenticate finds out who calls before anything of the request is decoded.
// Open procedures need no token.
func authenticate(v *Verifier, open func(procedure string) bool) connect.ServerInterceptor {
	return func(next connect.ServerFunc) connect.ServerFunc {
		return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
			if open(spec.Procedure) {
				return next(ctx, spec, stream)
			}
			if principal := actsFor(ctx); principal != nil {
				return next(context.WithValue(ctx, principalKey{}, principal), spec, stream)
			}
			info, _ := connect.CallInfoForServerContext(ctx)
			principal, err := v.bearer(info.RequestHeader().Get("Authorization"))
			if err != nil {
				info.ResponseHeader().Set("WWW-Authenticate", `Bearer realm="stockledger"`)
				return unauthenticated(err)
			}
			recordOf(ctx).note(func(known *requestFacts) { known.actor = principal.Subject })
			ctx = context.WithValue(ctx, principalKey{}, principal)
			if spec.StreamType == connect.StreamTypeUnary {
				return next(ctx, spec, stream)
			}
			return untilExpired(ctx, principal, func(ctx context.Context) error { return next(ctx, spec, stream) })
		}
	}
}

// errTokenExpired ends what outlives the token that it was asked for with.
var errTokenExpired = errors.New("the token has expired")

// untilExpired runs what may take as long as the caller likes, and ends it with
// the caller's token: who has left a clinic must not go on to watch it.
func untilExpired(ctx context.Context, p *Principal, call func(context.Context) error) error {
	if p.Expires.IsZero() {
		return call(ctx)
	}
	ctx, cancel := context.WithDeadlineCause(ctx, p.Expires, errTokenExpired)
	defer cancel()
	err := call(ctx)
	if err != nil && errors.Is(context.Cause(ctx), errTokenExpired) {
		return unauthenticated(errTokenExpired)
	}
	return err
}

func (v *Verifier) bearer(header string) (*Principal, error) {
	if header == "" {
		return nil, errors.New("the request has no Authorization header")
	}
	scheme, token, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, bearerScheme) {
		return nil, errors.New("the Authorization header must be: Bearer TOKEN")
	}
	return v.Verify(strings.TrimSpace(token))
}
