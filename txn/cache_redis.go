package txn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/stockledger/stockledger/ledger"
)

// sharedCache keeps answers in Redis. Each is one hash: the answer with the
// place that it was read at, and the place from which on an answer must have
// been read to be put there. Redis is never waited for longer than a moment, and
// nothing fails without it.
type sharedCache struct {
	options rueidis.ClientOption
	log     *slog.Logger
	metrics *cacheMetrics
	client  atomic.Pointer[rueidis.Client] // nil: there is no connection
	// late counts the reads in a row that got no answer in time.
	late atomic.Int32

	mu sync.Mutex
	// outdated are the keys whose answers are out of date, with the command that
	// changed them, and fresh are answers to be put there. Both wait for run.
	outdated map[string]Place
	fresh    map[string]*sharedValue
	some     chan struct{}
	failed   chan struct{} // a reader had to do without
}

// sharedValue is an answer on its way to Redis.
type sharedValue struct {
	key      cacheKey
	kept     *kept
	lifetime time.Duration
}

const (
	// sharedTimeout is how long an answer from Redis is waited for. Reading the
	// database takes a few milliseconds.
	sharedTimeout = 50 * time.Millisecond
	// maxLate is how many reads in a row may get no answer in time before Redis is
	// left alone: one may be a busy machine, several are a server that hangs.
	maxLate = 3
	// sharedPause is how long Redis is left alone after it failed.
	sharedPause = 500 * time.Millisecond
	// sharedChunk is how many changes are sent at a time.
	sharedChunk = 500
	// maxShared bounds what waits for Redis. What is dropped beyond it makes
	// other nodes' answers older, as their AsOf says, and not wrong.
	maxShared = 100_000
	// outdatedFor is how long Redis remembers the command that changed a key: no
	// reader is slower than that.
	outdatedFor = time.Minute
)

// Both scripts compare places by epoch and then by sequence.
var (
	// putShared puts an answer, unless the key was changed after it was read, or
	// holds a newer one.
	putShared = rueidis.NewLuaScript(`
		local epoch, sequence = tonumber(ARGV[1]), tonumber(ARGV[2])
		local h = redis.call('HMGET', KEYS[1], 'changed_epoch', 'changed', 'epoch', 'sequence')
		for i = 1, 3, 2 do
			if h[i] then
				local e, s = tonumber(h[i]), tonumber(h[i + 1])
				if e > epoch or (e == epoch and s > sequence) then return 0 end
			end
		end
		redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'sequence', ARGV[2], 'answer', ARGV[3])
		redis.call('PEXPIRE', KEYS[1], ARGV[4])
		return 1`)
	// forgetShared notes which command changed a key, and deletes an answer from
	// before it.
	forgetShared = rueidis.NewLuaScript(`
		local epoch, sequence = tonumber(ARGV[1]), tonumber(ARGV[2])
		local h = redis.call('HMGET', KEYS[1], 'changed_epoch', 'changed', 'epoch', 'sequence')
		if h[1] and (tonumber(h[1]) > epoch or (tonumber(h[1]) == epoch and tonumber(h[2]) >= sequence)) then return 0 end
		redis.call('HSET', KEYS[1], 'changed_epoch', ARGV[1], 'changed', ARGV[2])
		if h[3] and (tonumber(h[3]) < epoch or (tonumber(h[3]) == epoch and tonumber(h[4]) < sequence)) then
			redis.call('HDEL', KEYS[1], 'epoch', 'sequence', 'answer')
		end
		if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
		return 1`)
)

func newSharedCache(url string, log *slog.Logger, metrics *cacheMetrics) (*sharedCache, error) {
	options, err := rueidis.ParseURL(url)
	if err != nil {
		return nil, fmt.Errorf("txn: Redis URL: %w", err)
	}
	options.DisableCache = true
	options.DisableRetry = true
	options.ConnWriteTimeout = time.Second
	options.Dialer.Timeout = time.Second
	return &sharedCache{
		options: options, log: log, metrics: metrics,
		outdated: make(map[string]Place), fresh: make(map[string]*sharedValue), some: make(chan struct{}, 1), failed: make(chan struct{}, 1),
	}, nil
}

