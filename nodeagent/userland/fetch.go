package userland

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

// maxWrong is how often in a row the same piece may come wrong until the head is left
// alone for a while.
const maxWrong = 3

// errWrong says that a piece is not what it should be.
var errWrong = errors.New("wrong piece")

// fetch gets all that is missing in st from src. got is called after each
// piece. What was got stays when it returns an error.
func fetch(ctx context.Context, src source, st *store, got func()) error {
	wrong, at := 0, -1
	for {
		first, end := st.missing()
		if first == end {
			return nil
		}
		err := fetchRun(ctx, src, st, first, end, got)
		if err == nil {
			continue
		}
		if !errors.Is(err, errWrong) {
			return fmt.Errorf("%s: %w", src.addr, err)
		}
		if now, _ := st.missing(); now != at {
			wrong, at = 0, now
		}
		if wrong++; wrong == maxWrong {
			return fmt.Errorf("piece %d of %d from %s is wrong, %d times in a row", at+1, len(st.have), src.addr, maxWrong)
		}
	}
}

// fetchRun gets the pieces from first to before end by one request, and ends
// with the first wrong one.
func fetchRun(ctx context.Context, src source, st *store, first, end int, got func()) error {
	from, _ := st.piece(first)
	_, to := st.piece(end - 1)
	c, err := src.open(ctx, span{from, to, st.want.Size})
	if err != nil {
		return err
	}
	defer c.close()
	buf := make([]byte, min(st.want.Chunk, st.want.Size))
	for i := first; i < end; i++ {
		from, to := st.piece(i)
		b := buf[:to-from]
		if err := c.fill(b); err != nil {
			return err
		}
		ok, err := st.put(i, b)
		if err != nil {
			return err
		}
		if !ok {
			return errWrong
		}
		got()
	}
	return nil
}

// describe says for people why a userland could not be fetched.
func describe(err error, sha256 string) string {
	var timeout net.Error
	switch {
	case errors.Is(err, errNotThere):
		return fmt.Sprintf("the head does not have it (%.12s…); on the head: muster image publish DIR", sha256)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the head's file service refuses connections: " + address(err)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "the head's file service does not answer: " + address(err)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return "the head's file service ended the connection: " + err.Error()
	}
	return err.Error()
}

// address is the address that a connection could not be made to or broke.
func address(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Addr != nil {
		return op.Addr.String()
	}
	return err.Error()
}
