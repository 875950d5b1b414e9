// Package faultproxy puts a proxy between a test and the database that breaks
// connections at the moments that matter: around COMMIT, whose outcome the
// client then cannot know. It understands just enough of PostgreSQL's protocol
// to see a COMMIT and its answer pass by.
package faultproxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Fault is what happens to the next COMMIT.
type Fault int

// The faults.
const (
	// None lets everything pass.
	None Fault = iota
	// LoseRequest cuts the connection before COMMIT reaches the server:
	// nothing is committed.
	LoseRequest
	// LoseAnswer cuts the connection after the server has committed and before
	// the client hears of it.
	LoseAnswer
	// HoldAnswer lets the server commit and keeps its answer back until the
	// client gives up.
	HoldAnswer
)

// Proxy listens on a port of its own and passes everything on to a database.
type Proxy struct {
	upstream string
	target   string
	address  string

	mu       sync.Mutex
	listener net.Listener
	conns    map[*session]struct{}
	fault    Fault
	fired    int
	hanging  chan struct{} // closed when it ends; nil while everything passes
	held     int
	wait     sync.WaitGroup
}

// session is one proxied connection.
type session struct {
	client, server net.Conn
	// commits holds the names of prepared statements that commit.
	commits map[string]bool
	once    sync.Once
	closed  chan struct{}
}

func (s *session) close() {
	s.once.Do(func() {
		close(s.closed)
		_ = s.client.Close()
		_ = s.server.Close()
	})
}

// New starts a proxy to a database, until the test ends. The test is skipped if
// the database insists on TLS, which the proxy can't look into.
func New(tb testing.TB, databaseURL string) *Proxy {
	tb.Helper()
	cfg, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		tb.Fatal(err)
	}
	target, err := url.Parse(databaseURL)
	if err != nil {
		tb.Fatal(err)
	}
	query := target.Query()
	switch query.Get("sslmode") {
	case "require", "verify-ca", "verify-full":
		tb.Skip("the proxy can't look into a connection that insists on TLS")
	}
	p := &Proxy{
		upstream: net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port))),
		conns:    make(map[*session]struct{}),
	}
	p.Up(tb)
	query.Set("sslmode", "disable")
	target.RawQuery = query.Encode()
	target.Host = p.address
	p.target = target.String()
	tb.Cleanup(func() {
		p.Down()
		p.wait.Wait()
	})
	return p
}

// URL returns the database's URL by way of the proxy.
func (p *Proxy) URL() string { return p.target }

// Arm chooses what happens to the next COMMIT; after that everything passes
// again.
func (p *Proxy) Arm(fault Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = fault
}

// Fired returns how many faults have happened.
func (p *Proxy) Fired() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fired
}

// Down cuts all connections and refuses new ones.
func (p *Proxy) Down() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
	for s := range p.conns {
		s.close()
	}
}

// Hang keeps connections, also new ones, and lets nothing pass, as a network does
// that loses every packet, until the test ends.
func (p *Proxy) Hang(tb testing.TB) {
	tb.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	hanging := make(chan struct{})
	p.hanging = hanging
	tb.Cleanup(func() { close(hanging) })
}

// Held returns how many messages were kept back since Hang.
func (p *Proxy) Held() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held
}

// hold waits while the proxy hangs.
func (p *Proxy) hold(s *session) {
	p.mu.Lock()
	hanging := p.hanging
	if hanging != nil {
		p.held++
	}
	p.mu.Unlock()
	if hanging == nil {
		return
	}
	select {
	case <-hanging:
	case <-s.closed:
	}
}

// Up accepts connections again.
func (p *Proxy) Up(tb testing.TB) {
	tb.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		return // somebody else was first
	}
	listener, err := p.listen()
	if err != nil {
		tb.Fatal(err)
	}
	p.listener, p.address = listener, listener.Addr().String()
	p.wait.Go(func() { p.accept(listener) })
}

// listen takes a port below those that systems give to outgoing connections: one
// of these could be gone by the time that the proxy is up again.
func (p *Proxy) listen() (listener net.Listener, err error) {
	if p.address != "" {
		return net.Listen("tcp", p.address)
	}
	const first, ports, tries = 20_000, 10_000, 50
	for range tries {
		port := first + rand.IntN(ports)
		if listener, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return listener, nil
		}
	}
	return nil, err
}