// sharedKey is the name of a key in Redis.
func sharedKey(k cacheKey) string {
	return "clinic:" + string(k.clinic) + ":" + families[k.topic.Kind].key(k.clinic, k.topic)
}

// wireAnswer is an answer as Redis keeps it.
type wireAnswer struct {
	Epoch    int64
	Sequence ledger.Sequence
	At       ledger.Instant
	Filled   time.Time
	Until    time.Time
	Value    json.RawMessage
}

// read looks keys up. What is not there, or cannot be read, is nil.
func (s *sharedCache) read(ctx context.Context, keys []cacheKey) []*kept {
	found := make([]*kept, len(keys))
	client := s.client.Load()
	if client == nil {
		return found
	}
	ctx, cancel := context.WithTimeout(ctx, sharedTimeout)
	defer cancel()
	commands := make(rueidis.Commands, len(keys))
	for i, k := range keys {
		commands[i] = (*client).B().Hget().Key(sharedKey(k)).Field("answer").Build()
	}
	answers := (*client).DoMulti(ctx, commands...)
	for i, k := range keys {
		text, err := answers[i].AsBytes()
		if rueidis.IsRedisNil(err) {
			s.late.Store(0)
			continue
		}
		if errors.Is(err, context.Canceled) {
			return found
		}
		if errors.Is(err, context.DeadlineExceeded) {
			if s.late.Add(1) >= maxLate {
				s.fail()
			}
			return found
		}
		if err != nil {
			s.fail()
			return found
		}
		s.late.Store(0)
		v, err := openShared(k, text)
		if err != nil {
			s.metrics.sharedErrors.Inc() // of another release, perhaps
			continue
		}
		found[i] = v
	}
	return found
}

// fail has Redis left alone for a moment, so that nobody else waits for it.
func (s *sharedCache) fail() {
	s.metrics.sharedErrors.Inc()
	s.client.Store(nil)
	select {
	case s.failed <- struct{}{}:
	default:
	}
}

func openShared(k cacheKey, text []byte) (*kept, error) {
	var w wireAnswer
	if err := json.Unmarshal(text, &w); err != nil {
		return nil, err
	}
	value, err := families[k.topic.Kind].decode(w.Value)
	if err != nil {
		return nil, err
	}
	return &kept{asOf: AsOf{Epoch: w.Epoch, Sequence: w.Sequence, Time: w.At}, filled: w.Filled, until: w.Until, value: value}, nil
}

// put has an answer put into Redis soon.
func (s *sharedCache) put(k cacheKey, v *kept) {
	s.wait(func() bool {
		if len(s.fresh) < maxShared {
			s.fresh[sharedKey(k)] = &sharedValue{k, v, families[k.topic.Kind].shared}
			return true
		}
		return false
	})
}

// forget has the answer about a key forgotten that was read before a command.
func (s *sharedCache) forget(key string, changed Place) {
	s.wait(func() bool {
		if last, ok := s.outdated[key]; ok && !last.before(changed) {
			return true
		}
		if len(s.outdated) < maxShared {
			s.outdated[key] = changed
			return true
		}
		return false
	})
}

func (s *sharedCache) wait(add func() bool) {
	s.mu.Lock()
	added := add()
	s.mu.Unlock()
	if !added {
		s.metrics.sharedErrors.Inc()
		return
	}
	select {
	case s.some <- struct{}{}:
	default:
	}
}

// run keeps a connection and sends what waits, until ctx ends.
func (s *sharedCache) run(ctx context.Context) {
	pause := time.NewTicker(sharedPause)
	defer pause.Stop()
	away := false
	for {
		err := s.connect(func(client rueidis.Client) error {
			if away {
				s.log.Info("Redis is there again")
			}
			away = false
			return s.serve(ctx, client)
		})
		if ctx.Err() != nil {
			return
		}
		s.metrics.sharedErrors.Inc()
		if !away {
			s.log.Warn("Redis is away; answers are read from the database", "error", err)
		}
		away = true
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
	}
}

