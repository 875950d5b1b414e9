package rpc

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/stockledger/stockledger/ledger"
)

// Keyring holds the installation's key for what is kept of patients. With it
// are wrapped the keys of the patients, one each; with those, their texts are
// encrypted. Every node must have the same one, and losing it loses the texts.
type Keyring struct{ master []byte }

const keyBytes = 32

// OpenKeyring reads the installation's patient key from a file, which it makes
// where there is none: 32 random bytes in hexadecimal.
func OpenKeyring(path string) (*Keyring, error) {
	text, err := readSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := placeOnce(path, []byte(hex.EncodeToString(randomKey())+"\n")); err != nil {
			return nil, err
		}
		text, err = readSecret(path)
	}
	if err != nil {
		return nil, fmt.Errorf("rpc: patient key: %w", err)
	}
	master, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(master) != keyBytes {
		return nil, fmt.Errorf("rpc: patient key: %s does not hold %d bytes in hexadecimal", path, keyBytes)
	}
	return &Keyring{master}, nil
}

// readSecret reads a file that only its owner may read.
func readSecret(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("%s can be read by everybody on this machine: chmod 600 %s", path, path)
	}
	if info.Size() > maxKeyFile {
		return nil, fmt.Errorf("%s has %d bytes, which no key has", path, info.Size())
	}
	return os.ReadFile(path)
}

func randomKey() []byte {
	key := make([]byte, keyBytes)
	_, _ = rand.Read(key) // never fails
	return key
}

// mac authenticates parts under a key. Each part is preceded by its length.
func mac(key []byte, parts ...string) []byte {
	h := hmac.New(sha256.New, key)
	for _, part := range parts {
		_, _ = fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return h.Sum(nil)
}

// crockford is the alphabet of tokens, as the core has it.
const crockford = "0123456789abcdefghjkmnpqrstvwxyz"

// token is the patient that a RegisterPatient under an idempotency key makes. A
// repetition names the same one; without the installation's key nobody can tell
// which one that is.
func (k *Keyring) token(clinic ledger.ClinicID, idempotencyKey string) ledger.PatientID {
	sum := mac(k.master, "patient token", string(clinic), idempotencyKey)
	digits := make([]byte, ledger.PatientDigits)
	for i := range digits {
		digits[i] = crockford[sum[i]&31]
	}
	return ledger.PatientID(ledger.PatientPrefix + string(digits))
}

// identifier is the digest by which a patient is found whom another system
// calls so.
func (k *Keyring) identifier(clinic ledger.ClinicID, system, value string) string {
	return hex.EncodeToString(mac(k.master, "patient identifier", string(clinic), system, value)[:16])
}

// patientKey is the key of one patient, unwrapped.
type patientKey struct {
	clinic  ledger.ClinicID
	patient ledger.PatientID
	key     []byte
}

// wrap encrypts a patient's key under the installation's.
func (k *Keyring) wrap(p patientKey) ([]byte, error) {
	return encrypt(mac(k.master, "patient keys"), p.key, string(p.clinic), string(p.patient))
}

// unwrap decrypts a patient's key.
func (k *Keyring) unwrap(clinic ledger.ClinicID, patient ledger.PatientID, wrapped []byte) (patientKey, error) {
	key, err := decrypt(mac(k.master, "patient keys"), wrapped, string(clinic), string(patient))
	if err != nil {
		return patientKey{}, fmt.Errorf("rpc: the key of a patient of clinic %s cannot be unwrapped; does this node have another patient key than the others? %w", clinic, err)
	}
	return patientKey{clinic, patient, key}, nil
}

// digest names the text of a command in the journal. A repetition has the same
// one, and the same text in another command does not: it is a text of its own,
// and nobody sees that they are alike. Without the patient's key nobody can tell
// whether it is of a certain text.
func (p patientKey) digest(idempotencyKey, about string, text []byte) string {
	return hex.EncodeToString(mac(p.key, "text", idempotencyKey, about, string(text))[:16])
}

func (p patientKey) seal(digest string, text []byte) ([]byte, error) {
	return encrypt(mac(p.key, "texts"), text, string(p.clinic), string(p.patient), digest)
}

func (p patientKey) open(digest string, ciphertext []byte) ([]byte, error) {
	return decrypt(mac(p.key, "texts"), ciphertext, string(p.clinic), string(p.patient), digest)
}

// encrypt is AES-256-GCM with a random nonce before the ciphertext. What the
// ciphertext belongs to is authenticated with it.
func encrypt(key, plaintext []byte, belongsTo ...string) ([]byte, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails
	return aead.Seal(nonce, nonce, plaintext, mac(nil, belongsTo...)), nil
}

func decrypt(key, ciphertext []byte, belongsTo ...string) ([]byte, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	if len(ciphertext) < aead.NonceSize() {
		return nil, errors.New("the ciphertext is too short")
	}
	nonce, rest := ciphertext[:aead.NonceSize()], ciphertext[aead.NonceSize():]
	return aead.Open(nil, nonce, rest, mac(nil, belongsTo...))
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
