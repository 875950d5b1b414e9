package rpc

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/golang-jwt/jwt/v5"

	"github.com/stockledger/stockledger/ledger"
	stockledgerv1 "github.com/stockledger/stockledger/proto/gen/stockledger/v1"
)

func TestTenStartsAtOnceMakeOneKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "deep", "token.key")
	ids := make([]string, 10)
	var all sync.WaitGroup
	for i := range ids {
		all.Go(func() {
			issuer, err := OpenIssuer(path)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = issuer.id
		})
	}
	all.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Fatalf("keys: %v", ids)
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("files left: %v, %v", left, err)
	}
}

func TestOpenIssuerRefusesABadFile(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	write := func(name, text string, mode fs.FileMode) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, path := range map[string]string{
		"text":     write("text", "hello", 0o600),
		"pem":      write("pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 0o600),
		"readable": write("readable", "hello", 0o644),
		"large":    write("large", strings.Repeat("x", maxKeyFile+1), 0o600),
	} {
		if _, err := OpenIssuer(path); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestIssueRefusesNonsense(t *testing.T) {
	t.Parallel()
	issuer := newTestIssuer(t)
	good := Principal{Subject: "asha", Roles: []Role{RoleNurse}, Clinics: []ledger.ClinicID{"c1"}}
	if _, err := issuer.Issue(good, time.Minute); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Principal){
		"no subject":   func(p *Principal) { p.Subject = "" },
		"the system":   func(p *Principal) { p.Subject = ledger.SystemActor },
		"no role":      func(p *Principal) { p.Roles = nil },
		"unknown role": func(p *Principal) { p.Roles = []Role{"king"} },
		"no clinic":    func(p *Principal) { p.Clinics = nil },
	} {
		p := good
		change(&p)
		if _, err := issuer.Issue(p, time.Minute); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := issuer.Issue(good, 0); err == nil {
		t.Error("a token without time was made")
	}
}

// at is a clock that tests turn.
type at struct {
	mu  sync.Mutex
	now time.Time
}

func (c *at) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *at) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func TestVerify(t *testing.T) {
	t.Parallel()
	issuer := newTestIssuer(t)
	clock := &at{now: time.Now()}
	issuer.now = clock.Now
	v := newVerifier(clock.Now, issuer.Trust())
	want := Principal{Subject: "asha", Roles: []Role{RoleNurse}, Clinics: []ledger.ClinicID{"c1", "c2"}, Locations: []ledger.LocationID{"ward"}}
	token, err := issuer.Issue(want, 10*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	got, err := v.Verify(token)
	if err != nil {
		t.Fatal(err)
	}
	if got.Subject != want.Subject || !got.reaches("c2") || got.reaches("c3") || !got.reachesLocation("ward") || got.reachesLocation("store") {
		t.Errorf("got %+v", got)
	}
	if again, err := v.Verify(token); err != nil || again != got {
		t.Errorf("the second check was not answered from memory: %v", err)
	}
	clock.pass(rememberFor)
	if again, err := v.Verify(token); err != nil || again == got {
		t.Errorf("the token was not checked anew after %s: %v", rememberFor, err)
	}
	clock.pass(9*time.Minute + clockLeeway + time.Second)
	if _, err := v.Verify(token); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("after its end: %v", err)
	}
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	issuer := newTestIssuer(t)
	v := NewVerifier(issuer.Trust())
	_, foreign, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	valid := func() jwt.MapClaims {
		return jwt.MapClaims{
			"iss": LocalIssuer, "aud": Audience, "sub": "asha", "exp": time.Now().Add(time.Hour).Unix(),
			"roles": []string{"admin"}, "clinics": []string{"*"},
		}
	}
	sign := func(method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
		token := jwt.NewWithClaims(method, claims)
		token.Header["kid"] = issuer.id
		text, err := token.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	with := func(name string, value any) string {
		c := valid()
		if value == nil {
			delete(c, name)
		} else {
			c[name] = value
		}
		return sign(jwt.SigningMethodEdDSA, issuer.key, c)
	}
	good := with("sub", "asha")
	if _, err := v.Verify(good); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good, ".")
	forged, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	forged = []byte(strings.Replace(string(forged), "asha", "root", 1))
	for name, token := range map[string]string{
		"empty":            "",
		"text":             "hello",
		"huge":             strings.Repeat("x", maxToken+1),
		"another key":      sign(jwt.SigningMethodEdDSA, foreign, valid()),
		"no signature":     sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, valid()),
		"key as a secret":  sign(jwt.SigningMethodHS256, []byte(issuer.key.Public().(ed25519.PublicKey)), valid()),
		"altered":          parts[0] + "." + base64.RawURLEncoding.EncodeToString(forged) + "." + parts[2],
		"other issuer":     with("iss", "somebody"),
		"no issuer":        with("iss", nil),
		"other audience":   with("aud", "warehouse"),
		"no audience":      with("aud", nil),
		"no end":           with("exp", nil),
		"over":             with("exp", time.Now().Add(-time.Hour).Unix()),
		"not yet":          with("nbf", time.Now().Add(time.Hour).Unix()),
		"no subject":       with("sub", nil),
		"the system":       with("sub", string(ledger.SystemActor)),
		"subject too long": with("sub", strings.Repeat("x", maxSubject+1)),
	} {
		if p, err := v.Verify(token); err == nil {
			t.Errorf("%s: accepted as %+v", name, p)
		}
	}
}

func TestVerifierMemoryIsBounded(t *testing.T) {
	t.Parallel()
	v := NewVerifier()
	now := time.Now()
	for i := range maxKnown + 10 {
		var hash tokenHash
		copy(hash[:], fmt.Sprint(i))
		v.remember(hash, verified{until: now.Add(time.Minute)}, now)
	}
	if len(v.known) > maxKnown {
		t.Errorf("%d tokens are remembered", len(v.known))
	}
}

func TestCallsWithoutAGoodTokenAreRefused(t *testing.T) {
	t.Parallel()
	n := shared(t)
	for name, header := range map[string]string{
		"none": "", "basic": "Basic YTpi", "no token": "Bearer", "text": "Bearer hello", "only a token": "eyJhbGciOiJFZERTQSJ9",
	} {
		// A body that can't be read shows that nobody read it.
		request := n.newPost(t, "/stockledger.v1.InventoryService/ReserveStock", "", "application/json", strings.NewReader("{"))
		if header != "" {
			request.Header.Set("Authorization", header)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusUnauthorized || !strings.HasPrefix(response.Header.Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("%s: %s, WWW-Authenticate %q", name, response.Status, response.Header.Get("WWW-Authenticate"))
		}
	}
	_, err := n.client("", h2c()).ReserveStock(t.Context(), &stockledgerv1.CommandRequest{})
	wantError(t, err, connect.CodeUnauthenticated, reasonUnauthenticated)
}