// connect makes a connection for as long as it serves.
func (s *sharedCache) connect(serve func(rueidis.Client) error) error {
	client, err := rueidis.NewClient(s.options)
	if err != nil {
		return fmt.Errorf("connect to Redis: %w", err)
	}
	defer client.Close()
	select {
	case <-s.failed: // of the connection before
	default:
	}
	s.late.Store(0)
	s.client.Store(&client)
	defer s.client.Store(nil)
	return serve(client)
}

// errRedisFailed means that a reader got an error.
var errRedisFailed = errors.New("a read failed")

// serve sends what waits until Redis fails, and looks from time to time whether
// it is still there.
func (s *sharedCache) serve(ctx context.Context, client rueidis.Client) error {
	tick := time.NewTicker(sharedPause)
	defer tick.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-s.failed:
			return errRedisFailed
		case <-s.some:
			err = s.send(ctx, client)
		case <-tick.C:
			err = errors.Join(s.ping(ctx, client), s.send(ctx, client))
		}
		if err != nil {
			return err
		}
	}
}

func (s *sharedCache) ping(ctx context.Context, client rueidis.Client) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return client.Do(ctx, client.B().Ping().Build()).Error()
}

// send sends what waits. What Redis did not take waits on, so that it does not
// keep what is out of date when it comes back.
func (s *sharedCache) send(ctx context.Context, client rueidis.Client) error {
	for {
		keys, outdated := s.someOutdated()
		if len(keys) == 0 {
			break
		}
		if err := s.exec(ctx, client, forgetShared, outdated); err != nil {
			s.restore(keys, outdated)
			return err
		}
	}
	for {
		fresh := s.someFresh()
		if len(fresh) == 0 {
			return nil
		}
		if err := s.exec(ctx, client, putShared, fresh); err != nil {
			return err
		}
	}
}

func (s *sharedCache) exec(ctx context.Context, client rueidis.Client, script *rueidis.Lua, calls []rueidis.LuaExec) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for _, answer := range script.ExecMulti(ctx, client, calls...) {
		if err := answer.Error(); err != nil {
			return fmt.Errorf("write to Redis: %w", err)
		}
	}
	return nil
}

func (s *sharedCache) someOutdated() (places []Place, calls []rueidis.LuaExec) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, p := range s.outdated {
		if len(calls) == sharedChunk {
			break
		}
		delete(s.outdated, key)
		places = append(places, p)
		calls = append(calls, rueidis.LuaExec{
			Keys: []string{key}, Args: []string{decimalText(p.Epoch), decimalText(int64(p.Sequence)), decimalText(outdatedFor.Milliseconds())},
		})
	}
	return places, calls
}

// restore lets what could not be sent wait again.
func (s *sharedCache) restore(places []Place, calls []rueidis.LuaExec) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, call := range calls {
		key := call.Keys[0]
		if last, ok := s.outdated[key]; !ok || last.before(places[i]) {
			s.outdated[key] = places[i]
		}
	}
}

func (s *sharedCache) someFresh() (calls []rueidis.LuaExec) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, v := range s.fresh {
		if len(calls) == sharedChunk {
			break
		}
		delete(s.fresh, key)
		left := v.lifetime - time.Since(v.kept.filled)
		text, err := v.text()
		if err != nil {
			s.log.Error("an answer cannot be put into Redis; this is a defect", "key", key, "error", err)
		}
		if err != nil || left < time.Millisecond {
			continue
		}
		calls = append(calls, rueidis.LuaExec{
			Keys: []string{key},
			Args: []string{decimalText(v.kept.asOf.Epoch), decimalText(int64(v.kept.asOf.Sequence)), text, decimalText(left.Milliseconds())},
		})
	}
	return calls
}

func (v *sharedValue) text() (string, error) {
	value, err := families[v.key.topic.Kind].encode(v.kept.value)
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(wireAnswer{v.kept.asOf.Epoch, v.kept.asOf.Sequence, v.kept.asOf.Time, v.kept.filled, v.kept.until, value})
	return string(text), err
}

func decimalText(n int64) string { return strconv.FormatInt(n, 10) }
