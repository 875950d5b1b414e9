package rpc

import (
	"encoding/hex"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/stockledger/stockledger/ledger"
	"github.com/stockledger/stockledger/txn"
)

// checkpointAudience keeps a checkpoint from being taken for a token of the API.
const checkpointAudience = "stockledger-checkpoint"

// SignedCheckpoint says what the hash of a clinic's journal was at a place. It
// is kept outside of the database, where whoever can rewrite the journal cannot
// rewrite it too.
type SignedCheckpoint struct {
	Clinic ledger.ClinicID
	txn.Place
	Hash ledger.Hash
	At   time.Time // when it was signed, in whole seconds
}

// checkpointClaims are a checkpoint as it is signed.
type checkpointClaims struct {
	jwt.RegisteredClaims
	Epoch    int64           `json:"epoch"`
	Sequence ledger.Sequence `json:"sequence"`
	Hash     string          `json:"hash"`
}

// SignCheckpoint signs a checkpoint as one line of text: a JSON Web Token that
// the issuer's public key verifies.
func (i *Issuer) SignCheckpoint(clinic ledger.ClinicID, place txn.Place, hash ledger.Hash) (string, error) {
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, checkpointClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: LocalIssuer, Audience: jwt.ClaimStrings{checkpointAudience}, Subject: string(clinic), IssuedAt: jwt.NewNumericDate(i.now()),
		},
		Epoch: place.Epoch, Sequence: place.Sequence, Hash: hash.String(),
	})
	token.Header["kid"] = i.id
	signed, err := token.SignedString(i.key)
	if err != nil {
		return "", fmt.Errorf("rpc: sign a checkpoint: %w", err)
	}
	return signed, nil
}

// ReadCheckpoint verifies a line that SignCheckpoint wrote. It fails where the
// line was altered, or was signed with another key.
func (i *Issuer) ReadCheckpoint(line string) (SignedCheckpoint, error) {
	var claims checkpointClaims
	_, err := jwt.ParseWithClaims(line, &claims, func(*jwt.Token) (any, error) { return i.key.Public(), nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}), jwt.WithAudience(checkpointAudience), jwt.WithIssuer(LocalIssuer))
	if err != nil {
		return SignedCheckpoint{}, fmt.Errorf("rpc: checkpoint: %w", err)
	}
	hash, err := hex.DecodeString(claims.Hash)
	if err != nil || len(hash) != len(ledger.Hash{}) || claims.IssuedAt == nil {
		return SignedCheckpoint{}, fmt.Errorf("rpc: checkpoint: its hash %q or its time cannot be read", claims.Hash)
	}
	return SignedCheckpoint{
		Clinic: ledger.ClinicID(claims.Subject), Place: txn.Place{Epoch: claims.Epoch, Sequence: claims.Sequence},
		Hash: ledger.Hash(hash), At: claims.IssuedAt.Time,
	}, nil
}
