package probe

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// StatusRange is a range of HTTP status codes, both ends in it.
type StatusRange struct{ Low, High int }

// StatusSet is a set of HTTP status codes. On the wire it is a number, a text as "200-299", or a list
// of numbers and texts.
type StatusSet []StatusRange

var defaultStatus = StatusSet{{Low: 200, High: 399}}

// Has is whether the set has the code.
func (s StatusSet) Has(code int) bool {
	for _, r := range s {
		if code >= r.Low && code <= r.High {
			return true
		}
	}
	return false
}

// String lists the set as it may be written in arguments.
func (s StatusSet) String() string {
	parts := make([]string, len(s))
	for i, r := range s {
		parts[i] = r.String()
	}
	return strings.Join(parts, ", ")
}

// String is one code, or the range.
func (r StatusRange) String() string {
	if r.Low == r.High {
		return strconv.Itoa(r.Low)
	}
	return fmt.Sprintf("%d-%d", r.Low, r.High)
}

func (s StatusSet) validate() error {
	if len(s) > MaxStatuses {
		return fmt.Errorf("%d entries, more than %d", len(s), MaxStatuses)
	}
	for _, r := range s {
		if r.Low < 100 || r.High > 599 || r.Low > r.High {
			return fmt.Errorf("%s is not a code or a range within 100 and 599", r)
		}
	}
	return nil
}

// ParseStatus reads "200" or "200-299".
func ParseStatus(text string) (StatusRange, error) {
	low, high, isRange := strings.Cut(text, "-")
	if !isRange {
		high = low
	}
	l, err1 := strconv.Atoi(strings.TrimSpace(low))
	h, err2 := strconv.Atoi(strings.TrimSpace(high))
	if err := errors.Join(err1, err2); err != nil {
		return StatusRange{}, fmt.Errorf("%q is neither a code nor a range as 200-299", cut(text, 40))
	}
	return StatusRange{Low: l, High: h}, nil
}

// EncodeMsgpack implements msgpack.CustomEncoder.
func (s StatusSet) EncodeMsgpack(e *msgpack.Encoder) error {
	if err := e.EncodeArrayLen(len(s)); err != nil {
		return err
	}
	for _, r := range s {
		var err error
		if r.Low == r.High {
			err = e.EncodeInt(int64(r.Low))
		} else {
			err = e.EncodeString(r.String())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// DecodeMsgpack implements msgpack.CustomDecoder.
func (s *StatusSet) DecodeMsgpack(d *msgpack.Decoder) error {
	c, err := d.PeekCode()
	if err != nil {
		return err
	}
	n := 1
	if msgpcode.IsFixedArray(c) || c == msgpcode.Array16 || c == msgpcode.Array32 {
		if n, err = d.DecodeArrayLen(); err != nil {
			return err
		}
		if n > MaxStatuses {
			return fmt.Errorf("status: %d entries, more than %d", n, MaxStatuses)
		}
	}
	set := make(StatusSet, 0, n)
	for range n {
		r, err := decodeStatus(d)
		if err != nil {
			return fmt.Errorf("status: %w", err)
		}
		set = append(set, r)
	}
	*s = set
	return nil
}

func decodeStatus(d *msgpack.Decoder) (StatusRange, error) {
	c, err := d.PeekCode()
	if err != nil {
		return StatusRange{}, err
	}
	if !msgpcode.IsString(c) {
		n, err := d.DecodeInt()
		return StatusRange{Low: n, High: n}, err
	}
	text, err := d.DecodeString()
	if err != nil {
		return StatusRange{}, err
	}
	return ParseStatus(text)
}

// MarshalJSON implements json.Marshaler.
func (s StatusSet) MarshalJSON() ([]byte, error) {
	list := make([]any, len(s))
	for i, r := range s {
		if list[i] = r.Low; r.Low != r.High {
			list[i] = r.String()
		}
	}
	return json.Marshal(list)
}

// UnmarshalJSON implements json.Unmarshaler.
func (s *StatusSet) UnmarshalJSON(b []byte) error {
	var list []json.RawMessage
	if json.Unmarshal(b, &list) != nil {
		list = []json.RawMessage{b}
	}
	set := make(StatusSet, 0, len(list))
	for _, item := range list {
		var text string
		if json.Unmarshal(item, &text) != nil {
			text = string(item)
		}
		r, err := ParseStatus(text)
		if err != nil {
			return fmt.Errorf("status: %w", err)
		}
		set = append(set, r)
	}
	*s = set
	return nil
}
