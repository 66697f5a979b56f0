//go:build linux

package remote

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/roost-server/roost/loadtest/internal/nodes"
)

const (
	// protocolVersion numbers the messages below.
	protocolVersion = 1
	lengthBytes     = 4
	// maxHelloBytes bounds messages of strangers, maxMessageBytes those of a peer that has
	// shown that it has the token.
	maxHelloBytes   = 4 << 10
	maxMessageBytes = 1 << 20
)

// Defaults of [Config] and [Worker].
const (
	DefaultPatience = 15 * time.Second
	defaultAnswer   = time.Minute
	// pushEvery is how often either side says something: how old stats may be, and so how
	// exactly a coordinator knows when nodes were back.
	pushEvery = 200 * time.Millisecond
)

// message is everything that goes over a connection: what is not nil or zero is meant.
// An empty one says that the sender lives.
type message struct {
	Hello   *hello `json:"hello,omitempty"`
	Refusal string `json:"refusal,omitempty"` // the last message of who will not go on, or is about to end

	// ID is of a command, and of the reply to it.
	ID    uint64      `json:"id,omitempty"`
	Start *nodes.Spec `json:"start,omitempty"`
	Ramp  *ramp       `json:"ramp,omitempty"`
	Cut   *float64    `json:"cut,omitempty"`
	Churn *float64    `json:"churn,omitempty"`
	Slow  *float64    `json:"slow,omitempty"`
	Stop  bool        `json:"stop,omitempty"`

	Reply *reply       `json:"reply,omitempty"`
	Stats *nodes.Stats `json:"stats,omitempty"`
}

type ramp struct {
	UpTo int     `json:"up_to"`
	PerS float64 `json:"per_s"`
}

type reply struct {
	Error string `json:"error,omitempty"`
	Cut   int    `json:"cut,omitempty"`
}

// errSilent is of a peer that is there, and does nothing.
var errSilent = errors.New("it hangs")

// wire is one end of a connection. One goroutine receives, any may send.
type wire struct {
	conn     net.Conn
	in       *bufio.Reader
	body     bytes.Buffer
	patience time.Duration // for the other side to say something, or to take what is said

	mu  sync.Mutex // of sending
	out bytes.Buffer
}

func newWire(c net.Conn, patience time.Duration) *wire {
	return &wire{conn: c, in: bufio.NewReader(c), patience: patience}
}

// send writes one message.
func (w *wire) send(m *message) error { return w.sendWithin(w.patience, m) }

func (w *wire) sendWithin(d time.Duration, m *message) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out.Reset()
	w.out.Write(make([]byte, lengthBytes))
	if err := json.NewEncoder(&w.out).Encode(m); err != nil {
		return fmt.Errorf("message for %s: %w", w.conn.RemoteAddr(), err)
	}
	b := w.out.Bytes()
	if len(b)-lengthBytes > maxMessageBytes {
		return fmt.Errorf("a message of %d bytes is too large: at most %d are allowed", len(b)-lengthBytes, maxMessageBytes)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-lengthBytes))
	if err := w.conn.SetWriteDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	if _, err := w.conn.Write(b); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("%w: it has read nothing for %v", errSilent, d)
		}
		return err
	}
	return nil
}

// receive reads one message of at most so many bytes. Memory grows with what has
// arrived, not with the length that is claimed.
func (w *wire) receive(most int) (*message, error) {
	if err := w.conn.SetReadDeadline(time.Now().Add(w.patience)); err != nil {
		return nil, err
	}
	m, err := w.read(most)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, fmt.Errorf("%w: nothing was heard of it for %v", errSilent, w.patience)
	}
	return m, err
}

func (w *wire) read(most int) (*message, error) {
	var length [lengthBytes]byte
	if _, err := io.ReadFull(w.in, length[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(length[:])
	if int64(n) > int64(most) {
		return nil, fmt.Errorf("a message of %d bytes, where at most %d are allowed: is there a loadtest at the other end?", n, most)
	}
	w.body.Reset()
	if _, err := io.CopyN(&w.body, w.in, int64(n)); err != nil {
		return nil, err
	}
	m := new(message)
	if err := json.Unmarshal(w.body.Bytes(), m); err != nil {
		return nil, fmt.Errorf("cannot understand a message: %w", err)
	}
	return m, nil
}

// refuse says why there will be nothing more, if the other side still listens.
func (w *wire) refuse(why string) {
	_ = w.sendWithin(min(w.patience, time.Second), &message{Refusal: why})
}
