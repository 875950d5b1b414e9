package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/stockledger/stockledger/loadtest/node"
)

// wire is one keep-alive HTTP/1.1 connection that posts to a node, as curl
// does. It is kept lean, since it takes its time from the node's two cores.
type wire struct {
	conn    net.Conn
	reader  *bufio.Reader
	token   string
	host    string
	request []byte
	body    []byte
}

func dial(n *node.Node) (*wire, error) {
	conn, err := net.Dial("tcp", n.Address)
	if err != nil {
		return nil, err
	}
	return &wire{conn: conn, reader: bufio.NewReaderSize(conn, 16<<10), token: n.Token, host: n.Address}, nil
}

// post sends a body and returns the answer's, which lives until the next call.
func (w *wire) post(method string, body []byte) ([]byte, error) {
	w.request = fmt.Appendf(w.request[:0],
		"POST /stockledger.v1.%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/proto\r\nContent-Length: %d\r\n\r\n",
		method, w.host, w.token, len(body))
	w.request = append(w.request, body...)
	if _, err := w.conn.Write(w.request); err != nil {
		return nil, err
	}
	res, err := http.ReadResponse(w.reader, nil)
	if err != nil {
		return nil, err
	}
	answer := bytes.NewBuffer(w.body[:0])
	if _, err := io.Copy(answer, res.Body); err != nil {
		return nil, err
	}
	w.body = answer.Bytes()
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s: %s", method, res.Status, w.body)
	}
	return w.body, nil
}
