package kafka

/*
#include "native.h"

// roost_out is a message to produce. Its bytes lie in one buffer; a length of -1 means null.
typedef struct {
	int32_t topic; // index
	int32_t partition;
	int32_t key_len;
	int32_t len;
	uint32_t at; // of the key; the value follows, and then the headers
	int32_t headers;
} roost_out;

// roost_produce queues messages until one is refused, and returns how many it queued. A
// header is two lengths, its name with a 0 byte, and its value.
static int roost_produce(void *rk, void **topics, const roost_out *out, int n, const char *bytes, int *err) {
	int i;
	*err = 0;
	for (i = 0; i < n; i++) {
		const roost_out *o = &out[i];
		const char *p = bytes + o->at;
		const void *key = o->key_len < 0 ? NULL : p;
		size_t key_len = o->key_len < 0 ? 0 : o->key_len;
		p += key_len;
		const void *value = o->len < 0 ? NULL : p;
		size_t len = o->len < 0 ? 0 : o->len;
		p += len;
		rd_kafka_headers_t *hs = NULL;
		if (o->headers > 0) {
			hs = rd_kafka_headers_new(o->headers);
			for (int h = 0; h < o->headers; h++) {
				int32_t lengths[2];
				__builtin_memcpy(lengths, p, sizeof(lengths));
				p += sizeof(lengths);
				rd_kafka_header_add(hs, p, lengths[0], lengths[1] < 0 ? NULL : p + lengths[0] + 1, lengths[1] < 0 ? 0 : lengths[1]);
				p += lengths[0] + 1 + (lengths[1] < 0 ? 0 : lengths[1]);
			}
		}
		if (hs)
			*err = rd_kafka_producev(rk, V_RKT, topics[o->topic], V_PARTITION, o->partition, V_MSGFLAGS, F_COPY,
				V_VALUE, (void *)value, len, V_KEY, key, key_len, V_HEADERS, hs, V_END);
		else
			*err = rd_kafka_producev(rk, V_RKT, topics[o->topic], V_PARTITION, o->partition, V_MSGFLAGS, F_COPY,
				V_VALUE, (void *)value, len, V_KEY, key, key_len, V_END);
		if (*err) {
			if (hs)
				rd_kafka_headers_destroy(hs);
			break;
		}
	}
	return i;
}

static void *roost_topic(void *rk, const char *name) {
	return rd_kafka_producev ? rd_kafka_topic_new(rk, name, NULL) : NULL;
}
*/
import "C"

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

// outbox queues messages at a producer of librdkafka, many with one call into C, and without
// reports of their delivery. It is used by one goroutine at a time.
type outbox struct {
	rk     unsafe.Pointer
	names  []string
	topics []unsafe.Pointer // of names; memory of C
	out    []C.roost_out
	bytes  []byte
}

const (
	// outMessages and outBytes are about what one call takes.
	outMessages = 256
	outBytes    = 128 << 10
)

func newOutbox(client *ck.Producer) (*outbox, error) {
	rk, err := native(client)
	return &outbox{rk: rk}, err
}

// produce queues messages in their order and returns how many. When that is not all, the
// error is of the one after them. All is copied.
func (b *outbox) produce(messages []Message) (int, error) {
	done := 0
	for done < len(messages) {
		if err := b.pack(messages[done:]); err != nil {
			return done, err
		}
		var code C.int
		n := int(C.roost_produce(b.rk, &b.topics[0], &b.out[0], C.int(len(b.out)), (*C.char)(unsafe.Pointer(unsafe.SliceData(b.bytes))), &code))
		done += n
		if n < len(b.out) {
			return done, ck.NewError(ck.ErrorCode(code), ck.ErrorCode(code).String(), false)
		}
	}
	return done, nil
}

// pack lays out the first messages, at least one.
func (b *outbox) pack(messages []Message) error {
	if cap(b.bytes) > 8*outBytes { // one huge message shall not pin its memory
		b.bytes = nil
	}
	b.out, b.bytes = b.out[:0], b.bytes[:0]
	for i := range messages {
		m := &messages[i]
		if len(b.out) == outMessages || len(b.out) > 0 && len(b.bytes)+len(m.Key)+len(m.Value) > outBytes {
			break
		}
		topic, err := b.topic(m.Topic)
		if err != nil {
			if len(b.out) > 0 {
				break
			}
			return err
		}
		o := C.roost_out{topic: C.int32_t(topic), partition: C.int32_t(m.Partition), at: C.uint32_t(len(b.bytes)),
			key_len: lengthOf(m.Key), len: lengthOf(m.Value), headers: C.int32_t(len(m.Headers))}
		b.bytes = append(append(b.bytes, m.Key...), m.Value...)
		for j := range m.Headers {
			h := &m.Headers[j]
			b.bytes = binary.NativeEndian.AppendUint32(b.bytes, uint32(len(h.Key)))
			b.bytes = binary.NativeEndian.AppendUint32(b.bytes, uint32(lengthOf(h.Value)))
			b.bytes = append(append(append(b.bytes, h.Key...), 0), h.Value...)
		}
		b.out = append(b.out, o)
	}
	return nil
}

// lengthOf is -1 for nil, which Kafka tells from empty.
func lengthOf(p []byte) C.int32_t {
	if p == nil {
		return -1
	}
	return C.int32_t(len(p))
}

// topic returns a topic's index among those used so far, which are few.
func (b *outbox) topic(name string) (int, error) {
	for i := range b.names {
		if b.names[i] == name {
			return i, nil
		}
	}
	if name == "" {
		return 0, ck.NewError(ck.ErrInvalidArg, "the message has no topic", false)
	}
	c := C.CString(name)
	defer C.free(unsafe.Pointer(c))
	t := C.roost_topic(b.rk, c)
	if t == nil {
		return 0, fmt.Errorf("topic %q: %w", name, errors.New("librdkafka does not take it"))
	}
	b.names, b.topics = append(b.names, name), append(b.topics, t)
	return len(b.names) - 1, nil
}

// close gives back what librdkafka would wait for, before the client is closed.
func (b *outbox) close() {
	for _, t := range b.topics {
		C.rd_kafka_topic_destroy((*C.rd_kafka_topic_t)(t))
	}
	b.names, b.topics = nil, nil
}
