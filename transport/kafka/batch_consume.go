package kafka

/*
#include "native.h"

typedef struct {
	const char *key;
	const void *value;
	size_t size;
} roost_header;

// roost_in is where a consumed message lies.
typedef struct {
	int err;
	int32_t partition;
	int32_t epoch;
	int32_t headers; // how many of inbox.headers are its own; they follow those of the one before
	int64_t offset;
	int64_t timestamp;
	const void *key;
	const void *value;
	size_t key_len;
	size_t len;
} roost_in;

typedef struct {
	rd_kafka_queue_t *records; // all partitions' messages go there
	rd_kafka_queue_t *events;  // the consumer's own
	size_t size;
	rd_kafka_message_t **ms;
	roost_in *in;
	roost_header *headers;
	size_t headers_cap;
	size_t count;
} roost_inbox;

static void roost_wake(rd_kafka_t *rk, void *records) {
	(void)rk;
	rd_kafka_queue_yield(records);
}

static void roost_inbox_free(roost_inbox *b) {
	if (!b)
		return;
	if (b->events) {
		rd_kafka_queue_cb_event_enable(b->events, NULL, NULL);
		rd_kafka_queue_destroy(b->events);
	}
	if (b->records)
		rd_kafka_queue_destroy(b->records);
	free(b->ms);
	free(b->in);
	free(b->headers);
	free(b);
}

static roost_inbox *roost_inbox_new(void *rk, size_t size) {
	if (!rd_kafka_consume_batch_queue || !rd_kafka_queue_cb_event_enable)
		return NULL;
	roost_inbox *b = calloc(1, sizeof(*b));
	if (!b)
		return NULL;
	b->size = size;
	b->ms = calloc(size, sizeof(*b->ms));
	b->in = calloc(size, sizeof(*b->in));
	b->records = rd_kafka_queue_new(rk);
	b->events = rd_kafka_queue_get_consumer(rk);
	if (!b->ms || !b->in || !b->records || !b->events) {
		roost_inbox_free(b);
		return NULL;
	}
	rd_kafka_queue_cb_event_enable(b->events, roost_wake, b->records);
	return b;
}

// roost_inbox_forward has a partition's messages come to the inbox, or to the consumer's
// own queue as they do without it.
static int roost_inbox_forward(roost_inbox *b, void *rk, const char *topic, int32_t partition, int here) {
	rd_kafka_queue_t *q = rd_kafka_queue_get_partition(rk, topic, partition);
	if (!q)
		return -1;
	rd_kafka_queue_forward(q, here ? b->records : NULL);
	rd_kafka_queue_destroy(q);
	return 0;
}

static void roost_inbox_headers(roost_inbox *b, roost_in *in, rd_kafka_headers_t *hs, size_t at) {
	size_t n = rd_kafka_header_cnt(hs);
	if (at + n > b->headers_cap) {
		size_t cap = 2 * (at + n);
		roost_header *grown = realloc(b->headers, cap * sizeof(*grown));
		if (!grown)
			abort(); // as Go does without memory
		b->headers = grown;
		b->headers_cap = cap;
	}
	for (size_t i = 0; i < n; i++) {
		roost_header *h = &b->headers[at + i];
		rd_kafka_header_get_all(hs, i, &h->key, &h->value, &h->size);
	}
	in->headers = n;
}

// roost_inbox_fill waits for a message, and takes what there is by then.
static size_t roost_inbox_fill(roost_inbox *b, int wait_ms, size_t most) {
	b->count = 0;
	if (most > b->size)
		most = b->size;
	rd_kafka_message_t *first = rd_kafka_consume_queue(b->records, wait_ms);
	if (!first)
		return 0;
	b->ms[b->count++] = first;
	if (most > 1) {
		ssize_t more = rd_kafka_consume_batch_queue(b->records, 0, b->ms + 1, most - 1);
		if (more > 0)
			b->count += more;
	}
	size_t headers = 0;
	for (size_t i = 0; i < b->count; i++) {
		rd_kafka_message_t *m = b->ms[i];
		roost_in *in = &b->in[i];
		rd_kafka_headers_t *hs;
		int type;
		in->err = m->err;
		in->partition = m->partition;
		in->offset = m->offset;
		in->key = m->key;
		in->key_len = m->key_len;
		in->value = m->payload;
		in->len = m->len;
		in->headers = 0;
		in->epoch = -1;
		in->timestamp = -1;
		if (m->err)
			continue;
		in->epoch = rd_kafka_message_leader_epoch(m);
		in->timestamp = rd_kafka_message_timestamp(m, &type);
		if (type == 0)
			in->timestamp = -1;
		if (!rd_kafka_message_headers(m, &hs))
			roost_inbox_headers(b, in, hs, headers);
		headers += in->headers;
	}
	return b->count;
}

static void roost_inbox_empty(roost_inbox *b) {
	for (size_t i = 0; i < b->count; i++)
		rd_kafka_message_destroy(b->ms[i]);
	b->count = 0;
}
*/
import "C"

