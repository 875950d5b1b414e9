package rpc

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/stockledger/stockledger/ledger"
)

const (
	// LocalIssuer is the issuer of tokens that the ledger signs itself.
	LocalIssuer = "stockledger"
	// Audience is who every token must be meant for.
	Audience = "stockledger"

	keyBlockType = "PRIVATE KEY"
)

// maxKeyFile bounds what is read of a key file: a key has about 120 bytes.
const maxKeyFile = 4096

// Issuer signs tokens with a key of its own. Every node that reads the same key
// file is the same issuer.
type Issuer struct {
	key ed25519.PrivateKey
	id  string
	now func() time.Time
}

// OpenIssuer reads the issuer's key from a file, which it makes where there is
// none. Any number of processes may do so at once: all end up with one key.
func OpenIssuer(path string) (*Issuer, error) {
	key, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeKey(path); err != nil {
			return nil, err
		}
		key, err = readKey(path)
	}
	if err != nil {
		return nil, err
	}
	return &Issuer{key: key, id: keyID(key.Public().(ed25519.PublicKey)), now: time.Now}, nil
}

// keyID tells keys of one issuer apart. It is short since every token has it.
func keyID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

func readKey(path string) (ed25519.PrivateKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("rpc: token key: %w", err)
	}
	if info.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("rpc: token key %s can be read by everybody on this machine, and whoever has it can be anybody: chmod 600 %s, or remove it to have a new one made", path, path)
	}
	if info.Size() > maxKeyFile {
		return nil, fmt.Errorf("rpc: token key %s has %d bytes, which no Ed25519 key has", path, info.Size())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("rpc: token key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != keyBlockType {
		return nil, fmt.Errorf("rpc: token key %s is not a PEM file with a %s", path, keyBlockType)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("rpc: token key %s: %w", path, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("rpc: token key %s is a %T; an Ed25519 key is needed", path, parsed)
	}
	return key, nil
}

// makeKey puts a new key at path unless one appears there first.
func makeKey(path string) error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("rpc: make a token key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("rpc: make a token key: %w", err)
	}
	return placeOnce(path, pem.EncodeToMemory(&pem.Block{Type: keyBlockType, Bytes: der}))
}

// placeOnce puts a secret at path unless one appears there first. The file is
// written under another name and linked, so that nobody ever reads a part of
// it, and the first of several writers wins.
func placeOnce(path string, secret []byte) error {
	folder := filepath.Dir(path)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("rpc: make a key: %w", err)
	}
	// CreateTemp makes files with mode 0600.
	draft, err := os.CreateTemp(folder, ".key-*")
	if err != nil {
		return fmt.Errorf("rpc: make a key: %w", err)
	}
	defer func() { _ = os.Remove(draft.Name()) }()
	_, err = draft.Write(secret)
	err = errors.Join(err, draft.Sync(), draft.Close())
	if err == nil {
		err = os.Link(draft.Name(), path)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("rpc: make a key: %w", err)
	}
	return nil
}

// claims are a token's contents.
type claims struct {
	jwt.RegisteredClaims
	Roles     []Role              `json:"roles"`
	Clinics   []ledger.ClinicID   `json:"clinics"`
	Locations []ledger.LocationID `json:"locations,omitempty"`
}

// Issue signs a token for p that ends after ttl.
func (i *Issuer) Issue(p Principal, ttl time.Duration) (string, error) {
	if err := p.validate(); err != nil {
		return "", fmt.Errorf("rpc: token: %w", err)
	}
	if ttl <= 0 {
		return "", fmt.Errorf("rpc: token: it must last for some time, not %s", ttl)
	}
	now := i.now()
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer:    LocalIssuer,
			Audience:  jwt.ClaimStrings{Audience},
			Subject:   string(p.Subject),
			IssuedAt:  jwt.NewNumericDate(now),
			NotBefore: jwt.NewNumericDate(now),
			ExpiresAt: jwt.NewNumericDate(now.Add(ttl)),
		},
		Roles: p.Roles, Clinics: p.Clinics, Locations: p.Locations,
	})
	token.Header["kid"] = i.id
	signed, err := token.SignedString(i.key)
	if err != nil {
		return "", fmt.Errorf("rpc: sign a token: %w", err)
	}
	return signed, nil
}

// Trust is what a [Verifier] needs to accept the issuer's tokens.
func (i *Issuer) Trust() TrustedIssuer {
	return TrustedIssuer{
		Name:       LocalIssuer,
		Algorithms: []string{jwt.SigningMethodEdDSA.Alg()},
		Keys:       map[string]any{i.id: i.key.Public()},
	}
}

// Secret derives a key of 32 bytes for one purpose from the issuer's, so that
// every node that shares the issuer shares it too.
func (i *Issuer) Secret(purpose string) []byte {
	sum := sha256.Sum256(slices.Concat([]byte("stockledger "+purpose+"\x00"), i.key.Seed()))
	return sum[:]
}
