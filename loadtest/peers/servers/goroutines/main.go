// Command goroutines is the hop as one would write it in Go at first: a goroutine that
// reads and one that writes for each socket, and a channel between them.
//
// Frames are 4 bytes of length, big endian, and a body that begins with its type: a node
// says N and its number in 8 bytes, the dispatcher D; both are answered by O. A job is J,
// the node's number and the payload, and reaches the node as J and the payload; it answers
// by R and a payload, which goes to the dispatcher as it is.
package main

import (
	"bufio"
	"encoding/binary"
	"flag"
	"io"
	"log"
	"net"
	"sync"
	"sync/atomic"
)

const (
	bufferBytes = 512
	queue       = 16
)

type server struct {
	nodes      sync.Map // uint64 → *client
	dispatcher atomic.Pointer[client]
}

type client struct {
	conn net.Conn
	out  chan []byte   // bodies
	gone chan struct{} // closed when the reader ends
}

// say waits while the client's queue is full, unless it has left.
func (c *client) say(body []byte) {
	select {
	case c.out <- body:
	case <-c.gone:
	}
}

// write sends what is in the queue, and flushes when that is empty.
func (c *client) write() {
	defer c.conn.Close()
	w := bufio.NewWriterSize(c.conn, bufferBytes)
	for {
		var body []byte
		select {
		case body = <-c.out:
		case <-c.gone:
			return
		}
		head := binary.BigEndian.AppendUint32(w.AvailableBuffer(), uint32(len(body)))
		_, _ = w.Write(head)
		if _, err := w.Write(body); err != nil {
			return
		}
		if len(c.out) == 0 && w.Flush() != nil {
			return
		}
	}
}

func (s *server) serve(conn net.Conn) {
	c := &client{conn: conn, out: make(chan []byte, queue), gone: make(chan struct{})}
	defer close(c.gone)
	go c.write()
	r := bufio.NewReaderSize(conn, bufferBytes)
	var head [4]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[:]))
		if _, err := io.ReadFull(r, body); err != nil || len(body) == 0 {
			return
		}
		s.frame(c, body)
	}
}

func (s *server) frame(c *client, body []byte) {
	switch body[0] {
	case 'N':
		s.nodes.Store(binary.BigEndian.Uint64(body[1:]), c)
		c.say([]byte{'O'})
	case 'D':
		s.dispatcher.Store(c)
		c.say([]byte{'O'})
	case 'J':
		if node, ok := s.nodes.Load(binary.BigEndian.Uint64(body[1:])); ok {
			body[8] = 'J'
			node.(*client).say(body[8:])
		}
	case 'R':
		if d := s.dispatcher.Load(); d != nil {
			d.say(body)
		}
	}
}

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "HOST:PORT")
	flag.Parse()
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	s := &server{}
	for {
		conn, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go s.serve(conn)
	}
}