import (
	"errors"
	"unsafe"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

// inbox takes records from librdkafka, many with two calls into C. The messages of the
// partitions that are forwarded to it pass the consumer's own queue by, which keeps what else
// the consumer has to say, for the binding's Poll. It is used by the poll goroutine alone.
type inbox struct {
	rk        unsafe.Pointer
	c         *C.roost_inbox
	topic     *C.char
	keys      []byte // the rest of a chunk that keys are copied into
	forwarded map[int32]struct{}
}

// keyChunk is how many bytes of keys share an allocation. Keys are short and soon done
// with; values may live as long as their jobs, and have one each.
const keyChunk = 4 << 10

func newInbox(client *ck.Consumer, topic string, records int) (*inbox, error) {
	rk, err := native(client)
	if err != nil {
		return nil, err
	}
	c := C.roost_inbox_new(rk, C.size_t(records))
	if c == nil {
		return nil, errors.New("kafka: no queue for the consumer's records")
	}
	return &inbox{rk: rk, c: c, topic: C.CString(topic), forwarded: map[int32]struct{}{}}, nil
}

// forward has the messages of these partitions come to the inbox; their fetching has not
// begun. A partition that is assigned again is forwarded anew.
func (b *inbox) forward(partitions []int32) error {
	for _, p := range partitions {
		if C.roost_inbox_forward(b.c, b.rk, b.topic, C.int32_t(p), 1) != 0 {
			return errors.New("kafka: librdkafka has no queue for a partition")
		}
		b.forwarded[p] = struct{}{}
	}
	return nil
}

// fill appends what there is to into, up to its capacity, and waits for the first of it.
// Errors go to failed.
func (b *inbox) fill(into []Record, waitMs int, failed func(error)) []Record {
	n := int(C.roost_inbox_fill(b.c, C.int(waitMs), C.size_t(cap(into)-len(into))))
	if n == 0 {
		return into
	}
	headers := unsafe.Slice(b.c.headers, b.c.headers_cap)
	for _, in := range unsafe.Slice(b.c.in, n) {
		if in.err != 0 {
			text := string(view(in.value, in.len))
			failed(ck.NewError(ck.ErrorCode(in.err), text, false))
			continue
		}
		r := Record{Partition: int32(in.partition), LeaderEpoch: int32(in.epoch), Offset: int64(in.offset), TimestampMs: int64(in.timestamp)}
		if in.key != nil {
			r.Key = b.keep(view(in.key, in.key_len))
		}
		if in.value != nil {
			r.Value = append(make([]byte, 0, in.len), view(in.value, in.len)...)
		}
		if in.headers > 0 {
			r.Headers = headersOf(headers[:in.headers])
			headers = headers[in.headers:]
		}
		into = append(into, r)
	}
	C.roost_inbox_empty(b.c)
	return into
}

// view is memory of librdkafka, until the inbox is emptied.
func view(p unsafe.Pointer, n C.size_t) []byte { return unsafe.Slice((*byte)(p), int(n)) }

// keep copies a key.
func (b *inbox) keep(key []byte) []byte {
	if len(key) == 0 || len(key) > keyChunk/8 {
		return append(make([]byte, 0, len(key)), key...)
	}
	if len(b.keys) < len(key) {
		b.keys = make([]byte, keyChunk)
	}
	kept := b.keys[:len(key):len(key)]
	b.keys = b.keys[len(key):]
	copy(kept, key)
	return kept
}

func headersOf(hs []C.roost_header) []Header {
	headers := make([]Header, len(hs))
	for i := range hs {
		headers[i].Key = C.GoString(hs[i].key)
		if hs[i].value != nil {
			headers[i].Value = append([]byte{}, view(hs[i].value, hs[i].size)...)
		}
	}
	return headers
}

// close gives back what librdkafka would wait for, before the client is closed.
func (b *inbox) close() {
	for p := range b.forwarded {
		C.roost_inbox_forward(b.c, b.rk, b.topic, C.int32_t(p), 0)
	}
	for C.roost_inbox_fill(b.c, 0, C.size_t(b.c.size)) > 0 {
		C.roost_inbox_empty(b.c)
	}
	C.roost_inbox_free(b.c)
	C.free(unsafe.Pointer(b.topic))
	b.c, b.topic = nil, nil
}
