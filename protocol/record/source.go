package record

import "io"

// source is the reader as the msgpack decoder sees it: unbuffered, so that the
// reader always knows the position.
type source reader

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	if s.pos >= len(s.b) {
		return 0, io.EOF
	}
	n := copy(p, s.b[s.pos:])
	s.pos += n
	return n, nil
}

// ReadByte implements io.ByteScanner.
func (s *source) ReadByte() (byte, error) {
	if s.pos >= len(s.b) {
		return 0, io.EOF
	}
	s.pos++
	return s.b[s.pos-1], nil
}

// UnreadByte implements io.ByteScanner.
func (s *source) UnreadByte() error {
	s.pos--
	return nil
}