func (p *Proxy) accept(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.upstream)
		if err != nil {
			_ = client.Close()
			continue
		}
		s := &session{client: client, server: server, commits: make(map[string]bool), closed: make(chan struct{})}
		p.mu.Lock()
		p.conns[s] = struct{}{}
		down := p.listener != listener
		p.mu.Unlock()
		if down {
			s.close()
		}
		p.wait.Go(func() { p.serve(s) })
	}
}

func (p *Proxy) serve(s *session) {
	var both sync.WaitGroup
	both.Go(func() {
		defer s.close()
		_ = p.forward(s, s.client, s.server, true)
	})
	both.Go(func() {
		defer s.close()
		_ = p.forward(s, s.server, s.client, false)
	})
	both.Wait()
	p.mu.Lock()
	delete(p.conns, s)
	p.mu.Unlock()
}

var errCut = errors.New("cut on purpose")

// forward copies messages. A client's first has no type, only a length.
func (p *Proxy) forward(s *session, from io.Reader, to io.Writer, fromClient bool) error {
	in, out := bufio.NewReaderSize(from, 64<<10), bufio.NewWriterSize(to, 64<<10)
	for first := fromClient; ; first = false {
		kind, message, err := readMessage(in, first)
		if err != nil {
			return err
		}
		p.hold(s)
		if err := p.inspect(s, kind, message, fromClient); err != nil {
			// What came before it has passed.
			_ = out.Flush()
			return err
		}
		if _, err := out.Write(message); err != nil {
			return err
		}
		if in.Buffered() == 0 {
			if err := out.Flush(); err != nil {
				return err
			}
		}
	}
}

// readMessage returns a message with its header, and its type if it has one.
func readMessage(in *bufio.Reader, untyped bool) (kind byte, message []byte, err error) {
	header := 5
	if untyped {
		header = 4
	}
	start := make([]byte, header)
	if _, err := io.ReadFull(in, start); err != nil {
		return 0, nil, err
	}
	if !untyped {
		kind = start[0]
	}
	length := int(binary.BigEndian.Uint32(start[header-4:]))
	message = make([]byte, header+max(0, length-4))
	copy(message, start)
	_, err = io.ReadFull(in, message[header:])
	return kind, message, err
}

// inspect lets a message pass, or returns an error if the connection must be
// cut before it.
func (p *Proxy) inspect(s *session, kind byte, message []byte, fromClient bool) error {
	if len(message) < 5 {
		return nil
	}
	body := message[5:]
	p.mu.Lock()
	defer p.mu.Unlock()
	if fromClient {
		if kind == 'X' {
			// The client takes its leave and waits for the server to close,
			// even while an answer is held back.
			return io.EOF
		}
		if s.commitRequest(kind, body) && p.fault == LoseRequest {
			return p.fire()
		}
		return nil
	}
	if kind != 'C' || !commitTag(body) {
		return nil
	}
	switch p.fault {
	case LoseAnswer:
		return p.fire()
	case HoldAnswer:
		cut := p.fire()
		p.mu.Unlock()
		<-s.closed
		p.mu.Lock()
		return cut
	}
	return nil
}

func (p *Proxy) fire() error {
	p.fault = None
	p.fired++
	return errCut
}

// commitRequest says that a message from the client commits: a simple query, or
// the use of a statement that was prepared before.
func (s *session) commitRequest(kind byte, body []byte) bool {
	switch kind {
	case 'Q':
		return commits(cString(body))
	case 'P':
		name := cString(body)
		if commits(cString(body[len(name)+1:])) {
			s.commits[name] = true
		}
	case 'B':
		portal := cString(body)
		return s.commits[cString(body[len(portal)+1:])]
	}
	return false
}

// commits knows both ways: cockroach-go commits by releasing its savepoint.
func commits(query string) bool {
	query = strings.ToUpper(strings.TrimSpace(query))
	return query == "COMMIT" || query == "RELEASE SAVEPOINT COCKROACH_RESTART"
}

func commitTag(body []byte) bool {
	tag := cString(body)
	return tag == "COMMIT" || tag == "RELEASE"
}

func cString(body []byte) string {
	text, _, _ := bytes.Cut(body, []byte{0})
	return string(text)
}
