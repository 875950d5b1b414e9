package webhook

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"pgregory.net/rapid"
)

var (
	now  = time.Unix(1_800_000_000, 0)
	body = []byte(`{"specversion":"1.0"}`)
)

func signed(at time.Time, secrets ...Secret) http.Header {
	header := make(http.Header)
	Sign(header, "hillside/1/42", at, body, secrets...)
	return header
}

func TestVerifyTakesEitherSecretWithinTheTolerance(t *testing.T) {
	t.Parallel()
	old, young, other := NewSecret(), NewSecret(), NewSecret()
	for name, test := range map[string]struct {
		header  http.Header
		secrets []Secret
		want    error
	}{
		"one secret":                    {signed(now, young), []Secret{young}, nil},
		"two, the receiver has the old": {signed(now, young, old), []Secret{old}, nil},
		"two, the receiver has the new": {signed(now, young, old), []Secret{young}, nil},
		"one, the receiver has both":    {signed(now, young), []Secret{old, young}, nil},
		"another secret":                {signed(now, young, old), []Secret{other}, ErrSignature},
		"no secret":                     {signed(now, young), nil, ErrSignature},
		"an empty secret":               {signed(now, Secret{}), []Secret{{}}, ErrSignature},
		"five minutes old":              {signed(now.Add(-Tolerance), young), []Secret{young}, nil},
		"five minutes early":            {signed(now.Add(Tolerance), young), []Secret{young}, nil},
		"older":                         {signed(now.Add(-Tolerance-time.Second), young), []Secret{young}, ErrTimestamp},
		"earlier":                       {signed(now.Add(Tolerance+time.Second), young), []Secret{young}, ErrTimestamp},
		"from the beginning of time":    {signed(time.Unix(0, 0), young), []Secret{young}, ErrTimestamp},
		"nothing signed":                {signed(now), []Secret{young}, ErrHeaders},
	} {
		if err := Verify(test.header, body, now, test.secrets...); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

func TestVerifyRefusesWhatWasAltered(t *testing.T) {
	t.Parallel()
	secret := NewSecret()
	good := signed(now, secret)
	signature, timestamp := good.Get(HeaderSignature), good.Get(HeaderTimestamp)
	for name, test := range map[string]struct{ header, value string }{
		"no id":                   {HeaderID, ""},
		"another id":              {HeaderID, "hillside/1/43"},
		"an id with a full stop":  {HeaderID, "hillside.1"},
		"no timestamp":            {HeaderTimestamp, ""},
		"another timestamp":       {HeaderTimestamp, strconv.FormatInt(now.Unix()+1, 10)},
		"a timestamp with a plus": {HeaderTimestamp, "+" + timestamp},
		"a timestamp with zeros":  {HeaderTimestamp, "0" + timestamp},
		"a huge timestamp":        {HeaderTimestamp, "99999999999999999999"},
		"least timestamp":         {HeaderTimestamp, "-9223372036854775808"},
		"greatest timestamp":      {HeaderTimestamp, "9223372036854775807"},
		"no signature":            {HeaderSignature, " "},
		"another version":         {HeaderSignature, "v2" + strings.TrimPrefix(signature, "v1")},
		"no version":              {HeaderSignature, strings.TrimPrefix(signature, "v1,")},
		"cut":                     {HeaderSignature, signature[:len(signature)-4]},
		"not base64":              {HeaderSignature, "v1,%%%"},
		"too many":                {HeaderSignature, strings.Repeat("v1,AAAA ", 9) + signature},
	} {
		header := good.Clone()
		header.Set(test.header, test.value)
		if err := Verify(header, body, now, secret); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if err := Verify(good, append(bytes.Clone(body), ' '), now, secret); !errors.Is(err, ErrSignature) {
		t.Errorf("another body: %v", err)
	}
	if err := Verify(make(http.Header), nil, now, secret); !errors.Is(err, ErrHeaders) {
		t.Errorf("nothing: %v", err)
	}
}

// Whatever comes, Verify neither panics nor takes what was not signed.
func FuzzVerify(f *testing.F) {
	secret := Secret(bytes.Repeat([]byte{7}, secretBytes))
	good := signed(now, secret)
	f.Add(good.Get(HeaderID), good.Get(HeaderTimestamp), good.Get(HeaderSignature), body)
	f.Add("", "", "", []byte(nil))
	f.Add("a", "1", "v1, v1,= v1,AA", []byte("."))
	f.Add("a.1", "1800000000", "v1,\x00", []byte{0xff})
	f.Fuzz(func(t *testing.T, id, timestamp, signature string, content []byte) {
		header := http.Header{HeaderID: {id}, HeaderTimestamp: {timestamp}, HeaderSignature: {signature}}
		genuine := id == good.Get(HeaderID) && timestamp == good.Get(HeaderTimestamp) && bytes.Equal(content, body)
		if err := Verify(header, content, now, secret); err == nil && !genuine {
			t.Errorf("%q %q %q %q is taken", id, timestamp, signature, content)
		}
	})
}

// Receivers that use a library of the convention take what we sign, and we take
// what they sign.
func TestSignaturesAreThoseOfTheConvention(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		secret, old := NewSecret(), NewSecret()
		content := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		theirs, err := standardwebhooks.NewWebhook(secret.String())
		if err != nil {
			t.Fatal(err)
		}
		header, at := make(http.Header), time.Now()
		Sign(header, "hillside/1/42", at, content, old, secret)
		if err := theirs.Verify(content, header); err != nil {
			t.Errorf("their verdict on ours: %v", err)
		}
		signature, err := theirs.Sign("hillside/1/42", at, content)
		if err != nil {
			t.Fatal(err)
		}
		header.Set(HeaderSignature, signature)
		if err := Verify(header, content, at, secret); err != nil {
			t.Errorf("our verdict on theirs: %v", err)
		}
	})
}

func TestSecretsAreRead(t *testing.T) {
	t.Parallel()
	secret := NewSecret()
	if got, err := ParseSecret(secret.String()); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("%v, %v", got, err)
	}
	for _, text := range []string{"", "whsec_", "whsec_AAAA", "whsec_%", "whsec_" + strings.Repeat("A", 400)} {
		if _, err := ParseSecret(text); err == nil {
			t.Errorf("%q is a secret", text)
		}
	}
}
