package userland

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// answerTimeout is how long a head may take to accept a connection, and
	// again from the request to the end of its headers.
	answerTimeout = 15 * time.Second
	// stallTimeout is how long stallBytes of content may take.
	stallTimeout = 30 * time.Second
	stallBytes   = 256 << 10
	// maxLine and maxHeaders bound the headers of an answer.
	maxLine    = 4 << 10
	maxHeaders = 64
)

// A source is where a userland is.
type source struct {
	addr string // HOST:PORT
	host string // as in the URL
	path string
	dial func(ctx context.Context, network, addr string) (net.Conn, error) // nil: TCP
}

// newSource reads the base URL that the head gives: FILES/blobs/SHA256/NAME.
func newSource(files, sha256, name string) (source, error) {
	u, err := url.Parse(files)
	if err != nil {
		return source{}, fmt.Errorf("the head's address of files: %w", err)
	}
	switch {
	case u.Scheme != "http":
		return source{}, fmt.Errorf("the head's address of files is %q, want http://HOST:PORT", files)
	case u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return source{}, fmt.Errorf("the head's address of files is %q, want http://HOST:PORT and nothing behind the path", files)
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	u = u.JoinPath("blobs", sha256, name)
	return source{addr: net.JoinHostPort(u.Hostname(), port), host: u.Host, path: "/" + strings.TrimLeft(u.EscapedPath(), "/")}, nil
}

// span is a part of a file.
type span struct{ from, to, size int64 } // of size bytes those from from to before to

// content is a span on its way here.
type content struct {
	conn    net.Conn
	r       *bufio.Reader
	release func() bool
}

// open asks for a part of the file. A redirect, another part or another length
// than that which was asked for is an error. The end of ctx ends the connection.
func (s source) open(ctx context.Context, want span) (*content, error) {
	dial := s.dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: answerTimeout}).DialContext
	}
	conn, err := dial(ctx, "tcp", s.addr)
	if err != nil {
		return nil, err
	}
	c := &content{conn: conn, r: bufio.NewReaderSize(conn, maxLine)}
	c.release = context.AfterFunc(ctx, func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(answerTimeout)) // if it cannot, reading fails
	_, err = io.WriteString(conn, s.request(want))
	if err == nil {
		err = readAnswer(c.r, want)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (s source) request(want span) string {
	return fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: muster-agent\r\nAccept-Encoding: identity\r\nRange: bytes=%d-%d\r\nConnection: close\r\n\r\n",
		s.path, s.host, want.from, want.to-1)
}

// fill reads len(b) bytes, and gives up when they come too slowly.
func (c *content) fill(b []byte) error {
	for len(b) > 0 {
		n := min(len(b), stallBytes)
		c.conn.SetDeadline(time.Now().Add(stallTimeout)) // if it cannot, reading fails
		if _, err := io.ReadFull(c.r, b[:n]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		b = b[n:]
	}
	return nil
}

func (c *content) close() {
	c.release()
	c.conn.Close()
}

// errNotThere says that a head does not have the file.
var errNotThere = errors.New("not there")

// answer is what counts of the headers of a response.
type answer struct {
	status   int
	length   int64  // -1: not said
	part     string // Content-Range
	location string
	coding   string // Transfer-Encoding or Content-Encoding that changes the content
}

// readAnswer reads a response up to its content, and accepts just what was asked for.
func readAnswer(r *bufio.Reader, want span) error {
	a, err := parseAnswer(r)
	if err != nil {
		return err
	}
	n := want.to - want.from
	switch {
	case a.status == 404 || a.status == 410:
		return errNotThere
	case a.status >= 300 && a.status < 400:
		return fmt.Errorf("sends elsewhere (status %d, %.80q), which is not followed", a.status, a.location)
	case a.status != 206 && a.status != 200:
		return fmt.Errorf("answers with status %d", a.status)
	case a.coding != "":
		return fmt.Errorf("sends the content as %.40q, which was not asked for", a.coding)
	case a.length != n:
		return fmt.Errorf("sends %d bytes instead of %d", a.length, n)
	case a.status == 200 && n != want.size:
		return errors.New("does not know how to send a part of a file")
	case a.status == 206 && a.part != fmt.Sprintf("bytes %d-%d/%d", want.from, want.to-1, want.size):
		return fmt.Errorf("sends %.80q instead of bytes %d-%d/%d", a.part, want.from, want.to-1, want.size)
	}
	return nil
}

// parseAnswer reads the status line and the headers of a response.
func parseAnswer(r *bufio.Reader) (answer, error) {
	a := answer{length: -1}
	line, err := readLine(r)
	if err != nil {
		return a, err
	}
	version, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(rest, " ")
	if a.status, err = strconv.Atoi(code); err != nil || len(code) != 3 || version != "HTTP/1.1" && version != "HTTP/1.0" {
		return a, fmt.Errorf("does not speak HTTP: %.80q", line)
	}
	for range maxHeaders {
		line, err := readLine(r)
		if err != nil {
			return a, err
		}
		if line == "" {
			return a, nil
		}
		if err := a.header(line); err != nil {
			return a, err
		}
	}
	return a, fmt.Errorf("sends more than %d headers", maxHeaders)
}

func (a *answer) header(line string) error {
	name, value, ok := strings.Cut(line, ":")
	if !ok || name == "" || strings.ContainsAny(name, " \t") {
		return fmt.Errorf("sends a header that is none: %.80q", line)
	}
	value = strings.Trim(value, " \t")
	switch strings.ToLower(name) {
	case "content-length":
		n, err := strconv.ParseUint(value, 10, 62)
		if err != nil || a.length >= 0 {
			return fmt.Errorf("sends a Content-Length that is none: %.80q", value)
		}
		a.length = int64(n)
	case "content-range":
		a.part = value
	case "location":
		a.location = value
	case "transfer-encoding", "content-encoding":
		if !strings.EqualFold(value, "identity") {
			a.coding = value
		}
	}
	return nil
}

// readLine reads a line of at most maxLine bytes.
func readLine(r *bufio.Reader) (string, error) {
	b, err := r.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return "", fmt.Errorf("sends a line of more than %d bytes", maxLine)
	case errors.Is(err, io.EOF):
		return "", io.ErrUnexpectedEOF
	case err != nil:
		return "", err
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}
